//! The log in memory, as Raft reads it. The disk holds the same and is read at start only; the bound on what is kept
//! here is the snapshot interval.

use crate::membership::Membership;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::Cell;
use std::collections::VecDeque;

/// Bytes that an entry takes beside its data.
const ENTRY_OVERHEAD_BYTES: u64 = 96;

/// Entries after the last compaction, and the newest snapshot's announcement.
pub(crate) struct LogStore {
    /// Index and term just before the first entry.
    base: (u64, u64),
    entries: VecDeque<Entry>,
    bytes: u64,
    /// State with which Raft starts.
    initial: RaftState,
    snapshot: Option<Snapshot>,
    /// A follower needs a snapshot that is newer than the one here.
    newer_wanted: Cell<bool>,
}

impl LogStore {
    pub(crate) fn new(
        base: (u64, u64),
        entries: Vec<Entry>,
        hard_state: HardState,
        members: ConfState,
        snapshot: Option<Snapshot>,
    ) -> LogStore {
        let bytes = entries.iter().map(entry_bytes).sum();
        let initial = RaftState::new(hard_state, members);
        LogStore {
            base,
            entries: entries.into(),
            bytes,
            initial,
            snapshot,
            newer_wanted: Cell::new(false),
        }
    }

    pub(crate) fn first(&self) -> u64 {
        self.base.0 + 1
    }

    pub(crate) fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends entries, replacing those of the same index and above.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        let keep = first.index.saturating_sub(self.first()) as usize;
        for dropped in self.entries.drain(keep.min(self.entries.len())..) {
            self.bytes -= entry_bytes(&dropped);
        }
        self.bytes += entries.iter().map(entry_bytes).sum::<u64>();
        self.entries.extend(entries);
    }

    /// Forgets entries up to and including `index`.
    pub(crate) fn compact(&mut self, index: u64) {
        while self.base.0 < index {
            let Some(entry) = self.entries.pop_front() else {
                return;
            };
            self.bytes -= entry_bytes(&entry);
            self.base = (entry.index, entry.term);
        }
    }

    /// Begins anew after a snapshot that a leader sent.
    pub(crate) fn begin_after(&mut self, index: u64, term: u64) {
        self.entries.clear();
        self.bytes = 0;
        self.base = (index, term);
    }

    pub(crate) fn set_snapshot(&mut self, announcement: Snapshot) {
        self.snapshot = Some(announcement);
        self.newer_wanted.set(false);
    }

    /// True when a follower waits for a snapshot that has yet to be taken.
    pub(crate) fn is_newer_wanted(&self) -> bool {
        self.newer_wanted.get()
    }
}

fn entry_bytes(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len()) as u64 + ENTRY_OVERHEAD_BYTES
}

impl Storage for LogStore {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let range = (low - self.first()) as usize..(high - self.first()) as usize;
        let budget = max_size.into().unwrap_or(u64::MAX);
        let mut spent = 0u64;
        let taken = self.entries.range(range).take_while(|entry| {
            let first = spent == 0;
            spent = spent.saturating_add(entry_bytes(entry));
            first || spent <= budget
        });
        Ok(taken.cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.0 {
            return Ok(self.base.1);
        }
        if index < self.base.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        let entry = self.entries.get((index - self.first()) as usize);
        entry
            .map(|entry| entry.term)
            .ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// A receiver installs only a snapshot in which it is a member, so a new learner waits for the next one.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let fitting = self.snapshot.as_ref().filter(|snapshot| {
            let metadata = snapshot.get_metadata();
            let members = Membership::from(metadata.get_conf_state());
            metadata.index >= request_index && members.contains(to)
        });
        self.newer_wanted.set(fitting.is_none());
        fitting
            .cloned()
            .ok_or(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
        range
            .map(|index| Entry {
                index,
                term,
                data: vec![0; 100].into(),
                ..Entry::default()
            })
            .collect()
    }

    fn store() -> LogStore {
        LogStore::new(
            (4, 1),
            entries(5..=10, 2),
            HardState::default(),
            ConfState::default(),
            None,
        )
    }

    #[test]
    fn appending_replaces_the_tail_and_counts_bytes() {
        let mut store = store();
        store.append(entries(8..=8, 3));
        assert_eq!((store.first(), store.last()), (5, 8));
        assert_eq!(store.term(8).expect("term"), 3);
        assert_eq!(store.bytes(), 4 * (100 + ENTRY_OVERHEAD_BYTES));
    }

    #[test]
    fn compaction_keeps_the_term_before_the_first_entry() {
        let mut store = store();
        store.compact(7);
        assert_eq!(store.first(), 8);
        assert_eq!(store.term(7).expect("term"), 2);
        assert_eq!(store.term(6), Err(Error::Store(StorageError::Compacted)));
        let read = store
            .entries(8, 11, 250, GetEntriesContext::empty(false))
            .expect("entries");
        assert_eq!(read.len(), 1);
    }
}
