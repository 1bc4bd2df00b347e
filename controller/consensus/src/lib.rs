//! Consensus of the controllers: a Raft node on raft-rs with its own encrypted log and snapshots.
//!
//! The node is synchronous and owns no thread, socket or clock: the caller ticks it, gives it messages and proposals,
//! and handles what `ready` returns. The disk is a trait, so that the simulator runs the same code. It must never
//! forward a proposal, give out a message before what it promises is durable, or retry a failed sync.
//!
//! Invariants, by name: *an acknowledged entry survives every crash*, *a sector is encrypted once* (`log::sector`),
//! *bytes of another segment never parse* (`log::sector`), *members are durable before they count* (`node::rounds`).
//!
//! Start reading at [`RaftNode::ready`]; the log begins at `log::sector`.

mod codec;
mod config;
mod disk;
mod error;
mod file_header;
mod key_file;
mod keys;
mod log;
mod membership;
mod node;
mod raft_logger;
mod ready;
mod real_disk;
mod seeded;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;

pub use config::{
    ENTRY_BYTES_MAX, KEPT_ENTRIES, LOG_BYTES_MAX, MESSAGE_BYTES_MAX, NodeConfig, SEGMENT_BYTES,
    SNAPSHOT_INTERVAL_ENTRIES,
};
pub use disk::{Disk, DiskFile};
pub use error::{
    BootstrapError, FatalError, MembershipError, OpenError, ProposeError, ReadError, SnapshotError, StepError,
};
pub use key_file::{KeyFile, KeyFileError, StoredKeys};
pub use keys::{Entropy, KEY_BYTES, KeyId, KeyRing, SystemEntropy};
pub use log::LogCounters;
pub use membership::Membership;
pub use node::{
    Counters, DownloadStatus, FinishedSnapshot, PeerStatus, RaftNode, ReplicationState, SnapshotPolicy,
    SnapshotWriter, Status,
};
pub use ready::{
    CommittedEntry, InstalledSnapshot, MembershipChange, OutboundMessage, Payload, ProposalTicket, ReadState,
    Ready, Role, RoleKind,
};
pub use real_disk::{RealDisk, SyncTimes};
pub use snapshot::{CHUNK_BYTES_MAX, DIGEST_BYTES, SnapshotChunk, SnapshotId, SnapshotRequest};
