//! What machines say to each other, re-expressed from the services of `muster-proto`.

use bytes::Bytes;
use muster_consensus::{SnapshotChunk, SnapshotId};
use muster_controller::authorize::{Denied, Identity};
use muster_controller::control::{ControlError, ControlReply, ControlRequest};
use muster_controller::core::io::{NodeView, ReadView};
use muster_types::{
    AssignmentUpdate, NodeDescription, NodeId, NodeRole, RaftId, RequestId, SessionId, TaskId, TaskStatus,
};
use std::time::Duration;

/// Port of every machine's cluster server.
const PORT: u16 = 2377;

/// Where a machine's cluster server listens.
pub fn address_of(machine: usize) -> String {
    format!("10.0.0.{}:{PORT}", machine + 1)
}

/// The machine that listens there.
pub fn machine_at(address: &str) -> Option<usize> {
    let host = address.strip_suffix(":2377")?.strip_prefix("10.0.0.")?;
    host.parse::<usize>().ok()?.checked_sub(1)
}

/// What goes from machine to machine outside a session.
#[derive(Debug, Clone)]
pub enum Packet {
    /// A Raft message.
    Raft {
        /// Sender.
        from: RaftId,
        /// Receiver.
        to: RaftId,
        /// Encoded message.
        message: Bytes,
        /// The sender, by its certificate.
        caller: Identity,
    },
    /// Nobody with that Raft id is there.
    Undeliverable {
        /// The receiver that is not there.
        to: RaftId,
    },
    /// A question.
    Call {
        /// Its number.
        call: u64,
        /// The question.
        body: Call,
        /// Who asks, by its certificate.
        caller: Option<Identity>,
    },
    /// The answer to it.
    Answer {
        /// The question's number.
        call: u64,
        /// The answer.
        body: Answer,
    },
}

/// A question to a machine's services.
#[derive(Debug, Clone)]
pub enum Call {
    /// A write for the leader; not forwarded again.
    Write {
        /// Request id.
        id: RequestId,
        /// The write.
        request: ControlRequest,
    },
    /// A client's write: forwarded and tried again by the controller that it reaches.
    ClientWrite {
        /// Request id.
        id: RequestId,
        /// The write.
        request: ControlRequest,
    },
    /// A client's linearizable read.
    ClientRead,
    /// Renews a lease.
    Heartbeat {
        /// The node.
        node: NodeId,
        /// The session.
        session: SessionId,
    },
    /// A piece of a snapshot.
    Chunk {
        /// The snapshot.
        id: SnapshotId,
        /// From where.
        offset: u64,
    },
    /// A new certificate for the calling node.
    Renew,
    /// Make a node record.
    JoinNode {
        /// Request id.
        id: RequestId,
        /// Role that the token grants.
        role: NodeRole,
    },
    /// Give the calling node a Raft id.
    JoinRaft {
        /// Request id.
        id: RequestId,
        /// The caller's address.
        address: String,
        /// The one that its record has.
        replaces: Option<RaftId>,
    },
}

/// An answer.
#[derive(Debug, Clone)]
pub enum Answer {
    /// To a write.
    Write(Result<ControlReply, ControlError>),
    /// To a read.
    Read(Result<Box<ReadView>, ControlError>),
    /// To a heartbeat.
    Heartbeat {
        /// The session is live.
        accepted: bool,
    },
    /// To a question for a piece of a snapshot; `None` when it is gone.
    Chunk(Option<SnapshotChunk>),
    /// To a node that joins, or renews its certificate.
    Certificate(Identity),
    /// The caller may not do this.
    Denied(Denied),
    /// The service is not there, or cannot answer now.
    Unavailable,
    /// Nothing came in time. Never sent.
    Silence,
}

/// What travels in a session.
#[derive(Debug, Clone)]
pub enum SessionMessage {
    /// The agent begins.
    Hello {
        /// What it says of itself.
        description: Box<NodeDescription>,
    },
    /// Statuses of tasks.
    Status {
        /// Number of the report.
        sequence: u64,
        /// Newest status per task.
        statuses: Vec<(TaskId, TaskStatus)>,
    },
    /// The daemon stops.
    Farewell {
        /// It will be back.
        restarting: bool,
    },
    /// The networks up to this applied index stand.
    NetworksApplied(u64),
    /// To be answered once all of them stand everywhere.
    AwaitSettled(u64),
    /// They do.
    Settled(u64),
    /// The leader took the session.
    Welcome {
        /// Its id.
        session: SessionId,
        /// How often to renew the lease.
        heartbeat_period: Duration,
    },
    /// What the node must run.
    Assign(Box<AssignmentUpdate>),
    /// Who is who.
    View(Box<NodeView>),
    /// A report is committed.
    StatusCommitted(u64),
    /// The session is over, or cannot begin here.
    Redirect(Option<String>),
}
