//! Taking snapshots of the state machine, compacting the log behind them, and serving their chunks.

use super::RaftNode;
use crate::error::{FatalError, OpenError, SnapshotError};
use crate::snapshot::{CHUNK_BYTES_MAX, SnapshotChunk, SnapshotFiles, SnapshotId, StoredSnapshot};
use raft::Storage;
use raft::eraftpb::ConfState;
use std::sync::{Arc, Weak};

/// A follower that fetches a snapshot holds back compaction for at most so many snapshot intervals.
const HELD_INTERVALS_MAX: u64 = 8;

/// Writes one snapshot, on any thread, while the node goes on.
pub struct SnapshotWriter {
    files: SnapshotFiles,
    index: u64,
    term: u64,
    members: ConfState,
    pending: Arc<()>,
}

/// A snapshot that is durable and that the node does not know of yet.
pub struct FinishedSnapshot {
    stored: StoredSnapshot,
    _pending: Arc<()>,
}

impl SnapshotWriter {
    /// Writes the state machine's data; when this returns it survives a crash. Give the result to `finish_snapshot`.
    pub fn write(self, data: &[u8]) -> Result<FinishedSnapshot, SnapshotError> {
        let stored = self.files.write(self.index, self.term, &self.members, data)?;
        Ok(FinishedSnapshot {
            stored,
            _pending: self.pending,
        })
    }
}

/// How much of the past a node keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// Applied entries after which a snapshot is due; at least one.
    pub interval_entries: u64,
    /// Entries kept behind a snapshot.
    pub kept_entries: u64,
    /// Snapshots kept on disk beside the newest.
    pub old_snapshots: usize,
}

impl RaftNode {
    /// Keeps so much from now on; files that are too many go with the next snapshot.
    pub fn set_snapshot_policy(&mut self, policy: SnapshotPolicy) {
        self.config.snapshot_interval_entries = policy.interval_entries.max(1);
        self.config.kept_entries = policy.kept_entries;
        self.config.old_snapshots = policy.old_snapshots;
    }

    /// True when enough was applied since the last snapshot, or a new member waits for one that knows it, and none is
    /// being written. The caller checks this after every round.
    pub fn snapshot_due(&self) -> bool {
        let applied = self.raw.raft.raft_log.applied;
        let since = applied.saturating_sub(self.snapshot_index());
        let full = since > self.config.kept_entries && self.raw.store().bytes() > self.config.log_bytes_max;
        let wanted = since > 0 && self.raw.store().is_newer_wanted();
        let due = since >= self.config.snapshot_interval_entries || full || wanted;
        due && self.writer.strong_count() == 0
    }

    /// Stores the state machine as of the applied `index` and compacts the log behind it.
    pub fn create_snapshot(&mut self, index: u64, data: &[u8]) -> Result<(), SnapshotError> {
        let written = self.snapshot_writer(index)?.write(data);
        if let Err(SnapshotError::Fatal(error)) = &written {
            self.stopped.get_or_insert_with(|| error.to_string());
        }
        self.finish_snapshot(written?)
    }

    /// The same in two steps, so that a large state is written on another thread. One at a time.
    pub fn snapshot_writer(&mut self, index: u64) -> Result<SnapshotWriter, SnapshotError> {
        self.check_running()?;
        let bad = |problem| SnapshotError::BadIndex { index, problem };
        if index > self.raw.raft.raft_log.applied {
            return Err(bad("it is not applied yet"));
        }
        if index <= self.snapshot_index() {
            return Err(bad("a newer snapshot exists"));
        }
        if self.writer.strong_count() > 0 {
            return Err(bad("another snapshot is being written"));
        }
        let at = self.members.partition_point(|(since, _)| *since <= index);
        let members = at.checked_sub(1).and_then(|at| self.members.get(at));
        let members = members
            .map(|(_, members)| members.clone())
            .ok_or_else(|| bad("its members are gone"))?;
        let term = self
            .raw
            .store()
            .term(index)
            .map_err(|_| bad("its log entry is gone"))?;
        let pending = Arc::new(());
        self.writer = Arc::downgrade(&pending);
        Ok(SnapshotWriter {
            files: self.files.clone(),
            index,
            term,
            members,
            pending,
        })
    }

