//! The Raft node: raft-rs, its log and its snapshots behind one synchronous interface.

mod changes;
mod election;
mod inbound;
mod install;
mod opening;
mod proposals;
mod rounds;
mod snapshots;
mod status;
mod transfers;
mod wire;

pub use snapshots::{FinishedSnapshot, SnapshotPolicy, SnapshotWriter};
pub use status::{Counters, DownloadStatus, PeerStatus, ReplicationState, Status};

use crate::config::NodeConfig;
use crate::error::{FatalError, OpenError};
use crate::keys::KeyRing;
use crate::log::SegmentLog;
use crate::membership::Membership;
use crate::ready::{InstalledSnapshot, Role, RoleKind};
use crate::snapshot::{SnapshotFiles, StoredSnapshot};
use crate::store::LogStore;
use election::ElectionTimeouts;
use install::Download;
use raft::eraftpb::{ConfState, HardState};
use raft::{RawNode, StateRole};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Weak;
use transfers::Transfers;

/// A controller's part in the consensus. Not for use from several threads at once; every call is synchronous, and
/// only `ready`, `bootstrap` and the snapshot calls touch the disk.
pub struct RaftNode {
    config: NodeConfig,
    raw: RawNode<LogStore>,
    log: SegmentLog,
    files: SnapshotFiles,
    /// Oldest first; older ones stay while a follower fetches them.
    snapshots: Vec<StoredSnapshot>,
    /// Members by the index from which on they count, oldest first.
    members: Vec<(u64, ConfState)>,
    /// The newest hard state, and the one that the log holds.
    hard_state: HardState,
    written_hard_state: HardState,
    /// What the caller must install before anything else.
    initial_snapshot: Option<InstalledSnapshot>,
    download: Option<Download>,
    transfers: Transfers,
    timeouts: ElectionTimeouts,
    ticks: u64,
    /// When each other controller was last heard of, in ticks.
    heard: BTreeMap<u64, u64>,
    reads_begun: u64,
    last_role: Role,
    writer: Weak<()>,
    counters: Counters,
    stopped: Option<String>,
}

impl RaftNode {
    /// True when the node is part of a cluster: it has begun one, or received its log.
    pub fn is_initialized(&self) -> bool {
        self.members
            .last()
            .is_some_and(|(_, members)| !members.voters.is_empty())
    }

    /// Lets time pass.
    pub fn tick(&mut self) -> Result<(), FatalError> {
        self.ticks += 1;
        let (elapsed, role) = (self.raw.raft.election_elapsed, self.raw.raft.state);
        self.with_raft(|raw| {
            raw.tick();
        })?;
        let attempt_began = role != StateRole::Leader && self.raw.raft.election_elapsed < elapsed.max(1);
        self.timeouts.enforce(&mut self.raw.raft, attempt_began);
        self.tick_transfers()
    }

    /// Begins an election now, on a voter; without a chance of winning it the term does not change.
    pub fn campaign(&mut self) -> Result<(), FatalError> {
        self.check_running()?;
        if !self.raw.raft.promotable() {
            return Ok(());
        }
        // Refused only while a membership change waits to be applied; the next timeout tries again.
        self.with_raft(|raw| raw.campaign().is_ok()).map(|_| ())
    }

    /// True on a leader that has applied an entry of its own term: its state is complete.
    pub fn is_leader_ready(&self) -> bool {
        self.is_leader() && self.raw.raft.apply_to_current_term()
    }

    /// Tells that everything up to `index` that `ready` gave out has been applied.
    pub fn applied(&mut self, index: u64) -> Result<(), FatalError> {
        let log = &self.raw.raft.raft_log;
        if index <= log.applied {
            return Ok(());
        }
        self.with_raft(|raw| raw.advance_apply_to(index))
    }

    /// Tells that a message could not be delivered, so that the leader sends carefully until the peer answers.
    pub fn report_unreachable(&mut self, raft_id: u64) -> Result<(), FatalError> {
        self.with_raft(|raw| raw.report_unreachable(raft_id))
    }

    /// The members that count now.
    pub fn membership(&self) -> Membership {
        self.members
            .last()
            .map(|(_, members)| Membership::from(members))
            .unwrap_or_default()
    }

    /// The role now.
    pub fn role(&self) -> Role {
        let raft = &self.raw.raft;
        let kind = match raft.state {
            StateRole::Follower => RoleKind::Follower,
            StateRole::PreCandidate => RoleKind::PreCandidate,
            StateRole::Candidate => RoleKind::Candidate,
            StateRole::Leader => RoleKind::Leader,
        };
        Role {
            kind,
            leader: self.leader(),
            term: raft.term,
        }
    }

    fn leader(&self) -> Option<u64> {
        Some(self.raw.raft.leader_id).filter(|id| *id != raft::INVALID_ID)
    }

    fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Wraps every data key on disk under the ring's current key. When this returns, the previous keys are not needed
    /// any more; until then the ring must hold them.
    pub fn rotate_keys(&mut self, keys: KeyRing) -> Result<(), OpenError> {
        self.check_running()?;
        let rotated = self
            .log
            .rotate_keys(&keys)
            .and_then(|()| self.files.rotate_keys(&keys, self.snapshots.iter()));
        if let Err(error) = &rotated {
            self.stopped = Some(error.to_string());
        }
        rotated
    }

    fn check_running(&self) -> Result<(), FatalError> {
        match &self.stopped {
            Some(first) => Err(FatalError::Stopped { first: first.clone() }),
            None => Ok(()),
        }
    }

    /// Remembers a fatal error, so that every later call is refused.
    fn stop<T>(&mut self, result: Result<T, FatalError>) -> Result<T, FatalError> {
        if let Err(error) = &result {
            self.stopped.get_or_insert_with(|| error.to_string());
        }
        result
    }

    /// Runs raft-rs. It panics when its state is inconsistent; that ends the controller, not the daemon.
    fn with_raft<T>(&mut self, call: impl FnOnce(&mut RawNode<LogStore>) -> T) -> Result<T, FatalError> {
        self.check_running()?;
        let raw = &mut self.raw;
        let result = catch_unwind(AssertUnwindSafe(|| call(raw))).map_err(|panic| FatalError::Inconsistent {
            reason: panic_text(panic.as_ref()),
        });
        if result.is_ok() {
            self.timeouts.enforce(&mut self.raw.raft, false);
        }
        self.stop(result)
    }
}

/// The node may live on a thread of its own.
const _: fn() = || {
    fn moves_between_threads<T: Send>() {}
    moves_between_threads::<RaftNode>();
    moves_between_threads::<SnapshotWriter>();
    moves_between_threads::<FinishedSnapshot>();
};

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown panic".to_owned())
}
