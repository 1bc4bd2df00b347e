//! The file that keeps the key-encryption keys, and the order in which a rotation writes it and the log.

use crate::disk::Disk;
use crate::error::FatalError;
use crate::keys::{Entropy, KEY_BYTES, KeyRing};
use std::io;
use std::sync::Arc;

/// The current key, and the one before it while a rotation is under way.
const KEYS_MAX: usize = 2;

/// The keys' file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The disk failed.
    #[error("cannot {operation} the key file {name}")]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// The file.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not hold keys.
    #[error(
        "the key file {name} is damaged: it has {bytes} bytes; restore it, or remove this controller and join it again"
    )]
    Damaged {
        /// The file.
        name: String,
        /// Its length.
        bytes: u64,
    },
    /// No key can be made.
    #[error("cannot make a key")]
    Entropy(#[from] FatalError),
}

/// A file of one key, or of two while a rotation is under way: the current one first.
///
/// A rotation is [`KeyFile::begin_rotation`], then [`RaftNode::rotate_keys`](crate::RaftNode::rotate_keys) with the
/// ring that it gave, then [`KeyFile::finish_rotation`]. After a crash at any point the file's ring opens the log, and
/// beginning again ends what was begun.
pub struct KeyFile {
    disk: Arc<dyn Disk>,
    name: String,
}

/// The keys in the file.
#[derive(Clone)]
pub struct StoredKeys(Vec<[u8; KEY_BYTES]>);

impl StoredKeys {
    /// The ring of these keys.
    pub fn ring(&self) -> KeyRing {
        let (current, previous) = self.0.split_first().expect("a key file holds a key");
        previous
            .iter()
            .fold(KeyRing::new(*current), |ring, key| ring.with_previous(*key))
    }

    /// A rotation was begun and is not finished.
    pub fn is_rotating(&self) -> bool {
        self.0.len() > 1
    }
}

impl KeyFile {
    /// The file of that name on this disk.
    pub fn new(disk: Arc<dyn Disk>, name: &str) -> KeyFile {
        KeyFile {
            disk,
            name: name.to_owned(),
        }
    }

    /// The keys; a first one is made when there is no file.
    pub fn load(&self, entropy: &dyn Entropy) -> Result<StoredKeys, KeyFileError> {
        let file = match self.disk.open(&self.name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = StoredKeys(vec![new_key(entropy)?]);
                self.save(&made)?;
                return Ok(made);
            }
            Err(error) => return Err(self.failed("open", error)),
        };
        let bytes = file.len().map_err(|error| self.failed("read", error))?;
        let keys = usize::try_from(bytes).unwrap_or(usize::MAX) / KEY_BYTES;
        if bytes % KEY_BYTES as u64 != 0 || !(1..=KEYS_MAX).contains(&keys) {
            let name = self.name.clone();
            return Err(KeyFileError::Damaged { name, bytes });
        }
        let mut found = vec![[0; KEY_BYTES]; keys];
        for (number, key) in found.iter_mut().enumerate() {
            file.read_at((number * KEY_BYTES) as u64, key)
                .map_err(|error| self.failed("read", error))?;
        }
        Ok(StoredKeys(found))
    }

    /// Puts a new key in front. A rotation that was begun before goes on with the key that it has.
    pub fn begin_rotation(&self, entropy: &dyn Entropy) -> Result<StoredKeys, KeyFileError> {
        let mut keys = self.load(entropy)?;
        if !keys.is_rotating() {
            keys.0.insert(0, new_key(entropy)?);
            self.save(&keys)?;
        }
        Ok(keys)
    }

    /// Forgets every key but the current one; the log must not need the others any more.
    pub fn finish_rotation(&self, mut keys: StoredKeys) -> Result<(), KeyFileError> {
        keys.0.truncate(1);
        self.save(&keys)
    }

    /// Written beside, synced and renamed: a crash leaves the old or the new content.
    fn save(&self, keys: &StoredKeys) -> Result<(), KeyFileError> {
        let beside = format!("{}.new", self.name);
        let write = || -> io::Result<()> {
            let file = self.disk.create(&beside, 0)?;
            file.write_at(0, &keys.0.concat())?;
            file.sync_data()?;
            self.disk.rename(&beside, &self.name)?;
            self.disk.sync_directory()
        };
        write().map_err(|error| self.failed("write", error))
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> KeyFileError {
        let name = self.name.clone();
        KeyFileError::Disk {
            operation,
            name,
            source,
        }
    }
}

fn new_key(entropy: &dyn Entropy) -> Result<[u8; KEY_BYTES], FatalError> {
    let mut key = [0; KEY_BYTES];
    entropy.fill(&mut key)?;
    Ok(key)
}
