//! Reading the log at start: every record that was acknowledged, or a clear refusal.

use super::FileContext;
use super::record::{Opening, Record, decode_records};
use super::sector::{
    SECTOR_BYTES, SectorState, SegmentIdentity, classify, decode_frame, frame_sectors_of_head,
};
use super::segment::{FIRST_SECTOR, UNFINISHED_NAME, segment_name};
use crate::disk::DiskFile;
use crate::error::{FatalError, OpenError};
use crate::file_header::{FileHeader, FileKind};
use raft::eraftpb::{ConfState, Entry, HardState};

/// Sectors read at once when looking for traces behind the end.
const SCAN_SECTORS: u64 = 512;

/// A segment that stays on disk.
pub(crate) struct FoundSegment {
    pub(crate) number: u64,
    pub(crate) name: String,
    pub(crate) file: Box<dyn DiskFile>,
    pub(crate) bytes: u64,
    pub(crate) last_index: u64,
}

/// Everything that the log holds.
#[derive(Default)]
pub(crate) struct RecoveredLog {
    /// Index and term just before the first entry.
    pub(crate) base: (u64, u64),
    pub(crate) entries: Vec<Entry>,
    pub(crate) hard_state: HardState,
    /// Members by the applied index at which they took effect, oldest first.
    pub(crate) members: Vec<(u64, ConfState)>,
    /// The last snapshot from a leader after which the log began anew.
    pub(crate) snapshot_mark: Option<(u64, u64)>,
    pub(crate) segments: Vec<FoundSegment>,
    pub(crate) spares: Vec<String>,
    /// Where the last segment ends.
    pub(crate) end_sector: u64,
    /// A snapshot has taken the place of everything in these segments.
    pub(crate) anew: bool,
    /// The base is the tail of a segment that is gone: entries of the first segment may have replaced it.
    base_is_tail: bool,
}

impl RecoveredLog {
    pub(crate) fn last_index(&self) -> u64 {
        self.entries.last().map_or(self.base.0, |entry| entry.index)
    }

    pub(crate) fn last_term(&self) -> u64 {
        self.entries.last().map_or(self.base.1, |entry| entry.term)
    }

    /// Term of the entry at `index`, or of the one just before the first.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        let position = index.checked_sub(self.base.0 + 1)?;
        self.entries
            .get(usize::try_from(position).ok()?)
            .map(|entry| entry.term)
    }

    /// Forgets all entries: the log begins after a snapshot.
    pub(crate) fn begin_after(&mut self, index: u64, term: u64) {
        self.entries.clear();
        self.base = (index, term);
        self.base_is_tail = false;
    }

    /// Adds an entry, which replaces all of its index and above; `None` when it does not continue the log.
    fn push(&mut self, entry: Entry) -> Option<()> {
        if entry.index <= self.base.0 && self.base_is_tail {
            // Its predecessors went with their segments, below a snapshot; it takes their place as the base.
            self.entries.clear();
            self.base = (entry.index, entry.term);
            return Some(());
        }
        let position = usize::try_from(entry.index.checked_sub(self.base.0 + 1)?).ok()?;
        if position > self.entries.len() {
            return None;
        }
        self.entries.truncate(position);
        self.entries.push(entry);
        Some(())
    }
}

