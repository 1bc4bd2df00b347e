//! The process's terminal, from the container's own devpts.

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::mount_steps::{attach, clone_tree, open_in_root};
use super::sync::{self, Failure, Stage, fail};
use super::{Prepared, rights};
use crate::sys;

const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Whether the terminal is also /dev/console.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Console {
    Attach,
    Leave,
}

/// Opens a terminal, sends its other side to the monitor and makes it the standard streams.
pub(super) fn open(
    root: BorrowedFd<'_>,
    sync: BorrowedFd<'_>,
    process: &Prepared<'_>,
    console: Console,
) -> Result<(), Failure> {
    fail(Stage::Terminal, try_open(root, sync, process, console))
}

fn try_open(
    root: BorrowedFd<'_>,
    sync: BorrowedFd<'_>,
    process: &Prepared<'_>,
    console: Console,
) -> Result<(), Errno> {
    let master = open_multiplexer(root)?;
    let terminal = sys::open_terminal_peer(master.as_fd())?;
    if let Some((rows, columns)) = process.console_size {
        sys::set_terminal_size(master.as_fd(), rows, columns)?;
    }
    if console == Console::Attach {
        attach_console(root, terminal.as_fd())?;
    }
    sync::send_terminal(sync, master.as_fd())?;
    for target in 0..3 {
        rights::duplicate(terminal.as_raw_fd(), target)?;
    }
    sys::set_controlling_terminal(terminal.as_fd())
}

/// Opens ptmx after making sure that it is that of a devpts.
fn open_multiplexer(root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let directory = open_in_root(root, c"dev/pts", ResolveFlags::NO_SYMLINKS)?;
    if rustix::fs::fstatfs(&directory)?.f_type != DEVPTS_MAGIC {
        return Err(Errno::NODEV);
    }
    rustix::fs::openat2(
        &directory,
        c"ptmx",
        flags,
        Mode::empty(),
        resolve | ResolveFlags::NO_XDEV,
    )
}

/// Binds the terminal to /dev/console. Both sides are descriptors, and a symbolic link is no place to bind to
/// (CVE-2025-52565).
fn attach_console(root: BorrowedFd<'_>, terminal: BorrowedFd<'_>) -> Result<(), Errno> {
    let directory = open_in_root(root, c"dev", ResolveFlags::NO_SYMLINKS)?;
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
    match rustix::fs::openat(&directory, c"console", create, Mode::from_raw_mode(0o600)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(&directory, c"console", flags, Mode::empty())?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&target)?.st_mode);
    if !kind.is_file() && !kind.is_char_device() {
        return Err(Errno::LOOP);
    }
    let console = clone_tree(terminal, false)?;
    attach(console.as_fd(), target.as_fd())
}
