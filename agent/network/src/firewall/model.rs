//! What the packet filter should hold.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::spec::Protocol;

/// Bridges and published ports of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub bridges: BTreeMap<String, BridgePolicy>,
    pub published: BTreeMap<PortKey, Target>,
}

/// What the containers on a bridge may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BridgePolicy {
    /// Leave through the host under its address.
    pub masquerade: bool,
    /// Reach nothing but each other.
    pub internal: bool,
    /// Talk to each other.
    pub between_containers: bool,
    /// Be reached by everybody who knows a way to them, at every port.
    pub unprotected: bool,
    /// Be reached at opened ports of their own addresses, and by ping.
    pub routed: bool,
    /// Are on any node: it is no bridge but the host's place in the network of the mesh.
    pub mesh: bool,
}

/// A published port. The key is ordered with the unspecified address first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PortKey {
    /// One of the host's addresses, or unspecified for all of them; the container's where the port is opened there.
    pub address: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// What stands behind a published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub container_id: String,
    pub way: Way,
}

impl Target {
    /// Whether ports of the host lead to the same port, of whichever address.
    pub fn is_to_same_port(&self, other: &Self) -> bool {
        match (self.way, other.way) {
            (Way::Led(one), Way::Led(other)) => one.port() == other.port(),
            (Way::Led(_) | Way::Opened, _) => false,
        }
    }
}

/// How clients of a published port come into the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a port of the host, from which they are led to the container's.
    Led(SocketAddr),
    /// By the container's own address: the key is a port there, which is opened.
    Opened,
}
