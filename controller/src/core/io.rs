//! What goes into the core and what comes out of it.

use crate::control::{ControlError, ControlReply, ControlRequest};
use bytes::Bytes;
use muster_consensus::{KeyRing, SnapshotChunk, SnapshotId};
use muster_state::ClusterState;
use muster_types::{
    AssignmentUpdate, NodeDescription, NodeId, RaftId, RequestId, SessionId, TaskId, TaskStatus, Timestamp,
};
use std::time::Duration;

/// The time as the shell sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Monotonic time since the process began.
    pub elapsed: Duration,
    /// Wall time; only the start of a leadership reads it.
    pub wall: Timestamp,
}

/// Matches an answer to its question; the shell gives it out.
pub type Token = u64;

/// Something that the shell hands to the core.
#[derive(Debug)]
pub enum Input {
    /// A Raft tick is due.
    Tick,
    /// A Raft message over an authenticated connection.
    Raft {
        /// Sender.
        from: RaftId,
        /// Encoded message.
        message: Bytes,
    },
    /// A controller that came over an authenticated connection says where it listens. It may be the leader, and
    /// nothing that is applied here names it yet.
    Met {
        /// Its Raft id.
        raft_id: RaftId,
        /// Its node, by its certificate.
        node: NodeId,
        /// Its address.
        address: String,
    },
    /// A Raft message could not be delivered.
    Unreachable(RaftId),
    /// A piece of a snapshot that was asked for.
    Chunk {
        /// Who sent it.
        from: RaftId,
        /// The piece.
        chunk: SnapshotChunk,
    },
    /// The asked controller has the snapshot no more.
    ChunkUnavailable(SnapshotId),
    /// Another controller asks for a piece of a snapshot. Answered by [`Output::ChunkServed`].
    ServeChunk {
        /// Token.
        token: Token,
        /// Who asks.
        from: RaftId,
        /// The snapshot.
        id: SnapshotId,
        /// From where.
        offset: u64,
    },
    /// A write. Answered by [`Output::Reply`].
    Write {
        /// Token.
        token: Token,
        /// A retry carries the same id.
        id: RequestId,
        /// The write.
        request: ControlRequest,
    },
    /// A linearizable read. Answered by [`Output::Read`].
    Read {
        /// Token.
        token: Token,
    },
    /// Wraps the log's data keys under the ring's current key. Answered by [`Output::KeysRotated`]; a failure ends the
    /// controller.
    RotateKeys {
        /// Token.
        token: Token,
        /// The keys; those before the current one are still needed.
        keys: Box<KeyRing>,
    },
    /// The node's files say that the cluster began anew.
    AnewNoted,
    /// An agent opened a session. Answered by [`Output::SessionOpened`] or [`Output::SessionRefused`].
    SessionOpen {
        /// Its node, by its certificate.
        node: NodeId,
        /// The session's id, drawn by the shell.
        session: SessionId,
        /// What the node says of itself.
        description: Box<NodeDescription>,
        /// Where the connection came from.
        address: String,
    },
    /// The connection of a session ended. The lease goes on.
    SessionLost {
        /// Its node.
        node: NodeId,
        /// The session.
        session: SessionId,
    },
    /// The daemon stops.
    Farewell {
        /// Its node.
        node: NodeId,
        /// The session.
        session: SessionId,
        /// It will be back.
        restarting: bool,
    },
    /// The networks that were sent to a node up to this applied index stand there.
    NetworksApplied {
        /// Its node.
        node: NodeId,
        /// The session.
        session: SessionId,
        /// The index.
        index: u64,
    },
    /// An agent asks for [`Output::Settled`].
    AwaitSettled {
        /// Its node.
        node: NodeId,
        /// The session.
        session: SessionId,
        /// The applied index up to which all are to have applied what they were sent.
        index: u64,
    },
    /// Renews a lease. Answered by [`Output::HeartbeatTaken`].
    Heartbeat {
        /// Token.
        token: Token,
        /// Its node.
        node: NodeId,
        /// The session.
        session: SessionId,
    },
    /// Statuses of tasks. Answered by [`Output::StatusCommitted`] once committed.
    Status {
        /// Their node.
        node: NodeId,
        /// The session.
        session: SessionId,
        /// Number of the report within the session.
        sequence: u64,
        /// Newest status per task.
        statuses: Vec<(TaskId, TaskStatus)>,
    },
    /// Hand leadership to another controller, if possible: the daemon is about to stop.
    StepDown,
}

