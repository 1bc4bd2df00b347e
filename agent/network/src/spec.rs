//! What callers ask for. Names end up in paths, in interface names and in kernel tables, so each is checked here.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::address::MacAddress;
use crate::ip_net::IpNet;
use crate::sysctl;

/// Longest name of a network interface (IFNAMSIZ without the terminating zero).
const INTERFACE_NAME_MAX: usize = 15;
/// A container id has 64 characters; the rest is room for ids of other origin.
const CONTAINER_ID_MAX: usize = 100;
/// Interfaces of one container; a container with more networks than this is a mistake.
const INTERFACES_MAX: usize = 64;
/// The cluster's ids have 25 characters, the engine's 64.
const OVERLAY_ID_MAX: usize = 64;
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
            sysctls: vec![
                // Interfaces have no IPv6 addresses of their own making; the loopback keeps ::1.
                set("net.ipv6.conf.default.disable_ipv6", "1"),
                // As Docker: every user may listen on any port of a network of its own, and ping.
                set("net.ipv4.ip_unprivileged_port_start", "0"),
                set("net.ipv4.ping_group_range", "0 2147483647"),
            ],
        }
    }
}

/// A bridge that containers attach to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeSpec {
    /// Name of the bridge's interface.
    pub name: String,
    /// The bridge's own addresses, which are its containers' gateways, with the networks' prefixes: at most one of
    /// each family.
    pub gateways: Vec<IpNet>,
    /// Largest packet, or the kernel's default.
    pub mtu: Option<u32>,
    /// Keeps containers from everything but each other and this host.
    pub internal: bool,
    /// Lets containers reach the outside under the host's address.
    pub masquerade: bool,
    /// Lets containers of this bridge talk to each other.
    pub icc: bool,
    /// Where everybody reaches every port of its containers, and not only the published ones.
    pub unprotected: Families,
    /// Where packets keep their addresses in both directions, and containers are reached by their own: at published ports,
    /// which are those of their own addresses, and by ping.
    pub routed: Families,
}

/// Which families of addresses something is said of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Families {
    pub ipv4: bool,
    pub ipv6: bool,
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
    /// What it is attached to.
    pub attachment: Attachment,
    /// Its name inside the container.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Its hardware address; [`MacAddress::for_ipv4`] is the usual choice.
    pub mac: MacAddress,
    /// Where the default routes lead; for each family, at most one interface of a container has one.
    pub gateways: Vec<IpAddr>,
    /// Largest packet, or the kernel's default.
    pub mtu: Option<u32>,
}

/// What an interface of a container is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attachment {
    /// A port of this bridge.
    Bridge(String),
    /// A hardware address of its own on a link of the host.
    Macvlan { parent: String, mode: MacvlanMode },
    /// A port of the bridge of this overlay.
    Overlay(String),
}

/// Whom interfaces on one link of the host reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MacvlanMode {
    /// Not each other.
    Private,
    /// Each other through the switch behind the link, if it sends packets back.
    Vepa,
    /// Each other directly.
    #[default]
    Bridge,
    /// There is one only, which is the link's sole user.
    Passthru,
}

impl Attachment {
    fn check(&self) -> Result<(), InvalidSpec> {
        match self {
            Self::Bridge(name) | Self::Macvlan { parent: name, .. } => check_interface_name(name),
            Self::Overlay(id) => check_overlay_id(id),
        }
    }
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
    Address { address: IpNet },
    #[error("two interfaces of the container are named {name}")]
    DuplicateInterface { name: String },
    #[error("more than one interface of the container has a gateway of the same family")]
    SeveralGateways,
    #[error("bridge {name} has more than one address of the same family")]
    SeveralBridgeAddresses { name: String },
    #[error("gateway {gateway} is in no network of interface {name}")]
    GatewayOutside { gateway: IpAddr, name: String },
    #[error("a container can have {INTERFACES_MAX} interfaces; {count} were asked for")]
    TooManyInterfaces { count: usize },
    #[error("{name:?} is no kernel parameter of a network namespace: its name must begin with \"net.\"")]
    Sysctl { name: String },
    #[error("{id:?} is no id of an overlay: it takes 1 to {OVERLAY_ID_MAX} letters and digits")]
    OverlayId { id: String },
    #[error("{vni} is no identifier of a VXLAN: it must be from 1 to 16777215")]
    Vni { vni: u32 },
    #[error("{address} is no address that a tunnel can begin at")]
    Underlay { address: IpAddr },
    #[error("tunnels cannot use UDP port 0")]
    TunnelPort,
    #[error("port 0 of the container cannot be published")]
    ContainerPort,
    #[error("a port on {host} cannot lead to {container}, which is of another family")]
    MixedFamilies { host: IpAddr, container: IpAddr },
    #[error("{host} is an address of one link only; publish the port on another address of the host")]
    LinkLocal { host: IpAddr },
    #[error("SCTP cannot be passed on from {host} to {container}; publish the port on another address")]
    Relayed { host: IpAddr, container: IpAddr },
}

