//! Local volumes: directories of this node that outlive containers.

use crate::clock;
use crate::error::{Error, Result};
use crate::layout::{Layout, make_directory, names, remove_directory};
use crate::local_options;
use crate::store::{Store, Table};
use crate::user_namespace::give_to_root_of;
use crate::volume_mounts;
use muster_types::id_map::IdMaps;
use muster_types::service::Labels;
use muster_types::{ContainerId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The label that tells clients that nobody named a volume; Docker's.
pub(crate) const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";
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
    /// Options of its driver.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Whose users own its files on the host: those of the containers of the engine that made it. `None` where a
    /// container's ids are the host's.
    #[serde(default)]
    pub ids: Option<IdMaps>,
}

/// A volume that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeSpec {
    /// The name that somebody gave it; the volume is anonymous when empty.
    pub name: String,
    /// Labels, where it is made.
    pub labels: Labels,
    /// Options of its driver, where it is made.
    pub options: BTreeMap<String, String>,
}

/// What stands before and after a removed volume's name while its content is deleted. A volume's name has no `@`.
const DISCARDED_BEFORE: &str = "volume-";
const DISCARDED_AFTER: char = '@';

/// The volumes of this node.
pub(crate) struct Volumes {
    directory: PathBuf,
    discarded: PathBuf,
    store: Store,
    /// Whose users own the files of new volumes.
    ids: Option<IdMaps>,
    known: Mutex<BTreeMap<String, Volume>>,
    /// Volumes are made and removed one at a time, so that nobody gets one that is being removed.
    changing: tokio::sync::Mutex<()>,
}

