//! Root filesystems of containers: a writable layer each, over the shared layers of its image.

use std::fs::{self, DirBuilder};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, XattrFlags};

use crate::check::LayerState;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::overlay::{OverlaySpec, ShownAs, mount_detached, mount_layers};
use crate::records::{Lookup, Persist, SnapshotRecord};
use crate::store::{ImageStore, find};
use crate::whiteout;

const UPPER: &str = "upper";
const WORK: &str = "work";

/// How a root filesystem is mounted.
#[derive(Clone, Copy, Default)]
pub struct MountOptions<'a> {
    /// The SELinux label of everything in it.
    pub label: Option<&'a str>,
    /// As whose its files are shown; what is written keeps the ids that it has in the container.
    pub shown: Option<ShownAs<'a>>,
}

/// How large a container's root filesystem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RootfsSize {
    /// Bytes of files that the container wrote.
    pub written_bytes: u64,
    /// Those and the image's.
    pub total_bytes: u64,
}

/// The directories that a filesystem is stacked of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// The layers below, topmost first.
    pub lower: Vec<PathBuf>,
    /// What is on top: what a container wrote, or an image's last layer.
    pub upper: PathBuf,
    /// Overlayfs's own, of a container.
    pub work: Option<PathBuf>,
}

impl ImageStore {
    /// Makes the writable layer of a container over an image, which keeps its layers until [`ImageStore::release`].
    pub fn prepare(&self, container_id: &str, image: &str) -> Result<()> {
        let layout = &self.inner.layout;
        let container = layout.container(container_id)?;
        let found = find(&self.inner.records.view()?, image)?;
        self.ensure_usable(&found.id, &found.chain_ids, LayerState::Whole)?;
        self.inner.records.change(Persist::Now, |changes| {
            if changes.snapshot(container_id)?.is_some() {
                return Err(Error::SnapshotExists {
                    container_id: container_id.to_string(),
                });
            }
            let image = find(changes, image)?;
            // What is there without a record is what an earlier prepare could not commit.
            layout.discard(&container)?;
            let top = image
                .chain_ids
                .last()
                .map_or_else(|| layout.empty_layer(), |id| layout.layer(id));
            make_writable_layer(&container, &top)?;
            let snapshot = SnapshotRecord {
                image_id: image.id,
                chain_ids: image.chain_ids,
            };
            changes.put_snapshot(container_id, &snapshot)
        })
    }

    /// Mounts a container's root filesystem, attached nowhere: the descriptor is for `move_mount`. Not to be mounted
    /// twice at a time.
    pub fn mount(&self, container_id: &str) -> Result<OwnedFd> {
        self.mount_with(container_id, MountOptions::default())
    }

    /// As [`mount`](Self::mount), with options. Where files are shown as those of others, whoever mounts has to be a user
    /// that stands for one of them, or overlayfs cannot make what it needs.
    pub fn mount_with(&self, container_id: &str, options: MountOptions<'_>) -> Result<OwnedFd> {
        let layout = &self.inner.layout;
        let container = layout.container(container_id)?;
        let snapshot = self.snapshot(container_id)?;
        self.ensure_usable(&snapshot.image_id, &snapshot.chain_ids, LayerState::Unknown)?;
        let mut lower: Vec<PathBuf> = snapshot
            .chain_ids
            .iter()
            .rev()
            .map(|id| layout.layer(id))
            .collect();
        if lower.is_empty() {
            lower.push(layout.empty_layer());
        }
        let (upper, work) = (container.join(UPPER), container.join(WORK));
        let spec = OverlaySpec {
            lower: &lower,
            upper: &upper,
            work: &work,
            label: options.label,
            shown: options.shown,
        };
        mount_detached(&spec, || scratch(layout)).map_err(|error| Error::Mount {
            container_id: container_id.to_string(),
            step: error.step,
            source: error.source,
        })
    }

    /// Mounts the files of an image, read-only and attached nowhere. The image may not be removed while it is mounted.
    pub fn mount_image(&self, image: &str, shown: Option<ShownAs<'_>>) -> Result<OwnedFd> {
        let layout = &self.inner.layout;
        let image = find(&self.inner.records.view()?, image)?;
        self.ensure_usable(&image.id, &image.chain_ids, LayerState::Whole)?;
        let mut lower: Vec<PathBuf> = image.chain_ids.iter().rev().map(|id| layout.layer(id)).collect();
        // Overlayfs wants two lower directories where there is no upper one.
        lower.push(layout.empty_layer());
        if lower.len() == 1 {
            lower.push(layout.empty_layer());
        }
        mount_layers(&lower, shown).map_err(|error| Error::Mount {
            container_id: image.id.to_string(),
            step: error.step,
            source: error.source,
        })
    }

