//! Networks: requests become the domain's, and the domain's become answers.

use super::container::time;
use super::{Read, unsupported};
use crate::http::Failure;
use crate::wire::container::{EndpointIpam, EndpointSettings};
use crate::wire::network::{ConfigReference, CreateBody, Ipam, IpamRange, Network};
use ipnet::IpNet;
use muster_types::container::{ContainerInfo, EndpointSpec};
use muster_types::network::{AddressRange, NetworkInfo, NetworkSpec};
use muster_types::overlay::OVERLAY_DRIVER;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

/// Reads the body of `POST /networks/create`.
pub(crate) fn read(body: CreateBody) -> Read<NetworkSpec> {
    let of_cluster = body.driver == OVERLAY_DRIVER;
    if body.ingress && !of_cluster {
        return Err(Failure::invalid(
            "an ingress network needs the driver \"overlay\"",
        ));
    }
    match body.scope.as_str() {
        "local" if of_cluster => {
            return Err(Failure::invalid(
                "a network of the driver \"overlay\" has the scope \"swarm\"",
            ));
        }
        "" | "local" => {}
        "swarm" if of_cluster => {}
        "swarm" => {
            return Err(unsupported(
                "the scope \"swarm\" with another driver than overlay",
            ));
        }
        other => {
            return Err(Failure::invalid(format!(
                "invalid scope {other:?}: local or swarm is expected"
            )));
        }
    }
    let asked = [
        ("configuration-only networks", body.config_only),
        ("ConfigFrom", !body.config_from.network.is_empty()),
        (
            "IPAM drivers other than default",
            !matches!(body.ipam.driver.as_str(), "" | "default"),
        ),
        (
            "IPAM options",
            body.ipam.options.is_some_and(|options| !options.is_empty()),
        ),
    ];
    if let Some((what, _)) = asked.iter().find(|(_, asked)| *asked) {
        return Err(unsupported(what));
    }
    let default_driver = || "bridge".to_owned();
    let driver = if body.driver.is_empty() {
        default_driver()
    } else {
        body.driver
    };
    let ranges = body
        .ipam
        .config
        .into_iter()
        .map(read_range)
        .collect::<Read<Vec<_>>>()?;
    Ok(NetworkSpec {
        name: body.name,
        driver,
        internal: body.internal,
        ingress: body.ingress,
        attachable: body.attachable,
        ipv4: body.enable_ipv4.unwrap_or(true),
        ipv6: body.enable_ipv6.unwrap_or(false),
        ranges,
        labels: body.labels,
        options: body.options,
    })
}

/// Clears what subnets and ranges hold beyond their prefix, as daemons did that older clients were written for.
pub(crate) fn cut_subnets(body: &mut CreateBody) {
    for range in &mut body.ipam.config {
        for text in [&mut range.subnet, &mut range.ip_range] {
            if let Ok(network) = text.parse::<IpNet>() {
                *text = network.trunc().to_string();
            }
        }
    }
}

fn read_range(wire: IpamRange) -> Read<AddressRange> {
    let auxiliary = wire.auxiliary_addresses.into_iter().map(|(name, text)| {
        let address = read_address("auxiliary address", &text)?;
        Ok((name, address))
    });
    Ok(AddressRange {
        subnet: wire.subnet,
        ip_range: wire.ip_range,
        gateway: match wire.gateway.as_str() {
            "" => None,
            text => Some(read_address("gateway", text)?),
        },
        auxiliary: auxiliary.collect::<Read<_>>()?,
    })
}

fn read_address<T: FromStr>(what: &str, text: &str) -> Read<T> {
    text.parse()
        .map_err(|_| Failure::invalid(format!("invalid {what}: {text}")))
}

