//! Which ports of the host lead into a container.

use super::place::{Places, gateway_networks};
use crate::error::{Error, Result};
use crate::record::Record;
use muster_network::{Entry, Families, PortMapping, Protocol};
use muster_types::container::PortBinding;
use muster_types::service;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where published ports lead: the addresses on the networks that have the default gateways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Targets {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    /// Host address of ports that name none.
    pub host_binding: Option<IpAddr>,
    /// Families whose ports are no ports of the host, but are opened at the container's own address.
    pub routed: Families,
}

impl Targets {
    /// The targets of a container's places; `publishes` tells of a network whether ports can be published there, on which
    /// host address those that name none are, and which families are routed.
    pub fn of(places: &Places, publishes: impl Fn(&str) -> Option<(Option<IpAddr>, Families)>) -> Self {
        let [v4, v6] = gateway_networks(places);
        let on = |network: Option<&str>| {
            let network = network?;
            Some((places.get(network)?, publishes(&places.get(network)?.network_id)?))
        };
        let (v4, v6) = (on(v4), on(v6));
        Self {
            v4: v4.and_then(|(place, _)| place.address),
            v6: v6.and_then(|(place, _)| place.ipv6),
            host_binding: v4.and_then(|(_, (binding, _))| binding),
            routed: Families {
                ipv4: v4.is_some_and(|(_, (_, routed))| routed.ipv4),
                ipv6: v6.is_some_and(|(_, (_, routed))| routed.ipv6),
            },
        }
    }

    /// Ports can lead somewhere.
    pub fn exist(&self) -> bool {
        self.v4.is_some() || self.v6.is_some()
    }
}

/// The ports to publish: those asked for, and with `publish_all` every exposed one.
pub(crate) fn wanted_ports(record: &Record) -> Result<Vec<PortBinding>> {
    let mut wanted = record.config.host.ports.clone();
    if record.config.host.publish_all {
        for exposed in &record.exposed_ports {
            let (container_port, protocol) = parse_exposed(exposed)?;
            let bound =
                |known: &PortBinding| (known.container_port, known.protocol) == (container_port, protocol);
            if !wanted.iter().any(bound) {
                wanted.push(PortBinding {
                    container_port,
                    protocol,
                    host_ip: None,
                    host_port: 0,
                    host_port_last: 0,
                });
            }
        }
    }
    Ok(wanted)
}

/// Reads `80`, `80/tcp`, …
pub(crate) fn parse_exposed(text: &str) -> Result<(u16, service::Protocol)> {
    let refused = || Error::invalid(format!("invalid containerPort: {text}"));
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => service::Protocol::Tcp,
        "udp" => service::Protocol::Udp,
        "sctp" => service::Protocol::Sctp,
        _ => return Err(refused()),
    };
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(refused)?;
    Ok((port, protocol))
}

/// The mappings of ports. Clients that ask for every address of both families ask for the same mapping twice.
pub(crate) fn mappings(ports: &[PortBinding], targets: &Targets) -> Result<Vec<PortMapping>> {
    let mut mappings: Vec<PortMapping> = Vec::with_capacity(ports.len());
    let mut fixed = HashSet::new();
    for binding in ports {
        for mapping in mappings_of(binding, targets)? {
            if mapping.entry.host_port() == Some(0) || fixed.insert(mapping) {
                mappings.push(mapping);
            }
        }
    }
    Ok(mappings)
}

fn mappings_of(binding: &PortBinding, targets: &Targets) -> Result<Vec<PortMapping>> {
    let mapping = |host_ip: IpAddr, container_ip: IpAddr| {
        let is_routed = match container_ip {
            IpAddr::V4(_) => targets.routed.ipv4,
            IpAddr::V6(_) => targets.routed.ipv6,
        };
        let entry = match is_routed {
            true => Entry::Container,
            false => Entry::Host {
                ip: host_ip,
                port: binding.host_port,
            },
        };
        PortMapping {
            entry,
            protocol: protocol(binding.protocol),
            container_ip,
            container_port: binding.container_port,
        }
    };
    let any_v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let v4 = targets.v4.map(IpAddr::V4);
    let v6 = targets.v6.map(IpAddr::V6);
    let pairs = match binding.host_ip.or(targets.host_binding) {
        None => [
            v4.map(|to| mapping(any_v4, to)),
            v6.map(|to| mapping(Ipv6Addr::UNSPECIFIED.into(), to)),
        ],
        Some(IpAddr::V4(host)) => [v4.map(|to| mapping(host.into(), to)), None],
        // Where a container has no IPv6, the unspecified address stands for every one of IPv4.
        Some(IpAddr::V6(host)) if host.is_unspecified() && v6.is_none() => {
            [v4.map(|to| mapping(any_v4, to)), None]
        }
        Some(IpAddr::V6(host)) => [None, v6.or(v4).map(|to| mapping(host.into(), to))],
    };
    let pairs: Vec<_> = pairs.into_iter().flatten().collect();
    match (pairs.is_empty(), binding.host_ip) {
        (true, Some(host)) => Err(Error::invalid(format!(
            "cannot publish port {} on {host}: the container has no address of that family on the network of its \
             default gateway; attach it to a network with one",
            binding.container_port
        ))),
        _ => Ok(pairs),
    }
}

/// Ports that name an address of the host and are open to everybody with a route to the container all the same, because its
/// network is routed.
pub(crate) fn unheeded<'a>(
    ports: &'a [PortBinding],
    targets: &'a Targets,
) -> impl Iterator<Item = (IpAddr, &'a PortBinding)> {
    ports.iter().filter_map(|binding| {
        let named = binding.host_ip.filter(|host| !host.is_unspecified())?;
        let mappings = mappings_of(binding, targets).ok()?;
        let is_opened = mappings.iter().any(|mapping| mapping.entry == Entry::Container);
        is_opened.then_some((named, binding))
    })
}

