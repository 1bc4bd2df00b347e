//! How far a log was read, across restarts of the engine.

use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Bytes of a file's beginning that tell it from another one with the same number.
pub(crate) const HEAD_BYTES: usize = 96;

/// A place in one of a log's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The file's number in its file system, which may be given out again.
    pub inode: u64,
    /// How it begins: with the time of its first line.
    pub head: Vec<u8>,
    /// Bytes that were read.
    pub offset: u64,
}

impl Position {
    /// What was noted; a file that is missing or damaged is the log's beginning.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Notes it. Not durable: after a crash of the host some entries are sent again.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let encoded = serde_json::to_vec(self).map_err(io::Error::other)?;
        match std::fs::write(path, encoded) {
            // The container was removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            written => written,
        }
    }
}
