//! What callers ask for. Names end up in paths, in interface names and in kernel tables, so each is checked here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::address::{Ipv4Net, MacAddress};
use crate::sysctl;

/// Longest name of a network interface (IFNAMSIZ without the terminating zero).
const INTERFACE_NAME_MAX: usize = 15;
/// A container id has 64 characters; the rest is room for ids of other origin.
const CONTAINER_ID_MAX: usize = 100;
/// Interfaces of one container; a container with more networks than this is a mistake.
const INTERFACES_MAX: usize = 64;
/// Smallest MTU that IPv4 works with.
const MTU_MIN: u32 = 68;

/// Settings of a node's network.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Name of our table in the packet filter.
    pub table_prefix: String,
    /// Namespaces are pinned in `netns` below it. It must outlive the daemon, but not the host's boot.
    pub run_dir: PathBuf,
    /// How many network namespaces are kept ready.
    pub prepared_namespaces: usize,
    /// Parameters that every container's namespace gets, before those of its own specification.
    pub sysctls: Vec<(String, String)>,
}

impl NetworkConfig {
    /// The settings for a run directory.
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Self {
            table_prefix: "muster".to_owned(),
            run_dir: run_dir.into(),
            prepared_namespaces: 3,
            // Interfaces have no IPv6 addresses of their own making; the loopback keeps ::1.
            sysctls: vec![set("net.ipv6.conf.default.disable_ipv6", "1")],
        }
    }
}

/// A bridge that containers attach to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeSpec {
    /// Name of the bridge's interface.
    pub name: String,
    /// The bridge's own address, which is its containers' gateway, with the network's prefix.
    pub gateway: Ipv4Net,
    /// Largest packet, or the kernel's default.
    pub mtu: Option<u32>,
    /// Keeps containers from everything but each other and this host.
    pub internal: bool,
    /// Lets containers reach the outside under the host's address.
    pub masquerade: bool,
    /// Lets containers of this bridge talk to each other.
    pub icc: bool,
}

/// The network of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The container.
    pub container_id: String,
    /// Its interfaces besides the loopback; none makes a container without a network.
    pub interfaces: Vec<Interface>,
    /// Kernel parameters below `net.`, set once the interfaces are there.
    pub sysctls: Vec<(String, String)>,
}

/// One interface of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The bridge that it is attached to.
    pub bridge: String,
    /// Its name inside the container.
    pub name: String,
    /// Its address.
    pub address: Ipv4Net,
    /// Its hardware address; [`MacAddress::for_ipv4`] is the usual choice.
    pub mac: MacAddress,
    /// Where the default route leads; at most one interface of a container has one.
    pub gateway: Option<Ipv4Addr>,
    /// Largest packet, or the kernel's default.
    pub mtu: Option<u32>,
}

/// A transport protocol that ports can be published for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The protocol's number in the IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol with that number.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp]
            .into_iter()
            .find(|protocol| protocol.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port of the host that leads into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// The host's address, unspecified for all of its IPv4 addresses.
    pub host_ip: IpAddr,
    /// The host's port, or 0 for any free one.
    pub host_port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The container's address.
    pub container_ip: Ipv4Addr,
    /// The container's port.
    pub container_port: u16,
}

/// Why a specification is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum InvalidSpec {
    #[error(
        "{name:?} is no name of a network interface: it takes 1 to 15 letters, digits and any of \"_.-\""
    )]
    InterfaceName { name: String },
    #[error("{id:?} is no container id: it takes letters, digits, \"_\" and \"-\"")]
    ContainerId { id: String },
    #[error("the MTU of {name} is {mtu}; it must be from 68 to 65535")]
    Mtu { name: String, mtu: u32 },
    #[error("{address} is no address that an interface can have")]
    Address { address: Ipv4Net },
    #[error("two interfaces of the container are named {name}")]
    DuplicateInterface { name: String },
    #[error("more than one interface of the container has a gateway")]
    SeveralGateways,
    #[error("gateway {gateway} is outside of the interface's network {network}")]
    GatewayOutside { gateway: Ipv4Addr, network: Ipv4Net },
    #[error("a container can have {INTERFACES_MAX} interfaces; {count} were asked for")]
    TooManyInterfaces { count: usize },
    #[error("{name:?} is no kernel parameter of a network namespace: its name must begin with \"net.\"")]
    Sysctl { name: String },
    #[error("port 0 of the container cannot be published")]
    ContainerPort,
    #[error("ports can be published on IPv4 addresses only, not on {address}")]
    HostAddress { address: IpAddr },
}

impl BridgeSpec {
    /// Checks names and ranges.
    pub fn check(&self) -> Result<(), InvalidSpec> {
        check_interface_name(&self.name)?;
        check_mtu(&self.name, self.mtu)?;
        check_address(self.gateway)
    }
}

impl SandboxSpec {
    /// Checks names and ranges.
    pub fn check(&self) -> Result<(), InvalidSpec> {
        check_container_id(&self.container_id)?;
        if self.interfaces.len() > INTERFACES_MAX {
            return Err(InvalidSpec::TooManyInterfaces {
                count: self.interfaces.len(),
            });
        }
        for (position, interface) in self.interfaces.iter().enumerate() {
            interface.check()?;
            if self.interfaces[..position]
                .iter()
                .any(|earlier| earlier.name == interface.name)
            {
                return Err(InvalidSpec::DuplicateInterface {
                    name: interface.name.clone(),
                });
            }
        }
        if self
            .interfaces
            .iter()
            .filter(|interface| interface.gateway.is_some())
            .count()
            > 1
        {
            return Err(InvalidSpec::SeveralGateways);
        }
        match self
            .sysctls
            .iter()
            .find(|(name, _)| !sysctl::is_network_parameter(name))
        {
            Some((name, _)) => Err(InvalidSpec::Sysctl { name: name.clone() }),
            None => Ok(()),
        }
    }
}

