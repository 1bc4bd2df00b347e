//! A port of a container that is published.

use std::net::IpAddr;

use crate::spec::{InvalidSpec, Protocol};

/// A published port of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortMapping {
    /// How clients come in.
    pub entry: Entry,
    /// The protocol.
    pub protocol: Protocol,
    /// The container's address: of the same family as the host's; behind one of IPv6 also one of IPv4.
    pub container_ip: IpAddr,
    /// The container's port.
    pub container_port: u16,
}

/// How clients of a published port come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Entry {
    /// By a port of the host.
    Host {
        /// The host's address, unspecified for all of its family.
        ip: IpAddr,
        /// The host's port, or 0 for any free one.
        port: u16,
    },
    /// By the container's own address, where the port is opened.
    Container,
}

impl Entry {
    /// The port of the host.
    pub fn host_port(self) -> Option<u16> {
        match self {
            Self::Host { port, .. } => Some(port),
            Self::Container => None,
        }
    }
}

impl PortMapping {
    /// Checks ranges.
    pub(crate) fn check(&self) -> Result<(), InvalidSpec> {
        if self.container_port == 0 {
            return Err(InvalidSpec::ContainerPort);
        }
        let Entry::Host { ip: host, .. } = self.entry else {
            return Ok(());
        };
        let container = self.container_ip;
        if host.is_ipv4() && !container.is_ipv4() {
            return Err(InvalidSpec::MixedFamilies { host, container });
        }
        let is_relayed = !host.is_ipv4() && (container.is_ipv4() || host.is_loopback());
        if is_relayed && self.protocol == Protocol::Sctp {
            return Err(InvalidSpec::Relayed { host, container });
        }
        match host {
            IpAddr::V6(own) if own.is_unicast_link_local() => Err(InvalidSpec::LinkLocal { host }),
            IpAddr::V4(_) | IpAddr::V6(_) => Ok(()),
        }
    }
}
