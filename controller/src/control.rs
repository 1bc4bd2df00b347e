//! Writes that users and nodes ask the cluster for, and their answers. They travel between controllers as MessagePack.

use muster_types::file::FileSpec;
use muster_types::network::NetworkSpec;
use muster_types::overlay::{NetworkAddresses, NetworkFacts};
use muster_types::policy::NetworkPolicy;
use muster_types::{
    AttachmentId, Availability, ClusterSpec, ContainerId, FileId, FileKind, NetworkId, NodeId, NodeRole,
    NodeSpec, RaftId, RootRotation, ServiceId, ServiceSpec,
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One write. Object ids are those of the request, so that a retry makes nothing twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ControlRequest {
    /// Make a service; its id is the request's.
    CreateService {
        /// What to run.
        spec: Box<ServiceSpec>,
    },
    /// Change a service.
    UpdateService {
        /// Which.
        id: ServiceId,
        /// Spec version that the change was made from.
        version: u64,
        /// The change.
        change: ServiceChange,
    },
    /// Remove a service.
    RemoveService {
        /// Which.
        id: ServiceId,
    },
    /// Change what is wanted of a node.
    UpdateNode {
        /// Which.
        id: NodeId,
        /// Spec version that the change was made from.
        version: u64,
        /// The new spec.
        spec: NodeSpec,
    },
    /// Remove a node's record.
    RemoveNode {
        /// Which.
        id: NodeId,
        /// Also when it is not down.
        force: bool,
    },
    /// Change the cluster's settings and tokens.
    UpdateCluster {
        /// Spec version that the change was made from.
        version: u64,
        /// The new settings.
        spec: Box<ClusterSpec>,
        /// Make a new worker token.
        rotate_worker: bool,
        /// Make a new controller token.
        rotate_controller: bool,
        /// Another root certificate.
        #[serde(default)]
        rotation: Option<Box<RootRotation>>,
    },
    /// Make a node record for a node that has a token; its id is the request's.
    JoinNode {
        /// What its token grants.
        role: NodeRole,
        /// Whether it takes tasks.
        availability: Availability,
    },
    /// Remove the record of a node whose join failed: it never had a session.
    WithdrawNode {
        /// The node.
        node: NodeId,
    },
    /// Give a controller node a Raft id; it becomes a learner next.
    JoinRaft {
        /// The node.
        node: NodeId,
        /// Where the other controllers reach it.
        address: String,
        /// The Raft id that its record has, under which it has no log. Where the record has another one, nothing is
        /// written: a request that comes late must not take the place of what a later one led to.
        #[serde(default)]
        replaces: Option<RaftId>,
    },
    /// Make a network; its id is the request's.
    CreateNetwork {
        /// What it shall be.
        spec: Box<NetworkSpec>,
    },
    /// Remove a network that nothing uses.
    RemoveNetwork {
        /// Which.
        id: NetworkId,
    },
    /// Say which services of a network may open connections to which.
    SetNetworkPolicy {
        /// Which network.
        id: NetworkId,
        /// The rules.
        policy: NetworkPolicy,
    },
    /// Make a secret or config; its id is the request's.
    CreateFile {
        /// Which of the two.
        kind: FileKind,
        /// What it is.
        spec: Box<FileSpec>,
    },
    /// Change the labels of a secret or config.
    UpdateFile {
        /// Which of the two.
        kind: FileKind,
        /// Which.
        id: FileId,
        /// Spec version that the change was made from.
        version: u64,
        /// The new spec; without content it has the content that it had.
        spec: Box<FileSpec>,
    },
    /// Remove a secret or config that no service needs.
    RemoveFile {
        /// Which of the two.
        kind: FileKind,
        /// Which.
        id: FileId,
    },
    /// Give a standalone container a place in an attachable network. One that has a place there already keeps its
    /// addresses, in a new place. The place's id is the request's.
    Attach {
        /// The node that the container is on.
        node: NodeId,
        /// The container.
        container: ContainerId,
        /// The network.
        network: NetworkId,
        /// Names by which others on the network find it.
        names: Vec<String>,
        /// The addresses that it asks for; others are chosen.
        addresses: Vec<IpAddr>,
    },
    /// Give back places of the node's standalone containers; nothing for those that it does not have (any more). Places
    /// are named by themselves and not by their containers, so that a request which comes late frees no newer place.
    Release {
        /// The node that the containers were on.
        node: NodeId,
        /// The places.
        attachments: Vec<AttachmentId>,
    },
    /// Say what a network is; nothing is written.
    FindNetwork {
        /// The node that asks.
        node: NodeId,
        /// Its name or its id.
        reference: String,
    },
}

impl ControlRequest {
    /// The node that this request is about and may make itself, whatever its role.
    pub fn of_node(&self) -> Option<NodeId> {
        match self {
            Self::Attach { node, .. } | Self::Release { node, .. } | Self::FindNetwork { node, .. } => {
                Some(*node)
            }
            Self::CreateService { .. }
            | Self::UpdateService { .. }
            | Self::RemoveService { .. }
            | Self::UpdateNode { .. }
            | Self::RemoveNode { .. }
            | Self::UpdateCluster { .. }
            | Self::JoinNode { .. }
            | Self::WithdrawNode { .. }
            | Self::JoinRaft { .. }
            | Self::CreateNetwork { .. }
            | Self::RemoveNetwork { .. }
            | Self::SetNetworkPolicy { .. }
            | Self::CreateFile { .. }
            | Self::UpdateFile { .. }
            | Self::RemoveFile { .. } => None,
        }
    }
}

/// A change of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ServiceChange {
    /// Replace the spec.
    Spec(Box<ServiceSpec>),
    /// Swap the spec and the previous one.
    RollBack,
}

