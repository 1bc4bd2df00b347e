//! Attaches the bind mounts that the parent opened.
//!
//! Kernels since 6.8 list mounts in the order in which they were made, not in that of their attaching, and the
//! parent makes these before there is a file system of the container. So that `/proc/self/mountinfo` shows mounts in
//! the order of the configuration, each is copied when its turn has come. The kernel copies what is attached in
//! the process's own mount namespace: so each is first attached below the old root, which takes it away.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::mount_steps::{attach, clone_tree};
use crate::plan::{BindSource, SandboxPlan};
use crate::sys::{self, MountAttributes};

/// Places of the host's procfs that every kernel has and nothing here uses.
const DIRECTORY: &CStr = c"driver";
const FILE: &CStr = c"version";

/// The bind mounts of a plan.
pub(super) struct Binds<'a> {
    plan: &'a SandboxPlan,
    /// Detached mounts, as many as the plan's sources.
    opened: &'a [OwnedFd],
    /// The host's procfs.
    proc: BorrowedFd<'a>,
    /// Where directories and files are attached for a while, once it was needed.
    directories: Option<OwnedFd>,
    files: Option<OwnedFd>,
}

impl<'a> Binds<'a> {
    pub(super) fn new(plan: &'a SandboxPlan, opened: &'a [OwnedFd], proc: BorrowedFd<'a>) -> Self {
        Binds {
            plan,
            opened,
            proc,
            directories: None,
            files: None,
        }
    }

    /// Attaches a source to its place.
    pub(super) fn attach(
        &mut self,
        number: usize,
        is_file: bool,
        target: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let opened = self.opened.get(number).ok_or(Errno::BADF)?.as_fd();
        let source = self.plan.binds.get(number).ok_or(Errno::BADF)?;
        let copy = self.copy(opened, source, is_file)?;
        let mount = copy.as_ref().map_or(opened, AsFd::as_fd);
        if source.is_unbindable() {
            change_propagation(mount, source.recursive, source.attributes.propagation)?;
        }
        attach(mount, target)
    }

    /// A copy that is made now; without one, the mount itself is as good but for its place in the list.
    fn copy(
        &mut self,
        opened: BorrowedFd<'_>,
        source: &BindSource,
        is_file: bool,
    ) -> Result<Option<OwnedFd>, Errno> {
        // Who shares the namespace of others has no old root that takes anything away.
        if self.plan.shares_mounts || self.stage(opened, is_file).is_err() {
            return Ok(None);
        }
        let Ok(copy) = clone_tree(opened, source.recursive) else {
            return Ok(None);
        };
        // The next one is attached on top, and must not appear at the source. And what lies below shares its mounts with
        // the host, from which they would go when the old root does.
        change_propagation(opened, source.recursive, libc::MS_PRIVATE)?;
        Ok(Some(copy))
    }

    /// Attaches a mount below the old root.
    fn stage(&mut self, opened: BorrowedFd<'_>, is_file: bool) -> Result<(), Errno> {
        let (place, path) = if is_file {
            (&mut self.files, FILE)
        } else {
            (&mut self.directories, DIRECTORY)
        };
        let place = match place {
            Some(place) => place,
            None => place.insert(open_place(self.proc, path)?),
        };
        attach(opened, place.as_fd())
    }
}

/// Opens a place of the procfs itself.
fn open_place(proc: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(proc, path, flags, Mode::empty(), resolve)
}

fn change_propagation(mount: BorrowedFd<'_>, recursive: bool, propagation: u64) -> Result<(), Errno> {
    let change = MountAttributes {
        propagation,
        ..MountAttributes::default()
    };
    sys::mount_setattr(mount, recursive, change)
}