/// Reads what is asked of a container's place in a network.
pub(crate) fn read_endpoint(wire: EndpointSettings) -> Read<EndpointSpec> {
    let ipam = wire.ipam_config;
    let link_local = ipam.link_local_ips.iter();
    let link_local = link_local.map(|text| read_address("link-local address", text));
    let sysctls = "com.docker.network.endpoint.sysctls";
    if wire.driver_opts.contains_key(sysctls) {
        return Err(unsupported(&format!("the endpoint option {sysctls}")));
    }
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    let ipv4 = some(&ipam.ipv4_address)
        .map(|text| read_address("IPv4 address", &text))
        .transpose()?;
    let ipv6 = some(&ipam.ipv6_address)
        .map(|text| read_address("IPv6 address", &text))
        .transpose()?;
    Ok(EndpointSpec {
        ipv4,
        ipv6,
        link_local: link_local.collect::<Read<_>>()?,
        aliases: wire.aliases,
        links: wire.links,
        mac: wire.mac_address,
        gateway_priority: wire.gw_priority,
        driver_options: wire.driver_opts,
    })
}

/// Writes the addresses that were asked for, where there are any.
pub(crate) fn write_ipam(spec: &EndpointSpec) -> Option<EndpointIpam> {
    let ipam = EndpointIpam {
        ipv4_address: spec.ipv4.map(|address| address.to_string()).unwrap_or_default(),
        ipv6_address: spec.ipv6.map(|address| address.to_string()).unwrap_or_default(),
        link_local_ips: spec.link_local.iter().map(ToString::to_string).collect(),
    };
    (ipam != EndpointIpam::default()).then_some(ipam)
}

/// A network with the containers that are on it.
pub(crate) fn network(info: &NetworkInfo, containers: &[Arc<ContainerInfo>]) -> Network {
    let spec = &info.spec;
    Network {
        name: spec.name.clone(),
        id: info.id.clone(),
        created: time(info.created),
        scope: scope(info),
        driver: spec.driver.clone(),
        enable_ipv4: spec.ipv4,
        enable_ipv6: spec.ipv6,
        ipam: Ipam {
            driver: "default".to_owned(),
            options: None,
            config: spec.ranges.iter().map(write_range).collect(),
        },
        internal: spec.internal,
        attachable: spec.attachable,
        ingress: spec.ingress,
        config_from: ConfigReference::default(),
        config_only: false,
        containers: Value::Object(members(info, containers)),
        options: spec.options.clone(),
        labels: spec.labels.clone(),
    }
}

pub(super) fn write_range(range: &AddressRange) -> IpamRange {
    let auxiliary = range
        .auxiliary
        .iter()
        .map(|(name, address)| (name.clone(), address.to_string()));
    IpamRange {
        subnet: range.subnet.clone(),
        ip_range: range.ip_range.clone(),
        gateway: range
            .gateway
            .map(|gateway: IpAddr| gateway.to_string())
            .unwrap_or_default(),
        auxiliary_addresses: auxiliary.collect(),
    }
}

/// `swarm` or `local`.
pub(crate) fn scope(info: &NetworkInfo) -> &'static str {
    if info.cluster_scope { "swarm" } else { "local" }
}

/// Whether a running container is on the network.
pub(crate) fn is_on(container: &ContainerInfo, network: &NetworkInfo) -> bool {
    let place = container.networks.get(&network.spec.name);
    place.is_some_and(|place| !place.endpoint_id.is_empty())
}

fn members(info: &NetworkInfo, containers: &[Arc<ContainerInfo>]) -> Map<String, Value> {
    let running = containers.iter().filter(|container| is_on(container, info));
    running
        .filter_map(|container| {
            let place = container.networks.get(&info.spec.name)?;
            let with_prefix = |address: Option<IpAddr>, prefix: u8| {
                address
                    .map(|address| format!("{address}/{prefix}"))
                    .unwrap_or_default()
            };
            let member = json!({
                "Name": container.name,
                "EndpointID": place.endpoint_id,
                "MacAddress": place.mac,
                "IPv4Address": with_prefix(place.address.map(IpAddr::V4), place.prefix_len),
                "IPv6Address": with_prefix(place.ipv6.map(IpAddr::V6), place.ipv6_prefix_len),
            });
            Some((container.id.to_string(), member))
        })
        .collect()
}
