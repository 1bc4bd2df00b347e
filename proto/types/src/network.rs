//! The vocabulary of networks: what a network is asked to be, and what it is.

use crate::Timestamp;
use crate::overlay::OPTION_ENCRYPTED;
use crate::service::Labels;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What a network is asked to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSpec {
    /// Name.
    pub name: String,
    /// `bridge`, `macvlan`, and for those that exist by themselves also `host` and `null`.
    pub driver: String,
    /// No way out.
    pub internal: bool,
    /// Carries the connections to ports that are published on every node; at most one network of the cluster.
    pub ingress: bool,
    /// Containers outside the cluster may be attached; kept and reported for networks of one node.
    pub attachable: bool,
    /// Containers have IPv4 addresses.
    pub ipv4: bool,
    /// Containers have IPv6 addresses.
    pub ipv6: bool,
    /// Where addresses come from; the engine chooses for a family without a range.
    pub ranges: Vec<AddressRange>,
    /// Labels.
    pub labels: Labels,
    /// Driver options.
    pub options: Labels,
}

impl NetworkSpec {
    /// Whether its traffic between nodes shall be encrypted.
    pub fn is_encrypted(&self) -> bool {
        let option = self.options.get(OPTION_ENCRYPTED);
        option.is_some_and(|value| !matches!(value.as_str(), "false" | "0"))
    }
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            driver: "bridge".to_owned(),
            internal: false,
            ingress: false,
            attachable: false,
            ipv4: true,
            ipv6: false,
            ranges: Vec::new(),
            labels: Labels::new(),
            options: Labels::new(),
        }
    }
}

/// A subnet, and which of its addresses are given out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AddressRange {
    /// In CIDR form; empty lets the engine choose.
    pub subnet: String,
    /// The part of the subnet that addresses are taken from, in CIDR form; all of it when empty.
    pub ip_range: String,
    /// The gateway; the engine chooses when `None`.
    pub gateway: Option<IpAddr>,
    /// Addresses that are somebody else's, by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
}

/// A network of the node or of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkInfo {
    /// 64 hexadecimal characters.
    pub id: String,
    /// Of the cluster, not of this node.
    pub cluster_scope: bool,
    /// When it was made.
    pub created: Timestamp,
    /// What it is, with the subnets and gateways in effect.
    pub spec: NetworkSpec,
}
