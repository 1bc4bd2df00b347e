//! What the agent keeps on disk: its assignment set, its records, and the controllers that it knows.

use muster_node_plan::TaskRecord;
use muster_types::{AssignmentSet, TaskId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Format of the file; another one is refused.
const FORMAT: u8 = 1;

/// The agent's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// It is not what this version writes.
    #[error("{path} is not an agent state of format {FORMAT}; remove it to start without the tasks in it")]
    Format {
        /// Where.
        path: PathBuf,
    },
}

/// The content of the file.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    /// Newest assignment set.
    pub set: AssignmentSet,
    /// One record per task.
    pub records: BTreeMap<TaskId, TaskRecord>,
    /// Addresses of the controllers.
    pub controllers: Vec<String>,
}

/// The file.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// The file in this directory.
    pub fn new(directory: &Path) -> Self {
        Self {
            path: directory.join("agent.state"),
        }
    }

    /// Reads it; empty when there is none.
    pub fn load(&self) -> Result<Saved, StoreError> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Saved::default()),
            Err(source) => return Err(self.failed("read", source)),
        };
        let format = || StoreError::Format {
            path: self.path.clone(),
        };
        match bytes.split_first() {
            Some((&FORMAT, body)) => muster_proto::pack::unpack(body).map_err(|_| format()),
            Some(_) | None => Err(format()),
        }
    }

    /// Replaces it: written beside and renamed, so that a crash leaves the old or the new one. It is not synced: after
    /// a power loss the controllers send the set again, and a stale file only makes the node report less.
    pub fn save(&self, saved: &Saved) -> Result<(), StoreError> {
        let body = muster_proto::pack::pack(saved)
            .map_err(|error| self.failed("encode", io::Error::other(error)))?;
        let beside = self.path.with_extension("new");
        let write = || -> io::Result<()> {
            // Specs in it may hold what a registry is shown.
            let mut file = std::fs::File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&beside)?;
            file.write_all(&[FORMAT])?;
            file.write_all(&body)?;
            std::fs::rename(&beside, &self.path)
        };
        write().map_err(|source| self.failed("write", source))
    }

    /// Removes it: the node left its cluster.
    pub fn clear(&self) -> Result<(), StoreError> {
        match std::fs::remove_file(&self.path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(self.failed("remove", source)),
        }
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> StoreError {
        StoreError::Io {
            operation,
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        assert!(store.load().unwrap().controllers.is_empty());
        let saved = Saved {
            controllers: vec!["10.0.0.1:2377".to_owned()],
            ..Default::default()
        };
        store.save(&saved).unwrap();
        assert_eq!(store.load().unwrap().controllers, saved.controllers);
        std::fs::write(directory.path().join("agent.state"), b"garbage").unwrap();
        assert!(matches!(store.load(), Err(StoreError::Format { .. })));
    }
}
