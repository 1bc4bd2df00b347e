//! Every way in which the consensus node can fail, by what the caller must do about it.

use std::io;

/// The node must not be used again: the controller ends and is restarted from its disk.
///
/// A failed write or sync is never retried, because after it nobody knows what the disk holds.
#[derive(Debug, thiserror::Error)]
pub enum FatalError {
    /// An operation on a file of the Raft directory failed.
    #[error("cannot {operation} Raft file {file}; the controller must restart from its disk")]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// The file, or the directory when it is empty.
        file: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file system that holds the Raft directory is full.
    #[error("cannot {operation} Raft file {file}: the disk is full; free space, then restart the controller")]
    DiskFull {
        /// What was tried.
        operation: &'static str,
        /// The file.
        file: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The system's random source failed, so that no key can be made.
    #[error("the system's random source gave no bytes for an encryption key")]
    Entropy,
    /// The leader knows entries as acknowledged by this controller that are not in its log.
    #[error(
        "this controller's log ends at index {last_index}, but it had acknowledged index {acknowledged}: its disk \
         lost synced data; remove the controller and join it again under a new Raft id"
    )]
    AcknowledgedLost {
        /// What the leader counts on.
        acknowledged: u64,
        /// What is here.
        last_index: u64,
    },
    /// A leader sent an entry that contradicts a committed one.
    #[error("entry {index} of term {received_term} contradicts the committed entry of term {committed_term}")]
    Diverged {
        /// Index of the entry.
        index: u64,
        /// Term that was sent.
        received_term: u64,
        /// Term of the committed entry here.
        committed_term: u64,
    },
    /// Raft's own consistency checks failed.
    #[error("Raft found its state inconsistent: {reason}")]
    Inconsistent {
        /// What it said.
        reason: String,
    },
    /// An earlier call returned a fatal error.
    #[error("the Raft node has stopped after an earlier failure: {first}")]
    Stopped {
        /// The earlier failure.
        first: String,
    },
}

impl FatalError {
    /// Classifies a failed disk operation; a full disk gets its own message.
    pub(crate) fn disk(operation: &'static str, file: &str, source: io::Error) -> FatalError {
        let file = file.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FatalError::DiskFull {
                operation,
                file,
                source,
            },
            _ => FatalError::Disk {
                operation,
                file,
                source,
            },
        }
    }
}

/// The node cannot start from what is on its disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Reading or preparing the directory failed.
    #[error(transparent)]
    Fatal(#[from] FatalError),
    /// The configuration cannot work.
    #[error("Raft configuration: {0}")]
    Configuration(String),
    /// Bytes that were once synced are not as they were written.
    #[error(
        "Raft file {file} is damaged at byte {offset}: {problem}; restore a backup, or remove this controller \
         and join it again under a new Raft id"
    )]
    Damaged {
        /// The file.
        file: String,
        /// Where.
        offset: u64,
        /// What is wrong there.
        problem: String,
    },
    /// A file that the log needs is not there.
    #[error(
        "the Raft directory lacks {missing}; restore a backup, or remove this controller and join it again \
         under a new Raft id"
    )]
    Missing {
        /// What is not there.
        missing: String,
    },
    /// The file is encrypted under a key that the key ring does not hold.
    #[error(
        "Raft file {file} is encrypted under key {key_id}, which is not in the key ring; add the previous key"
    )]
    UnknownKey {
        /// The file.
        file: String,
        /// The key's id.
        key_id: String,
    },
    /// The file belongs to another cluster or controller.
    #[error("Raft file {file} belongs to {found}, not to {expected}; the wrong data directory is in use")]
    WrongOwner {
        /// The file.
        file: String,
        /// Cluster and Raft id in the file.
        found: String,
        /// Cluster and Raft id of this node.
        expected: String,
    },
    /// A newer version wrote the file.
    #[error("Raft file {file} has format {found}, this version reads up to {supported}; upgrade this node")]
    Format {
        /// The file.
        file: String,
        /// Its format.
        found: u16,
        /// The newest known format.
        supported: u16,
    },
}

/// A message from another controller was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The message is refused; the node is unharmed.
    #[error("refused a Raft message from {from}: {problem}")]
    Refused {
        /// Raft id of the sender's connection.
        from: u64,
        /// Why.
        problem: &'static str,
    },
    /// The node must stop.
    #[error(transparent)]
    Fatal(#[from] FatalError),
}

