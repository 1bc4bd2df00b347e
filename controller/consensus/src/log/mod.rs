//! The log on disk: segments that are appended to, one frame and one sync per batch.

mod record;
mod recovery;
mod sector;
mod segment;

pub(crate) use record::{put_members, take_members};
pub(crate) use recovery::{RecoveredLog, recover};

use crate::disk::Disk;
use crate::error::{FatalError, OpenError};
use crate::file_header::{FileHeader, FileKind, Owner};
use crate::keys::{Entropy, KeyRing};
use raft::eraftpb::{ConfState, Entry, HardState};
use record::{put_conf_state, put_entry, put_hard_state, put_snapshot_mark};
use sector::{SECTOR_BYTES, frame_sectors};
use segment::{
    ActiveSegment, Carried, FIRST_SECTOR, NewSegment, Segment, begin_segment, opening_records, spare_name,
    write_frame,
};
use std::collections::VecDeque;
use std::sync::Arc;

/// Segments kept for reuse: one is enough to make the next one without new blocks.
const SPARES_MAX: usize = 1;

/// What every part of the node needs in order to make files.
#[derive(Clone)]
pub(crate) struct FileContext {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) owner: Owner,
    pub(crate) keys: KeyRing,
    pub(crate) entropy: Arc<dyn Entropy>,
}

/// What one call makes durable, in the order of the fields.
#[derive(Default)]
pub(crate) struct Batch<'a> {
    pub(crate) snapshot_mark: Option<(u64, u64)>,
    pub(crate) members: Option<(u64, &'a ConfState)>,
    pub(crate) entries: &'a [Entry],
    pub(crate) hard_state: Option<&'a HardState>,
}

/// Counts of what was written since the node was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogCounters {
    /// Frames, each one write and one sync.
    pub frames: u64,
    /// Log entries in them.
    pub entries: u64,
    /// Bytes written, including padding.
    pub bytes: u64,
    /// Segments begun.
    pub segments: u64,
}

/// The appending side of the log.
pub(crate) struct SegmentLog {
    context: FileContext,
    segment_bytes: u64,
    sealed: VecDeque<Segment>,
    active: ActiveSegment,
    spares: Vec<String>,
    carried: Carried,
    plain: Vec<u8>,
    frame: Vec<u8>,
    counters: LogCounters,
}

impl SegmentLog {
    /// Begins a new segment after what was recovered. No segment of an earlier run is appended to again, so that no
    /// sector is ever encrypted twice under one key.
    pub(crate) fn open(
        context: FileContext,
        segment_bytes: u64,
        recovered: &mut RecoveredLog,
    ) -> Result<SegmentLog, FatalError> {
        let carried = Carried {
            hard_state: recovered.hard_state.clone(),
            members: recovered.members.clone(),
            last_index: recovered.last_index(),
            last_term: recovered.last_term(),
            anew: recovered.anew,
        };
        let sealed: VecDeque<Segment> = recovered
            .segments
            .drain(..)
            .map(|found| Segment {
                number: found.number,
                name: found.name,
                file: found.file,
                bytes: found.bytes,
                last_index: found.last_index,
            })
            .collect();
        let number = sealed.back().map_or(1, |segment| segment.number + 1);
        let previous_end = recovered.end_sector;
        let mut spares = std::mem::take(&mut recovered.spares);
        let request = NewSegment {
            number,
            previous_end,
            bytes: segment_bytes,
        };
        let active = begin_segment(&context, &mut spares, &carried, request)?;
        let carried = Carried {
            anew: false,
            ..carried
        };
        Ok(SegmentLog {
            context,
            segment_bytes,
            sealed,
            active,
            spares,
            carried,
            plain: Vec::new(),
            frame: Vec::new(),
            counters: LogCounters {
                segments: 1,
                ..LogCounters::default()
            },
        })
    }

    /// Makes a batch durable: one frame, one write, one sync.
    pub(crate) fn append(&mut self, batch: &Batch<'_>) -> Result<(), FatalError> {
        self.plain.clear();
        if let Some((index, term)) = batch.snapshot_mark {
            put_snapshot_mark(&mut self.plain, index, term);
        }
        if let Some((index, members)) = batch.members {
            put_conf_state(&mut self.plain, index, members);
        }
        for entry in batch.entries {
            put_entry(&mut self.plain, entry);
        }
        if let Some(state) = batch.hard_state {
            put_hard_state(&mut self.plain, state);
        }
        let sectors = frame_sectors(self.plain.len());
        if self.active.next_sector + sectors > self.active.sectors {
            self.rotate(sectors)?;
        }
        write_frame(&mut self.active, &mut self.plain, &mut self.frame)?;
        self.counters.frames += 1;
        self.counters.entries += batch.entries.len() as u64;
        self.counters.bytes += self.frame.len() as u64;
        self.carry(batch);
        Ok(())
    }