    /// The directory that holds what the container wrote, in overlayfs's form.
    pub fn upper_dir(&self, container_id: &str) -> Result<PathBuf> {
        Ok(self.inner.layout.container(container_id)?.join(UPPER))
    }

    /// The directories that the container's root filesystem is stacked of.
    pub fn directories(&self, container_id: &str) -> Result<Directories> {
        let layout = &self.inner.layout;
        let container = layout.container(container_id)?;
        let chain_ids = self.snapshot(container_id)?.chain_ids;
        Ok(Directories {
            lower: chain_ids.iter().rev().map(|id| layout.layer(id)).collect(),
            upper: container.join(UPPER),
            work: Some(container.join(WORK)),
        })
    }

    /// The directories that an image is stacked of; nothing for one without layers.
    pub fn image_directories(&self, image: &str) -> Result<Option<Directories>> {
        let image = find(&self.inner.records.view()?, image)?;
        let layers = image.chain_ids.iter().rev();
        let mut layers = layers.map(|id| self.inner.layout.layer(id));
        Ok(layers.next().map(|upper| Directories {
            lower: layers.collect(),
            upper,
            work: None,
        }))
    }

    /// How much the container wrote, and with its image. Walks what it wrote.
    pub fn rootfs_size(&self, container_id: &str) -> Result<RootfsSize> {
        let snapshot = self.snapshot(container_id)?;
        let view = self.inner.records.view()?;
        let mut image_bytes = 0;
        for chain_id in &snapshot.chain_ids {
            image_bytes += view.layer(chain_id)?.map_or(0, |layer| layer.content_bytes);
        }
        let written_bytes = file_bytes(&self.upper_dir(container_id)?);
        Ok(RootfsSize {
            written_bytes,
            total_bytes: written_bytes + image_bytes,
        })
    }

    /// Removes a container's writable layer; its files are deleted in the background. Its mounts must be gone.
    /// Releasing what is not there is no error.
    pub fn release(&self, container_id: &str) -> Result<()> {
        let layout = &self.inner.layout;
        let container = layout.container(container_id)?;
        self.inner.records.change(Persist::Later, |changes| {
            changes.remove_snapshot(container_id)?;
            layout.discard(&container)
        })
    }

    /// The containers that have a root filesystem, for removing those that no container needs.
    pub fn prepared(&self) -> Result<Vec<String>> {
        Ok(self
            .inner
            .records
            .view()?
            .snapshots()?
            .into_iter()
            .map(|(container_id, _)| container_id)
            .collect())
    }

    pub(crate) fn snapshot(&self, container_id: &str) -> Result<SnapshotRecord> {
        let found = self.inner.records.view()?.snapshot(container_id)?;
        found.ok_or_else(|| Error::NoSnapshot {
            container_id: container_id.to_string(),
        })
    }
}

/// Makes `upper` and `work`; the root of the overlay shows the owner and mode of `upper`, so it takes the image's.
fn make_writable_layer(container: &Path, top: &Path) -> Result<()> {
    let failed = |error| Error::io("make the writable layer", container, error);
    let mut private = DirBuilder::new();
    private.mode(0o700);
    private
        .create(container)
        .and_then(|()| private.create(container.join(WORK)))
        .map_err(failed)?;
    let upper = container.join(UPPER);
    private.create(&upper).map_err(failed)?;
    let root = fs::metadata(top).map_err(|error| Error::io("look at layer", top, error))?;
    std::os::unix::fs::chown(&upper, Some(root.uid()), Some(root.gid())).map_err(failed)?;
    fs::set_permissions(&upper, fs::Permissions::from_mode(root.mode() & 0o7777)).map_err(failed)
}

fn scratch(layout: &Layout) -> std::io::Result<PathBuf> {
    tempfile::Builder::new()
        .prefix("mount-")
        .tempdir_in(layout.temporary())
        .map(|place| place.keep())
}

/// Bytes of the regular files below `root`. What vanishes meanwhile, or lies deeper than a path can say, is not counted.
pub fn file_bytes(root: &Path) -> u64 {
    let mut bytes = 0;
    let mut waiting = vec![root.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => waiting.push(entry.path()),
                Ok(metadata) if metadata.is_file() => bytes += metadata.len(),
                _ => {}
            }
        }
    }
    bytes
}