/// A proposal was not accepted into the leader's log.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Only the leader proposes; nothing is forwarded.
    #[error("this controller is not the leader")]
    NotLeader {
        /// The leader's Raft id where it is known.
        leader: Option<u64>,
    },
    /// Too much is proposed and not yet committed, or leadership is being transferred: retry later.
    #[error("the leader cannot take proposals now: {reason}")]
    Busy {
        /// Why.
        reason: &'static str,
    },
    /// The proposal exceeds the limit of one entry.
    #[error("a proposal of {bytes} bytes exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// An empty entry is reserved for new leaders.
    #[error("a proposal must not be empty")]
    Empty,
    /// The node must stop.
    #[error(transparent)]
    Fatal(#[from] FatalError),
}

/// A membership change was refused.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// Only the leader changes membership.
    #[error("this controller is not the leader")]
    NotLeader {
        /// The leader's Raft id where it is known.
        leader: Option<u64>,
    },
    /// Another change is not applied yet, or this leader is too new to know: retry later.
    #[error("another membership change is still in progress; try again when it is applied")]
    InProgress,
    /// The leader is handing over: retry at the new leader.
    #[error("leadership is being transferred; try again at the new leader")]
    Transferring,
    /// The id is a member already.
    #[error("controller {id} is a member already")]
    AlreadyMember {
        /// The Raft id.
        id: u64,
    },
    /// The id is not a member.
    #[error("controller {id} is not a member")]
    NotMember {
        /// The Raft id.
        id: u64,
    },
    /// A learner must hold nearly the whole log before it votes.
    #[error("controller {id} is {behind} entries behind; it can vote when it has caught up")]
    NotCaughtUp {
        /// The Raft id.
        id: u64,
        /// Entries that it lacks.
        behind: u64,
    },
    /// Too few of the remaining voters are reachable.
    #[error(
        "without controller {id} only {reachable} of {voters} voters would be reachable, and {quorum} are needed; \
         bring the others back first"
    )]
    WouldLoseQuorum {
        /// The Raft id to be removed.
        id: u64,
        /// Reachable voters that would remain.
        reachable: usize,
        /// Voters that would remain.
        voters: usize,
        /// Voters needed.
        quorum: usize,
    },
    /// A leader is not removed before another took over.
    #[error("controller {id} is the leader; transfer leadership first")]
    IsLeader {
        /// The leader's Raft id.
        id: u64,
    },
    /// Raft id 0 is reserved.
    #[error("a Raft id must not be 0")]
    InvalidId,
    /// The node must stop.
    #[error(transparent)]
    Fatal(#[from] FatalError),
}

/// A linearizable read could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No leader is known to ask.
    #[error("no leader is known; try again")]
    NoLeader,
    /// The leader has not committed an entry of its term yet.
    #[error("the leader has just been elected; try again")]
    LeaderTooNew,
    /// Too many reads wait.
    #[error("{limit} reads wait for confirmation already; try again")]
    Busy {
        /// The limit.
        limit: usize,
    },
    /// The node must stop.
    #[error(transparent)]
    Fatal(#[from] FatalError),
}

/// A snapshot of the state machine was not taken, or a part of one not served or installed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The index is not usable for a snapshot.
    #[error("no snapshot at index {index}: {problem}")]
    BadIndex {
        /// The index asked for.
        index: u64,
        /// Why.
        problem: &'static str,
    },
    /// The snapshot asked for is not here (any more).
    #[error("snapshot {id} is not on this controller")]
    Unknown {
        /// The snapshot.
        id: String,
    },
    /// The part asked for, or received, does not fit.
    #[error("chunk at offset {offset} of snapshot {id}: {problem}")]
    BadChunk {
        /// The snapshot.
        id: String,
        /// The chunk's offset.
        offset: u64,
        /// Why.
        problem: &'static str,
    },
    /// A local snapshot file could not be written because the disk is full; the log is unharmed.
    #[error("the disk is full, no snapshot was written; free space")]
    DiskFull {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A stored snapshot is not as it was written.
    #[error(transparent)]
    Damaged(OpenError),
    /// The node must stop.
    #[error(transparent)]
    Fatal(#[from] FatalError),
}

/// `bootstrap` was not possible.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The log is not empty.
    #[error("this controller already has a log; it cannot begin a new cluster")]
    AlreadyInitialized,
    /// The list of voters lacks this node, or names id 0.
    #[error("the first voters must include this controller's own Raft id and not 0")]
    BadVoters,
    /// The node must stop.
    #[error(transparent)]
    Fatal(#[from] FatalError),
}
