//! Why the controller decided something, as data. Events, `service ps` messages, logs and test failures are
//! rendered from it.

use crate::{NodeId, TaskId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why an object is as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// A user asked for it.
    UserRequest,
    /// The service has fewer tasks than it wants.
    MissingReplica,
    /// The service has more tasks than it wants.
    SurplusReplica,
    /// A node that fits has no task of this global service.
    MissingOnNode,
    /// The task before it in the slot ended.
    Restart {
        /// The task it follows.
        of: TaskId,
    },
    /// Its restart policy lets it end.
    RestartPolicyEnds,
    /// The slot of its job completed; nothing more runs there in this run of the job.
    Completed,
    /// The template changed.
    OutOfDate,
    /// A newer task serves the slot.
    Replaced {
        /// The newer task.
        by: TaskId,
    },
    /// The node missed its lease.
    NodeDown {
        /// The node.
        node: NodeId,
    },
    /// The node is being drained.
    NodeDrained {
        /// The node.
        node: NodeId,
    },
    /// The node left or was removed.
    NodeRemoved {
        /// The node.
        node: NodeId,
    },
    /// The node no longer satisfies the task's constraints or resources.
    NodeNoLongerFits {
        /// The node.
        node: NodeId,
    },
    /// The service was removed.
    ServiceRemoved,
    /// The scheduler chose a node.
    Placed,
    /// No node fits; the text has one part per cause with counts.
    NoSuitableNode {
        /// Rendered causes.
        causes: String,
    },
    /// More ended tasks than the history limit keeps.
    HistoryLimit,
    /// The node has been down for so long that its tasks are given up.
    GivenUp {
        /// The node.
        node: NodeId,
    },
    /// The lease of the node's agent began, was renewed after a gap, or its daemon re-registered.
    SessionOpened,
    /// The agent said that it leaves, or its lease ended.
    SessionEnded,
    /// The agent said that its daemon restarts.
    DaemonRestarts,
    /// Part of making the cluster.
    Bootstrap,
    /// The node joined with a token.
    NodeJoined,
    /// An agent reported it.
    AgentReport,
}

impl Reason {
    /// Nothing follows a slot's newest task that has it.
    pub fn ends_slot(&self) -> bool {
        matches!(self, Self::RestartPolicyEnds | Self::Completed)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UserRequest => f.write_str("requested by a user"),
            Self::MissingReplica => f.write_str("the service has fewer tasks than wanted"),
            Self::SurplusReplica => f.write_str("the service has more tasks than wanted"),
            Self::MissingOnNode => f.write_str("the node has no task of this global service"),
            Self::Restart { of } => write!(f, "replaces task {of}, which ended"),
            Self::Completed => f.write_str("the slot of the job completed"),
            Self::RestartPolicyEnds => f.write_str("the restart policy lets it end"),
            Self::OutOfDate => f.write_str("the service's task template changed"),
            Self::Replaced { by } => write!(f, "replaced by task {by}"),
            Self::NodeDown { node } => write!(f, "node {node} is down"),
            Self::NodeDrained { node } => write!(f, "node {node} is being drained"),
            Self::NodeRemoved { node } => write!(f, "node {node} was removed"),
            Self::NodeNoLongerFits { node } => write!(f, "node {node} no longer fits the task"),
            Self::ServiceRemoved => f.write_str("the service was removed"),
            Self::Placed => f.write_str("scheduler assigned task to node"),
            Self::NoSuitableNode { causes } => write!(f, "no suitable node ({causes})"),
            Self::HistoryLimit => f.write_str("beyond the task history limit"),
            Self::GivenUp { node } => write!(f, "node {node} has been down for too long"),
            Self::SessionOpened => f.write_str("the agent opened a session"),
            Self::SessionEnded => f.write_str("heartbeat failure"),
            Self::DaemonRestarts => f.write_str("the node's daemon restarts"),
            Self::Bootstrap => f.write_str("the cluster was made"),
            Self::NodeJoined => f.write_str("the node joined"),
            Self::AgentReport => f.write_str("reported by the agent"),
        }
    }
}
