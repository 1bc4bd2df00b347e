//! Container logs on disk: reading them, also while the monitor writes and rotates them.
//!
//! The monitor writes Docker's json-file format; `path` is the current file, `path.1` the one before it, and so on. Where
//! a container asks for it, the engine makes `path.1.gz` of `path.1` afterwards (`pack`).

mod entry;
mod file;
mod files;
mod pack;
mod reader;
mod tail;

pub use entry::{LogEntry, LogStreamKind};
pub(crate) use files::FILES_MAX;
pub(crate) use pack::{Packed, pack_oldest};
pub use reader::LogReader;

use muster_types::Timestamp;

/// Which log entries are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Also what is written from now on, until the container ends; else what is there now.
    pub follow: bool,
    /// Not before this time.
    pub since: Option<Timestamp>,
    /// Not after this time.
    pub until: Option<Timestamp>,
    /// Only the last lines of the log; `None` means all.
    pub tail: Option<u64>,
}

impl Default for LogQuery {
    /// Everything that was logged so far.
    fn default() -> Self {
        Self {
            stdout: true,
            stderr: true,
            follow: false,
            since: None,
            until: None,
            tail: None,
        }
    }
}

impl LogQuery {
    /// Whether an entry is wanted.
    fn accepts(&self, entry: &LogEntry) -> bool {
        let stream = match entry.stream {
            LogStreamKind::Stdout => self.stdout,
            LogStreamKind::Stderr => self.stderr,
        };
        stream && self.since.is_none_or(|since| entry.at >= since)
    }

    /// Whether nothing after this entry is wanted.
    fn is_past(&self, entry: &LogEntry) -> bool {
        self.until.is_some_and(|until| entry.at > until)
    }
}