impl BridgeSpec {
    /// Checks names and ranges.
    pub fn check(&self) -> Result<(), InvalidSpec> {
        check_interface_name(&self.name)?;
        check_mtu(&self.name, self.mtu)?;
        if !one_of_each_family(self.gateways.iter().map(IpNet::is_ipv4)) {
            return Err(InvalidSpec::SeveralBridgeAddresses {
                name: self.name.clone(),
            });
        }
        self.gateways
            .iter()
            .try_for_each(|gateway| check_address(*gateway))
    }

    /// A fixed hardware address, which keeps the kernel from taking over the lowest one of the ports.
    pub(crate) fn mac(&self) -> MacAddress {
        let first = self.gateways.iter().map(IpNet::address).min();
        first.map_or(MacAddress([2, 0, 0, 0, 0, 1]), MacAddress::for_address)
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
        let gateways = self.interfaces.iter().flat_map(|interface| &interface.gateways);
        if !one_of_each_family(gateways.map(IpAddr::is_ipv4)) {
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
        self.attachment.check()?;
        check_interface_name(&self.name)?;
        check_mtu(&self.name, self.mtu)?;
        self.addresses
            .iter()
            .try_for_each(|address| check_address(*address))?;
        let outside = |gateway: &&IpAddr| !self.addresses.iter().any(|address| address.contains(**gateway));
        match self.gateways.iter().find(outside) {
            Some(gateway) => Err(InvalidSpec::GatewayOutside {
                gateway: *gateway,
                name: self.name.clone(),
            }),
            None => Ok(()),
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

/// Checks that `id` can be part of a path.
pub(crate) fn check_overlay_id(id: &str) -> Result<(), InvalidSpec> {
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if plain && (1..=OVERLAY_ID_MAX).contains(&id.len()) {
        Ok(())
    } else {
        Err(InvalidSpec::OverlayId { id: id.to_owned() })
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

pub(crate) fn check_mtu(name: &str, mtu: Option<u32>) -> Result<(), InvalidSpec> {
    match mtu {
        Some(mtu) if !(MTU_MIN..=65_535).contains(&mtu) => Err(InvalidSpec::Mtu {
            name: name.to_owned(),
            mtu,
        }),
        _ => Ok(()),
    }
}

pub(crate) fn check_address(address: IpNet) -> Result<(), InvalidSpec> {
    let ip = address.address();
    // The first and the last address of an IPv4 network are the network's own; of an IPv6 network, only the first is.
    let edge = match ip {
        IpAddr::V4(_) => address.prefix() < 31 && (ip == address.network().address() || ip == address.last()),
        IpAddr::V6(_) => address.prefix() < 127 && ip == address.network().address(),
    };
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || broadcast || edge {
        return Err(InvalidSpec::Address { address });
    }
    Ok(())
}

/// Whether no family occurs twice; each is told by whether it is IPv4.
fn one_of_each_family(families: impl Iterator<Item = bool> + Clone) -> bool {
    let count = |wanted: bool| families.clone().filter(|is_ipv4| *is_ipv4 == wanted).count();
    count(true) <= 1 && count(false) <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str) -> Interface {
        Interface {
            attachment: Attachment::Bridge("br0".to_owned()),
            name: name.to_owned(),
            addresses: vec!["10.1.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
            mac: MacAddress([2, 0, 0, 0, 0, 2]),
            gateways: vec!["10.1.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
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
            gateways: vec!["10.2.0.1".parse().unwrap()],
            ..interface("eth0")
        };
        assert!(matches!(outside.check(), Err(InvalidSpec::GatewayOutside { .. })));
        let edge = Interface {
            addresses: vec!["10.1.0.0/24".parse().unwrap()],
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