    fn carry(&mut self, batch: &Batch<'_>) {
        if let Some((index, term)) = batch.snapshot_mark {
            self.carried.last_index = index;
            self.carried.last_term = term;
            self.carried.members.clear();
        }
        if let Some((index, members)) = batch.members {
            self.carried.members.push((index, members.clone()));
        }
        if let Some(last) = batch.entries.last() {
            self.carried.last_index = last.index;
            self.carried.last_term = last.term;
        }
        if let Some(state) = batch.hard_state {
            self.carried.hard_state = state.clone();
        }
    }

    fn rotate(&mut self, sectors: u64) -> Result<(), FatalError> {
        let opening_sectors = frame_sectors(opening_records(&self.carried, 0).len());
        let needed = (FIRST_SECTOR + opening_sectors + sectors) * SECTOR_BYTES as u64;
        let request = NewSegment {
            number: self.active.segment.number + 1,
            previous_end: self.active.next_sector,
            bytes: self.segment_bytes.max(needed),
        };
        let next = begin_segment(&self.context, &mut self.spares, &self.carried, request)?;
        let mut full = std::mem::replace(&mut self.active, next).segment;
        full.last_index = self.carried.last_index;
        self.sealed.push_back(full);
        self.counters.segments += 1;
        Ok(())
    }

    /// Gives up segments whose entries all lie at or below `index`; a snapshot at or above it must be durable.
    pub(crate) fn compact(&mut self, index: u64) -> Result<(), FatalError> {
        let keep_from = self
            .carried
            .members
            .iter()
            .rposition(|(at, _)| *at <= index)
            .unwrap_or(0);
        self.carried.members.drain(..keep_from);
        while self
            .sealed
            .front()
            .is_some_and(|segment| segment.last_index <= index)
        {
            let Some(segment) = self.sealed.pop_front() else {
                break;
            };
            self.retire(&segment)?;
        }
        Ok(())
    }

    /// Gives up every segment but the active one.
    pub(crate) fn drop_sealed(&mut self) -> Result<(), FatalError> {
        while let Some(segment) = self.sealed.pop_front() {
            self.retire(&segment)?;
        }
        Ok(())
    }

    fn retire(&mut self, segment: &Segment) -> Result<(), FatalError> {
        let disk = &self.context.disk;
        let failed = |source| FatalError::disk("retire", &segment.name, source);
        if segment.bytes != self.segment_bytes || self.spares.len() >= SPARES_MAX {
            return disk.remove(&segment.name).map_err(failed);
        }
        let spare = spare_name(segment.number);
        disk.rename(&segment.name, &spare).map_err(failed)?;
        // Without this a crash could show the reused bytes under the old name.
        disk.sync_directory().map_err(failed)?;
        self.spares.push(spare);
        Ok(())
    }

    /// Wraps the data keys of all segments under the current key of the new ring.
    pub(crate) fn rotate_keys(&mut self, keys: &KeyRing) -> Result<(), OpenError> {
        for segment in self.sealed.iter().chain([&self.active.segment]) {
            FileHeader::rotate(
                segment.file.as_ref(),
                &segment.name,
                FileKind::Segment,
                keys,
                self.context.entropy.as_ref(),
            )?;
        }
        for spare in self.spares.drain(..) {
            self.context
                .disk
                .remove(&spare)
                .map_err(|source| FatalError::disk("remove", &spare, source))?;
        }
        self.context.keys = keys.clone();
        Ok(())
    }

    /// The index from which on the newest durable members count.
    pub(crate) fn newest_members(&self) -> u64 {
        self.carried.members.last().map_or(0, |(index, _)| *index)
    }

    pub(crate) fn counters(&self) -> LogCounters {
        self.counters
    }

    /// Bytes and number of all segments on disk, without spares.
    pub(crate) fn disk_use(&self) -> (u64, usize) {
        let bytes = self.sealed.iter().map(|segment| segment.bytes).sum::<u64>();
        (bytes + self.active.segment.bytes, self.sealed.len() + 1)
    }
}
