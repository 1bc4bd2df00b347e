//! Where things lie in the store's directory, and what is swept when it is opened.
//!
//! | path | holds |
//! |---|---|
//! | `store.redb` | the records |
//! | `session` | which start of the machine used the store last |
//! | `records-lost` | there while the records are made anew |
//! | `blobs/sha256/<hex>` | content, named by its digest |
//! | `layers/<hex>` | unpacked layers, named by chain id |
//! | `splits/<hex>` | what a layer's archive has beside its files, named by chain id |
//! | `containers/<id>/{upper,work}` | what a container wrote |
//! | `tmp/`, `trash/` | unfinished and discarded things; emptied at open |
//! | `retired/` | layers that were replaced while containers may have used them; emptied after a start of the machine |
//! | `empty/` | the lowest layer of an image without layers |

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::block_groups::scatter_directories;
use crate::digest::Digest;
use crate::doubt::Doubt;
use crate::error::{Error, Result};
use crate::removal;
use crate::trash::Trash;

/// Where containers write.
const CONTAINERS: &str = "containers";
/// The lowest layer of an image without layers.
const EMPTY_LAYER: &str = "empty";
/// Most layers that are kept for containers that were mounted over them.
const RETIRED_MAX: usize = 10_000;
/// Longest container id accepted as a directory name.
const CONTAINER_ID_LENGTH_MAX: usize = 128;

/// The directories of a store.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    trash: Trash,
    blob_doubt: Doubt,
    layer_doubt: Doubt,
}

impl Layout {
    /// Makes the directories where they are missing.
    pub(crate) fn make(root: &Path) -> Result<()> {
        for name in [
            "",
            "blobs/sha256",
            "layers",
            "splits",
            CONTAINERS,
            "tmp",
            "trash",
            "retired",
            EMPTY_LAYER,
        ] {
            let directory = root.join(name);
            let mode = if name == EMPTY_LAYER { 0o755 } else { 0o700 };
            DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(&directory)
                .map_err(|error| Error::io("make directory", &directory, error))?;
        }
        // Layers are made in `tmp`.
        for name in [CONTAINERS, "tmp"] {
            scatter_directories(&root.join(name));
        }
        Ok(())
    }

