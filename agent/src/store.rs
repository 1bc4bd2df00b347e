//! What the agent keeps on disk: its assignment set, its records, and the controllers that it knows.
//!
//! The state is sealed with AES-256-GCM, because specs in it hold what registries are shown, under a key in a file of
//! its own: a copy of the one says nothing without the other. The key is not the node's TLS key, which is renewed. The
//! content of secrets and configs is sealed in a file of its own, which is written only when other ones are needed. The
//! controllers' addresses have a file of their own, too, one a line.

use muster_node_plan::TaskRecord;
use muster_types::{AssignedFile, AssignmentSet, DesiredState, FileId, TaskId};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Format of the file: this byte, a nonce, and what is sealed.
const FORMAT: u8 = 2;
/// The same, of a state whose secrets and configs are in the file beside it. Earlier versions, which would run tasks
/// without them, refuse it.
const FORMAT_WITH_FILES_APART: u8 = 3;
/// Format of the file of secrets and configs.
const FORMAT_OF_FILES: u8 = 1;
/// Format of files that were not sealed; they are read, and written in the new one.
const FORMAT_IN_CLEAR: u8 = 1;
const KEY_BYTES: usize = 32;

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
    /// It was sealed with another key, or changed since.
    #[error(
        "{path} does not open with the key in {key}; restore the key, or remove {path} to start without the tasks in it"
    )]
    Sealed {
        /// Where.
        path: PathBuf,
        /// Where its key is.
        key: PathBuf,
    },
    /// The key's file holds no key.
    #[error(
        "{path} is not a key of {KEY_BYTES} bytes; restore it, or remove it and the agent.state beside it"
    )]
    Key {
        /// Where.
        path: PathBuf,
    },
    /// The system gives no random bytes.
    #[error("the system's random source failed")]
    Random,
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

/// The files of the state, of secrets and configs, of the key and of the controllers' addresses.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
    files_path: PathBuf,
    key_path: PathBuf,
    controllers_path: PathBuf,
    /// The secrets and configs that are in their file, once that is known. Their content never changes.
    kept_files: Arc<Mutex<Option<Vec<FileId>>>>,
}

impl Store {
    /// The files in this directory.
    pub fn new(directory: &Path) -> Self {
        Self {
            path: directory.join("agent.state"),
            files_path: directory.join("agent.files"),
            key_path: directory.join("agent.key"),
            controllers_path: directory.join("agent.controllers"),
            kept_files: Arc::default(),
        }
    }

    /// Reads them; what does not exist is empty.
    pub fn load(&self) -> Result<Saved, StoreError> {
        let mut saved = self.load_state()?;
        if let Some(bytes) = self.read(&self.controllers_path)? {
            let text = String::from_utf8_lossy(&bytes);
            saved.controllers = text.lines().map(str::to_owned).collect();
        }
        Ok(saved)
    }

