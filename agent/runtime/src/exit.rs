//! How a container ended, and the durable file that says so.

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{Result, RuntimeError};

/// The reason of a container whose monitor ended before it.
pub const MONITOR_LOST: &str = "monitor was killed";

/// How a container ended, in Docker's terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// The process's exit code, or 128 plus the signal that ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the container for want of memory.
    pub oom_killed: bool,
    /// When it ended, in nanoseconds since 1970.
    pub finished_at_ns: i128,
    /// Why, where the code alone does not say it.
    pub reason: Option<String>,
}

impl ExitStatus {
    /// The status of a container that was killed because its monitor ended.
    pub(crate) fn monitor_lost(finished_at_ns: i128) -> Self {
        ExitStatus {
            code: 128 + libc::SIGKILL,
            signal: Some(libc::SIGKILL),
            oom_killed: false,
            finished_at_ns,
            reason: Some(MONITOR_LOST.to_owned()),
        }
    }
}

/// Reads a recorded exit status; `None` when the container has not ended.
pub fn read_exit_file(path: &Path) -> Result<Option<ExitStatus>> {
    let describe = || format!("read the exit status {}", path.display());
    let content = match std::fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(RuntimeError::io(describe(), error)),
    };
    serde_json::from_slice(&content)
        .map(Some)
        .map_err(|error| RuntimeError::io(describe(), error))
}

/// Records an exit status durably and atomically.
pub(crate) fn write_exit_file(path: &Path, status: &ExitStatus) -> Result<()> {
    record_exit(path, status)?.persist()
}

/// Records an exit status atomically: it is there for every reader, and survives a loss of power once it is persisted.
pub(crate) fn record_exit(path: &Path, status: &ExitStatus) -> Result<RecordedExit> {
    let write = || {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".new");
        let unfinished = PathBuf::from(unfinished);
        let mut file = File::create(&unfinished)?;
        file.write_all(&serde_json::to_vec(status)?)?;
        std::fs::rename(&unfinished, path)?;
        Ok(file)
    };
    match write() {
        Ok(file) => Ok(RecordedExit {
            file,
            path: path.to_owned(),
        }),
        Err(error) => Err(unrecorded(path, error)),
    }
}

/// A recorded exit status that a loss of power may still take away.
pub(crate) struct RecordedExit {
    file: File,
    path: PathBuf,
}

impl RecordedExit {
    /// Makes it durable.
    pub(crate) fn persist(self) -> Result<()> {
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let persist = || {
            self.file.sync_all()?;
            File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
        };
        persist().map_err(|error| unrecorded(&self.path, error))
    }
}

fn unrecorded(path: &Path, error: io::Error) -> RuntimeError {
    RuntimeError::io(format!("record the exit status {}", path.display()), error)
}

/// The current wall clock time in nanoseconds since 1970.
pub(crate) fn wall_clock_ns() -> i128 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map_or(0, |elapsed| {
        i128::try_from(elapsed.as_nanos()).unwrap_or(i128::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_status_reads_back_and_absent_one_is_none() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("exit");
        assert_eq!(read_exit_file(&path).expect("absent is no error"), None);
        let status = ExitStatus::monitor_lost(5);
        write_exit_file(&path, &status).expect("the directory is writable");
        assert_eq!(read_exit_file(&path).expect("just written"), Some(status));
        let names: Vec<_> = std::fs::read_dir(directory.path()).expect("it exists").collect();
        assert_eq!(names.len(), 1, "no temporary file stays");
    }

    #[test]
    fn damaged_status_is_an_error() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("exit");
        std::fs::write(&path, "{\"code\":").expect("the directory is writable");
        assert!(read_exit_file(&path).is_err());
    }
}
