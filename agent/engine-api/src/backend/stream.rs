//! Streams between the routes and the backends: attach sessions, logs, events, uploads.
//!
//! Every stream is cancelled by dropping it.

use super::Result;
use bytes::Bytes;
use futures::stream::BoxStream;
use muster_types::event::Event;
use muster_types::{NodeId, ServiceId, TaskId, Timestamp};
use std::collections::BTreeMap;
use tokio::io::AsyncWrite;

/// Which of a container's streams bytes belong to. With a terminal everything is [`StreamKind::Stdout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Standard input, echoed in old logs only.
    Stdin,
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Bytes of one stream, as they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputChunk {
    /// Which stream.
    pub stream: StreamKind,
    /// The bytes; never empty.
    pub data: Bytes,
}

/// Output of a container or exec. It ends when the process's streams are closed.
pub type OutputStream = BoxStream<'static, std::io::Result<OutputChunk>>;
/// Standard input. `shutdown` closes the process's standard input (half-close); dropping it does so too.
pub type InputStream = Box<dyn AsyncWrite + Send + Unpin>;
/// Bytes that a client sends, for example an image archive.
pub type UploadStream = BoxStream<'static, std::io::Result<Bytes>>;
/// Events, oldest first. It ends only when `until` is reached or the daemon stops.
pub type EventStream = BoxStream<'static, Result<Event>>;
/// Log entries of one container, oldest first.
pub type LogStream = BoxStream<'static, Result<LogEntry>>;
/// Log entries of a service's or task's containers, oldest first per container.
pub type TaskLogStream = BoxStream<'static, Result<TaskLogEntry>>;

/// A client's connection to a running process.
pub struct AttachSession {
    /// The process has a terminal: output is sent raw instead of in frames.
    pub tty: bool,
    /// Output. Ends when the process closed its streams, also when it exited.
    pub output: OutputStream,
    /// Input, where the client asked for it and the container has it open.
    pub input: Option<InputStream>,
}

/// What a client wants to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttachOptions {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Send what was logged before, first.
    pub logs: bool,
    /// Then stay connected. Without it the session ends after the logs.
    pub stream: bool,
}

/// Which log entries a client wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Stay connected until the container ends.
    pub follow: bool,
    /// Not before this time.
    pub since: Option<Timestamp>,
    /// Not after this time.
    pub until: Option<Timestamp>,
    /// Only the last entries; `None` means all.
    pub tail: Option<u64>,
}

/// One logged line (or part of one, where the line was longer than the log's limit).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Which stream.
    pub stream: StreamKind,
    /// When it was read.
    pub at: Timestamp,
    /// The bytes, with the line's end where it had one.
    pub data: Bytes,
    /// What the log driver's options add to every line: labels, variables, the tag.
    pub attributes: BTreeMap<String, String>,
}

/// A container's log.
pub struct LogSession {
    /// The container has a terminal: entries are sent raw instead of in frames.
    pub tty: bool,
    /// Entries.
    pub entries: LogStream,
}

/// One logged line of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskLogEntry {
    /// The task's node.
    pub node: NodeId,
    /// The task's service.
    pub service: ServiceId,
    /// The task.
    pub task: TaskId,
    /// The line.
    pub entry: LogEntry,
}