/// Something that the core hands to the shell.
#[derive(Debug)]
pub enum Output {
    /// A Raft message to send.
    Send {
        /// Receiver.
        to: RaftId,
        /// Encoded message.
        message: Bytes,
    },
    /// Ask a controller for a piece of a snapshot.
    FetchChunk {
        /// Who has it.
        from: RaftId,
        /// The snapshot.
        id: SnapshotId,
        /// From where.
        offset: u64,
    },
    /// Answer to [`Input::ServeChunk`]; `None` when the snapshot is gone.
    ChunkServed {
        /// Token.
        token: Token,
        /// The piece.
        chunk: Option<SnapshotChunk>,
    },
    /// Answer to [`Input::Write`].
    Reply {
        /// Token.
        token: Token,
        /// What became of it.
        result: Result<ControlReply, ControlError>,
    },
    /// Answer to [`Input::Read`]: the state as of now or later.
    Read {
        /// Token.
        token: Token,
        /// A snapshot of the state.
        result: Result<Box<ReadView>, ControlError>,
    },
    /// Answer to [`Input::RotateKeys`]: from now on only the current key is needed.
    KeysRotated {
        /// Token.
        token: Token,
    },
    /// A session began.
    SessionOpened {
        /// Its node.
        node: NodeId,
        /// The session.
        session: SessionId,
        /// How often to renew the lease.
        heartbeat_period: Duration,
    },
    /// A session cannot begin, or is over.
    SessionEnded {
        /// Its node.
        node: NodeId,
        /// The session.
        session: SessionId,
        /// Where to go instead, when the reason is that another controller leads.
        leader: Option<String>,
    },
    /// What a node must run.
    Assign {
        /// The session.
        session: SessionId,
        /// The whole set, or what changed in it.
        update: Box<AssignmentUpdate>,
    },
    /// Who is who, for one node.
    View {
        /// The session.
        session: SessionId,
        /// The view.
        view: Box<NodeView>,
    },
    /// Statuses up to this report are committed.
    StatusCommitted {
        /// The session.
        session: SessionId,
        /// Number of the report.
        sequence: u64,
    },
    /// Answer to [`Input::AwaitSettled`]: every node with a session has applied what it was sent of networks up to this
    /// index. It may never come.
    Settled {
        /// The session.
        session: SessionId,
        /// The index.
        index: u64,
    },
    /// Answer to [`Input::Heartbeat`].
    HeartbeatTaken {
        /// Token.
        token: Token,
        /// The session is live.
        accepted: bool,
    },
    /// Leader or members changed: where Raft messages and forwarded requests go.
    Members(Box<Members>),
    /// Objects changed (for event streams): the state before and after.
    Changed {
        /// Before.
        before: Box<ClusterState>,
        /// After.
        after: Box<ClusterState>,
    },
    /// This controller is out of the Raft group for good.
    Removed,
}

/// A snapshot of the state with what only Raft knows.
#[derive(Debug, Clone)]
pub struct ReadView {
    /// The state.
    pub state: ClusterState,
    /// The leader's Raft id.
    pub leader: Option<RaftId>,
    /// Members heard of lately; complete on the leader, otherwise `None`.
    pub reachable: Option<Vec<RaftId>>,
}

/// The controllers, as this one knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// The leader's Raft id.
    pub leader: Option<RaftId>,
    /// This controller leads and has applied all that was committed before.
    pub leading: bool,
    /// The cluster began anew with this controller, which waits for [`Input::AnewNoted`].
    pub began_anew: bool,
    /// Raft id, node and address.
    pub members: Vec<(RaftId, NodeId, String)>,
}

/// What a node must know of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Addresses of the controllers.
    pub controllers: Vec<String>,
    /// The node's record wants it to be a controller.
    pub controller: bool,
    /// Every node with the address of its cluster server.
    pub peers: Vec<(NodeId, String)>,
    /// The root certificate to trust, PEM.
    pub root_pem: String,
    /// Public key of who signs certificates, DER; empty where it is not known.
    pub issuer_public_key: Vec<u8>,
}
