//! Carries out the steps of a plan: mounts, device nodes, masks.
//!
//! Every path of the container is resolved with its root as `/` (openat2), and every mount is attached to the descriptor that
//! came out of that: nobody can exchange the target in between.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::binds::Binds;
use super::copy_up::copy_up;
use crate::plan::{Step, Target};
use crate::sys::{self, MountAttributes};

const ATTACH: MoveMountFlags =
    MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH.union(MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH);

/// The device number of /dev/null.
const NULL_DEVICE: (u32, u32) = (1, 3);

const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Carries out steps, one after the other.
pub(super) struct Steps<'a> {
    root: BorrowedFd<'a>,
    binds: Binds<'a>,
    /// The host's /dev/null, once it was needed.
    null: Option<OwnedFd>,
    /// An empty read-only directory that is attached somewhere, once it was needed.
    empty: Option<OwnedFd>,
    /// The directory that the last step made a node or link in.
    nodes: Option<(&'a CStr, OwnedFd)>,
}

impl<'a> Steps<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, binds: Binds<'a>) -> Self {
        Steps {
            root,
            binds,
            null: None,
            empty: None,
            nodes: None,
        }
    }

    pub(super) fn run(&mut self, step: &'a Step) -> Result<(), Errno> {
        if !matches!(step, Step::Device { .. } | Step::Link { .. }) {
            // What was opened before a mount may lie below it now.
            self.nodes = None;
        }
        match step {
            Step::Mount {
                target,
                kind,
                source,
                options,
                attributes,
                propagation,
                label,
                copy_up,
            } => {
                if *copy_up {
                    let target = self.target(target)?;
                    return copied_filesystem(kind, source, options, *attributes, target.as_fd());
                }
                let mount = new_filesystem(kind, source, options, *attributes)?;
                if let Some(label) = label {
                    label_root(mount.as_fd(), label)?;
                }
                if *propagation != 0 {
                    let change = MountAttributes {
                        propagation: *propagation,
                        ..MountAttributes::default()
                    };
                    sys::mount_setattr(mount.as_fd(), false, change)?;
                }
                attach(mount.as_fd(), self.target(target)?.as_fd())
            }
            Step::Bind { target, source } => {
                let place = self.target(target)?;
                self.binds.attach(*source, target.is_file, place.as_fd())
            }
            Step::Device {
                target,
                mode,
                device,
                uid,
                gid,
            } => self.device(target, *mode, *device, *uid, *gid),
            Step::Link { target, to } => self.link(target, to),
            Step::Mask { path, magic } => self.mask(path, *magic),
            Step::ReadOnly { path, magic } => self.read_only(path, *magic),
            Step::Seal { path } => {
                let mount = open_in_root(self.root, path, ResolveFlags::empty())?;
                let readonly = MountAttributes {
                    set: libc::MOUNT_ATTR_RDONLY,
                    ..MountAttributes::default()
                };
                sys::mount_setattr(mount.as_fd(), false, readonly)
            }
            Step::Directory { target } => self.target(target).map(drop),
        }
    }

    /// Opens a target, after making what is missing.
    fn target(&self, target: &Target) -> Result<OwnedFd, Errno> {
        let strict = if target.strict {
            ResolveFlags::NO_SYMLINKS
        } else {
            ResolveFlags::empty()
        };
        match open_in_root(self.root, &target.path, strict) {
            Err(Errno::NOENT) => {}
            result => return result,
        }
        let parent = self.parent(target)?;
        if target.is_file {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
            rustix::fs::openat(
                &parent,
                target.last.1.as_c_str(),
                flags,
                Mode::from_raw_mode(0o644),
            )?;
        } else {
            rustix::fs::mkdirat(&parent, target.last.1.as_c_str(), Mode::from_raw_mode(0o755))?;
        }
        open_in_root(self.root, &target.path, strict)
    }

    /// Makes the missing directories above a target and opens the last one.
    fn parent(&self, target: &Target) -> Result<OwnedFd, Errno> {
        match open_in_root(self.root, &target.last.0, ResolveFlags::empty()) {
            Err(Errno::NOENT) => {}
            result => return result,
        }
        for (parent, name) in &target.parents {
            let parent = open_in_root(self.root, parent, ResolveFlags::empty())?;
            match rustix::fs::mkdirat(&parent, name.as_c_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        open_in_root(self.root, &target.last.0, ResolveFlags::empty())
    }

    /// The directory of a node or link. Many in a row have the same one.
    fn directory(&mut self, target: &'a Target) -> Result<BorrowedFd<'_>, Errno> {
        let path = target.last.0.as_c_str();
        let opened = match self.nodes.take() {
            Some((known, directory)) if known == path => directory,
            Some(_) | None => self.parent(target)?,
        };
        Ok(self.nodes.insert((path, opened)).1.as_fd())
    }

    fn device(
        &mut self,
        target: &'a Target,
        mode: u32,
        device: u64,
        uid: u32,
        gid: u32,
    ) -> Result<(), Errno> {
        let parent = self.directory(target)?;
        let name = target.last.1.as_c_str();
        let made = rustix::fs::mknodat(
            parent,
            name,
            FileType::from_raw_mode(mode),
            Mode::from_raw_mode(mode),
            device,
        );
        match made {
            Ok(()) if uid == 0 && gid == 0 => Ok(()),
            Ok(()) => {
                let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
                rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            }
            Err(Errno::EXIST) => self.existing_device(target, mode, device),
            Err(error) => Err(error),
        }
    }

    /// A node that is there already has to be the right one.
    fn existing_device(&self, target: &Target, mode: u32, device: u64) -> Result<(), Errno> {
        let node = open_in_root(self.root, &target.path, ResolveFlags::NO_SYMLINKS)?;
        let status = rustix::fs::fstat(&node)?;
        let same = FileType::from_raw_mode(status.st_mode) == FileType::from_raw_mode(mode)
            && status.st_rdev == device;
        if same { Ok(()) } else { Err(Errno::EXIST) }
    }

    fn link(&mut self, target: &'a Target, to: &CStr) -> Result<(), Errno> {
        let parent = self.directory(target)?;
        match rustix::fs::symlinkat(to, parent, target.last.1.as_c_str()) {
            Err(Errno::EXIST) => Ok(()),
            result => result,
        }
    }

    /// Hides a path below an empty directory or the host's null device: both come from outside of the container, which
    /// could have replaced its own (CVE-2025-31133).
    fn mask(&mut self, path: &CStr, magic: Option<i64>) -> Result<(), Errno> {
        let Some(target) = self.protected(path, magic)? else {
            return Ok(());
        };
        let status = rustix::fs::fstat(&target)?;
        if FileType::from_raw_mode(status.st_mode).is_dir() {
            return self.mask_directory(target.as_fd());
        }
        let null = match &self.null {
            Some(null) => null,
            None => self.null.insert(open_host_null()?),
        };
        let clone = clone_tree(null.as_fd(), false)?;
        attach(clone.as_fd(), target.as_fd())
    }

    fn mask_directory(&mut self, target: BorrowedFd<'_>) -> Result<(), Errno> {
        if let Some(empty) = &self.empty {
            let clone = clone_tree(empty.as_fd(), false)?;
            return attach(clone.as_fd(), target);
        }
        let options = [];
        let empty = new_filesystem(c"tmpfs", c"tmpfs", &options, libc::MOUNT_ATTR_RDONLY)?;
        attach(empty.as_fd(), target)?;
        self.empty = Some(empty);
        Ok(())
    }

    fn read_only(&self, path: &CStr, magic: Option<i64>) -> Result<(), Errno> {
        let Some(target) = self.protected(path, magic)? else {
            return Ok(());
        };
        let clone = clone_tree(target.as_fd(), true)?;
        let readonly = MountAttributes {
            set: libc::MOUNT_ATTR_RDONLY,
            ..MountAttributes::default()
        };
        sys::mount_setattr(clone.as_fd(), true, readonly)?;
        attach(clone.as_fd(), target.as_fd())
    }

    /// Opens a path to protect; `None` when there is nothing. One that is on another file system than the plan expects has been
    /// tampered with.
    fn protected(&self, path: &CStr, magic: Option<i64>) -> Result<Option<OwnedFd>, Errno> {
        let strict = if magic.is_some() {
            ResolveFlags::NO_SYMLINKS
        } else {
            ResolveFlags::empty()
        };
        let target = match open_in_root(self.root, path, strict) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            result => result?,
        };
        if let Some(magic) = magic
            && rustix::fs::fstatfs(&target)?.f_type != magic
        {
            return Err(Errno::XDEV);
        }
        Ok(Some(target))
    }
}

/// Opens a path of the container without using it.
pub(super) fn open_in_root(root: BorrowedFd<'_>, path: &CStr, more: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), IN_ROOT | more) {
            // A rename or mount somewhere raced with the resolution of "..".
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

fn new_filesystem(
    kind: &CStr,
    source: &CStr,
    options: &[(CString, Option<CString>)],
    attributes: u64,
) -> Result<OwnedFd, Errno> {
    let filesystem = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(filesystem.as_fd(), c"source", source)?;
    for (key, value) in options {
        match value {
            Some(value) => {
                rustix::mount::fsconfig_set_string(filesystem.as_fd(), key.as_c_str(), value.as_c_str())?
            }
            None => rustix::mount::fsconfig_set_flag(filesystem.as_fd(), key.as_c_str())?,
        }
    }
    rustix::mount::fsconfig_create(filesystem.as_fd())?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    rustix::mount::fsmount(filesystem.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// As [`new_filesystem`], filled with what lies at the target and attached there. It can be written to until then.
fn copied_filesystem(
    kind: &CStr,
    source: &CStr,
    options: &[(CString, Option<CString>)],
    attributes: u64,
    target: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let mount = new_filesystem(kind, source, options, 0)?;
    copy_up(target, mount.as_fd())?;
    let attributes = MountAttributes {
        set: attributes,
        clear: 0,
        propagation: 0,
    };
    sys::mount_setattr(mount.as_fd(), false, attributes)?;
    attach(mount.as_fd(), target)
}

/// Gives the root of a file system that is attached nowhere yet an SELinux label.
fn label_root(mount: BorrowedFd<'_>, label: &CStr) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(mount, c".", flags, Mode::empty())?;
    let value = label.to_bytes_with_nul();
    rustix::fs::fsetxattr(root, c"security.selinux", value, XattrFlags::empty())
}

pub(super) fn clone_tree(mount: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(mount, c"", flags)
}

pub(super) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::mount::move_mount(mount, c"", target, c"", ATTACH)
}

fn open_host_null() -> Result<OwnedFd, Errno> {
    let null = rustix::fs::open(
        c"/dev/null",
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let status: Statx = rustix::fs::statx(&null, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    let is_null = FileType::from_raw_mode(status.stx_mode.into()).is_char_device()
        && (status.stx_rdev_major, status.stx_rdev_minor) == NULL_DEVICE;
    if is_null { Ok(null) } else { Err(Errno::NODEV) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_labelled_before_it_is_attached() {
        let mount = new_filesystem(c"tmpfs", c"tmpfs", &[], 0).expect("tests run as root");
        let label = c"system_u:object_r:tmp_t:s0";
        label_root(mount.as_fd(), label).unwrap();
        let root = rustix::fs::openat(&mount, c".", OFlags::RDONLY, Mode::empty()).unwrap();
        let mut value = Vec::with_capacity(64);
        rustix::fs::fgetxattr(
            root,
            c"security.selinux",
            rustix::buffer::spare_capacity(&mut value),
        )
        .unwrap();
        assert_eq!(value, label.to_bytes_with_nul());
    }
}