impl Volumes {
    /// Reads what there is. Blocks.
    pub fn open(layout: &Layout, store: &Store, ids: Option<IdMaps>) -> Result<Self> {
        let rows = store.all::<Volume>(Table::Volumes)?;
        Ok(Self {
            directory: layout.volumes(),
            discarded: layout.discarded(),
            changing: tokio::sync::Mutex::default(),
            store: store.clone(),
            ids,
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
    pub async fn ensure(&self, name: &str, spec: &VolumeSpec) -> Result<(Volume, bool)> {
        if let Some(volume) = self.get(name) {
            return Ok((volume, false));
        }
        check_name(name)?;
        local_options::check(&spec.options)?;
        let _changing = self.changing.lock().await;
        // Two containers may have asked for it at once: the first one's stays.
        if let Some(volume) = self.get(name) {
            return Ok((volume, false));
        }
        let content = self.directory.join(name).join(CONTENT);
        make_directory(&content)?;
        give_to_root_of(self.ids.as_ref(), &content)?;
        let volume = self.adopt(name, spec, self.ids.clone()).await?;
        Ok((volume, true))
    }

    /// Records a volume whose directory is there.
    async fn adopt(&self, name: &str, spec: &VolumeSpec, ids: Option<IdMaps>) -> Result<Volume> {
        let anonymous = spec.name.is_empty();
        let mut labels = spec.labels.clone();
        if anonymous {
            labels.insert(ANONYMOUS_LABEL.to_owned(), String::new());
        }
        let volume = Volume {
            name: name.to_owned(),
            mountpoint: self.directory.join(name).join(CONTENT),
            created: clock::now(),
            labels,
            anonymous,
            options: spec.options.clone(),
            ids,
        };
        self.store.put(Table::Volumes, name, &volume).await?;
        self.known().insert(name.to_owned(), volume.clone());
        Ok(volume)
    }

    /// Removes a volume that nobody uses.
    ///
    /// Its directory goes out of sight first, under a name that tells the next engine to finish a removal that is cut
    /// short before the row is gone.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let changing = self.changing.lock().await;
        let Some(volume) = self.known().remove(name) else {
            return Err(Error::NoSuchVolume {
                name: name.to_owned(),
            });
        };
        let discarded = self.discarded_path(name);
        let (content, owned) = (self.directory.join(name).join(CONTENT), name.to_owned());
        // What is mounted there is not the volume's to delete.
        let detached = tokio::task::spawn_blocking(move || volume_mounts::detach(&content, &owned)).await;
        let detached = detached.map_err(|_| Error::ShuttingDown).and_then(|done| done);
        let removed = match detached.and_then(|()| rename(&self.directory.join(name), &discarded)) {
            Ok(()) => self.store.remove(Table::Volumes, name).await,
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            self.known().insert(name.to_owned(), volume);
            return Err(error);
        }
        drop(changing);
        let cleared = tokio::task::spawn_blocking(move || remove_directory(&discarded)).await;
        cleared.map_err(|_| Error::ShuttingDown)?
    }

    /// Settles what an earlier engine left of making and removing volumes.
    ///
    /// A directory without a row is removed where there is nothing in it, and is a volume again otherwise: what somebody
    /// has written is never deleted because metadata were lost.
    pub async fn settle(&self) -> Result<()> {
        for name in names(&self.discarded) {
            let name = name.strip_prefix(DISCARDED_BEFORE);
            let name = name.and_then(|name| name.rsplit_once(DISCARDED_AFTER));
            if let Some((name, _)) = name
                && !self.directory.join(name).exists()
                && self.known().remove(name).is_some()
            {
                self.store.remove(Table::Volumes, name).await?;
            }
        }
        for name in names(&self.directory) {
            let directory = self.directory.join(&name);
            let content = directory.join(CONTENT);
            if self.get(&name).is_some() {
                continue;
            }
            let emptied = is_gone(fs::remove_dir(&content)) && is_gone(fs::remove_dir(&directory));
            if !emptied && content.is_dir() && check_name(&name).is_ok() {
                tracing::warn!(
                    volume = name,
                    "a volume that is not in the metadata is taken over"
                );
                let named = ContainerId::parse(&name).is_none();
                let spec = VolumeSpec {
                    name: if named { name.clone() } else { String::new() },
                    ..VolumeSpec::default()
                };
                let ids = self.ids.clone().filter(|ids| belongs_to_root_of(&content, ids));
                self.adopt(&name, &spec, ids).await?;
            }
        }
        Ok(())
    }

    fn discarded_path(&self, name: &str) -> PathBuf {
        // A volume of the same name may be removed while this one's content is still being deleted.
        let number: u64 = rand::random();
        let name = format!("{DISCARDED_BEFORE}{name}{DISCARDED_AFTER}{number:x}");
        self.discarded.join(name)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Volume>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a directory belongs to the root of containers with these users.
fn belongs_to_root_of(directory: &Path, ids: &IdMaps) -> bool {
    fs::metadata(directory).is_ok_and(|found| (found.uid(), found.gid()) == ids.root())
}

/// Renames; nothing there is no error.
fn rename(from: &Path, to: &Path) -> Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound || from.exists() => {
            Err(Error::io(format!("discard {}", from.display()), error))
        }
        _ => Ok(()),
    }
}

fn is_gone(removed: io::Result<()>) -> bool {
    removed.map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true)
}

/// A volume's name is a directory's.
fn check_name(name: &str) -> Result<()> {
    if name.len() == 1 {
        return Err(Error::invalid(format!(
            "create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )));
    }
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
        let volumes = Volumes::open(&layout, &store, None).unwrap();
        let labels = Labels::from([("a".to_owned(), "b".to_owned())]);
        let named = |name: &str| VolumeSpec {
            name: name.to_owned(),
            labels: labels.clone(),
            options: [("type", "tmpfs"), ("device", "tmpfs")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        };
        let (volume, new) = volumes.ensure("data", &named("data")).await.unwrap();
        assert!(new && is_empty(&volume.mountpoint));
        assert!(!volumes.ensure("data", &named("data")).await.unwrap().1);
        for bad in ["../x", "x"] {
            assert!(volumes.ensure(bad, &named(bad)).await.is_err());
        }
        let (nameless, _) = volumes.ensure("nameless", &VolumeSpec::default()).await.unwrap();
        assert!(nameless.anonymous && nameless.labels.contains_key(ANONYMOUS_LABEL));
        volumes.remove(&nameless.name).await.unwrap();
        let again = Volumes::open(&layout, &store, None).unwrap();
        assert_eq!(again.list(), std::slice::from_ref(&volume));
        volumes.remove("data").await.unwrap();
        assert!(!volume.mountpoint.exists());
        assert!(matches!(
            volumes.remove("data").await,
            Err(Error::NoSuchVolume { .. })
        ));
        store.close();
    }

    /// The volumes of a store as the next engine finds them.
    async fn reopened(layout: &Layout, store: &Store) -> Vec<String> {
        let volumes = Volumes::open(layout, store, None).unwrap();
        volumes.settle().await.unwrap();
        volumes.list().into_iter().map(|volume| volume.name).collect()
    }

    #[tokio::test]
    async fn what_was_cut_short_is_settled_and_content_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(&directory.path().join("data"), &directory.path().join("run"));
        layout.prepare().unwrap();
        let store = Store::open(&layout.metadata()).unwrap();
        let volumes = Volumes::open(&layout, &store, None).unwrap();
        for name in ["kept", "removed", "lost"] {
            let spec = VolumeSpec {
                name: name.to_owned(),
                ..VolumeSpec::default()
            };
            volumes.ensure(name, &spec).await.unwrap();
        }
        // Making one was cut short before its row, removing another after its directory.
        make_directory(&layout.volumes().join("empty/_data")).unwrap();
        make_directory(&layout.volumes().join("emptier")).unwrap();
        rename(
            &layout.volumes().join("removed"),
            &volumes.discarded_path("removed"),
        )
        .unwrap();
        // The row of one with content was lost.
        store.remove(Table::Volumes, "lost").await.unwrap();
        fs::write(layout.volumes().join("lost/_data/file"), "content").unwrap();
        assert_eq!(reopened(&layout, &store).await, ["kept", "lost"]);
        assert_eq!(names(&layout.volumes()).len(), 2);
        layout.empty_discarded();
        assert_eq!(reopened(&layout, &store).await, ["kept", "lost"]);
        let content = fs::read(layout.volumes().join("lost/_data/file")).unwrap();
        assert_eq!(content, b"content");
        store.close();
    }
}
