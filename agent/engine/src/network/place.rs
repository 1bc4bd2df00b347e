//! A container's places in networks: which, in which order, and where its default routes lead. Nothing here acts.

use super::options::Options;
use crate::error::{Error, Result};
use muster_network::{Attachment, DefaultRoute, Interface, IpNet, MacAddress};
use muster_types::container::{ContainerConfig, EndpointSpec, NetworkEndpoint, NetworkMode};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A container's places, by the network's name.
pub(crate) type Places = BTreeMap<String, NetworkEndpoint>;
/// What a container asks of its places, by the network's name.
pub(crate) type Wanted = BTreeMap<String, EndpointSpec>;

/// What a container's mode of networking means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    /// A namespace of its own, first in this network.
    Own(&'a str),
    /// A namespace of its own with nothing in it.
    Loopback,
    /// The host's.
    Host,
    /// Another container's.
    Shared(&'a str),
}

/// Reads a mode.
pub(crate) fn kind(mode: &NetworkMode) -> Kind<'_> {
    match mode {
        NetworkMode::Bridge => Kind::Own("bridge"),
        NetworkMode::Host => Kind::Host,
        NetworkMode::None => Kind::Loopback,
        NetworkMode::Container(reference) => Kind::Shared(reference),
        NetworkMode::Named(name) => match name.as_str() {
            "default" => Kind::Own("bridge"),
            "host" => Kind::Host,
            "none" => Kind::Loopback,
            name => Kind::Own(name),
        },
    }
}

/// The name by which a mode's own network is known; `None` where another container's is shared.
pub(crate) fn own_network(mode: &NetworkMode) -> Option<&str> {
    match kind(mode) {
        Kind::Own(name) => Some(name),
        Kind::Loopback => Some("none"),
        Kind::Host => Some("host"),
        Kind::Shared(_) => None,
    }
}

/// What a configuration wants of which network. `name_of` finds a network's name by what the user wrote.
pub(crate) fn wanted(config: &ContainerConfig, name_of: impl Fn(&str) -> Result<String>) -> Result<Wanted> {
    let host = &config.host;
    let mut wanted = Wanted::new();
    for (reference, spec) in &host.endpoints {
        wanted.insert(name_of(reference)?, spec.clone());
    }
    let Some(own) = own_network(&host.network) else {
        return match wanted.is_empty() {
            true => Ok(wanted),
            false => Err(shared_network()),
        };
    };
    let own = name_of(own)?;
    let first = wanted.entry(own.clone()).or_default();
    if first.mac.is_empty() {
        first.mac.clone_from(&host.mac);
    }
    if own != "bridge" {
        first.links.extend(host.links.iter().cloned());
    }
    check_together(wanted.keys().map(String::as_str))?;
    Ok(wanted)
}

fn shared_network() -> Error {
    Error::invalid(
        "container sharing network namespace with another container or host cannot be connected to any other network",
    )
}

/// Refuses networks that one container cannot be on together.
pub(crate) fn check_together<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
    if names.clone().count() < 2 {
        return Ok(());
    }
    if names.clone().any(|name| name == "host") {
        return Err(shared_network());
    }
    if names.clone().any(|name| name == "none") {
        return Err(Error::invalid(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ));
    }
    Ok(())
}

/// The order in which a container's interfaces are made: the default bridge, its own network, then by priority and name.
pub(crate) fn in_order<'a>(wanted: &'a Wanted, mode: &NetworkMode) -> Vec<(&'a String, &'a EndpointSpec)> {
    let own = own_network(mode);
    let mut order: Vec<_> = wanted.iter().collect();
    order.sort_by_key(|(name, spec)| {
        let rank = match name.as_str() {
            "bridge" => 0,
            name if Some(name) == own => 1,
            _ => 2,
        };
        (rank, std::cmp::Reverse(spec.gateway_priority))
    });
    order
}

