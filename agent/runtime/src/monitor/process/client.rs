//! One connection of the daemon.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::super::frame::{self, HEADER_BYTES, Kind};
use super::would_block;

/// Output that waits for a client; beyond this the process's output is not read, so that nothing is lost.
pub(super) const BACKLOG_BYTES_MAX: usize = 64 << 10;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// No request yet, or one that was answered.
    Idle,
    /// Waits for the container's end.
    WaitsForExit,
    /// Waits for an exec'ed process's end.
    WaitsForExec(u32),
    /// Waits for what exec says after a release.
    WaitsForRelease,
    /// Attached to the streams of a process.
    Attached {
        process: u32,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
}

/// A connection. Nothing on it blocks.
#[derive(Debug)]
pub(super) struct Client {
    pub stream: UnixStream,
    pub role: Role,
    received: Vec<u8>,
    backlog: Vec<u8>,
    sent: usize,
    /// The client has closed its sending side.
    pub sends_no_more: bool,
    /// The connection is of no use any more.
    pub closed: bool,
}

/// What came out of a connection.
pub(super) enum Incoming {
    Frame(u8, Vec<u8>),
    /// A frame is not complete yet.
    Partial,
    /// A frame is longer than any request.
    TooLong,
}

impl Client {
    pub(super) fn new(stream: UnixStream) -> Self {
        Client {
            stream,
            role: Role::Idle,
            received: Vec::new(),
            backlog: Vec::new(),
            sent: 0,
            sends_no_more: false,
            closed: false,
        }
    }

    /// Reads what is there.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) {
        match self.stream.read(buffer) {
            Ok(0) => self.sends_no_more = true,
            Ok(length) => self.received.extend_from_slice(&buffer[..length]),
            Err(error) if would_block(&error) => {}
            Err(_) => (self.sends_no_more, self.closed) = (true, true),
        }
    }

    /// Takes one frame out of what was received.
    pub(super) fn next_frame(&mut self) -> Incoming {
        let Some(header) = self.received.first_chunk::<HEADER_BYTES>() else {
            return Incoming::Partial;
        };
        let (kind, length) = frame::parse_header(*header);
        if length > frame::REQUEST_BYTES_MAX {
            return Incoming::TooLong;
        }
        let end = HEADER_BYTES + length;
        if self.received.len() < end {
            return Incoming::Partial;
        }
        let payload = self.received[HEADER_BYTES..end].to_vec();
        self.received.drain(..end);
        if self.received.is_empty() {
            self.received = Vec::new();
        }
        Incoming::Frame(kind, payload)
    }

    pub(super) fn send(&mut self, kind: Kind, payload: &[u8]) {
        if self.closed {
            return;
        }
        self.backlog
            .extend_from_slice(&frame::header(kind, payload.len()));
        self.backlog.extend_from_slice(payload);
        self.flush();
    }

    /// Sends a whole frame.
    pub(super) fn send_frame(&mut self, frame: &[u8]) {
        if !self.closed {
            self.backlog.extend_from_slice(frame);
            self.flush();
        }
    }

    pub(super) fn flush(&mut self) {
        while self.sent < self.backlog.len() {
            match self.stream.write(&self.backlog[self.sent..]) {
                Ok(0) => break,
                Ok(written) => self.sent += written,
                Err(error) if would_block(&error) => return,
                Err(_) => {
                    self.closed = true;
                    break;
                }
            }
        }
        (self.backlog, self.sent) = (Vec::new(), 0);
    }

    /// Bytes that the client has not taken yet.
    pub(super) fn backlog_bytes(&self) -> usize {
        self.backlog.len() - self.sent
    }
}
