//! A process that enters a container must not be a way to the binary on the host's disk (CVE-2019-5736): a program in
//! there that is our own could be held open and overwritten. So this process runs from where nothing can be written.

use rustix::fs::StatVfsMountFlags;
use rustix::io::{FdFlags, fcntl_setfd};
use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::error::{OciError, Result};
use crate::launcher::protected;

/// The word that stands before the arguments when this process has been started again from a protected place. Between the
/// two stands the number of the descriptor of that place, or nothing.
pub const PROTECTED_SUBCOMMAND: &str = "oci-protected";

const OWN: &str = "/proc/self/exe";

/// Goes on only when the binary cannot be written to; else starts again from a place where that is so.
pub(super) fn ensure(arguments: &[OsString]) -> Result<()> {
    if is_protected() {
        return Ok(());
    }
    let describe = |error: std::io::Error| OciError::io("run from where nothing can be written", error);
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == PROTECTED_SUBCOMMAND)
    {
        return Err(describe(std::io::ErrorKind::PermissionDenied.into()));
    }
    let executable = protected(Path::new(OWN)).map_err(describe)?;
    let mut command = Command::new(executable.path());
    let error = command
        .arg0("muster")
        .arg(PROTECTED_SUBCOMMAND)
        .arg("")
        .args(arguments)
        .exec();
    Err(describe(error))
}

/// Takes over the descriptor of the place that this process runs from; the programs that it starts do not get it.
pub(super) fn take_over(number: &OsStr) -> Option<OwnedFd> {
    let number = number
        .to_str()?
        .parse::<RawFd>()
        .ok()
        .filter(|number| *number > 2)?;
    // SAFETY: only asked whether it is open, which nothing but this function knows of.
    let place = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl_setfd(place, FdFlags::CLOEXEC).ok()?;
    // SAFETY: it is open, and this process has just begun: the number is the only owner.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whether it is on a read-only mount, or a sealed file in memory.
fn is_protected() -> bool {
    let read_only =
        rustix::fs::statvfs(OWN).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
    read_only || is_sealed().unwrap_or(false)
}

fn is_sealed() -> rustix::io::Result<bool> {
    use rustix::fs::{Mode, OFlags, SealFlags};
    let own = rustix::fs::open(OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::fcntl_get_seals(own).map(|seals| seals.contains(SealFlags::WRITE | SealFlags::SEAL))
}
