//! Where a blob lies while it comes: in memory, where there is plenty, else in `tmp`. Most are layers that are unpacked while
//! they come and never part of the store; what is not written to the disk need not be taken from there again, and waits for
//! no sync of others.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::MemfdFlags;
use tempfile::NamedTempFile;

use crate::blobs::StagedBlob;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout::Layout;

/// Largest blob in memory: few layers of real images are larger, and those that are wait for the disk anyway.
const BLOB_BYTES_MAX: u64 = 64 << 20;
/// Most bytes of blobs in memory at once: those of one image's three downloads.
const MEMORY_BYTES_MAX: u64 = 3 * BLOB_BYTES_MAX;
/// So many times as much has to be available as is taken.
const AVAILABLE_TIMES: u64 = 8;

/// Bytes of the blobs of a store that are in memory.
pub(crate) type InMemory = Arc<AtomicU64>;

/// A blob's bytes; deleted with it, those in memory once nobody reads them any more.
#[derive(Debug)]
pub(crate) enum Place {
    Memory(File),
    Disk(NamedTempFile),
}

/// Memory that is taken, until the last one who can read it lets go of this.
#[derive(Debug)]
pub(crate) struct Taken {
    of: InMemory,
    bytes: u64,
}

impl Taken {
    /// `None` where there is not so much.
    fn take(of: &InMemory, bytes: u64, available: u64) -> Option<Taken> {
        if bytes > BLOB_BYTES_MAX || bytes.saturating_mul(AVAILABLE_TIMES) > available {
            return None;
        }
        let fits = |taken: u64| Some(taken + bytes).filter(|sum| *sum <= MEMORY_BYTES_MAX);
        of.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Taken {
            of: of.clone(),
            bytes,
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Place {
    /// A place for so many bytes, with the memory that it takes.
    pub(crate) fn begin(
        temporary: &Path,
        bytes: u64,
        in_memory: &InMemory,
    ) -> io::Result<(Place, Option<Taken>)> {
        if let Some(taken) = Taken::take(in_memory, bytes, available_bytes().unwrap_or(0))
            && let Ok(memory) = rustix::fs::memfd_create("muster-blob", MemfdFlags::CLOEXEC)
        {
            return Ok((Place::Memory(File::from(memory)), Some(taken)));
        }
        Ok((Place::Disk(NamedTempFile::new_in(temporary)?), None))
    }

    pub(crate) fn file(&self) -> &File {
        match self {
            Place::Memory(file) => file,
            Place::Disk(file) => file.as_file(),
        }
    }
}

/// What a process can take without swapping.
fn available_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// A blob that came whole and is what was announced.
#[derive(Debug)]
pub(crate) struct Came {
    pub(crate) place: Place,
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
}

impl Came {
    /// Makes it part of the store.
    pub(crate) fn store(self, layout: &Layout) -> Result<()> {
        let file = match self.place {
            Place::Disk(file) => file,
            Place::Memory(mut memory) => {
                let temporary = layout.temporary();
                let failed = |error: io::Error| Error::io("write a blob in", &temporary, error);
                memory.rewind().map_err(failed)?;
                let mut file = NamedTempFile::new_in(&temporary).map_err(failed)?;
                io::copy(&mut memory.take(self.bytes), &mut file).map_err(failed)?;
                file
            }
        };
        StagedBlob::from_parts(file.into_temp_path(), self.digest, self.bytes).store(layout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_taken_of_what_is_plenty_and_given_back() {
        let in_memory = InMemory::default();
        let plenty = u64::MAX;
        assert!(Taken::take(&in_memory, BLOB_BYTES_MAX + 1, plenty).is_none());
        assert!(Taken::take(&in_memory, 1000, AVAILABLE_TIMES * 1000 - 1).is_none());
        let first = Taken::take(&in_memory, BLOB_BYTES_MAX, plenty).unwrap();
        let others: Vec<_> = (0..2)
            .map(|_| Taken::take(&in_memory, BLOB_BYTES_MAX, plenty))
            .collect();
        assert!(others.iter().all(Option::is_some));
        assert!(Taken::take(&in_memory, 1, plenty).is_none());
        drop(first);
        assert!(Taken::take(&in_memory, 1, plenty).is_some());
        drop(others);
        assert_eq!(in_memory.load(Ordering::Relaxed), 0);
    }
}
