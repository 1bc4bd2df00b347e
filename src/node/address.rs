//! Addresses as users write them for the cluster server.

use crate::config::CLUSTER_PORT;
use std::net::{IpAddr, SocketAddr};

/// Interfaces of container networks; their addresses are not the node's.
const CONTAINER_INTERFACES: [&str; 5] = ["docker", "muster", "br-", "veth", "virbr"];

/// Where a member listens, and where the others reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberAddresses {
    /// Where its cluster server listens.
    pub listen: SocketAddr,
    /// Where other nodes reach it.
    pub advertise: SocketAddr,
    /// Where other nodes send what containers send; the advertised address when `None`.
    pub data_path: Option<IpAddr>,
}

/// Reads `address` or `address:port`.
pub fn read(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    let text = text.trim();
    text.parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, default_port)))
        .map_err(|_| format!("{text:?} must be an IP address, with a port if it is not {default_port}"))
}

/// The address told to other nodes: as given (an address or an interface), else the one listened on, else the only
/// one of this host.
pub fn advertise(given: &str, listen: SocketAddr) -> Result<SocketAddr, String> {
    if !given.is_empty() {
        let (name, port) = match given.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') => {
                (name, port.parse().map_err(|_| format!("{port:?} is not a port"))?)
            }
            Some(_) | None => (given, listen.port()),
        };
        if let Ok(address) = read(given, listen.port()) {
            return check(address);
        }
        let ip = of_interface(name)?.ok_or_else(|| {
            format!("advertise address {given:?} is neither an IP address nor an interface of this host")
        })?;
        return Ok(SocketAddr::new(ip, port));
    }
    if !listen.ip().is_unspecified() {
        return Ok(listen);
    }
    let found = host_addresses()?;
    match found.as_slice() {
        [] => Err("could not find the system's IP address: specify one with --advertise-addr".to_owned()),
        [(_, ip)] => Ok(SocketAddr::new(*ip, listen.port())),
        [(first, ip), rest @ ..] if rest.iter().all(|(interface, _)| interface == first) => {
            Ok(SocketAddr::new(*ip, listen.port()))
        }
        several => {
            let list: Vec<String> = several
                .iter()
                .map(|(interface, ip)| format!("{ip} on {interface}"))
                .collect();
            Err(format!(
                "could not choose an IP address to advertise since this system has multiple addresses on different \
                 interfaces ({}) - specify one with --advertise-addr",
                list.join(" and ")
            ))
        }
    }
}

/// The address for what containers send: as given, an address or an interface; `None` when nothing is given.
pub fn data_path(given: &str) -> Result<Option<IpAddr>, String> {
    let given = given.trim();
    if given.is_empty() {
        return Ok(None);
    }
    let found = match given.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => Some(ip),
        Err(_) => of_interface(given)?,
    };
    match found {
        Some(ip) if ip.is_unspecified() => Err("data path address must be a non-zero IP address".to_owned()),
        Some(ip) => Ok(Some(ip)),
        None => Err(format!(
            "data path address {given:?} is neither an IP address nor an interface of this host"
        )),
    }
}

fn of_interface(name: &str) -> Result<Option<IpAddr>, String> {
    let mut addresses = host_addresses()?.into_iter();
    Ok(addresses
        .find(|(interface, _)| interface == name)
        .map(|(_, ip)| ip))
}

fn check(address: SocketAddr) -> Result<SocketAddr, String> {
    if address.ip().is_unspecified() {
        return Err("advertise address must be a non-zero IP address".to_owned());
    }
    Ok(SocketAddr::new(
        address.ip(),
        if address.port() == 0 {
            CLUSTER_PORT
        } else {
            address.port()
        },
    ))
}

/// Every address of this host at which ports can be published, but those that mean something on one link only.
pub fn own_addresses() -> Result<Vec<IpAddr>, String> {
    let interfaces =
        nix::ifaddrs::getifaddrs().map_err(|error| format!("cannot list the host's addresses: {error}"))?;
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let ipv4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        ipv4.or_else(|| {
            let ipv6 = address.as_sockaddr_in6()?.ip();
            (!ipv6.is_unicast_link_local()).then_some(IpAddr::V6(ipv6))
        })
    });
    Ok(addresses.collect())
}

/// IPv4 addresses of this host's own interfaces.
fn host_addresses() -> Result<Vec<(String, IpAddr)>, String> {
    let interfaces =
        nix::ifaddrs::getifaddrs().map_err(|error| format!("cannot list the host's addresses: {error}"))?;
    let mut found = Vec::new();
    for interface in interfaces {
        let Some(address) = interface
            .address
            .as_ref()
            .and_then(|address| address.as_sockaddr_in())
        else {
            continue;
        };
        let ip = IpAddr::V4(address.ip());
        let container = CONTAINER_INTERFACES
            .iter()
            .any(|prefix| interface.interface_name.starts_with(prefix));
        if !ip.is_loopback() && !container {
            found.push((interface.interface_name, ip));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_default_port() {
        assert_eq!(read("10.0.0.1", 2377), Ok("10.0.0.1:2377".parse().unwrap()));
        assert_eq!(read("[::1]:9", 2377), Ok("[::1]:9".parse().unwrap()));
        assert!(read("example.org", 2377).is_err());
    }

    #[test]
    fn what_is_given_or_listened_on_is_advertised() {
        let any = "0.0.0.0:2377".parse().unwrap();
        assert_eq!(advertise("10.0.0.1:99", any), Ok("10.0.0.1:99".parse().unwrap()));
        assert_eq!(
            advertise("", "10.0.0.2:5".parse().unwrap()),
            Ok("10.0.0.2:5".parse().unwrap())
        );
        assert!(advertise("0.0.0.0", any).is_err());
        assert!(advertise("no-such-interface", any).is_err());
    }

    #[test]
    fn container_traffic_may_have_an_address_of_its_own() {
        assert_eq!(data_path(""), Ok(None));
        assert_eq!(data_path("10.1.0.3"), Ok(Some("10.1.0.3".parse().unwrap())));
        assert_eq!(data_path("fd00::3"), Ok(Some("fd00::3".parse().unwrap())));
        for bad in ["0.0.0.0", "::", "no-such-interface", "10.1.0.3:4789"] {
            assert!(data_path(bad).is_err(), "{bad}");
        }
    }
}
