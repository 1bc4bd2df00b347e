//! Ports of containers: `80/tcp`, host bindings, ranges.

use super::Read;
use crate::http::Failure;
use crate::wire::container::HostPort;
use muster_types::container::PortBinding;
use muster_types::service::Protocol;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Most bindings of one container; a `-p 1-65535` with both protocols stays within it.
const BINDINGS_MAX: usize = 131_072;

/// Reads a protocol; empty means TCP.
pub(crate) fn read_protocol(text: &str) -> Read<Protocol> {
    match text.to_ascii_lowercase().as_str() {
        "" | "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(Failure::invalid(format!(
            "invalid protocol {text:?}: tcp, udp or sctp is expected"
        ))),
    }
}

/// Reads `80` or `80/tcp`.
pub(crate) fn read_port(text: &str) -> Read<(u16, Protocol)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let number = port
        .parse()
        .ok()
        .filter(|number| *number != 0)
        .ok_or_else(|| Failure::invalid(format!("invalid port specification: {text:?}")))?;
    Ok((number, read_protocol(protocol)?))
}

/// Reads `PortBindings`.
pub(crate) fn read_bindings(wire: BTreeMap<String, Option<Vec<HostPort>>>) -> Read<Vec<PortBinding>> {
    let mut bindings = Vec::new();
    for (port, hosts) in wire {
        let (container_port, protocol) = read_port(&port)?;
        let hosts = hosts.filter(|hosts| !hosts.is_empty());
        for host in hosts.unwrap_or_else(|| vec![HostPort::default()]) {
            let (host_port, host_port_last) = read_host_ports(&host.host_port)?;
            bindings.push(PortBinding {
                container_port,
                protocol,
                host_ip: read_address(&host.host_ip)?,
                host_port,
                host_port_last,
            });
        }
        if bindings.len() > BINDINGS_MAX {
            return Err(Failure::invalid(format!(
                "too many port bindings: at most {BINDINGS_MAX} are allowed"
            )));
        }
    }
    Ok(bindings)
}

fn read_address(text: &str) -> Read<Option<IpAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    let address: IpAddr = text
        .trim_matches(['[', ']'])
        .parse()
        .map_err(|_| Failure::invalid(format!("invalid IP address in port binding: {text:?}")))?;
    Ok(Some(address))
}

/// Reads `8080`, or a range `8000-8010` as its ends; empty lets the engine choose.
fn read_host_ports(text: &str) -> Read<(u16, u16)> {
    let invalid = || Failure::invalid(format!("invalid host port {text:?} in port binding"));
    let number = |text: &str| text.parse().map_err(|_| invalid());
    match text.split_once('-') {
        None if text.is_empty() => Ok((0, 0)),
        None => Ok((number(text)?, 0)),
        Some((first, last)) => match (number(first)?, number(last)?) {
            (first, last) if first != 0 && first <= last => Ok((first, last)),
            _ => Err(invalid()),
        },
    }
}

/// Writes bindings as `PortBindings` or `Ports`.
pub(crate) fn write_bindings(bindings: &[PortBinding]) -> BTreeMap<String, Option<Vec<HostPort>>> {
    let mut wire: BTreeMap<String, Option<Vec<HostPort>>> = BTreeMap::new();
    for binding in bindings {
        let key = format!("{}/{}", binding.container_port, binding.protocol);
        let hosts = wire.entry(key).or_default().get_or_insert_default();
        hosts.push(HostPort {
            host_ip: binding.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            host_port: match (binding.host_port, binding.host_port_last) {
                (0, _) => String::new(),
                (port, 0) => port.to_string(),
                (first, last) => format!("{first}-{last}"),
            },
        });
    }
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_round_trip() {
        let bindings = vec![
            PortBinding {
                container_port: 53,
                protocol: Protocol::Udp,
                host_ip: Some("127.0.0.1".parse().unwrap()),
                host_port: 0,
                host_port_last: 0,
            },
            PortBinding {
                container_port: 80,
                protocol: Protocol::Tcp,
                host_ip: None,
                host_port: 8080,
                host_port_last: 8090,
            },
        ];
        assert_eq!(read_bindings(write_bindings(&bindings)).unwrap(), bindings);
    }

    #[test]
    fn addresses_are_of_either_family() {
        assert_eq!(read_address(""), Ok(None));
        assert_eq!(read_address("::"), Ok(Some("::".parse().unwrap())));
        assert_eq!(read_address("[fd00::1]"), Ok(Some("fd00::1".parse().unwrap())));
        assert_eq!(read_address("localhost").unwrap_err().status, 400);
    }

    #[test]
    fn host_ports_are_one_or_a_range() {
        assert_eq!(read_host_ports("").unwrap(), (0, 0));
        assert_eq!(read_host_ports("8080").unwrap(), (8080, 0));
        assert_eq!(read_host_ports("8000-8010").unwrap(), (8000, 8010));
        for bad in ["8010-8000", "0-5", "-5", "5-", "x", "70000"] {
            assert_eq!(read_host_ports(bad).unwrap_err().status, 400, "{bad}");
        }
    }

    #[test]
    fn bad_ports_are_refused() {
        for bad in ["0/tcp", "x", "80/icmp", "70000", "", "/tcp"] {
            assert_eq!(read_port(bad).unwrap_err().status, 400, "{bad}");
        }
    }
}
