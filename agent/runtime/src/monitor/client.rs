//! The daemon's handle to a container's monitor.

use oci_spec::runtime::Process;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixStream;

use super::connection;
use super::frame::{self, AttachBody, ExecStartedBody, HelloBody, Kind, ResizeBody, SignalBody, TARGET_INIT};
use super::record;
use super::stream::AttachStream;
use crate::error::{Result, RuntimeError};
use crate::exit::ExitStatus;
use crate::plan::ExecPlan;

/// A cheap-to-clone handle to one container's monitor. Each operation opens a connection of its own, so that a handle
/// holds no state that a crash could lose.
#[derive(Debug, Clone)]
pub struct Monitor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state_dir: PathBuf,
    hello: HelloBody,
}

/// Which streams to attach to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttachRequest {
    /// Write to standard input.
    pub stdin: bool,
    /// Receive standard output (or the terminal).
    pub stdout: bool,
    /// Receive standard error.
    pub stderr: bool,
}

/// A process to start in a running container.
#[derive(Debug, Clone)]
pub struct ExecRequest {
    /// The process, with a numeric user. The container's system call filter applies to it too.
    pub process: Process,
    /// Gives it a terminal.
    pub terminal: bool,
    /// The terminal's first size: rows, columns.
    pub console_size: Option<(u16, u16)>,
    /// Keeps standard input open for the session; else it is /dev/null.
    pub stdin_open: bool,
    /// Delivers its output to the session; else it is dropped.
    pub output: bool,
}

/// A process that runs in a container.
#[derive(Debug)]
pub struct ExecSession {
    /// The process id as the host sees it.
    pub pid: i32,
    /// Its streams.
    pub stream: AttachStream,
    /// The handle to wait, resize and signal with; it stays valid when the streams are taken away.
    pub control: ExecControl,
}

/// Waits for, resizes and signals an exec'ed process.
#[derive(Debug, Clone)]
pub struct ExecControl {
    monitor: Monitor,
    number: u32,
}

impl Monitor {
    /// Connects to the monitor of a running container, for example after a restart of the daemon.
    ///
    /// [`RuntimeError::Gone`] when there is none; see [`super::recover_lost`] for what then happened.
    pub async fn connect(state_dir: &Path) -> Result<Monitor> {
        let (_, hello) = connection::open(state_dir).await?;
        Ok(Self::from_hello(state_dir, hello))
    }

    pub(crate) fn from_hello(state_dir: &Path, hello: HelloBody) -> Monitor {
        Monitor {
            inner: Arc::new(Inner {
                state_dir: state_dir.to_owned(),
                hello,
            }),
        }
    }

    /// The container's init process, as the host sees it.
    pub fn pid(&self) -> i32 {
        self.inner.hello.pid
    }

    /// When the container started, in nanoseconds since 1970.
    pub fn started_at_ns(&self) -> i128 {
        self.inner.hello.started_at_ns
    }

    /// The protocol version that the monitor speaks.
    pub fn protocol_version(&self) -> u32 {
        self.inner.hello.version
    }

    /// Lets a held container run; reports what exec says, as a start does. Idempotent.
    pub async fn release(&self) -> Result<()> {
        self.request(&frame::encode_bytes(Kind::Release, &[])).await
    }

    /// Waits until the container has ended and its status is recorded; for some milliseconds a loss of power could take
    /// that record away. Cancel-safe.
    ///
    /// When the monitor ends first, this kills what is left of the container and records that.
    pub async fn wait(&self) -> Result<ExitStatus> {
        match self.wait_connected().await {
            Err(RuntimeError::Gone) => self.settle().await,
            result => result,
        }
    }

    async fn wait_connected(&self) -> Result<ExitStatus> {
        let mut stream = self.open().await?;
        connection::send(&mut stream, &frame::encode_bytes(Kind::Wait, &[])).await?;
        match connection::read(&mut stream).await? {
            Some((Kind::Exited, payload)) => frame::decode(&payload),
            Some((Kind::Error, payload)) => Err(connection::refusal(&payload)),
            Some((kind, _)) => Err(connection::unexpected(kind)),
            None => Err(RuntimeError::Gone),
        }
    }