pub(crate) fn protocol(protocol: service::Protocol) -> Protocol {
    match protocol {
        service::Protocol::Tcp => Protocol::Tcp,
        service::Protocol::Udp => Protocol::Udp,
        service::Protocol::Sctp => Protocol::Sctp,
    }
}

/// A published port as users see it. One of the container's own address has no port of the host.
pub(crate) fn binding(mapping: &PortMapping) -> PortBinding {
    let unspecified = match mapping.container_ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let (host_ip, host_port) = match mapping.entry {
        Entry::Host { ip, port } => (ip, port),
        Entry::Container => (unspecified, 0),
    };
    PortBinding {
        container_port: mapping.container_port,
        protocol: match mapping.protocol {
            Protocol::Tcp => service::Protocol::Tcp,
            Protocol::Udp => service::Protocol::Udp,
            Protocol::Sctp => service::Protocol::Sctp,
        },
        host_ip: Some(host_ip),
        host_port,
        host_port_last: 0,
    }
}

/// Gives the binding whose port is taken the next one of its range; false when there is none.
pub(crate) fn try_next(wanted: &mut [PortBinding], taken: (u16, Protocol)) -> bool {
    let is_it = |binding: &&mut PortBinding| {
        binding.host_port < binding.host_port_last && (binding.host_port, protocol(binding.protocol)) == taken
    };
    // Of two that want it, the earlier one got it.
    match wanted.iter_mut().rev().find(is_it) {
        Some(binding) => {
            binding.host_port += 1;
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(host_ip: Option<&str>) -> PortBinding {
        PortBinding {
            container_port: 80,
            protocol: service::Protocol::Tcp,
            host_ip: host_ip.map(|text| text.parse().unwrap()),
            host_port: 8080,
            host_port_last: 0,
        }
    }

    const V4: Targets = Targets {
        v4: Some(Ipv4Addr::new(10, 0, 0, 2)),
        v6: None,
        host_binding: None,
        routed: Families {
            ipv4: false,
            ipv6: false,
        },
    };
    const BOTH: Targets = Targets {
        v6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
        ..V4
    };

    fn hosts(bindings: &[PortBinding], targets: &Targets) -> Vec<String> {
        let mappings = mappings(bindings, targets).unwrap();
        let host = |mapping: &PortMapping| match mapping.entry {
            Entry::Host { ip, .. } => ip.to_string(),
            Entry::Container => format!("own {}", mapping.container_ip),
        };
        mappings.iter().map(host).collect()
    }

    #[test]
    fn exposed_ports_are_read() {
        assert_eq!(parse_exposed("80").unwrap(), (80, service::Protocol::Tcp));
        assert_eq!(parse_exposed("53/udp").unwrap(), (53, service::Protocol::Udp));
        for bad in ["", "0", "80/icmp", "70000", "a/tcp"] {
            assert!(parse_exposed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_are_on_every_family_that_the_container_has() {
        assert_eq!(hosts(&[on(None)], &V4), ["0.0.0.0"]);
        assert_eq!(hosts(&[on(None)], &BOTH), ["0.0.0.0", "::"]);
        assert_eq!(hosts(&[on(Some("0.0.0.0"))], &BOTH), ["0.0.0.0"]);
        assert_eq!(hosts(&[on(Some("::"))], &BOTH), ["::"]);
        assert_eq!(hosts(&[on(Some("0.0.0.0")), on(Some("::"))], &V4), ["0.0.0.0"]);
        assert_eq!(hosts(&[on(Some("fd00::9"))], &BOTH), ["fd00::9"]);
        assert_eq!(hosts(&[on(Some("fd00::9"))], &V4), ["fd00::9"]);
        let only_v6 = Targets { v4: None, ..BOTH };
        assert!(mappings(&[on(Some("10.0.0.9"))], &only_v6).is_err());
        let bound = Targets {
            host_binding: "127.0.0.1".parse().ok(),
            ..BOTH
        };
        assert_eq!(hosts(&[on(None)], &bound), ["127.0.0.1"]);
        assert_eq!(hosts(&[on(None)], &Targets::default()), Vec::<String>::new());
    }

    #[test]
    fn ports_of_routed_families_are_the_containers_own() {
        let routed = Targets {
            routed: Families {
                ipv4: false,
                ipv6: true,
            },
            ..BOTH
        };
        let ports = [on(None), on(Some("::")), on(Some("fd00::9"))];
        assert_eq!(hosts(&ports, &routed), ["0.0.0.0", "own fd00::2"]);
        let mappings = mappings(&ports, &routed).unwrap();
        let seen: Vec<_> = mappings.iter().map(binding).collect();
        assert_eq!((seen[0].host_port, seen[1].host_port), (8080, 0));
        assert_eq!(seen[1].host_ip, Some(Ipv6Addr::UNSPECIFIED.into()));
        let unheeded: Vec<IpAddr> = unheeded(&ports, &routed).map(|(named, _)| named).collect();
        assert_eq!(unheeded, ["fd00::9".parse::<IpAddr>().unwrap()]);
        assert_eq!(super::unheeded(&ports, &BOTH).count(), 0);
    }

    #[test]
    fn a_port_on_an_address_that_the_container_has_is_one_of_the_host_all_the_same() {
        let mut port = on(Some("10.0.0.2"));
        port.host_port = 80;
        assert_eq!(hosts(&[port], &V4), ["10.0.0.2"]);
    }
}
