//! A container's file system as its processes see it, by one descriptor: the running container's own, or the root file
//! system of one that does not run with its mounts put on it, in a mount namespace that ends with the view.
//!
//! Paths are resolved below that descriptor by the kernel (`RESOLVE_IN_ROOT`): whatever the container does to its links
//! and directories meanwhile, no path leads out of it.

use crate::error::{Error, Result};
use crate::user_namespace::namespace_for;
use muster_runtime::map_mount;
use muster_types::container::{MountKind, MountPoint};
use muster_types::id_map::{IdMaps, IdTranslation};
use nix::sched::CloneFlags;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How often a path is resolved again that a rename at the same time disturbed.
const RESOLVE_ATTEMPTS_MAX: u32 = 64;
/// Most bytes of /proc/PID/cgroup: a line per hierarchy.
const CGROUP_BYTES_MAX: u64 = 64 << 10;

/// Whose the files of a container that does not run are.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    /// Its users; the host's where `None`.
    pub ids: Option<IdMaps>,
    /// Mounts whose files have other owners than it would see, by target.
    pub translations: BTreeMap<String, IdTranslation>,
}

/// A container's file system.
#[derive(Debug)]
pub(crate) struct RootView {
    root: OwnedFd,
    ids: Option<IdMaps>,
    /// Keeps the mounts of a view that was made for a container that does not run.
    _namespace: Option<OwnedFd>,
}

impl RootView {
    /// The root of a running container. `None` when the process is not the container's any more: its id may belong to
    /// another process by now, and that one's root is the host's.
    pub fn of_process(pid: i32, container_id: &str, ids: Option<IdMaps>) -> Result<Option<Self>> {
        let failed = |error: Errno| Error::io(format!("open the root of process {pid}"), error.into());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let process = match rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        let root = match rustix::fs::openat(&process, "root", flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        // The descriptor of the process stays bound to it; once it has ended, this cannot be read.
        let of_container = rustix::fs::openat(
            &process,
            "cgroup",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(io::Error::from)
        .and_then(|file| {
            let mut text = String::new();
            File::from(file)
                .take(CGROUP_BYTES_MAX)
                .read_to_string(&mut text)?;
            Ok(text.lines().any(|line| line.contains(container_id)))
        })
        .unwrap_or(false);
        Ok(of_container.then_some(Self {
            root,
            ids,
            _namespace: None,
        }))
    }

    /// The root of a container that does not run, with its binds and volumes on it. `place` is any directory of the
    /// host; it is covered in the view's own namespace only. Blocks.
    pub fn of_stopped(rootfs: OwnedFd, mounts: &[MountPoint], owners: Owners, place: &Path) -> Result<Self> {
        let (mounts, place) = (mounts.to_vec(), place.to_path_buf());
        // The namespace belongs to a thread, which ends here; the descriptors keep what it made.
        let maker = std::thread::Builder::new()
            .name("rootfs-view".to_owned())
            .spawn(move || make(&rootfs, &mounts, owners, &place));
        let made = maker.map_err(|error| Error::io("start a thread", error))?.join();
        match made {
            Ok(view) => view,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Whose users the container's are, as the owners of its files say; the host's where `None`.
    pub fn ids(&self) -> Option<&IdMaps> {
        self.ids.as_ref()
    }

    /// The root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens a path of the container; links lead where they lead in the container.
    pub fn open(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        open_in(self.root.as_fd(), path, flags)
    }
}

/// The root file system alone of a running container, without what is mounted on it.
pub(crate) fn bare_root_of(view: &RootView, pid: i32) -> Result<OwnedFd> {
    let failed = |error: io::Error| Error::io(format!("clone the root mount of process {pid}"), error);
    let path = PathBuf::from(format!("/proc/{pid}/ns/mnt"));
    let namespace = File::open(path).map_err(failed)?;
    let cloner = std::thread::Builder::new().spawn(move || -> io::Result<OwnedFd> {
        nix::sched::unshare(CloneFlags::CLONE_FS)?;
        nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNS)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        Ok(rustix::mount::open_tree(CWD, "/", flags)?)
    });
    let cloned = match cloner.map_err(failed)?.join() {
        Ok(cloned) => cloned.map_err(failed)?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    // The process id may have been given out again: the clone must be of the view's file system.
    let device = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    let same = device(cloned.as_fd()).and_then(|clone| Ok(device(view.root())? == clone));
    match same {
        Ok(true) => Ok(cloned),
        Ok(false) => Err(Error::wrong_state("the container ended")),
        Err(error) => Err(failed(error.into())),
    }
}

fn open_in(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = match path.iter().position(|byte| *byte != b'/') {
        Some(start) => &path[start..],
        None => b".",
    };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut attempts = 0;
    loop {
        attempts += 1;
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if attempts < RESOLVE_ATTEMPTS_MAX => {}
            opened => return opened,
        }
    }
}

/// Makes the view in a namespace of this thread.
fn make(rootfs: &OwnedFd, mounts: &[MountPoint], owners: Owners, place: &Path) -> Result<RootView> {
    let failed = |step: &'static str| move |error: Errno| Error::io(step, error.into());
    nix::sched::unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
        .map_err(|error| Error::io("make a mount namespace", error.into()))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)
        .map_err(failed("detach the mount namespace from the host's"))?;
    let mut binds = Vec::new();
    for point in mounts
        .iter()
        .filter(|point| matches!(point.kind, MountKind::Bind | MountKind::Volume))
    {
        let source = open_source(point)?;
        if let Some(shown) = owners.translations.get(&point.target) {
            map_mount(source.as_fd(), namespace_for(shown)?.as_fd())
                .map_err(|error| Error::io(format!("show the owners of {}", point.source), error))?;
        }
        binds.push((point, source));
    }
    // One mounted below another comes after it.
    binds.sort_by_key(|(point, _)| point.target.matches('/').count());
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(rootfs, "", CWD, place, empty).map_err(failed("mount the root file system"))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(place, flags, Mode::empty()).map_err(failed("open the root file system"))?;
    for (point, source) in binds {
        bind(&root, point, &source)
            .map_err(|error| Error::io(format!("mount {} for a copy", point.target), error.into()))?;
    }
    let namespace = File::open("/proc/thread-self/ns/mnt");
    Ok(RootView {
        root,
        ids: owners.ids,
        _namespace: Some(
            namespace
                .map_err(|error| Error::io("open the mount namespace", error))?
                .into(),
        ),
    })
}

fn open_source(point: &MountPoint) -> Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_part(point)
        .and_then(|place| rustix::mount::open_tree(place, "", flags | OpenTreeFlags::AT_EMPTY_PATH))
        .map_err(|error| Error::io(format!("open the mount source {}", point.source), error.into()))
}

/// The part of the source that is mounted; no link leads out of the source.
fn open_part(point: &MountPoint) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let source = rustix::fs::open(point.source.as_str(), flags, Mode::empty())?;
    match point.subpath.as_str() {
        "" => Ok(source),
        subpath => {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            rustix::fs::openat2(source, subpath, flags, Mode::empty(), resolve)
        }
    }
}

