//! Namespaces and the mounts that belong to one.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{SysResult, check};

/// Asks for the kind of a namespace (linux/nsfs.h).
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// The `CLONE_NEW…` of the namespace that a descriptor stands for.
pub(crate) fn namespace_kind(namespace: BorrowedFd<'_>) -> SysResult<c_int> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) }.into()).map(|kind| kind as c_int)
}

/// Shows the files of a detached mount as owned by the ids that a user namespace maps theirs to.
pub(crate) fn map_mount(mount: BorrowedFd<'_>, recursive: bool, namespace: BorrowedFd<'_>) -> SysResult<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_raw_fd() as u64,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: path and attributes are valid for the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            std::mem::size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop)
}

/// Joins the namespaces in `kinds` of a process, or the one namespace that a descriptor stands for.
pub(crate) fn join_namespaces(descriptor: BorrowedFd<'_>, kinds: c_int) -> SysResult<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::setns(descriptor.as_raw_fd(), kinds) }.into()).map(drop)
}

/// Leaves for new namespaces.
pub(crate) fn unshare(kinds: c_int) -> SysResult<()> {
    // SAFETY: takes numbers only; namespaces hold no memory or descriptors of ours.
    check(unsafe { libc::unshare(kinds) }.into()).map(drop)
}