/// A write was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlReply {
    /// Nothing more to say.
    Done,
    /// A service was made.
    ServiceCreated {
        /// Its id.
        id: ServiceId,
    },
    /// A node record was made.
    NodeJoined {
        /// Its id.
        id: NodeId,
    },
    /// A Raft id was given out.
    RaftJoined {
        /// The caller's new Raft id.
        raft_id: RaftId,
        /// The members that it will hear of, with their addresses.
        members: Vec<(RaftId, String)>,
    },
    /// No Raft id was given out: the caller's record has another one than the one to be replaced.
    RaftIdHeld {
        /// The one that it has.
        raft_id: Option<RaftId>,
    },
    /// A network was made.
    NetworkCreated {
        /// Its id.
        id: NetworkId,
    },
    /// A secret or config was made.
    FileCreated {
        /// Its id.
        id: FileId,
    },
    /// A container has a place in a network.
    Attached {
        /// The place.
        place: NetworkAddresses,
    },
    /// The network that was asked for.
    NetworkFound {
        /// What it is.
        facts: Box<NetworkFacts>,
    },
}

/// A write was not committed, or nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ControlError {
    /// This controller does not lead; another one does.
    #[error("this controller does not lead the cluster")]
    NotLeader {
        /// The leader's address, where it is known.
        leader: Option<String>,
    },
    /// There is no leader.
    #[error(
        "The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of \
         the managers are online."
    )]
    NoLeader,
    /// The time was not enough to learn whether it was committed.
    #[error(
        "the outcome of the request is unknown: it may or may not have been committed; look before trying again"
    )]
    OutcomeUnknown,
    /// Too much is under way.
    #[error("the controller is busy; try again")]
    Busy,
    /// Refused.
    #[error("{message}")]
    Refused {
        /// Why, for programs.
        kind: RefusalKind,
        /// Why, for people.
        message: String,
    },
}

/// Why a write was refused, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalKind {
    /// The object does not exist.
    NotFound,
    /// A name is in use, or the object's state forbids it.
    Conflict,
    /// The request is wrong.
    Invalid,
    /// It is not allowed.
    Forbidden,
    /// The version is stale.
    OutOfSequence,
    /// Not now: quorum would be lost, a change is under way.
    Unavailable,
    /// A defect.
    Internal,
}

impl ControlError {
    /// A refusal.
    pub fn refused(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self::Refused {
            kind,
            message: message.into(),
        }
    }

    /// An object that does not exist, in Docker's words.
    pub fn not_found(kind: &str, id: impl std::fmt::Display) -> Self {
        Self::refused(RefusalKind::NotFound, format!("{kind} {id} not found"))
    }
}
