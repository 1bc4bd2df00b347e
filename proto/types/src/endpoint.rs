//! The place that a container has in a network: what is asked of it, and what it is.

use crate::service::Labels;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is asked of a container's place in a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSpec {
    /// IPv4 address; the engine chooses when `None`.
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 address; the engine chooses when `None`.
    pub ipv6: Option<Ipv6Addr>,
    /// Addresses beside those, of the link only.
    pub link_local: Vec<IpAddr>,
    /// Further names in the network.
    pub aliases: Vec<String>,
    /// Other containers by names that only this container knows, as `container[:alias]`.
    pub links: Vec<String>,
    /// Hardware address; empty lets the engine choose.
    pub mac: String,
    /// The network with the highest priority has the default gateway.
    pub gateway_priority: i64,
    /// Driver options, reported back.
    pub driver_options: Labels,
}

/// A container's place in a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkEndpoint {
    /// The network's id.
    pub network_id: String,
    /// The endpoint's own id; empty when not running.
    pub endpoint_id: String,
    /// What was asked for.
    pub spec: EndpointSpec,
    /// The interface inside the container; empty where it has none of its own.
    pub interface: String,
    /// Address; `None` when not running.
    pub address: Option<Ipv4Addr>,
    /// Prefix length of the address.
    pub prefix_len: u8,
    /// Gateway.
    pub gateway: Option<Ipv4Addr>,
    /// IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Prefix length of the IPv6 address.
    pub ipv6_prefix_len: u8,
    /// IPv6 gateway.
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// Hardware address.
    pub mac: String,
    /// Every name by which containers of the network find it.
    pub dns_names: Vec<String>,
}