/// Reads all segments, cuts off a frame that a crash left incomplete, and removes unfinished files.
pub(crate) fn recover(context: &FileContext) -> Result<RecoveredLog, OpenError> {
    let mut log = RecoveredLog::default();
    let mut numbers = Vec::new();
    let names = context
        .disk
        .list()
        .map_err(|source| FatalError::disk("list", "", source))?;
    for name in names {
        if name == UNFINISHED_NAME {
            context
                .disk
                .remove(&name)
                .map_err(|source| FatalError::disk("remove", &name, source))?;
        } else if name.starts_with("spare-") {
            log.spares.push(name);
        } else if let Some(number) = name.strip_prefix("log-") {
            let number = u64::from_str_radix(number, 16)
                .ok()
                .filter(|number| segment_name(*number) == name)
                .ok_or_else(|| damaged(&name, 0, "its name is not one of a log segment"))?;
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    for (position, number) in numbers.iter().enumerate() {
        if position > 0 && numbers[position - 1] + 1 != *number {
            return Err(OpenError::Missing {
                missing: segment_name(numbers[position - 1] + 1),
            });
        }
        let last = position + 1 == numbers.len();
        read_segment(context, *number, last, &mut log)?;
    }
    Ok(log)
}

struct SegmentReader<'a> {
    name: &'a str,
    file: &'a dyn DiskFile,
    identity: SegmentIdentity,
    sectors: u64,
}

fn read_segment(
    context: &FileContext,
    number: u64,
    last: bool,
    log: &mut RecoveredLog,
) -> Result<(), OpenError> {
    let name = segment_name(number);
    let failed = |source| FatalError::disk("open", &name, source);
    let file = context.disk.open(&name).map_err(failed)?;
    let (header, key) = FileHeader::read(
        file.as_ref(),
        &name,
        FileKind::Segment,
        context.owner,
        &context.keys,
    )?;
    if header.number != number {
        return Err(damaged(&name, 0, "its head names another segment"));
    }
    let mut bytes = file.len().map_err(failed)?;
    let reader = SegmentReader {
        name: &name,
        file: file.as_ref(),
        identity: SegmentIdentity { uid: header.uid, key },
        sectors: bytes / SECTOR_BYTES as u64,
    };
    let end = reader.read_frames(log)?;
    if last {
        reader.check_nothing_behind(end)?;
        let end_bytes = end * SECTOR_BYTES as u64;
        if bytes > end_bytes {
            // Frees the reserved rest, and an incomplete frame with it.
            let failed = |source| FatalError::disk("cut", &name, source);
            file.set_len(end_bytes).map_err(failed)?;
            bytes = end_bytes;
        }
        // Also what a sync before had failed for: a record that was read back counts as acknowledged from now on.
        let failed = |source| FatalError::disk("sync", &name, source);
        file.sync_data().map_err(failed)?;
    }
    log.end_sector = end;
    let last_index = log.last_index();
    log.segments.push(FoundSegment {
        number,
        name,
        file,
        bytes,
        last_index,
    });
    Ok(())
}

impl SegmentReader<'_> {
    /// Applies all complete frames and returns the sector behind them.
    fn read_frames(&self, log: &mut RecoveredLog) -> Result<u64, OpenError> {
        let mut at = FIRST_SECTOR;
        let mut previous_end = Some(log.end_sector);
        while let Some(records) = self.read_frame(&mut at)? {
            for record in records {
                match (record, previous_end.take()) {
                    (Record::Opening(opening), Some(end)) => self.open_segment(opening, end, log)?,
                    (Record::Opening(_), None) => return Err(self.damaged(at, "it begins twice")),
                    (_, Some(_)) => return Err(self.damaged(at, "its first record is not a beginning")),
                    (record, None) => self.apply(record, at, log)?,
                }
            }
        }
        if previous_end.is_some() {
            return Err(self.damaged(at, "its first frame is missing"));
        }
        Ok(at)
    }

    /// The records of the frame at `at`, which moves behind it; `None` at the end of the log.
    fn read_frame(&self, at: &mut u64) -> Result<Option<Vec<Record>>, OpenError> {
        if *at >= self.sectors {
            return Ok(None);
        }
        let start = *at;
        let head = self.read(start, 1)?;
        match classify(&self.identity, start, &head) {
            SectorState::Foreign => return Ok(None),
            SectorState::Intact { frame_start } if frame_start == start => {}
            SectorState::Intact { .. } | SectorState::Damaged => {
                return Err(self.damaged(start, "the beginning of a record has changed"));
            }
        }
        let count = frame_sectors_of_head(&head);
        if count > self.sectors - start {
            return Err(self.damaged(start, "a record is longer than its file"));
        }
        let sectors = self.read(start, count)?;
        for (sector, bytes) in (start..).zip(sectors.chunks_exact(SECTOR_BYTES)) {
            match classify(&self.identity, sector, bytes) {
                SectorState::Foreign => return Ok(None),
                SectorState::Intact { frame_start } if frame_start == start => {}
                SectorState::Intact { .. } | SectorState::Damaged => {
                    return Err(self.damaged(sector, "a record has changed"));
                }
            }
        }
        let plain = decode_frame(&self.identity, start, &sectors)
            .ok_or_else(|| self.damaged(start, "a record does not decrypt"))?;
        *at = start + count;
        decode_records(&plain)
            .map(Some)
            .ok_or_else(|| self.damaged(start, "a record has a form that this version does not know"))
    }

    /// Whatever lies behind the end may only belong to the one frame that a crash cut off.
    fn check_nothing_behind(&self, end: u64) -> Result<(), OpenError> {
        let mut at = end;
        while at < self.sectors {
            let count = SCAN_SECTORS.min(self.sectors - at);
            let sectors = self.read(at, count)?;
            for (sector, bytes) in (at..).zip(sectors.chunks_exact(SECTOR_BYTES)) {
                match classify(&self.identity, sector, bytes) {
                    SectorState::Foreign => {}
                    SectorState::Intact { frame_start } if frame_start == end => {}
                    SectorState::Intact { .. } => {
                        return Err(self.damaged(end, "a record is gone, a later one is there"));
                    }
                    SectorState::Damaged => {
                        return Err(self.damaged(sector, "a record has changed"));
                    }
                }
            }
            at += count;
        }
        Ok(())
    }

    fn open_segment(
        &self,
        opening: Opening,
        previous_end: u64,
        log: &mut RecoveredLog,
    ) -> Result<(), OpenError> {
        if log.segments.is_empty() {
            log.base = (opening.last_index, opening.last_term);
            log.base_is_tail = !opening.anew;
            return Ok(());
        }
        if opening.previous_end != previous_end {
            return Err(self.damaged(FIRST_SECTOR, "the segment before it ends too early"));
        }
        if opening.anew {
            log.begin_after(opening.last_index, opening.last_term);
            log.members.clear();
            return Ok(());
        }
        if (opening.last_index, opening.last_term) != (log.last_index(), log.last_term()) {
            return Err(self.damaged(FIRST_SECTOR, "it does not continue the segment before it"));
        }
        Ok(())
    }

    fn apply(&self, record: Record, at: u64, log: &mut RecoveredLog) -> Result<(), OpenError> {
        match record {
            Record::Entry(entry) => {
                log.push(entry)
                    .ok_or_else(|| self.damaged(at, "an entry does not continue the log"))?;
            }
            Record::HardState(state) => log.hard_state = state,
            Record::ConfState { index, members } => {
                // Every segment repeats the members before it.
                log.members.retain(|(at, _)| *at < index);
                log.members.push((index, members));
            }
            Record::SnapshotMark { index, term } => {
                log.begin_after(index, term);
                log.members.clear();
                log.snapshot_mark = Some((index, term));
            }
            Record::Opening(_) => return Err(self.damaged(at, "it begins twice")),
        }
        Ok(())
    }

    fn read(&self, sector: u64, count: u64) -> Result<Vec<u8>, OpenError> {
        let mut bytes = vec![0; count as usize * SECTOR_BYTES];
        self.file
            .read_at(sector * SECTOR_BYTES as u64, &mut bytes)
            .map_err(|source| FatalError::disk("read", self.name, source))?;
        Ok(bytes)
    }

    fn damaged(&self, sector: u64, problem: &str) -> OpenError {
        damaged(self.name, sector * SECTOR_BYTES as u64, problem)
    }
}

fn damaged(name: &str, offset: u64, problem: &str) -> OpenError {
    OpenError::Damaged {
        file: name.to_owned(),
        offset,
        problem: problem.to_owned(),
    }
}
