//! Standard streams between a process and its parent.

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use super::StreamSource;
use crate::error::{Result, RuntimeError};

/// The parent's ends. They do not block.
#[derive(Debug, Default)]
pub(crate) struct ParentStreams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pub terminal: Option<OwnedFd>,
}

/// The child's ends; `None` where it keeps its own or gets a terminal.
#[derive(Debug, Default)]
pub(crate) struct ChildStreams {
    descriptors: Option<[OwnedFd; 3]>,
}

/// Both ends.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub parent: ParentStreams,
    pub child: ChildStreams,
}

impl Streams {
    /// Opens streams; `None` leaves them to the terminal.
    pub(crate) fn open(source: Option<StreamSource>) -> Result<Streams> {
        match source {
            None | Some(StreamSource::Inherited) => Ok(Streams::default()),
            Some(StreamSource::Pipes { stdin, output }) => {
                Self::pipes(stdin, output).map_err(|error| RuntimeError::io("make pipes", error))
            }
        }
    }

    fn pipes(stdin: bool, output: bool) -> rustix::io::Result<Streams> {
        let mut parent = ParentStreams::default();
        let input = if stdin {
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            parent.stdin = Some(unblock(write)?);
            read
        } else {
            open_null()?
        };
        let (out, err) = if output {
            let (read, out) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            parent.stdout = Some(unblock(read)?);
            let (read, err) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            parent.stderr = Some(unblock(read)?);
            (out, err)
        } else {
            (open_null()?, open_null()?)
        };
        Ok(Streams {
            parent,
            child: ChildStreams {
                descriptors: Some([input, out, err]),
            },
        })
    }
}

impl ParentStreams {
    /// Takes the other side of the process's terminal.
    pub(crate) fn take_terminal(&mut self, terminal: OwnedFd) -> Result<()> {
        let terminal = unblock(terminal).map_err(|error| RuntimeError::io("use the terminal", error))?;
        self.terminal = Some(terminal);
        Ok(())
    }
}

impl ChildStreams {
    /// The descriptors' numbers.
    pub(crate) fn numbers(&self) -> Option<[RawFd; 3]> {
        self.descriptors
            .as_ref()
            .map(|streams| streams.each_ref().map(AsRawFd::as_raw_fd))
    }
}

fn open_null() -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

fn unblock(descriptor: OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(descriptor.as_fd())?;
    rustix::fs::fcntl_setfl(descriptor.as_fd(), flags | OFlags::NONBLOCK)?;
    Ok(descriptor)
}
