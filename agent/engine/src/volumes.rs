//! Local volumes: directories of this node that outlive containers.

use crate::clock;
use crate::error::{Error, Result};
use crate::layout::{Layout, make_directory, remove_directory};
use crate::store::{Store, Table};
use muster_types::Timestamp;
use muster_types::service::Labels;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where a volume's content is below its directory; Docker's name.
const CONTENT: &str = "_data";

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Name.
    pub name: String,
    /// Path of its content on the host.
    pub mountpoint: PathBuf,
    /// When it was made.
    pub created: Timestamp,
    /// Labels.
    pub labels: Labels,
    /// It was made for a container without a name.
    pub anonymous: bool,
}

/// The volumes of this node.
pub(crate) struct Volumes {
    directory: PathBuf,
    store: Store,
    known: Mutex<BTreeMap<String, Volume>>,
}

impl Volumes {
    /// Reads what there is. Blocks.
    pub fn open(layout: &Layout, store: &Store) -> Result<Self> {
        let rows = store.all::<Volume>(Table::Volumes)?;
        Ok(Self {
            directory: layout.volumes(),
            store: store.clone(),
            known: Mutex::new(
                rows.into_iter()
                    .map(|volume| (volume.name.clone(), volume))
                    .collect(),
            ),
        })
    }

    pub fn list(&self) -> Vec<Volume> {
        self.known().values().cloned().collect()
    }

    pub fn get(&self, name: &str) -> Option<Volume> {
        self.known().get(name).cloned()
    }

    /// Makes a volume, or returns the one with this name; tells whether it is new.
    pub async fn ensure(&self, name: &str, labels: &Labels, anonymous: bool) -> Result<(Volume, bool)> {
        if let Some(volume) = self.get(name) {
            return Ok((volume, false));
        }
        check_name(name)?;
        let mountpoint = self.directory.join(name).join(CONTENT);
        make_directory(&mountpoint)?;
        let volume = Volume {
            name: name.to_owned(),
            mountpoint,
            created: clock::now(),
            labels: labels.clone(),
            anonymous,
        };
        self.store.put(Table::Volumes, name, &volume).await?;
        let mut known = self.known();
        // Two containers may have asked for it at once: the first one's stays.
        let new = !known.contains_key(name);
        let volume = known.entry(name.to_owned()).or_insert(volume).clone();
        Ok((volume, new))
    }

    /// Removes a volume that nobody uses.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let removed = self.known().remove(name);
        if removed.is_none() {
            return Err(Error::NoSuchVolume {
                name: name.to_owned(),
            });
        }
        let directory = self.directory.join(name);
        let cleared = tokio::task::spawn_blocking(move || remove_directory(&directory)).await;
        cleared.map_err(|_| Error::ShuttingDown)??;
        self.store.remove(Table::Volumes, name).await
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Volume>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A volume's name is a directory's.
fn check_name(name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let starts = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let valid = starts
        && name.len() >= 2
        && name.len() <= 255
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if valid {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "create {name}: {name:?} includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

/// Whether a new volume's directory is still empty, so that the image's content may be copied into it.
pub(crate) fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn volumes_are_made_once_and_survive_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(&directory.path().join("data"), &directory.path().join("run"));
        layout.prepare().unwrap();
        let store = Store::open(&layout.metadata()).unwrap();
        let volumes = Volumes::open(&layout, &store).unwrap();
        let labels = Labels::from([("a".to_owned(), "b".to_owned())]);
        let (volume, new) = volumes.ensure("data", &labels, false).await.unwrap();
        assert!(new && is_empty(&volume.mountpoint));
        assert!(!volumes.ensure("data", &Labels::new(), false).await.unwrap().1);
        assert!(volumes.ensure("../x", &labels, false).await.is_err());
        let again = Volumes::open(&layout, &store).unwrap();
        assert_eq!(again.list(), std::slice::from_ref(&volume));
        volumes.remove("data").await.unwrap();
        assert!(!volume.mountpoint.exists());
        assert!(matches!(
            volumes.remove("data").await,
            Err(Error::NoSuchVolume { .. })
        ));
        store.close();
    }
}