impl Interface {
    /// Checks names and ranges.
    pub fn check(&self) -> Result<(), InvalidSpec> {
        check_interface_name(&self.bridge)?;
        check_interface_name(&self.name)?;
        check_mtu(&self.name, self.mtu)?;
        check_address(self.address)?;
        match self.gateway {
            Some(gateway) if !self.address.contains(gateway) => Err(InvalidSpec::GatewayOutside {
                gateway,
                network: self.address,
            }),
            _ => Ok(()),
        }
    }
}

impl PortMapping {
    /// Checks ranges, and returns the host's address.
    pub(crate) fn check(&self) -> Result<Ipv4Addr, InvalidSpec> {
        if self.container_port == 0 {
            return Err(InvalidSpec::ContainerPort);
        }
        match self.host_ip {
            IpAddr::V4(address) => Ok(address),
            IpAddr::V6(_) => Err(InvalidSpec::HostAddress {
                address: self.host_ip,
            }),
        }
    }
}

/// Checks that `id` can be part of a path.
pub(crate) fn check_container_id(id: &str) -> Result<(), InvalidSpec> {
    let plain = id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let valid = plain && (1..=CONTAINER_ID_MAX).contains(&id.len());
    if valid {
        Ok(())
    } else {
        Err(InvalidSpec::ContainerId { id: id.to_owned() })
    }
}

/// Checks that `name` can be an interface's, and part of a path.
pub(crate) fn check_interface_name(name: &str) -> Result<(), InvalidSpec> {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    let valid = plain
        && (1..=INTERFACE_NAME_MAX).contains(&name.len())
        && !matches!(name, "." | ".." | "all" | "default");
    if valid {
        Ok(())
    } else {
        Err(InvalidSpec::InterfaceName {
            name: name.to_owned(),
        })
    }
}

fn check_mtu(name: &str, mtu: Option<u32>) -> Result<(), InvalidSpec> {
    match mtu {
        Some(mtu) if !(MTU_MIN..=65_535).contains(&mtu) => Err(InvalidSpec::Mtu {
            name: name.to_owned(),
            mtu,
        }),
        _ => Ok(()),
    }
}

fn check_address(address: Ipv4Net) -> Result<(), InvalidSpec> {
    let ip = address.address();
    let edge = address.prefix() < 31 && (ip == address.network() || ip == address.broadcast());
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast() || edge {
        return Err(InvalidSpec::Address { address });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str) -> Interface {
        Interface {
            bridge: "br0".to_owned(),
            name: name.to_owned(),
            address: "10.1.0.2/24".parse().unwrap(),
            mac: MacAddress::for_ipv4(Ipv4Addr::new(10, 1, 0, 2)),
            gateway: Some(Ipv4Addr::new(10, 1, 0, 1)),
            mtu: None,
        }
    }

    fn sandbox(interfaces: Vec<Interface>) -> SandboxSpec {
        SandboxSpec {
            container_id: "c1".to_owned(),
            interfaces,
            sysctls: Vec::new(),
        }
    }

    #[test]
    fn names_that_would_leave_a_directory_are_refused() {
        for id in ["", "..", "a/b", "../x", "a b", "a\0", &"x".repeat(101)] {
            assert!(check_container_id(id).is_err(), "{id:?}");
        }
        for name in ["", ".", "..", "a/b", "all", "sixteen-letters-", "a b", "ä"] {
            assert!(check_interface_name(name).is_err(), "{name:?}");
        }
        assert_eq!(check_interface_name("br-0123456789ab"), Ok(()));
    }

    #[test]
    fn interfaces_are_checked_against_each_other() {
        assert_eq!(sandbox(vec![interface("eth0")]).check(), Ok(()));
        let duplicate = sandbox(vec![interface("eth0"), interface("eth0")]);
        assert!(matches!(
            duplicate.check(),
            Err(InvalidSpec::DuplicateInterface { .. })
        ));
        let gateways = sandbox(vec![interface("eth0"), interface("eth1")]);
        assert_eq!(gateways.check(), Err(InvalidSpec::SeveralGateways));
        let outside = Interface {
            gateway: Some(Ipv4Addr::new(10, 2, 0, 1)),
            ..interface("eth0")
        };
        assert!(matches!(outside.check(), Err(InvalidSpec::GatewayOutside { .. })));
        let edge = Interface {
            address: "10.1.0.0/24".parse().unwrap(),
            ..interface("eth0")
        };
        assert!(matches!(edge.check(), Err(InvalidSpec::Address { .. })));
        let small = Interface {
            mtu: Some(10),
            ..interface("eth0")
        };
        assert!(matches!(small.check(), Err(InvalidSpec::Mtu { .. })));
        let foreign = SandboxSpec {
            sysctls: vec![("kernel.panic".into(), "1".into())],
            ..sandbox(vec![])
        };
        assert!(matches!(foreign.check(), Err(InvalidSpec::Sysctl { .. })));
    }
}
