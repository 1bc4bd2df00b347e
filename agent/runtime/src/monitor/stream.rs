//! Attached streams: the output of a container or an exec'ed process, and its standard input.

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::connection;
use super::frame::{self, Kind};
use crate::error::{Result, RuntimeError};

/// The longest standard input frame: a pipe's usual size, so that one frame never fills more than a pipe.
const STDIN_CHUNK_BYTES_MAX: usize = 64 << 10;

/// One piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// The terminal, where the process has one.
    Console(Bytes),
}

/// Both directions of an attached client.
#[derive(Debug)]
pub struct AttachStream {
    /// What the process writes.
    pub output: AttachOutput,
    /// What the process reads.
    pub input: AttachInput,
}

/// The output half. Dropping both halves detaches; the process runs on.
#[derive(Debug)]
pub struct AttachOutput {
    stream: OwnedReadHalf,
    ended: bool,
}

/// The input half. Dropping it does the same as [`AttachInput::close`]; output still comes.
#[derive(Debug)]
pub struct AttachInput {
    stream: OwnedWriteHalf,
}

impl AttachStream {
    pub(super) fn new(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        AttachStream {
            output: AttachOutput {
                stream: read,
                ended: false,
            },
            input: AttachInput { stream: write },
        }
    }
}

impl AttachOutput {
    /// The next piece of output; `None` once the process has ended and everything was delivered.
    ///
    /// Not cancel-safe: a cancelled call may lose a piece. Give it a task of its own.
    pub async fn next(&mut self) -> Result<Option<Output>> {
        if self.ended {
            return Ok(None);
        }
        match connection::read(&mut self.stream).await? {
            Some((Kind::Stdout, payload)) => Ok(Some(Output::Stdout(payload.into()))),
            Some((Kind::Stderr, payload)) => Ok(Some(Output::Stderr(payload.into()))),
            Some((Kind::Console, payload)) => Ok(Some(Output::Console(payload.into()))),
            Some((Kind::OutputEnd, _)) | None => {
                self.ended = true;
                Ok(None)
            }
            Some((Kind::Error, payload)) => Err(connection::refusal(&payload)),
            Some((kind, _)) => Err(connection::unexpected(kind)),
        }
    }
}

impl AttachInput {
    /// Writes all bytes to the process's standard input; waits while the process does not read.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        for chunk in bytes.chunks(STDIN_CHUNK_BYTES_MAX) {
            self.send(Kind::StdinData, chunk).await?;
        }
        Ok(())
    }

    /// Ends standard input. A container that was started without `stdin_once` keeps its own open.
    pub async fn close(&mut self) -> Result<()> {
        self.send(Kind::StdinClose, &[]).await
    }

    async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<()> {
        let sent = self.stream.write_all(&frame::encode_bytes(kind, payload)).await;
        sent.map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset => RuntimeError::Gone,
            _ => RuntimeError::io("send standard input to the container's monitor", error),
        })
    }
}
