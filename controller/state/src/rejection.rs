//! Why a changeset was not applied.

use crate::{ObjectKey, Part};
use muster_types::{DesiredState, FileKind, NetworkId, NodeId, RaftId, ServiceId, TaskId, TaskState};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Why a changeset was not applied; the state is as if it had never been proposed.
///
/// The text is what dockerd says where it has words for it, without its `rpc error` prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Rejection {
    /// The decision read something that has changed since.
    #[error("update out of sequence")]
    OutOfSequence {
        /// The object.
        object: ObjectKey,
        /// The part that was read.
        part: Part,
        /// The version that was read.
        expected: u64,
        /// The version now.
        found: u64,
    },
    /// The object does not exist.
    #[error("{object} not found")]
    NotFound {
        /// The object.
        object: ObjectKey,
    },
    /// An object with this id exists.
    #[error("{object} already exists")]
    AlreadyExists {
        /// The object.
        object: ObjectKey,
    },
    /// A service with this name exists.
    #[error("name conflicts with an existing object: service {name} already exists")]
    NameConflict {
        /// The name.
        name: String,
    },
    /// Another service publishes the port on every node.
    #[error("port '{port}' is already in use by service '{name}' ({service}) as an ingress port")]
    PortInUse {
        /// The port.
        port: u16,
        /// The service that has it.
        service: ServiceId,
        /// That service's name.
        name: String,
    },
    /// A network with this name exists.
    #[error("network with name {name} already exists")]
    NetworkNameConflict {
        /// The name.
        name: String,
    },
    /// Another network has some of the addresses or the tunnel identifier.
    #[error("Pool overlaps with other one on this address space: network {network}")]
    NetworkOverlap {
        /// That network.
        network: NetworkId,
    },
    /// Only one network carries the connections to published ports.
    #[error("ingress network (id:{network}) is already present")]
    SecondIngress {
        /// The one that exists.
        network: NetworkId,
    },
    /// Something has a place in the network or names it.
    #[error("network {network} is in use by {user}")]
    NetworkInUse {
        /// The network.
        network: NetworkId,
        /// What uses it.
        user: String,
    },
    /// The address is not the network's, or somebody has it.
    #[error("address {address} of network {network} is in use or not of its subnets")]
    AddressNotFree {
        /// The network.
        network: NetworkId,
        /// The address.
        address: IpAddr,
    },
    /// A secret or config with this name exists.
    #[error("{kind} {name} already exists")]
    FileNameConflict {
        /// Which of the two.
        kind: FileKind,
        /// The name.
        name: String,
    },
    /// Services need the secret or config.
    #[error("{kind} '{name}' is in use by the following {}: {}", plural("service", services.len()), services.join(", "))]
    FileInUse {
        /// Which of the two.
        kind: FileKind,
        /// Its name.
        name: String,
        /// Names of the services.
        services: Vec<String>,
    },
    /// A service's name never changes.
    #[error("renaming services is not supported")]
    Rename,
    /// The service is being removed.
    #[error("{object} is being removed")]
    Removing {
        /// The service.
        object: ObjectKey,
    },
    /// The object still has tasks.
    #[error("{object} is in use by tasks")]
    InUse {
        /// The object.
        object: ObjectKey,
    },
    /// The reporter may not move the task's state so.
    #[error("task {task} may not go from attempt {} {} to attempt {} {}", from.0, from.1, to.0, to.1)]
    IllegalTransition {
        /// The task.
        task: TaskId,
        /// Attempt and state before.
        from: (u32, TaskState),
        /// Attempt and state asked for.
        to: (u32, TaskState),
    },
    /// Status came from a node that the task is not on.
    #[error("task {task} is not on node {node}")]
    NotTheTasksNode {
        /// The task.
        task: TaskId,
        /// The node that reported.
        node: NodeId,
    },
    /// Desired state only moves forward.
    #[error("task {task} may not go back from desired state {} to {}", from.name(), to.name())]
    DesiredMovesBack {
        /// The task.
        task: TaskId,
        /// Before.
        from: DesiredState,
        /// Asked for.
        to: DesiredState,
    },
    /// A task never leaves its node.
    #[error("task {task} may not leave its node")]
    NodeChange {
        /// The task.
        task: TaskId,
    },
    /// A task cannot be assigned without a node.
    #[error("task {task} has no node")]
    NoNode {
        /// The task.
        task: TaskId,
    },
    /// A record goes only after its task stopped.
    #[error("task {task} has not stopped")]
    NotStopped {
        /// The task.
        task: TaskId,
    },
    /// A removed node's id never returns.
    #[error("node {node} was removed from the cluster")]
    NodeRemoved {
        /// The node.
        node: NodeId,
    },
    /// Raft ids are never reused.
    #[error("raft id {raft_id} was given out before")]
    RaftIdReused {
        /// The id.
        raft_id: RaftId,
    },
    /// A counter that only rises.
    #[error("{name} may not go back from {from} to {to}")]
    MovesBack {
        /// Which counter.
        name: Counter,
        /// Before.
        from: u64,
        /// Asked for.
        to: u64,
    },
}

fn plural(noun: &str, count: usize) -> String {
    format!("{noun}{}", if count == 1 { "" } else { "s" })
}

/// A replicated counter that only rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Counter {
    /// Index of the applied entry.
    Index,
    /// Incarnation of the cluster.
    Incarnation,
    /// Feature level of the cluster.
    FeatureLevel,
}

impl std::fmt::Display for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Index => "the applied index",
            Self::Incarnation => "the cluster's incarnation",
            Self::FeatureLevel => "the feature level",
        })
    }
}
