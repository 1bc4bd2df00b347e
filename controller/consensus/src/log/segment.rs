//! One segment file: how it begins and how a frame is added.

use super::FileContext;
use super::record::{Opening, put_conf_state, put_hard_state, put_opening};
use super::sector::{SECTOR_BYTES, SegmentIdentity, encode_frame};
use crate::disk::DiskFile;
use crate::error::FatalError;
use crate::file_header::{FileHeader, FileKind, HEADER_BYTES};
use raft::eraftpb::{ConfState, HardState};
use std::io;

/// Where the first frame of a segment begins.
pub(super) const FIRST_SECTOR: u64 = HEADER_BYTES / SECTOR_BYTES as u64;
/// A segment under this name is not complete and is removed at start.
pub(super) const UNFINISHED_NAME: &str = "log.tmp";
pub(super) fn segment_name(number: u64) -> String {
    format!("log-{number:016x}")
}

pub(super) fn spare_name(number: u64) -> String {
    format!("spare-{number:016x}")
}

/// State that every new segment repeats, so that older segments can go.
#[derive(Debug, Clone, Default)]
pub(super) struct Carried {
    pub(super) hard_state: HardState,
    pub(super) members: Vec<(u64, ConfState)>,
    pub(super) last_index: u64,
    pub(super) last_term: u64,
    /// A snapshot has taken the place of the log, and no segment says so yet.
    pub(super) anew: bool,
}

pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) name: String,
    pub(super) file: Box<dyn DiskFile>,
    pub(super) bytes: u64,
    /// Index of the last log entry when the next segment was begun.
    pub(super) last_index: u64,
}

pub(super) struct ActiveSegment {
    pub(super) segment: Segment,
    pub(super) identity: SegmentIdentity,
    pub(super) next_sector: u64,
    pub(super) sectors: u64,
}

/// Which segment to make.
pub(super) struct NewSegment {
    pub(super) number: u64,
    pub(super) previous_end: u64,
    pub(super) bytes: u64,
}

pub(super) fn opening_records(carried: &Carried, previous_end: u64) -> Vec<u8> {
    let mut plain = Vec::new();
    let opening = Opening {
        previous_end,
        last_index: carried.last_index,
        last_term: carried.last_term,
        anew: carried.anew,
    };
    put_opening(&mut plain, opening);
    put_hard_state(&mut plain, &carried.hard_state);
    for (index, members) in &carried.members {
        put_conf_state(&mut plain, *index, members);
    }
    plain
}

/// Makes a segment under a passing name and gives it its own only when head and first frame are durable, so that a
/// segment without an intact beginning is always damage and never the trace of a crash.
pub(super) fn begin_segment(
    context: &FileContext,
    spares: &mut Vec<String>,
    carried: &Carried,
    request: NewSegment,
) -> Result<ActiveSegment, FatalError> {
    let name = segment_name(request.number);
    let failed = |source| FatalError::disk("create", &name, source);
    let (passing_name, file) = new_file(context, spares, request.bytes).map_err(failed)?;
    let (header, key) = FileHeader::create(
        FileKind::Segment,
        context.owner,
        request.number,
        &context.keys,
        context.entropy.as_ref(),
    )?;
    header.write(file.as_ref()).map_err(failed)?;
    let mut active = ActiveSegment {
        segment: Segment {
            number: request.number,
            name: name.clone(),
            file,
            bytes: request.bytes,
            last_index: 0,
        },
        identity: SegmentIdentity { uid: header.uid, key },
        next_sector: FIRST_SECTOR,
        sectors: request.bytes / SECTOR_BYTES as u64,
    };
    let mut plain = opening_records(carried, request.previous_end);
    write_frame(&mut active, &mut plain, &mut Vec::new())?;
    context.disk.rename(&passing_name, &name).map_err(failed)?;
    context.disk.sync_directory().map_err(failed)?;
    Ok(active)
}

/// A spare of the right size, or a new file.
fn new_file(
    context: &FileContext,
    spares: &mut Vec<String>,
    bytes: u64,
) -> io::Result<(String, Box<dyn DiskFile>)> {
    while let Some(spare) = spares.pop() {
        let file = context.disk.open(&spare)?;
        if file.len()? == bytes {
            return Ok((spare, file));
        }
        context.disk.remove(&spare)?;
    }
    let file = context.disk.create(UNFINISHED_NAME, bytes)?;
    Ok((UNFINISHED_NAME.to_owned(), file))
}

pub(super) fn write_frame(
    active: &mut ActiveSegment,
    plain: &mut Vec<u8>,
    frame: &mut Vec<u8>,
) -> Result<(), FatalError> {
    let name = &active.segment.name;
    encode_frame(&active.identity, active.next_sector, plain, frame)?;
    active
        .segment
        .file
        .write_at(active.next_sector * SECTOR_BYTES as u64, frame)
        .map_err(|source| FatalError::disk("write", name, source))?;
    active
        .segment
        .file
        .sync_data()
        .map_err(|source| FatalError::disk("sync", name, source))?;
    active.next_sector += (frame.len() / SECTOR_BYTES) as u64;
    Ok(())
}