    /// Takes over a store that this process has locked, discarding what an earlier one left unfinished.
    pub(crate) fn open(root: &Path) -> Result<Layout> {
        let layout = Layout {
            root: root.to_path_buf(),
            trash: Trash::start(root.join("trash"))?,
            blob_doubt: Doubt::default(),
            layer_doubt: Doubt::default(),
        };
        for name in names(&layout.temporary())? {
            let left = layout.temporary().join(OsStr::from_bytes(&name));
            // A mount that was to be taken away again at once; what is none is no mount point.
            let _ = rustix::mount::unmount(&left, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
            layout.discard(&left)?;
        }
        Ok(layout)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn database(root: &Path) -> PathBuf {
        root.join("store.redb")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn layer(&self, chain_id: &Digest) -> PathBuf {
        self.layers().join(chain_id.hex())
    }

    pub(crate) fn splits(&self) -> PathBuf {
        self.root.join("splits")
    }

    /// What the archive of a layer has beside its files.
    pub(crate) fn split(&self, chain_id: &Digest) -> PathBuf {
        self.splits().join(chain_id.hex())
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.root.join(CONTAINERS)
    }

    /// The directory of a container, whose id is checked to be one plain name.
    pub(crate) fn container(&self, container_id: &str) -> Result<PathBuf> {
        let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let fits = !container_id.is_empty()
            && container_id.len() <= CONTAINER_ID_LENGTH_MAX
            && !container_id.starts_with('.')
            && container_id.bytes().all(valid);
        if !fits {
            let container_id = container_id.chars().take(CONTAINER_ID_LENGTH_MAX).collect();
            return Err(Error::InvalidContainerId { container_id });
        }
        Ok(self.containers().join(container_id))
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// The blobs that may be damaged.
    pub(crate) fn blob_doubt(&self) -> &Doubt {
        &self.blob_doubt
    }

    /// The layers that may be damaged, by chain id.
    pub(crate) fn layer_doubt(&self) -> &Doubt {
        &self.layer_doubt
    }

    /// Takes a layer out of its place. Containers that were mounted over it keep its files until the machine starts anew.
    pub(crate) fn retire(&self, layer: &Path) -> Result<()> {
        for number in 0..RETIRED_MAX {
            let place = self.root.join("retired").join(number.to_string());
            match rustix::fs::renameat_with(CWD, layer, CWD, &place, RenameFlags::NOREPLACE) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(Error::io("replace", layer, error)),
            }
        }
        self.discard(layer)
    }

    /// Discards what was retired: nothing of it is mounted.
    pub(crate) fn discard_retired(&self) -> Result<()> {
        let retired = self.root.join("retired");
        names(&retired)?
            .iter()
            .try_for_each(|name| self.discard(&retired.join(OsStr::from_bytes(name))))
    }

    pub(crate) fn empty_layer(&self) -> PathBuf {
        self.root.join(EMPTY_LAYER)
    }

    /// Takes something out of sight at once; it is deleted in the background.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        self.trash.discard(path)
    }

    /// Waits until all that was discarded is deleted.
    pub(crate) fn wait_until_deleted(&self) {
        self.trash.wait_until_empty();
    }
}

/// Deletes a file or a tree.
pub(crate) fn remove(path: &Path) -> Result<()> {
    remove_tree(path).map_err(|error| Error::io("remove", path, error))
}

/// Deletes a file or a tree of any depth; nothing there is no error. Symbolic links are not followed, and what is
/// mounted in it is an error.
pub fn remove_tree(path: &Path) -> std::io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::open(parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        parent => parent?,
    };
    Ok(removal::remove_tree(parent.as_fd(), name.as_bytes())?)
}

/// The names in a directory.
pub(crate) fn names(directory: &Path) -> Result<Vec<Vec<u8>>> {
    let failed = |error| Error::io("list", directory, error);
    fs::read_dir(directory)
        .map_err(failed)?
        .map(|entry| Ok(entry.map_err(failed)?.file_name().as_bytes().to_vec()))
        .collect()
}

/// Makes renames in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|file| file.sync_all())
        .map_err(|error| Error::io("sync", directory, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_that_were_cut_short_do_not_hinder_the_next_open() {
        let place = tempfile::tempdir().unwrap();
        Layout::make(place.path()).unwrap();
        let mounted = place.path().join("tmp/mount-x");
        fs::create_dir(&mounted).unwrap();
        rustix::mount::mount(
            "none",
            &mounted,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            None,
        )
        .unwrap();
        let layout = Layout::open(place.path()).unwrap();
        assert!(names(&layout.temporary()).unwrap().is_empty());
        layout.wait_until_deleted();
        assert!(names(&place.path().join("trash")).unwrap().is_empty());
    }

    #[test]
    fn leftovers_are_discarded_at_open_and_container_ids_are_checked() {
        let place = tempfile::tempdir().unwrap();
        Layout::make(place.path()).unwrap();
        fs::create_dir_all(place.path().join("tmp/half/done")).unwrap();
        fs::write(place.path().join("tmp/blob"), "x").unwrap();
        fs::create_dir_all(place.path().join("trash/0/etc")).unwrap();
        let layout = Layout::open(place.path()).unwrap();
        layout.wait_until_deleted();
        assert!(names(&layout.temporary()).unwrap().is_empty());
        assert!(names(&place.path().join("trash")).unwrap().is_empty());
        for bad in ["", ".", "..", "a/b", "../x", ".hidden", &"a".repeat(129)] {
            assert!(layout.container(bad).is_err(), "{bad}");
        }
        assert!(layout.container("0123abc").is_ok());
    }
}