    fn load_state(&self) -> Result<Saved, StoreError> {
        let Some(mut bytes) = self.read(&self.path)? else {
            return Ok(Saved::default());
        };
        // A power loss can keep the name of a file that was not synced, and not its content.
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Saved::default());
        }
        let format = || StoreError::Format {
            path: self.path.clone(),
        };
        let (apart, body) = match bytes.split_first_mut() {
            Some((&mut FORMAT, sealed)) => (false, self.open(&self.path, FORMAT, sealed)?),
            Some((&mut FORMAT_WITH_FILES_APART, sealed)) => {
                (true, self.open(&self.path, FORMAT_WITH_FILES_APART, sealed)?)
            }
            Some((&mut FORMAT_IN_CLEAR, body)) => (false, &*body),
            Some(_) | None => return Err(format()),
        };
        let mut saved: Saved = muster_proto::pack::unpack(body).map_err(|_| format())?;
        if apart {
            saved.set.files = self.load_files()?;
            drop_incomplete(&mut saved);
        }
        Ok(saved)
    }

    fn load_files(&self) -> Result<Vec<AssignedFile>, StoreError> {
        let Some(mut bytes) = self.read(&self.files_path)? else {
            return Ok(Vec::new());
        };
        let format = || StoreError::Format {
            path: self.files_path.clone(),
        };
        let body = match bytes.split_first_mut() {
            Some((&mut FORMAT_OF_FILES, sealed)) => self.open(&self.files_path, FORMAT_OF_FILES, sealed)?,
            Some(_) | None => return Err(format()),
        };
        muster_proto::pack::unpack(body).map_err(|_| format())
    }

    /// Replaces the state: written beside and renamed, so that a crash leaves the old or the new one. It is not synced:
    /// after a power loss the controllers send the set again, and a stale file only makes the node report less.
    pub fn save(&self, mut saved: Saved) -> Result<(), StoreError> {
        let files = std::mem::take(&mut saved.set.files);
        // First, so that they are there when the state is.
        self.keep_files(&files)?;
        let format = match files.is_empty() {
            true => FORMAT,
            false => FORMAT_WITH_FILES_APART,
        };
        let body = muster_proto::pack::pack(&saved)
            .map_err(|error| self.failed("encode", io::Error::other(error)))?;
        let bytes = self.seal(format, body.into())?;
        let beside = self.path.with_extension("new");
        new_file(&beside)
            .and_then(|mut file| file.write_all(&bytes))
            .and_then(|()| std::fs::rename(&beside, &self.path))
            .map_err(|source| self.failed("write", source))
    }

    /// Replaces the file of secrets and configs, if it holds others. It outlasts a power loss: what the node runs
    /// afterwards with no controller in reach needs it.
    fn keep_files(&self, files: &[AssignedFile]) -> Result<(), StoreError> {
        let ids: Vec<FileId> = files.iter().map(|file| file.id).collect();
        let mut kept = self.kept_files.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref() == Some(&ids) {
            return Ok(());
        }
        if files.is_empty() {
            remove(&self.files_path)?;
        } else {
            let body = muster_proto::pack::pack(&files)
                .map_err(|error| self.failed("encode", io::Error::other(error)))?;
            replace_synced(&self.files_path, &self.seal(FORMAT_OF_FILES, body.into())?)?;
        }
        *kept = Some(ids);
        Ok(())
    }

    /// Replaces the controllers' addresses. They outlast a power loss: a node that knows an old list alone may find
    /// nobody who could tell it more.
    pub fn keep_controllers(&self, controllers: &[String]) -> Result<(), StoreError> {
        replace_synced(&self.controllers_path, controllers.join("\n").as_bytes())
    }

    /// The file's bytes. A nonce is random: at ten saves a second two are equal with a chance of one in eight thousand
    /// million after thirteen years (NIST SP 800-38D, 8.3).
    fn seal(&self, format: u8, mut body: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let key = match self.key()? {
            Some(key) => key,
            None => self.make_key()?,
        };
        let nonce: [u8; NONCE_LEN] = random()?;
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from([format]),
            &mut body,
        )
        .map_err(|_| self.failed("seal", io::Error::other("it is too large")))?;
        Ok([&[format], &nonce[..], &body].concat())
    }

    fn open<'a>(&self, path: &Path, format: u8, sealed: &'a mut [u8]) -> Result<&'a [u8], StoreError> {
        let wrong = || StoreError::Sealed {
            path: path.to_owned(),
            key: self.key_path.clone(),
        };
        let key = self.key()?.ok_or_else(wrong)?;
        let (nonce, sealed) = sealed.split_first_chunk_mut::<NONCE_LEN>().ok_or_else(wrong)?;
        key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from([format]), sealed)
            .map(|body| &*body)
            .map_err(|_| wrong())
    }

    fn key(&self) -> Result<Option<LessSafeKey>, StoreError> {
        let Some(bytes) = self.read(&self.key_path)? else {
            return Ok(None);
        };
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| StoreError::Key {
            path: self.key_path.clone(),
        })?;
        Ok(Some(LessSafeKey::new(key)))
    }

    /// Synced before anything is sealed with it, because the file it seals may outlive a power loss.
    fn make_key(&self) -> Result<LessSafeKey, StoreError> {
        let bytes: [u8; KEY_BYTES] = random()?;
        replace_synced(&self.key_path, &bytes)?;
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| StoreError::Random)?;
        Ok(LessSafeKey::new(key))
    }

    /// A whole file; `None` when there is none.
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Io {
                operation: "read",
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Removes them: the node left its cluster.
    pub fn clear(&self) -> Result<(), StoreError> {
        *self.kept_files.lock().unwrap_or_else(PoisonError::into_inner) = None;
        [
            &self.path,
            &self.files_path,
            &self.key_path,
            &self.controllers_path,
        ]
        .into_iter()
        .try_for_each(|path| remove(path))
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> StoreError {
        StoreError::Io {
            operation,
            path: self.path.clone(),
            source,
        }
    }
}

/// A power loss can leave a state older than its files. Tasks that shall run without all of theirs would start without
/// them; they come again with the first set that a controller sends.
fn drop_incomplete(saved: &mut Saved) {
    let there: Vec<FileId> = saved.set.files.iter().map(|file| file.id).collect();
    let records = &saved.records;
    saved.set.tasks.retain(|task| {
        let ended = records
            .get(&task.id)
            .is_some_and(|record| record.status.state.is_terminal());
        let shall_run = task.desired <= DesiredState::Running && !ended;
        !shall_run || task.template.files().all(|(_, file)| there.contains(&file.id))
    });
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError::Io {
            operation: "remove",
            path: path.to_owned(),
            source,
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes a file beside and renames it; it is there also after a power loss.
fn replace_synced(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let beside = path.with_added_extension("new");
    let write = || -> io::Result<()> {
        let mut file = new_file(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        let directory = path.parent().unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    };
    write().map_err(|source| StoreError::Io {
        operation: "write",
        path: path.to_owned(),
        source,
    })
}

/// An empty file that only its owner reads.
fn new_file(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| StoreError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
