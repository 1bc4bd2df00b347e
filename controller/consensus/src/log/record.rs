//! The records of a frame.

use crate::codec::{Fields, put_ids, put_sized};
use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState};

const ENTRY: u8 = 1;
const HARD_STATE: u8 = 2;
const CONF_STATE: u8 = 3;
const SNAPSHOT_MARK: u8 = 4;
const OPENING: u8 = 5;

/// One record, in the order in which it took effect.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record {
    /// A log entry; it replaces every entry of its index and above.
    Entry(Entry),
    /// Term, vote and commit index.
    HardState(HardState),
    /// The members as of this applied index.
    ConfState { index: u64, members: ConfState },
    /// The log begins anew after a snapshot that a leader sent.
    SnapshotMark { index: u64, term: u64 },
    /// First record of a segment.
    Opening(Opening),
}

/// What ties a segment to the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opening {
    /// The sector at which the segment before ended; 0 for the very first.
    pub(crate) previous_end: u64,
    /// Index and term of the last entry before this segment.
    pub(crate) last_index: u64,
    pub(crate) last_term: u64,
    /// True when nothing of the log before counts: a snapshot took its place.
    pub(crate) anew: bool,
}

pub(crate) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.push(ENTRY);
    out.push(match entry.get_entry_type() {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    });
    out.extend_from_slice(&entry.term.to_le_bytes());
    out.extend_from_slice(&entry.index.to_le_bytes());
    put_sized(out, &entry.data);
    put_sized(out, &entry.context);
}

pub(crate) fn put_hard_state(out: &mut Vec<u8>, state: &HardState) {
    out.push(HARD_STATE);
    for field in [state.term, state.vote, state.commit] {
        out.extend_from_slice(&field.to_le_bytes());
    }
}

pub(crate) fn put_conf_state(out: &mut Vec<u8>, index: u64, members: &ConfState) {
    out.push(CONF_STATE);
    out.extend_from_slice(&index.to_le_bytes());
    put_members(out, members);
}

pub(crate) fn put_snapshot_mark(out: &mut Vec<u8>, index: u64, term: u64) {
    out.push(SNAPSHOT_MARK);
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&term.to_le_bytes());
}

pub(crate) fn put_opening(out: &mut Vec<u8>, opening: Opening) {
    out.push(OPENING);
    for field in [opening.previous_end, opening.last_index, opening.last_term] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.push(u8::from(opening.anew));
}

pub(crate) fn put_members(out: &mut Vec<u8>, members: &ConfState) {
    put_ids(out, &members.voters);
    put_ids(out, &members.learners);
    put_ids(out, &members.voters_outgoing);
    put_ids(out, &members.learners_next);
    out.push(u8::from(members.auto_leave));
}

pub(crate) fn take_members(fields: &mut Fields<'_>) -> Option<ConfState> {
    Some(ConfState {
        voters: fields.ids()?,
        learners: fields.ids()?,
        voters_outgoing: fields.ids()?,
        learners_next: fields.ids()?,
        auto_leave: fields.u8()? != 0,
        ..ConfState::default()
    })
}

/// Decodes all records of a frame; `None` when one is not of a known form.
pub(crate) fn decode_records(plain: &[u8]) -> Option<Vec<Record>> {
    let mut fields = Fields::new(plain);
    let mut records = Vec::new();
    while !fields.is_empty() {
        records.push(decode_record(&mut fields)?);
    }
    Some(records)
}

fn decode_record(fields: &mut Fields<'_>) -> Option<Record> {
    Some(match fields.u8()? {
        ENTRY => Record::Entry(decode_entry(fields)?),
        HARD_STATE => Record::HardState(HardState {
            term: fields.u64()?,
            vote: fields.u64()?,
            commit: fields.u64()?,
            ..HardState::default()
        }),
        CONF_STATE => Record::ConfState {
            index: fields.u64()?,
            members: take_members(fields)?,
        },
        SNAPSHOT_MARK => Record::SnapshotMark {
            index: fields.u64()?,
            term: fields.u64()?,
        },
        OPENING => Record::Opening(Opening {
            previous_end: fields.u64()?,
            last_index: fields.u64()?,
            last_term: fields.u64()?,
            anew: fields.u8()? != 0,
        }),
        _ => return None,
    })
}

fn decode_entry(fields: &mut Fields<'_>) -> Option<Entry> {
    let entry_type = match fields.u8()? {
        0 => EntryType::EntryNormal,
        1 => EntryType::EntryConfChange,
        2 => EntryType::EntryConfChangeV2,
        _ => return None,
    };
    Some(Entry {
        entry_type,
        term: fields.u64()?,
        index: fields.u64()?,
        data: Bytes::copy_from_slice(fields.sized()?),
        context: Bytes::copy_from_slice(fields.sized()?),
        ..Entry::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_as_written() {
        let entry = Entry {
            term: 3,
            index: 9,
            data: "data".into(),
            context: "c".into(),
            ..Entry::default()
        };
        let change = Entry {
            entry_type: EntryType::EntryConfChange,
            index: 10,
            ..entry.clone()
        };
        let state = HardState {
            term: 3,
            vote: 2,
            commit: 8,
            ..HardState::default()
        };
        let members = ConfState {
            voters: vec![1, 2],
            learners: vec![3],
            ..ConfState::default()
        };
        let opening = Opening {
            previous_end: 17,
            last_index: 8,
            last_term: 2,
            anew: false,
        };
        let mut out = Vec::new();
        put_opening(&mut out, opening);
        put_entry(&mut out, &entry);
        put_entry(&mut out, &change);
        put_hard_state(&mut out, &state);
        put_conf_state(&mut out, 7, &members);
        put_snapshot_mark(&mut out, 5, 1);
        let expected = [
            Record::Opening(opening),
            Record::Entry(entry),
            Record::Entry(change),
            Record::HardState(state),
            Record::ConfState { index: 7, members },
            Record::SnapshotMark { index: 5, term: 1 },
        ];
        assert_eq!(decode_records(&out).expect("decode"), expected);
    }

    #[test]
    fn a_cut_or_unknown_record_is_not_decoded() {
        let mut out = Vec::new();
        put_snapshot_mark(&mut out, 5, 1);
        assert_eq!(decode_records(&out[..out.len() - 1]), None);
        out.push(77);
        assert_eq!(decode_records(&out), None);
    }
}
