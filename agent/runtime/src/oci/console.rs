//! The terminal of a container: handed to the caller's socket, or joined with the terminal that the command runs on.

use rustix::fs::OFlags;
use rustix::termios::{self, OptionalActions, Termios};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::error::{OciError, Result};
use crate::launch::send_descriptor;
use crate::sys;

/// What a caller reads beside the descriptor: runc sends the terminal's name.
const NAME: &[u8] = b"/dev/ptmx";

/// Sends a descriptor to somebody who listens on a socket.
pub(super) fn send(path: &str, descriptor: BorrowedFd<'_>, what: &str) -> Result<()> {
    Ok(send_descriptor(Path::new(path), descriptor, what, NAME)?)
}

/// Sends a terminal's other side. Whoever gets it decides how it reads it.
pub(super) fn send_terminal(path: &str, terminal: &OwnedFd) -> Result<()> {
    let describe = |error| OciError::io("use the terminal", error);
    let flags = rustix::fs::fcntl_getfl(terminal).map_err(describe)?;
    rustix::fs::fcntl_setfl(terminal, flags - OFlags::NONBLOCK).map_err(describe)?;
    send(path, terminal.as_fd(), "the terminal")
}

/// The terminal that this command runs on, as it was; it is set back when this is dropped.
pub(super) struct RawTerminal {
    before: Option<Termios>,
}

impl RawTerminal {
    /// Lets everything that is typed through. Standard input need not be a terminal.
    pub(super) fn enter() -> RawTerminal {
        let [input, ..] = sys::standard_streams();
        let before = termios::tcgetattr(input).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            // Where that fails the terminal only echoes.
            let _ = termios::tcsetattr(input, OptionalActions::Now, &raw);
        }
        RawTerminal { before }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let [input, ..] = sys::standard_streams();
            let _ = termios::tcsetattr(input, OptionalActions::Drain, before);
        }
    }
}

/// Gives a container's terminal the size of this command's.
pub(super) fn copy_size(terminal: BorrowedFd<'_>) {
    let [input, output, _] = sys::standard_streams();
    let size = termios::tcgetwinsize(input).or_else(|_| termios::tcgetwinsize(output));
    if let Ok(size) = size {
        let _ = sys::set_terminal_size(terminal, size.ws_row, size.ws_col);
    }
}