    async fn settle(&self) -> Result<ExitStatus> {
        let state_dir = self.inner.state_dir.clone();
        let settled = tokio::task::spawn_blocking(move || record::recover_lost(&state_dir)).await;
        let settled = settled
            .map_err(|error| RuntimeError::io("recover a lost container", std::io::Error::other(error)))?;
        settled?.ok_or(RuntimeError::Gone)
    }

    /// Attaches to the container's streams. Output from before is in the log only.
    pub async fn attach(&self, request: AttachRequest) -> Result<AttachStream> {
        let AttachRequest {
            stdin,
            stdout,
            stderr,
        } = request;
        let mut stream = self.open().await?;
        connection::send(
            &mut stream,
            &frame::encode(
                Kind::Attach,
                &AttachBody {
                    stdin,
                    stdout,
                    stderr,
                },
            ),
        )
        .await?;
        connection::expect_done(&mut stream).await?;
        Ok(AttachStream::new(stream))
    }

    /// Sets the size of the container's terminal.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        self.request(&frame::encode(
            Kind::Resize,
            &ResizeBody {
                target: TARGET_INIT,
                rows,
                columns,
            },
        ))
        .await
    }

    /// Sends a signal to the container's init, or with `all` to every process of its control group.
    pub async fn signal(&self, signal: i32, all: bool) -> Result<()> {
        self.request(&frame::encode(
            Kind::Signal,
            &SignalBody {
                target: TARGET_INIT,
                signal,
                all,
            },
        ))
        .await
    }

    /// Starts another process in the container.
    pub async fn exec(&self, request: ExecRequest) -> Result<ExecSession> {
        let plan = ExecPlan::new(&request)?;
        let body = frame::encode(Kind::Exec, &plan);
        if body.len() > frame::REQUEST_BYTES_MAX {
            return Err(RuntimeError::spec(
                "arguments and environment are longer than the kernel takes (2 MiB)",
            ));
        }
        let mut stream = self.open().await?;
        connection::send(&mut stream, &body).await?;
        let started: ExecStartedBody = match connection::read(&mut stream).await? {
            Some((Kind::ExecStarted, payload)) => frame::decode(&payload)?,
            Some((Kind::Error, payload)) => return Err(connection::refusal(&payload)),
            Some((kind, _)) => return Err(connection::unexpected(kind)),
            None => return Err(RuntimeError::Gone),
        };
        let control = ExecControl {
            monitor: self.clone(),
            number: started.number,
        };
        Ok(ExecSession {
            pid: started.pid,
            stream: AttachStream::new(stream),
            control,
        })
    }

    async fn open(&self) -> Result<UnixStream> {
        let (stream, _) = connection::open(&self.inner.state_dir).await?;
        Ok(stream)
    }

    async fn request(&self, frame: &[u8]) -> Result<()> {
        let mut stream = self.open().await?;
        connection::send(&mut stream, frame).await?;
        connection::expect_done(&mut stream).await
    }
}

impl ExecSession {
    /// Waits for the process; see [`ExecControl::wait`].
    pub async fn wait(&self) -> Result<i32> {
        self.control.wait().await
    }

    /// Sets the size of its terminal.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        self.control.resize(rows, columns).await
    }
}

impl ExecControl {
    /// Waits until the process has ended and returns its code, as Docker reports it. Cancel-safe.
    /// A container that ends takes its exec'ed processes with it: [`RuntimeError::Gone`] where the code got lost.
    pub async fn wait(&self) -> Result<i32> {
        let mut stream = self.monitor.open().await?;
        connection::send(&mut stream, &frame::encode(Kind::WaitExec, &self.number)).await?;
        match connection::read(&mut stream).await? {
            Some((Kind::ExecExited, payload)) => frame::decode(&payload),
            Some((Kind::Error, payload)) => Err(connection::refusal(&payload)),
            Some((kind, _)) => Err(connection::unexpected(kind)),
            None => Err(RuntimeError::Gone),
        }
    }

    /// Sets the size of the process's terminal.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let body = ResizeBody {
            target: self.number,
            rows,
            columns,
        };
        self.monitor.request(&frame::encode(Kind::Resize, &body)).await
    }

    /// Sends a signal to the process.
    pub async fn signal(&self, signal: i32) -> Result<()> {
        let body = SignalBody {
            target: self.number,
            signal,
            all: false,
        };
        self.monitor.request(&frame::encode(Kind::Signal, &body)).await
    }
}
