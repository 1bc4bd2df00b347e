//! The processes that a monitor is the parent of, and their streams.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::would_block;
use crate::launch::{Launched, ParentStreams};
use crate::sys;

/// Input that waits for a process to read it; beyond this the client is not read.
pub(super) const STDIN_BACKLOG_BYTES_MAX: usize = 64 << 10;

/// The container's init or an exec'ed process.
#[derive(Debug)]
pub(super) struct Process {
    /// 0 is the init.
    pub number: u32,
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub streams: ParentStreams,
    input: Vec<u8>,
    /// Close standard input once what waits for it is written.
    close_input: bool,
    /// How it ended, as waitpid says.
    pub status: Option<i32>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub code: i32,
    pub signal: Option<i32>,
}

impl Process {
    pub(super) fn new(number: u32, pid: i32, pidfd: OwnedFd, streams: ParentStreams) -> Process {
        Process {
            number,
            pid,
            pidfd,
            streams,
            input: Vec::new(),
            close_input: false,
            status: None,
        }
    }

    pub(super) fn from_launched(number: u32, launched: Launched) -> Process {
        Self::new(number, launched.pid, launched.pidfd, launched.streams)
    }

    /// Reaps the process when it has ended.
    pub(super) fn reap(&mut self) {
        if let Ok(Some((_, status))) = sys::reap(self.pid, false) {
            self.status = Some(status);
        }
    }

    /// How it ended; `None` while it runs.
    pub(super) fn ended(&self) -> Option<Ended> {
        self.status.map(|status| {
            if libc::WIFSIGNALED(status) {
                let signal = libc::WTERMSIG(status);
                Ended {
                    code: 128 + signal,
                    signal: Some(signal),
                }
            } else {
                Ended {
                    code: libc::WEXITSTATUS(status),
                    signal: None,
                }
            }
        })
    }

    /// Whether any output may still come.
    pub(super) fn has_output(&self) -> bool {
        self.streams.stdout.is_some() || self.streams.stderr.is_some() || self.streams.terminal.is_some()
    }

    /// Whether standard input has room.
    pub(super) fn takes_input(&self) -> bool {
        self.input.len() < STDIN_BACKLOG_BYTES_MAX
    }

    /// Whether something waits for the process to read.
    pub(super) fn has_pending_input(&self) -> bool {
        !self.input.is_empty() && self.input_descriptor().is_some()
    }

    /// The descriptor that input is written to.
    pub(super) fn input_descriptor(&self) -> Option<&OwnedFd> {
        self.streams.stdin.as_ref().or(self.streams.terminal.as_ref())
    }

    pub(super) fn write_input(&mut self, bytes: &[u8]) {
        if self.input_descriptor().is_some() && !self.close_input {
            self.input.extend_from_slice(bytes);
            self.flush_input();
        }
    }

    /// Ends standard input after what was written. A terminal stays open.
    pub(super) fn end_input(&mut self) {
        self.close_input = true;
        self.flush_input();
    }

    pub(super) fn flush_input(&mut self) {
        while !self.input.is_empty() {
            let Some(descriptor) = self.input_descriptor() else {
                break;
            };
            match rustix::io::write(descriptor.as_fd(), &self.input).map_err(io::Error::from) {
                Ok(written) => {
                    self.input.drain(..written);
                }
                Err(error) if would_block(&error) => return,
                Err(_) => {
                    self.close_input = true;
                    break;
                }
            }
        }
        self.input = Vec::new();
        if self.close_input {
            self.streams.stdin = None;
        }
    }
}
