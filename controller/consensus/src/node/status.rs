//! What a node tells about itself: for promotion, for `info`, for metrics.

use super::RaftNode;
use crate::log::LogCounters;
use crate::membership::Membership;
use crate::ready::Role;
use raft::ProgressState;

/// Counts since the node was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Entries that were proposed here.
    pub proposals: u64,
    /// Messages given out.
    pub messages_sent: u64,
    /// Messages that Raft took.
    pub messages_received: u64,
    /// Messages that were refused.
    pub messages_refused: u64,
    /// Snapshots of the own state machine.
    pub snapshots_taken: u64,
    /// Snapshots announced to followers.
    pub snapshots_sent: u64,
    /// Snapshots received and installed.
    pub snapshots_installed: u64,
    /// Snapshots received with a wrong digest.
    pub snapshots_refused: u64,
    /// Transfers to followers that died.
    pub transfers_failed: u64,
    /// Chunks given to followers.
    pub chunks_served: u64,
}

/// The node at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This controller.
    pub raft_id: u64,
    /// Its part in the election.
    pub role: Role,
    /// True on a leader that has applied an entry of its own term: its state is complete.
    pub leader_ready: bool,
    /// The voter to which leadership is being handed.
    pub transferring_to: Option<u64>,
    /// The members.
    pub membership: Membership,
    /// True while a membership change may be in progress.
    pub membership_changing: bool,
    /// Committed index.
    pub commit: u64,
    /// Index that the caller reported as applied.
    pub applied: u64,
    /// First index still in the log.
    pub first_index: u64,
    /// Last index in the log.
    pub last_index: u64,
    /// Index of the newest snapshot; 0 for none.
    pub snapshot_index: u64,
    /// Bytes of the entries in memory.
    pub log_bytes: u64,
    /// Bytes of the log's segments on disk.
    pub disk_bytes: u64,
    /// Number of the log's segments.
    pub segments: usize,
    /// The other members, by id; the leader alone knows their progress.
    pub peers: Vec<PeerStatus>,
    /// A snapshot that is being fetched.
    pub download: Option<DownloadStatus>,
    /// Counts of the node.
    pub counters: Counters,
    /// Counts of the log.
    pub log: LogCounters,
}

/// Another member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its Raft id.
    pub raft_id: u64,
    /// True for a voter, false for a learner.
    pub voter: bool,
    /// True when something of it arrived within an election timeout.
    pub recent_active: bool,
    /// On the leader: the last entry that it is known to hold.
    pub matched: u64,
    /// On the leader: how it is being sent to.
    pub replication: ReplicationState,
    /// On the leader: true when `Promote` would be accepted.
    pub caught_up: bool,
}

/// How a leader sends to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicationState {
    /// Looking for the last common entry.
    Probe,
    /// Streaming entries.
    Replicate,
    /// Waiting for a snapshot to arrive.
    Snapshot,
}

/// How far a snapshot has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DownloadStatus {
    /// The controller that serves it.
    pub from: u64,
    /// Its index.
    pub index: u64,
    /// Bytes that are here.
    pub received: u64,
    /// Bytes in all.
    pub total: u64,
}

impl RaftNode {
    /// The node now.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let (disk_bytes, segments) = self.log.disk_use();
        Status {
            raft_id: self.config.raft_id,
            role: self.role(),
            leader_ready: self.is_leader_ready(),
            transferring_to: raft.lead_transferee,
            membership: self.membership(),
            membership_changing: raft.has_pending_conf(),
            commit: raft.raft_log.committed,
            applied: raft.raft_log.applied,
            first_index: raft.raft_log.first_index(),
            last_index: raft.raft_log.last_index(),
            snapshot_index: self.snapshot_index(),
            log_bytes: self.raw.store().bytes(),
            disk_bytes,
            segments,
            peers: self.peers(),
            download: self.download.as_ref().map(|download| DownloadStatus {
                from: download.from,
                index: download.id.index,
                received: download.data.len() as u64,
                total: download.total,
            }),
            counters: self.counters,
            log: self.log.counters(),
        }
    }

    fn peers(&self) -> Vec<PeerStatus> {
        let membership = self.membership();
        let ids = membership.voters.iter().chain(&membership.learners);
        let mut peers: Vec<PeerStatus> = ids
            .filter(|id| **id != self.config.raft_id)
            .filter_map(|id| {
                let progress = self.raw.raft.prs().get(*id)?;
                let replication = match progress.state {
                    ProgressState::Probe => ReplicationState::Probe,
                    ProgressState::Replicate => ReplicationState::Replicate,
                    ProgressState::Snapshot => ReplicationState::Snapshot,
                };
                Some(PeerStatus {
                    raft_id: *id,
                    voter: membership.voters.contains(id),
                    recent_active: self.is_reachable(*id),
                    matched: progress.matched,
                    replication,
                    caught_up: self.has_caught_up(*id, progress),
                })
            })
            .collect();
        peers.sort_by_key(|peer| peer.raft_id);
        peers
    }
}
