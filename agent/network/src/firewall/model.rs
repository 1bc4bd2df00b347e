//! What the packet filter should hold.

use std::collections::BTreeMap;
use std::net::IpAddr;

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

/// A port of the host. The key is ordered with the unspecified address first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PortKey {
    /// One of the host's addresses, or unspecified for all of them.
    pub address: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// Where a published port leads. A key with the same address and port is no port of the host, but one of the container's own
/// address that is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub address: IpAddr,
    pub port: u16,
    pub container_id: String,
}

/// Whether this is a port of the container's own address.
pub(crate) fn is_opened(key: &PortKey, target: &Target) -> bool {
    (key.address, key.port) == (target.address, target.port)
}