/// Tries all that layers and containers need of the file system: file types in listings, whiteouts, trusted
/// attributes, and an overlay mount.
pub(crate) fn probe_filesystem(layout: &Layout) -> Result<()> {
    let place = layout.temporary().join("probe");
    let outcome = probe(layout, &place);
    layout.discard(&place)?;
    outcome.map_err(|problem| Error::UnfitFilesystem {
        path: layout.root().to_path_buf(),
        filesystem: filesystem_name(layout.root()),
        problem,
    })
}

impl ImageStore {
    /// Tries whether root filesystems can be mounted with other owners here; who mounts as in
    /// [`mount_with`](Self::mount_with). The error says what is missing.
    pub fn probe_shown(&self, shown: ShownAs<'_>) -> Result<()> {
        let layout = &self.inner.layout;
        let place = layout.temporary().join("probe-owners");
        let outcome = probe_owners(layout, &place, shown);
        layout.discard(&place)?;
        outcome.map_err(|problem| Error::UnfitFilesystem {
            path: layout.root().to_path_buf(),
            filesystem: filesystem_name(layout.root()),
            problem,
        })
    }
}

fn probe_owners(layout: &Layout, place: &Path, shown: ShownAs<'_>) -> std::result::Result<(), String> {
    let [lower, upper, work] = ["lower", UPPER, WORK].map(|name| place.join(name));
    for directory in [&lower, &upper, &work] {
        fs::create_dir_all(directory).map_err(|error| format!("cannot make a directory: {error}"))?;
        // Made by whomever: in a container they are root's.
        std::os::unix::fs::chown(directory, Some(0), Some(0)).map_err(|error| error.to_string())?;
    }
    let spec = OverlaySpec {
        lower: std::slice::from_ref(&lower),
        upper: &upper,
        work: &work,
        label: None,
        shown: Some(shown),
    };
    let failed = |step: &str, error: &dyn std::fmt::Display| {
        format!("an overlay mount with other owners failed at \"{step}\": {error}")
    };
    let mount =
        mount_detached(&spec, || scratch(layout)).map_err(|error| failed(error.step, &error.source))?;
    // Where the kernel cannot make overlayfs's own directories, the mount is read-only.
    rustix::fs::mkdirat(&mount, "made", Mode::RWXU).map_err(|error| failed("write to it", &error))?;
    let made =
        fs::symlink_metadata(upper.join("made")).map_err(|error| failed("find what was written", &error))?;
    match (made.uid(), made.gid()) {
        (0, 0) => Ok(()),
        (uid, gid) => Err(failed(
            "look at what was written",
            &format!("it belongs to {uid}:{gid}"),
        )),
    }
}

fn probe(layout: &Layout, place: &Path) -> std::result::Result<(), String> {
    let names = ["lower", UPPER, WORK].map(|name| place.join(name));
    for directory in &names {
        fs::create_dir_all(directory).map_err(|error| format!("cannot make a directory: {error}"))?;
    }
    let [lower, upper, work] = &names;
    let open = |path: &Path| rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
    let directory = open(lower).map_err(|error| format!("cannot open a directory: {error}"))?;
    whiteout::create(&directory, b"whiteout")
        .map_err(|error| format!("cannot make a whiteout device: {error}"))?;
    whiteout::set_opaque(&directory)
        .map_err(|error| format!("cannot set trusted.overlay attributes: {error}"))?;
    rustix::fs::fremovexattr(&directory, "trusted.overlay.opaque").map_err(|error| error.to_string())?;
    rustix::fs::fsetxattr(&directory, "security.muster_probe", b"x", XattrFlags::empty())
        .map_err(|error| format!("cannot set security attributes: {error}"))?;
    let untyped = |entry: rustix::io::Result<rustix::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_type() == FileType::Unknown)
    };
    if Dir::read_from(&directory)
        .map_err(|error| error.to_string())?
        .any(untyped)
    {
        return Err("listings do not tell file types (d_type)".to_string());
    }
    let spec = OverlaySpec {
        lower: std::slice::from_ref(lower),
        upper,
        work,
        label: None,
        shown: None,
    };
    match mount_detached(&spec, || scratch(layout)) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "an overlay mount on it failed at \"{}\": {}",
            error.step, error.source
        )),
    }
}

fn filesystem_name(path: &Path) -> String {
    let Ok(stat) = rustix::fs::statfs(path) else {
        return "unknown".to_string();
    };
    let name = match stat.f_type {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x794c_7630 => "overlayfs",
        0x0102_1994 => "tmpfs",
        0x6969 => "nfs",
        0x2fc1_2fc1 => "zfs",
        0x6573_5546 => "fuse",
        other => return format!("type {other:#x}"),
    };
    name.to_string()
}