fn bind(root: &OwnedFd, point: &MountPoint, source: &OwnedFd) -> rustix::io::Result<()> {
    let is_directory = FileType::from_raw_mode(rustix::fs::fstat(source)?.st_mode).is_dir();
    let target = match open_in(root.as_fd(), point.target.as_bytes(), OFlags::PATH) {
        Err(Errno::NOENT) => make_target(root, &point.target, is_directory)?,
        opened => opened?,
    };
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(source, "", &target, "", flags)?;
    if !point.writable {
        let place = format!("/proc/thread-self/fd/{}", source.as_raw_fd());
        rustix::mount::mount_remount(&place, MountFlags::BIND | MountFlags::RDONLY, c"")?;
    }
    Ok(())
}

/// Makes the place that the container's start would make.
fn make_target(root: &OwnedFd, target: &str, is_directory: bool) -> rustix::io::Result<OwnedFd> {
    let path = target.trim_matches('/');
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    for end in ends {
        let (parent, name) = path[..end].rsplit_once('/').unwrap_or(("", &path[..end]));
        let parent = open_in(root.as_fd(), parent.as_bytes(), OFlags::PATH | OFlags::DIRECTORY)?;
        let made = if end < path.len() || is_directory {
            rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))
        } else {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    open_in(root.as_fd(), path.as_bytes(), OFlags::PATH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn another_process_is_not_taken_for_the_container() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(
            RootView::of_process(own, &"ab".repeat(32), None)
                .unwrap()
                .is_none()
        );
        assert!(RootView::of_process(i32::MAX, "x", None).unwrap().is_none());
    }

    #[test]
    fn a_stopped_container_is_seen_with_its_mounts_and_nothing_stays_mounted() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        for path in ["root/etc", "root/data", "volume", "place"] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        std::fs::write(at("root/etc/name"), "inside").unwrap();
        std::fs::write(at("volume/file"), "in the volume").unwrap();
        symlink("/etc", at("root/link")).unwrap();
        symlink("../../../../etc", at("root/up")).unwrap();
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let rootfs = rustix::mount::open_tree(CWD, at("root"), flags).unwrap();
        let point = |target: &str, writable| MountPoint {
            kind: MountKind::Volume,
            name: "v".into(),
            source: at("volume").to_string_lossy().into_owned(),
            target: target.into(),
            writable,
            propagation: String::new(),
            subpath: String::new(),
        };
        let mounts = [point("/data", true), point("/made/here", false)];
        let view = RootView::of_stopped(rootfs, &mounts, Owners::default(), &at("place")).unwrap();
        let read = |path: &str| {
            let mut text = String::new();
            let file = view.open(path.as_bytes(), OFlags::RDONLY)?;
            File::from(file).read_to_string(&mut text).unwrap();
            Ok::<_, Errno>(text)
        };
        assert_eq!(read("/data/file").unwrap(), "in the volume");
        assert_eq!(read("/made/here/file").unwrap(), "in the volume");
        for path in ["/etc/name", "link/name", "up/name", "../../etc/name"] {
            assert_eq!(read(path).unwrap(), "inside", "{path}");
        }
        let create = OFlags::WRONLY | OFlags::CREATE;
        let here = view.open(b"/made/here", OFlags::RDONLY).unwrap();
        let refused = rustix::fs::openat(&here, "new", create, Mode::RWXU);
        assert_eq!(refused.unwrap_err(), Errno::ROFS);
        assert!(
            std::fs::read_dir(at("place")).unwrap().next().is_none(),
            "the host sees no mount"
        );
        drop((here, view));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&directory.path().to_string_lossy().into_owned()));
    }
}
