//! Filters of system calls.

use rustix::io::Errno;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use super::{SysResult, check};

/// Installs a system call filter for this process and its descendants. Where its flags ask for one, what comes back is
/// the descriptor that whoever decides about calls listens to; it is closed at exec.
pub(crate) fn install_filter(filter: &[libc::sock_filter], flags: u32) -> SysResult<Option<OwnedFd>> {
    let length = u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog {
        len: length,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program points to `length` live instructions, which the kernel only reads.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    let result = check(result)?;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32 != 0 {
        // SAFETY: with this flag the kernel answers with a new descriptor.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(result as RawFd) }));
    }
    match result {
        0 => Ok(None),
        // With the thread synchronisation flag the result is a thread that could not be filtered.
        _ => Err(Errno::SRCH),
    }
}
