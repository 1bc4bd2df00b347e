//! What a node gives its caller to do.

use crate::membership::Membership;
use crate::snapshot::SnapshotRequest;
use bytes::Bytes;

/// The outcome of one round: persisted, in the order in which the fields are to be handled.
#[derive(Debug, Default)]
pub struct Ready {
    /// Messages for other controllers; what they promise is durable.
    pub messages: Vec<OutboundMessage>,
    /// Replaces the whole state machine, before `committed` is applied; it counts as applied.
    pub snapshot: Option<InstalledSnapshot>,
    /// To be applied in order, then reported by `applied`.
    pub committed: Vec<CommittedEntry>,
    /// Reads that may be served once `index` is applied.
    pub read_states: Vec<ReadState>,
    /// Chunks of a snapshot to fetch from another controller.
    pub snapshot_requests: Vec<SnapshotRequest>,
    /// The role now.
    pub role: Role,
    /// True when `role` is not as the last round gave it.
    pub role_changed: bool,
}

/// An encoded Raft message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundMessage {
    /// The receiver's Raft id.
    pub to: u64,
    /// A protobuf `eraftpb.Message`.
    pub bytes: Bytes,
}

/// The state machine as of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledSnapshot {
    /// Last applied index in it.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Members as of it.
    pub membership: Membership,
    /// What `create_snapshot` or `bootstrap` was given.
    pub data: Bytes,
}

/// A committed log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedEntry {
    /// Log index.
    pub index: u64,
    /// Term in which it was proposed.
    pub term: u64,
    /// What it carries.
    pub payload: Payload,
}

/// What a committed entry carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// The first entry of a new leader; it still counts as applied.
    Empty,
    /// What `propose` was given.
    Data(Bytes),
    /// A membership change; the node has applied it already.
    Membership {
        /// The change.
        change: MembershipChange,
        /// What `propose_membership` was given along with it.
        context: Bytes,
        /// The members from this index on.
        membership: Membership,
    },
}

/// One change of the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipChange {
    /// A new controller receives the log and does not vote.
    AddLearner(u64),
    /// A learner that has caught up becomes a voter.
    Promote(u64),
    /// A controller leaves; its id is never used again.
    Remove(u64),
}

impl MembershipChange {
    /// The controller that it is about.
    pub fn raft_id(self) -> u64 {
        match self {
            MembershipChange::AddLearner(id)
            | MembershipChange::Promote(id)
            | MembershipChange::Remove(id) => id,
        }
    }
}

/// A confirmed read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadState {
    /// What `read_index` was given.
    pub context: u64,
    /// The read sees everything acknowledged before it when this index is applied.
    pub index: u64,
}

/// A node's part in the election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Role {
    /// What the node is.
    pub kind: RoleKind,
    /// The leader's Raft id where it is known.
    pub leader: Option<u64>,
    /// The current term.
    pub term: u64,
}

impl Role {
    /// True on the leader.
    pub fn is_leader(&self) -> bool {
        self.kind == RoleKind::Leader
    }
}

/// Raft's roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RoleKind {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether an election could succeed.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// Where a proposal stands in the log. It is committed when an entry of this index and term comes out of `ready`, and
/// lost when one of this index and another term does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalTicket {
    /// Log index.
    pub index: u64,
    /// Term of this leader.
    pub term: u64,
}
