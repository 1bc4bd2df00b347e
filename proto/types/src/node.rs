//! Nodes: the member machines of the cluster.

use crate::overlay::NetworkAddresses;
use crate::service::{Labels, Platform};
use crate::{Issuer, Meta, NodeId, RaftId, Resources, Timestamp};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

/// A node as the cluster stores it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Identity, equal to the common name of its certificate.
    pub id: NodeId,
    /// Times and versions.
    pub meta: Meta,
    /// What the user wants of it.
    pub spec: NodeSpec,
    /// What the node said of itself when it last connected.
    pub description: Arc<NodeDescription>,
    /// What the controllers saw.
    pub status: NodeStatus,
    /// Its part in the Raft group; `None` on workers.
    pub controller: Option<ControllerMember>,
    /// Its own addresses on networks of the cluster.
    #[serde(default)]
    pub addresses: Vec<NetworkAddresses>,
}

/// What the user wants of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// Optional name, as Swarm has it; the host name is in the description.
    pub name: String,
    /// Cluster-side labels.
    pub labels: Labels,
    /// Wanted role.
    pub role: NodeRole,
    /// Whether it takes tasks.
    pub availability: Availability,
}

/// Role of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum NodeRole {
    /// Runs tasks.
    #[default]
    Worker,
    /// Runs tasks and takes part in the Raft group.
    Controller,
}

/// Whether a node takes tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Availability {
    /// Takes tasks.
    #[default]
    Active,
    /// Keeps its tasks, takes no new ones.
    Pause,
    /// Its tasks are stopped and replaced elsewhere.
    Drain,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeDescription {
    /// Host name.
    pub hostname: String,
    /// Operating system and architecture.
    pub platform: Platform,
    /// What it offers to tasks.
    pub resources: Resources,
    /// Version of Muster on it.
    pub engine_version: String,
    /// Labels of the node's own configuration.
    pub engine_labels: Labels,
    /// Highest replicated feature level that its binary supports.
    pub feature_level: u32,
    /// Address (host:port) where its peers reach the node's cluster server, for blob transfer and log streams.
    pub advertise_address: String,
    /// Where other nodes send the traffic of overlay networks; the host of `advertise_address` when `None`.
    pub data_path_address: Option<IpAddr>,
    /// Subnets that the host has routes to, which no network of the cluster may take; at most [`ROUTES_MAX`].
    pub routes: Vec<IpNet>,
    /// Its certificate.
    pub tls: Option<NodeTls>,
}

/// What a node says of its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTls {
    /// Who signed it.
    pub issuer: Issuer,
    /// SHA-256 of the root certificate that the node trusts.
    pub root_digest: [u8; 32],
}

/// Most routes that a node tells of.
pub const ROUTES_MAX: usize = 256;

impl NodeDescription {
    /// Where other nodes send the traffic of overlay networks.
    pub fn data_path(&self) -> Option<IpAddr> {
        let advertised = || {
            let (host, _) = self.advertise_address.rsplit_once(':')?;
            host.trim_start_matches('[').trim_end_matches(']').parse().ok()
        };
        self.data_path_address.or_else(advertised)
    }
}

/// What the controllers saw of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Reachability.
    pub state: NodeState,
    /// Since when.
    pub since: Timestamp,
    /// For the user.
    pub message: String,
    /// Address that the node's session came from.
    pub address: String,
    /// Its daemon said that it restarts: until then (cluster time) it holds its lease without a session.
    #[serde(default)]
    pub restarting_until: Option<Timestamp>,
}

/// Reachability of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NodeState {
    /// Not heard of since the last change of leader.
    Unknown,
    /// Missed its lease.
    Down,
    /// Holds a lease.
    Ready,
    /// Left on purpose; holds no lease.
    Disconnected,
}

/// A controller's part in the Raft group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerMember {
    /// Its Raft id; a new one each time it joins with an empty log.
    pub raft_id: RaftId,
    /// Where the other controllers reach it, as `host:port`.
    pub address: String,
    /// Learners receive the log but do not vote.
    pub voter: bool,
}
