//! The follower's side of a snapshot: a leader announces it, the node fetches it chunk by chunk, and Raft hears of it
//! only when the whole is here and its digest is right.

use super::RaftNode;
use super::opening::fatal_snapshot_error;
use crate::error::{FatalError, SnapshotError};
use crate::membership::Membership;
use crate::ready::InstalledSnapshot;
use crate::snapshot::{CHUNK_BYTES_MAX, Descriptor, SnapshotChunk, SnapshotId, SnapshotRequest, digest};
use bytes::Bytes;
use raft::eraftpb::{Message, Snapshot};

/// A larger state than this does not fit a controller's memory anyway; it bounds what a message can ask for.
const SNAPSHOT_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// A snapshot that is being fetched.
pub(super) struct Download {
    pub(super) id: SnapshotId,
    pub(super) from: u64,
    pub(super) total: u64,
    pub(super) data: Vec<u8>,
    /// The leader's announcement, for Raft once the data is here.
    announcement: Message,
    /// When the chunk in flight was asked for.
    asked_at: Option<u64>,
}

impl Download {
    fn is_complete(&self) -> bool {
        self.data.len() as u64 == self.total
    }
}

impl RaftNode {
    /// Takes a leader's announcement. One that Raft would not install goes straight to it.
    pub(super) fn take_announcement(&mut self, message: Message) -> Result<(), FatalError> {
        let snapshot = message.get_snapshot();
        let metadata = snapshot.get_metadata();
        let log = &self.raw.raft.raft_log;
        let is_member = Membership::from(metadata.get_conf_state()).contains(self.config.raft_id);
        let useless = metadata.index <= log.committed
            || log.match_term(metadata.index, metadata.term)
            || message.term < self.raw.raft.term
            || !is_member;
        let Some(descriptor) = Descriptor::decode(&snapshot.data).filter(|_| !useless) else {
            return self.step_announcement(message);
        };
        if descriptor.length > SNAPSHOT_BYTES_MAX {
            return Ok(());
        }
        let id = SnapshotId {
            index: metadata.index,
            term: metadata.term,
            digest: descriptor.digest,
        };
        match &mut self.download {
            // The same snapshot, from a new leader or once more: what is here stays.
            Some(download) if download.id == id => {
                download.from = message.from;
                download.announcement = message;
                download.asked_at = None;
            }
            Some(download) if download.is_newer_than(&id, &message) => return Ok(()),
            _ => {
                self.download = Some(Download {
                    id,
                    from: message.from,
                    total: descriptor.length,
                    data: Vec::new(),
                    announcement: message,
                    asked_at: None,
                });
            }
        }
        self.finish_download()
    }

    fn step_announcement(&mut self, message: Message) -> Result<(), FatalError> {
        // raft-rs answers or ignores it; there is nothing to install.
        self.with_raft(|raw| raw.step(message).is_ok()).map(|_| ())
    }

    /// Hands a complete download to Raft.
    fn finish_download(&mut self) -> Result<(), FatalError> {
        let Some(download) = self.download.as_ref().filter(|download| download.is_complete()) else {
            return Ok(());
        };
        if digest(&download.data) != download.id.digest {
            self.counters.snapshots_refused += 1;
            self.download = None;
            return Ok(());
        }
        let announcement = download.announcement.clone();
        self.step_announcement(announcement)
    }

    /// Takes the answer to a `SnapshotRequest`. A chunk that was not asked for is refused and harms nothing.
    pub fn install_chunk(&mut self, from: u64, chunk: SnapshotChunk) -> Result<(), SnapshotError> {
        self.check_running()?;
        let bad = |problem| SnapshotError::BadChunk {
            id: chunk.id.to_string(),
            offset: chunk.offset,
            problem,
        };
        let download = self
            .download
            .as_mut()
            .filter(|download| download.id == chunk.id)
            .ok_or_else(|| bad("this snapshot is not being fetched"))?;
        if download.from != from {
            return Err(bad("it comes from a controller that was not asked"));
        }
        if download.data.len() as u64 != chunk.offset || download.is_complete() {
            return Err(bad("it is not the next one"));
        }
        let rest = download.total - chunk.offset;
        if chunk.data.is_empty() || chunk.data.len() > CHUNK_BYTES_MAX || chunk.data.len() as u64 > rest {
            return Err(bad("it has a wrong length"));
        }
        download.data.extend_from_slice(&chunk.data);
        download.asked_at = None;
        self.heard.insert(from, self.ticks);
        let complete = download.is_complete();
        self.finish_download()?;
        if complete && self.download.is_none() {
            return Err(bad(
                "the whole has another digest than was announced; it is fetched anew",
            ));
        }
        Ok(())
    }

    /// Tells that the asked controller has the snapshot no more; a leader announces another in time.
    pub fn snapshot_unavailable(&mut self, id: &SnapshotId) {
        if self
            .download
            .as_ref()
            .is_some_and(|download| download.id == *id && !download.is_complete())
        {
            self.download = None;
        }
    }

    pub(super) fn request_due(&self) -> bool {
        self.download.as_ref().is_some_and(|download| {
            let waited = download
                .asked_at
                .is_none_or(|at| self.ticks - at >= self.config.chunk_retry_ticks);
            !download.is_complete() && waited
        })
    }

    /// The next chunk to ask for, when none is in flight or it seems lost.
    pub(super) fn take_request(&mut self) -> Option<SnapshotRequest> {
        if !self.request_due() {
            return None;
        }
        let download = self.download.as_mut()?;
        download.asked_at = Some(self.ticks);
        Some(SnapshotRequest {
            to: download.from,
            id: download.id,
            offset: download.data.len() as u64,
            bytes_max: CHUNK_BYTES_MAX,
        })
    }

    /// Makes the file of a snapshot that Raft has accepted. The log's record of it follows; a crash in between finds
    /// the snapshot ahead of the log and begins after it.
    pub(super) fn store_installed(&mut self, announced: &Snapshot) -> Result<InstalledSnapshot, FatalError> {
        let metadata = announced.get_metadata();
        let download = self
            .download
            .take()
            .filter(|download| {
                download.is_complete()
                    && (download.id.index, download.id.term) == (metadata.index, metadata.term)
            })
            .ok_or_else(|| FatalError::Inconsistent {
                reason: format!("Raft accepted snapshot {} without its data", metadata.index),
            })?;
        let members = metadata.get_conf_state();
        let stored = self
            .files
            .write(metadata.index, metadata.term, members, &download.data)
            .map_err(fatal_snapshot_error)?;
        self.members = vec![(metadata.index, members.clone())];
        self.raw.mut_store().set_snapshot(stored.announcement());
        let older = std::mem::replace(&mut self.snapshots, vec![stored]);
        for snapshot in older {
            self.files.remove(&snapshot)?;
        }
        self.counters.snapshots_installed += 1;
        Ok(InstalledSnapshot {
            index: metadata.index,
            term: metadata.term,
            membership: Membership::from(members),
            data: Bytes::from(download.data),
        })
    }
}

impl Download {
    /// True when `other` is an older announcement that arrived late.
    fn is_newer_than(&self, other: &SnapshotId, message: &Message) -> bool {
        (self.announcement.term, self.id.index) > (message.term, other.index)
    }
}
