//! What controllers received of snapshots: in pieces of at most 1 MiB, and no byte twice.

use super::cluster::Checked;
use crate::{SnapshotChunk, SnapshotId, SnapshotRequest};
use std::collections::{BTreeMap, BTreeSet};

const MIB: usize = 1024 * 1024;

/// The download of each controller.
#[derive(Default)]
pub(super) struct Arrivals(BTreeMap<u64, Arrival>);

#[derive(Default)]
struct Arrival {
    /// The snapshot that is coming, and how many bytes of it came.
    coming: Option<(SnapshotId, u64)>,
    report: Report,
}

/// What a controller received since the test began.
#[derive(Debug, Default, Clone)]
pub(super) struct Report {
    /// Offset, length and length of the whole of every piece.
    pub(super) pieces: Vec<(u64, u64, u64)>,
    /// Whom they came from.
    pub(super) sources: BTreeSet<u64>,
}

impl Arrivals {
    /// The controller has lost what came: it began anew, or was told that the snapshot is gone.
    pub(super) fn begin_anew(&mut self, id: u64) {
        self.0.entry(id).or_default().coming = None;
    }

    /// The controller asks for more.
    pub(super) fn asked(&mut self, id: u64, request: &SnapshotRequest) -> Checked {
        let arrival = self.0.entry(id).or_default();
        let came = match arrival.coming {
            Some((snapshot, came)) if snapshot == request.id => came,
            // Another snapshot has taken the place of the one that was coming.
            _ => 0,
        };
        arrival.coming = Some((request.id, came));
        if request.bytes_max > MIB || request.offset != came {
            return Err(format!(
                "controller {id} asks for {} bytes from {}; {came} are there",
                request.bytes_max, request.offset
            ));
        }
        Ok(())
    }

    /// A piece was taken in.
    pub(super) fn came(&mut self, id: u64, from: u64, chunk: &SnapshotChunk) -> Checked {
        let arrival = self.0.entry(id).or_default();
        let bytes = chunk.data.len() as u64;
        match &mut arrival.coming {
            Some((snapshot, came)) if *snapshot == chunk.id && *came == chunk.offset => *came += bytes,
            other => return Err(format!("controller {id} took {chunk:?} after {other:?}")),
        }
        if chunk.data.len() > MIB {
            return Err(format!("controller {id} took a piece of {bytes} bytes"));
        }
        arrival.report.pieces.push((chunk.offset, bytes, chunk.total));
        arrival.report.sources.insert(from);
        Ok(())
    }

    /// What the controller received.
    pub(super) fn report(&self, id: u64) -> Report {
        self.0
            .get(&id)
            .map(|arrival| arrival.report.clone())
            .unwrap_or_default()
    }
}

impl Report {
    /// One snapshot came, every byte of it once.
    pub(super) fn is_one_whole(&self) -> bool {
        let mut next = 0;
        let total = self.pieces.last().map(|(.., total)| *total);
        let in_order = self.pieces.iter().all(|(offset, bytes, _)| {
            let follows = *offset == next;
            next = offset + bytes;
            follows
        });
        in_order && Some(next) == total
    }
}
