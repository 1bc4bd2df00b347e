//! The tiny init: process 1 of a container that was asked for one. It passes signals on and reaps orphans.

use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::RawFd;

use super::HostFiles;
use crate::label::ExecLabel;
use crate::sys::{self, Forked};

/// What `ps` inside of the container calls it.
const NAME: &CStr = c"muster-init";

/// Its exit code when it cannot take on the container's label.
const CODE_UNLABELLED: i32 = 126;

/// Continues as the child of a new init; the init itself never returns. Its labels are those of the program, as far as
/// the security module lets a process change them without exec; a refusal ends the init, and with it the container.
pub(super) fn fork_below_init(terminal: bool, labels: &[ExecLabel], host: &HostFiles) -> Result<(), Errno> {
    // Signals must not reach the init before it waits for them.
    sys::set_signal_mask(u64::MAX);
    // SAFETY: neither process allocates or locks before exec or exit.
    match unsafe { sys::fork_plain() }? {
        Forked::Parent { pid, .. } => {
            if labels.iter().any(|label| label.take_effect(host.proc).is_err()) {
                sys::exit_now(CODE_UNLABELLED);
            }
            supervise(pid)
        }
        Forked::Child => {
            rustix::process::setpgid(None, None)?;
            if terminal {
                // SIGTTOU is still blocked, so that a background process may do this.
                sys::take_foreground()?;
            }
            sys::set_signal_mask(0);
            Ok(())
        }
    }
}

fn supervise(child: i32) -> ! {
    const FIRST_INHERITED: RawFd = 0;
    let _ = sys::prctl(libc::PR_SET_DUMPABLE, 0, 0);
    let _ = sys::prctl(libc::PR_SET_NAME, NAME.as_ptr() as u64, 0);
    // SAFETY: this process uses no descriptor any more and never drops one.
    let _ = unsafe { sys::close_from(FIRST_INHERITED) };
    loop {
        match sys::wait_for_signal() {
            Ok(libc::SIGCHLD) => reap_all(child),
            // The kernel sends these for faults of this process itself; nothing to pass on.
            Ok(libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP) => {}
            Ok(signal) => {
                // It may have ended just now; then its SIGCHLD is pending.
                let _ = sys::kill(child, signal);
            }
            Err(_) => {}
        }
    }
}

fn reap_all(child: i32) {
    while let Ok(Some((pid, status))) = sys::reap(-1, false) {
        if pid == child {
            let code = if libc::WIFSIGNALED(status) {
                128 + libc::WTERMSIG(status)
            } else {
                libc::WEXITSTATUS(status)
            };
            sys::exit_now(code);
        }
    }
}