/// A free name for an interface, counted from 0.
pub(crate) fn interface_name(prefix: &str, places: &Places) -> String {
    let is_taken = |name: &String| places.values().any(|place| place.interface == *name);
    let mut names = (0..=places.len()).map(|n| format!("{prefix}{n}"));
    names
        .find(|name| !is_taken(name))
        .unwrap_or_else(|| format!("{prefix}{}", places.len()))
}

/// The networks that have a container's default gateways: of IPv4, and of IPv6. The highest priority wins, then the
/// first name.
pub(crate) fn gateway_networks(places: &Places) -> [Option<&str>; 2] {
    let best = |has_gateway: fn(&NetworkEndpoint) -> bool| {
        let candidates = places.iter().filter(|(_, place)| has_gateway(place));
        // Of equal priorities, `min_by_key` keeps the first, and names are in order.
        let best = candidates.min_by_key(|(_, place)| std::cmp::Reverse(place.spec.gateway_priority));
        best.map(|(name, _)| name.as_str())
    };
    [
        best(|place| place.gateway.is_some()),
        best(|place| place.ipv6_gateway.is_some()),
    ]
}

/// Where a container's default routes lead.
pub(crate) fn default_routes(places: &Places) -> Vec<DefaultRoute> {
    let [v4, v6] = gateway_networks(places);
    let route = |network: Option<&str>, gateway: fn(&NetworkEndpoint) -> Option<IpAddr>| {
        let place = places.get(network?)?;
        Some(DefaultRoute {
            interface: place.interface.clone(),
            gateway: gateway(place)?,
        })
    };
    let v4 = route(v4, |place| place.gateway.map(IpAddr::V4));
    v4.into_iter()
        .chain(route(v6, |place| place.ipv6_gateway.map(IpAddr::V6)))
        .collect()
}

/// The interface that stands for a place.
pub(crate) fn interface(
    place: &NetworkEndpoint,
    driver: &str,
    link: &str,
    options: &Options,
    routes: &[DefaultRoute],
) -> Result<Interface> {
    let attachment = match driver {
        "macvlan" => Attachment::Macvlan {
            parent: link.to_owned(),
            mode: options.macvlan_mode,
        },
        super::OVERLAY => Attachment::Overlay(link.to_owned()),
        _ => Attachment::Bridge(link.to_owned()),
    };
    let v4 = place
        .address
        .and_then(|address| IpNet::new(address.into(), place.prefix_len));
    let v6 = place
        .ipv6
        .and_then(|address| IpNet::new(address.into(), place.ipv6_prefix_len));
    // Docker's prefixes.
    let link_local = place.spec.link_local.iter();
    let link_local = link_local.filter_map(|ip| IpNet::new(*ip, if ip.is_ipv4() { 16 } else { 64 }));
    let mac: MacAddress = place
        .mac
        .parse()
        .map_err(|_| Error::invalid(format!("invalid MAC address: {}", place.mac)))?;
    Ok(Interface {
        attachment,
        name: place.interface.clone(),
        addresses: v4.into_iter().chain(v6).chain(link_local).collect(),
        mac,
        gateways: routes
            .iter()
            .filter(|route| route.interface == place.interface)
            .map(|route| route.gateway)
            .collect(),
        mtu: options.mtu,
    })
}

