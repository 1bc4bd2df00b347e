//! Networks of the cluster, and the places that services and tasks have in them.

use super::container::time;
use super::network::write_range;
use crate::backend::Place;
use crate::wire::service::VirtualIp;
use muster_types::ClusterNetwork;
use muster_types::network::{AddressRange, NetworkInfo, NetworkSpec};
use muster_types::overlay::OverlaySubnet;
use serde_json::{Value, json};
use std::net::IpAddr;

/// The option by which Docker tells of the identifiers of a network's tunnels.
const OPTION_IDENTIFIERS: &str = "com.docker.network.driver.overlay.vxlanid_list";

/// The network with the subnets and gateways that it has.
pub(crate) fn info(network: &ClusterNetwork) -> NetworkInfo {
    let mut spec = NetworkSpec::clone(&network.spec);
    spec.ranges = ranges(network);
    spec.options
        .insert(OPTION_IDENTIFIERS.to_owned(), network.vni.to_string());
    NetworkInfo {
        id: network.id.to_string(),
        cluster_scope: true,
        created: network.meta.created_at,
        spec,
    }
}

fn ranges(network: &ClusterNetwork) -> Vec<AddressRange> {
    let range = |subnet: &OverlaySubnet| {
        let text = subnet.subnet.to_string();
        let given = network.spec.ranges.iter().find(|range| range.subnet == text);
        AddressRange {
            subnet: text,
            ip_range: subnet.range.map(|range| range.to_string()).unwrap_or_default(),
            gateway: Some(subnet.gateway),
            auxiliary: given.map(|range| range.auxiliary.clone()).unwrap_or_default(),
        }
    };
    network.subnets.iter().map(range).collect()
}

/// The virtual addresses of a service in one network.
pub(crate) fn virtual_ips(place: &Place) -> Vec<VirtualIp> {
    let vip = |address: &IpAddr| VirtualIp {
        network_id: place.network.id.to_string(),
        address: with_prefix(&place.network, *address),
    };
    place.addresses.iter().map(vip).collect()
}

/// A task's place in one network.
pub(crate) fn attachment(place: &Place) -> Value {
    let network = &place.network;
    let info = info(network);
    let configs: Vec<_> = info.spec.ranges.iter().map(write_range).collect();
    let mut spec = json!({
        "Name": network.spec.name,
        "Labels": network.spec.labels,
        "DriverConfiguration": {"Name": network.spec.driver, "Options": network.spec.options},
        "IPAMOptions": {"Driver": {"Name": "default"}},
        "Scope": "swarm",
    });
    for (name, set) in [
        ("IPv6Enabled", network.spec.ipv6),
        ("Internal", network.spec.internal),
        ("Attachable", network.spec.attachable),
        ("Ingress", network.spec.ingress),
    ] {
        if set {
            spec[name] = true.into();
        }
    }
    json!({
        "Network": {
            "ID": info.id,
            "Version": {"Index": network.meta.spec_version},
            "CreatedAt": time(network.meta.created_at),
            "UpdatedAt": time(network.meta.updated_at),
            "Spec": spec,
            "DriverState": {"Name": network.spec.driver, "Options": info.spec.options},
            "IPAMOptions": {"Driver": {"Name": "default"}, "Configs": configs},
        },
        "Addresses": place
            .addresses
            .iter()
            .map(|address| with_prefix(network, *address))
            .collect::<Vec<_>>(),
    })
}

fn with_prefix(network: &ClusterNetwork, address: IpAddr) -> String {
    let mut subnets = network.subnets.iter().map(|subnet| subnet.subnet);
    match subnets.find(|subnet| subnet.contains(&address)) {
        Some(subnet) => format!("{address}/{}", subnet.prefix_len()),
        None => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_types::{Meta, NetworkId};
    use std::sync::Arc;

    fn network() -> Arc<ClusterNetwork> {
        let subnet = |net: &str, gateway: &str| OverlaySubnet {
            subnet: net.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
            range: None,
            reserved: Vec::new(),
        };
        Arc::new(ClusterNetwork {
            id: NetworkId::from_u128(9),
            meta: Meta::default(),
            spec: Arc::new(NetworkSpec {
                name: "net".to_owned(),
                driver: "overlay".to_owned(),
                attachable: true,
                ..NetworkSpec::default()
            }),
            vni: 4097,
            subnets: vec![
                subnet("10.0.1.0/24", "10.0.1.1"),
                subnet("fd00:1::/64", "fd00:1::1"),
            ],
            removing: false,
            policy: None,
        })
    }

    #[test]
    fn a_place_is_written_with_its_network_and_prefixes() {
        let place = Place {
            network: network(),
            addresses: vec!["10.0.1.7".parse().unwrap(), "fd00:1::7".parse().unwrap()],
        };
        let vips = virtual_ips(&place);
        let addresses: Vec<&str> = vips.iter().map(|vip| vip.address.as_str()).collect();
        assert_eq!(addresses, ["10.0.1.7/24", "fd00:1::7/64"]);
        let written = attachment(&place);
        assert_eq!(written["Addresses"][0], "10.0.1.7/24");
        assert_eq!(written["Network"]["ID"], NetworkId::from_u128(9).to_string());
        assert_eq!(
            written["Network"]["DriverState"]["Options"][OPTION_IDENTIFIERS],
            "4097"
        );
        assert_eq!(
            written["Network"]["IPAMOptions"]["Configs"][0]["Gateway"],
            "10.0.1.1"
        );
        assert_eq!(written["Network"]["Spec"]["Attachable"], true);
        assert!(written["Network"]["Spec"].get("Ingress").is_none());
    }

    #[test]
    fn a_network_shows_the_subnets_that_it_was_given() {
        let info = info(&network());
        assert!(info.cluster_scope);
        assert_eq!(info.spec.ranges[0].subnet, "10.0.1.0/24");
        assert_eq!(info.spec.ranges[1].gateway, Some("fd00:1::1".parse().unwrap()));
    }
}
