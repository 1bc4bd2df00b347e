//! Compresses files of a log that were rotated, beside the monitor that goes on rotating them.
//!
//! *A rotated file is whole under one of its names at any moment.* The compressed file is made under a name that nobody
//! reads and is made durable; then it is put beside the plain one, which goes last. Where both are found, the plain one
//! counts, and is compressed again. This change of names and the monitor's renames exclude each other by a lock on the
//! log's directory, which a killed process gives back; neither side waits for it.

use super::file::comment_of;
use super::files::{numbered, packed, with_suffix};
use flate2::{Compression, GzBuilder};
use rustix::fs::FlockOperation;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Bytes between two looks at whether to stop.
const CHUNK_BYTES: usize = 256 << 10;

/// What became of a look at a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packed {
    /// A file was compressed; there may be more.
    One,
    /// Every rotated file is compressed.
    All,
    /// It was asked to stop, or the file's name was being changed.
    Later,
}

/// Compresses the oldest plain file of the `max_files` that are kept. One caller at a time. Blocks.
pub(crate) fn pack_oldest(log: &Path, max_files: u32, stop: impl Fn() -> bool) -> io::Result<Packed> {
    let making = with_suffix(log, ".packing");
    let made = pack(log, &making, max_files, stop);
    if !matches!(made, Ok(Packed::One | Packed::All)) {
        // What is left of it is overwritten by the next one.
        let _ = fs::remove_file(&making);
    }
    match made {
        // The container is being removed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Packed::All),
        made => made,
    }
}

fn pack(log: &Path, making: &Path, max_files: u32, stop: impl Fn() -> bool) -> io::Result<Packed> {
    let mut rotated = (1..max_files).rev().map(|number| numbered(log, number));
    let Some(oldest) = rotated.find(|path| path.exists()) else {
        return Ok(Packed::All);
    };
    let mut plain = File::open(oldest)?;
    let inode = plain.metadata()?.ino();
    let target = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(making)?;
    let mut encoder = GzBuilder::new()
        .comment(comment_of(inode))
        .write(target, Compression::default());
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        if stop() {
            return Ok(Packed::Later);
        }
        match plain.read(&mut chunk)? {
            0 => break,
            length => encoder.write_all(&chunk[..length])?,
        }
    }
    encoder.finish()?.sync_all()?;
    // It is open still, so that its number is not another file's.
    replace(log, making, inode, max_files)
}

/// Puts the compressed file in the place of the plain one, wherever that is by now.
fn replace(log: &Path, making: &Path, inode: u64, max_files: u32) -> io::Result<Packed> {
    let directory = File::open(log.parent().unwrap_or(Path::new("/")))?;
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Packed::Later),
        Err(error) => return Err(error.into()),
    }
    let mut rotated = (1..max_files).map(|number| numbered(log, number));
    let place = rotated.find(|path| fs::metadata(path).is_ok_and(|found| found.ino() == inode));
    match place {
        Some(place) => {
            fs::rename(making, packed(&place))?;
            fs::remove_file(place)?;
        }
        // It was dropped meanwhile.
        None => fs::remove_file(making)?,
    }
    Ok(Packed::One)
}

#[cfg(test)]
mod tests;