/// Refuses links and hardware addresses where the mode of networking has none, in Docker's words.
pub(crate) fn check_mode(config: &ContainerConfig) -> Result<()> {
    let host = &config.host;
    let kind = kind(&host.network);
    let shared = matches!(kind, Kind::Shared(_));
    let refused = [
        (
            kind == Kind::Host && !host.links.is_empty(),
            "host type networking can't be used with links. This would result in undefined behavior",
        ),
        (
            shared && !host.links.is_empty(),
            "container type network can't be used with links. This would result in undefined behavior",
        ),
        (shared && !host.mac.is_empty(), "mac-address and the network mode"),
    ];
    match refused.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(Error::invalid(format!("conflicting options: {what}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(priority: i64) -> EndpointSpec {
        EndpointSpec {
            gateway_priority: priority,
            ..EndpointSpec::default()
        }
    }

    fn place(interface: &str, priority: i64, v4: Option<&str>, v6: Option<&str>) -> NetworkEndpoint {
        NetworkEndpoint {
            interface: interface.to_owned(),
            spec: spec(priority),
            gateway: v4.map(|text| text.parse().unwrap()),
            ipv6_gateway: v6.map(|text| text.parse().unwrap()),
            ..NetworkEndpoint::default()
        }
    }

    fn named(mode: &str, endpoints: &[(&str, EndpointSpec)]) -> ContainerConfig {
        let mut config = ContainerConfig::default();
        config.host.network = NetworkMode::Named(mode.to_owned());
        config.host.endpoints = endpoints
            .iter()
            .map(|(name, spec)| ((*name).to_owned(), spec.clone()))
            .collect();
        config
    }

    fn names(config: &ContainerConfig) -> Result<Vec<String>> {
        let name_of = |reference: &str| Ok(reference.trim_end_matches("-id").to_owned());
        let wanted = wanted(config, name_of)?;
        Ok(in_order(&wanted, &config.host.network)
            .into_iter()
            .map(|(name, _)| name.clone())
            .collect())
    }

    #[test]
    fn the_modes_network_is_always_there_and_first() {
        assert_eq!(names(&ContainerConfig::default()).unwrap(), ["bridge"]);
        assert_eq!(names(&named("lan", &[])).unwrap(), ["lan"]);
        let config = named(
            "lan",
            &[
                ("aa-id", spec(0)),
                ("lan-id", spec(0)),
                ("bridge", spec(0)),
                ("zz", spec(5)),
            ],
        );
        assert_eq!(names(&config).unwrap(), ["bridge", "lan", "zz", "aa"]);
    }

    #[test]
    fn networks_that_exclude_each_other_are_refused() {
        for config in [
            named("host", &[("lan", spec(0))]),
            named("none", &[("lan", spec(0))]),
        ] {
            assert!(names(&config).is_err());
        }
        let mut shared = named("x", &[("lan", spec(0))]);
        shared.host.network = NetworkMode::Container("web".to_owned());
        assert!(
            names(&shared)
                .unwrap_err()
                .to_string()
                .contains("sharing network namespace")
        );
    }

    #[test]
    fn the_default_gateway_is_the_highest_priority_then_the_first_name() {
        let mut places = Places::from([
            ("aa".to_owned(), place("eth0", 0, Some("10.0.0.1"), None)),
            (
                "bb".to_owned(),
                place("eth1", 0, Some("10.1.0.1"), Some("fd00::1")),
            ),
            ("inner".to_owned(), place("eth2", 9, None, None)),
        ]);
        assert_eq!(gateway_networks(&places), [Some("aa"), Some("bb")]);
        let routes = default_routes(&places);
        assert_eq!(routes[0].interface, "eth0");
        assert_eq!(
            (routes[1].interface.as_str(), routes[1].gateway),
            ("eth1", "fd00::1".parse().unwrap())
        );
        places.insert("cc".to_owned(), place("eth3", 1, Some("10.3.0.1"), None));
        assert_eq!(gateway_networks(&places), [Some("cc"), Some("bb")]);
        places.clear();
        assert!(default_routes(&places).is_empty());
    }

    #[test]
    fn interface_names_fill_gaps() {
        let mut places = Places::new();
        assert_eq!(interface_name("eth", &places), "eth0");
        places.insert("a".to_owned(), place("eth0", 0, None, None));
        places.insert("b".to_owned(), place("eth2", 0, None, None));
        assert_eq!(interface_name("eth", &places), "eth1");
        assert_eq!(interface_name("vif", &places), "vif0");
    }
}