    /// Takes over a written snapshot and compacts the log behind it.
    pub fn finish_snapshot(&mut self, finished: FinishedSnapshot) -> Result<(), SnapshotError> {
        self.check_running()?;
        self.writer = Weak::new();
        let stored = finished.stored;
        // The keys may have been rotated since the writer began.
        let rewrapped = self.files.rewrap(&stored);
        rewrapped.map_err(|error| match error {
            OpenError::Fatal(error) => SnapshotError::Fatal(error),
            damaged => SnapshotError::Damaged(damaged),
        })?;
        let taken = if stored.id.index <= self.snapshot_index() {
            // A leader's snapshot was installed meanwhile.
            self.files.remove(&stored)
        } else {
            self.counters.snapshots_taken += 1;
            self.raw.mut_store().set_snapshot(stored.announcement());
            self.snapshots.push(stored);
            self.compact().and_then(|()| self.remove_old_snapshots())
        };
        Ok(self.stop(taken)?)
    }

    fn compact(&mut self) -> Result<(), FatalError> {
        let snapshot = self.snapshot_index();
        let held_from = snapshot.saturating_sub(
            self.config
                .snapshot_interval_entries
                .saturating_mul(HELD_INTERVALS_MAX),
        );
        let fetched = self.transfers.oldest().unwrap_or(snapshot).max(held_from);
        let index = snapshot.saturating_sub(self.config.kept_entries).min(fetched);
        self.raw.mut_store().compact(index);
        let keep = self
            .members
            .iter()
            .rposition(|(since, _)| *since <= snapshot)
            .unwrap_or(0);
        self.members.drain(..keep);
        self.log.compact(index)
    }

    pub(super) fn remove_old_snapshots(&mut self) -> Result<(), FatalError> {
        let Some(newest) = self.snapshots.pop() else {
            return Ok(());
        };
        // The oldest come first.
        let surplus = self.snapshots.len().saturating_sub(self.config.old_snapshots);
        let (mut kept, mut old) = (Vec::new(), Vec::new());
        for (place, snapshot) in self.snapshots.drain(..).enumerate() {
            match place >= surplus || self.transfers.needs(snapshot.id.index) {
                true => kept.push(snapshot),
                false => old.push(snapshot),
            }
        }
        self.snapshots = kept;
        self.snapshots.push(newest);
        let removed = old.iter().try_for_each(|snapshot| self.files.remove(snapshot));
        self.stop(removed)
    }

    /// A part of a stored snapshot, for the controller that asks for it. Not more than a chunk, however much is asked.
    pub fn snapshot_chunk(
        &mut self,
        requester: u64,
        id: &SnapshotId,
        offset: u64,
        bytes_max: usize,
    ) -> Result<SnapshotChunk, SnapshotError> {
        self.check_running()?;
        let stored = self
            .snapshots
            .iter()
            .find(|stored| stored.id == *id)
            .ok_or_else(|| SnapshotError::Unknown { id: id.to_string() })?;
        if offset >= stored.length && stored.length > 0 || bytes_max == 0 {
            let problem = "it lies behind the end";
            return Err(SnapshotError::BadChunk {
                id: id.to_string(),
                offset,
                problem,
            });
        }
        let data = stored
            .read(offset, bytes_max.min(CHUNK_BYTES_MAX))
            .map_err(|error| match error {
                OpenError::Fatal(error) => SnapshotError::Fatal(error),
                damaged => SnapshotError::Damaged(damaged),
            })?;
        let chunk = SnapshotChunk {
            id: *id,
            offset,
            total: stored.length,
            data: data.into(),
        };
        self.transfers.began(requester, id.index, self.ticks);
        self.heard.insert(requester, self.ticks);
        self.counters.chunks_served += 1;
        Ok(chunk)
    }

    pub(super) fn snapshot_index(&self) -> u64 {
        self.snapshots.last().map_or(0, |snapshot| snapshot.id.index)
    }
}
