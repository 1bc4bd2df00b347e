//! Output of the processes: to the log and to attached clients.

use std::os::fd::{AsFd, BorrowedFd};

use super::super::frame::{Kind, TARGET_INIT};
use super::client::Role;
use super::container::Process;
use super::server::Server;
use super::{read_some, would_block};
use crate::log::LogStream;

/// One output channel of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Stdout,
    Stderr,
    Terminal,
}

impl Server {
    /// Reads one piece of output and passes it on; false when there is none now.
    pub(super) fn read_output(&mut self, index: usize, channel: Channel) -> bool {
        let process = &mut self.processes[index];
        let slot = match channel {
            Channel::Stdout => &mut process.streams.stdout,
            Channel::Stderr => &mut process.streams.stderr,
            Channel::Terminal => &mut process.streams.terminal,
        };
        let Some(descriptor) = slot else { return false };
        let length = match read_some(descriptor, &mut self.buffer) {
            Ok(0) => {
                *slot = None;
                return false;
            }
            Ok(length) => length,
            Err(error) if would_block(&error) => return false,
            Err(_) => {
                // A terminal that nobody has open any more answers EIO.
                *slot = None;
                return false;
            }
        };
        let number = process.number;
        self.deliver(number, channel, length);
        true
    }

    fn deliver(&mut self, number: u32, channel: Channel, length: usize) {
        let bytes = &self.buffer[..length];
        let (kind, stream) = match channel {
            Channel::Stdout => (Kind::Stdout, LogStream::Stdout),
            Channel::Stderr => (Kind::Stderr, LogStream::Stderr),
            Channel::Terminal => (Kind::Console, LogStream::Stdout),
        };
        if number == TARGET_INIT
            && let Some(log) = &mut self.log
        {
            log.append(stream, bytes);
        }
        for client in &mut self.clients {
            let Role::Attached {
                process,
                stdout,
                stderr,
                ..
            } = client.role
            else {
                continue;
            };
            let wants = if channel == Channel::Stderr {
                stderr
            } else {
                stdout
            };
            if process == number && wants {
                client.send(kind, bytes);
            }
        }
    }

    /// Reads what ended processes left in their pipes.
    pub(super) fn drain_output(&mut self) {
        for index in 0..self.processes.len() {
            self.processes[index].reap();
            for channel in [Channel::Stdout, Channel::Stderr, Channel::Terminal] {
                while self.read_output(index, channel) {}
            }
            self.processes[index].streams = Default::default();
        }
        if let Some(log) = &mut self.log {
            log.finish();
        }
    }
}

/// The channels of a process that are open.
pub(super) fn channels(process: &Process) -> impl Iterator<Item = (Channel, BorrowedFd<'_>)> {
    let streams = &process.streams;
    let all = [
        (Channel::Stdout, &streams.stdout),
        (Channel::Stderr, &streams.stderr),
        (Channel::Terminal, &streams.terminal),
    ];
    all.into_iter()
        .filter_map(|(channel, descriptor)| Some((channel, descriptor.as_ref()?.as_fd())))
}
