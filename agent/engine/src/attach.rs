//! Clients attached to a container's or an exec'ed process's streams.

use crate::container::{Container, Run, WaitingClient};
use crate::engine::Inner;
use crate::error::{Error, Result};
use bytes::Bytes;
use muster_runtime::{AttachInput, AttachOutput, AttachRequest, AttachStream, Monitor, Output};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Pieces of output that wait for a slow client, of at most 64 KiB each; then the container waits too.
const OUTPUT_WAITING_MAX: usize = 8;
/// Pieces of input that wait for the container.
const INPUT_WAITING_MAX: usize = 8;
/// Clients that may wait for one container's start; more is a mistake.
const WAITING_CLIENTS_MAX: usize = 32;

/// Where the output of a session comes in.
pub(crate) type OutputSender = mpsc::Sender<Result<OutputChunk>>;

/// Which of a container's streams bytes belong to. With a terminal everything is [`OutputKind::Stdout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputKind {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Bytes of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputChunk {
    /// Which stream.
    pub stream: OutputKind,
    /// The bytes; never empty.
    pub data: Bytes,
}

/// A client's connection to a process.
#[derive(Debug)]
pub struct AttachSession {
    /// The process has a terminal.
    pub tty: bool,
    /// Output. Ends when the process closed its streams. Dropping it detaches.
    pub output: mpsc::Receiver<Result<OutputChunk>>,
    /// Input, where it was asked for and the process has it. Dropping it closes the process's standard input.
    pub input: Option<mpsc::Sender<Bytes>>,
}

impl Inner {
    /// Attaches to a container, at once or as soon as it starts.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        container: &Container,
        request: AttachRequest,
    ) -> Result<AttachSession> {
        let record = container.record();
        let request = AttachRequest {
            stdin: request.stdin && record.config.open_stdin,
            ..request
        };
        let (output, received) = mpsc::channel(OUTPUT_WAITING_MAX);
        let (sent, input) = mpsc::channel(INPUT_WAITING_MAX);
        let session = AttachSession {
            tty: record.config.tty,
            output: received,
            input: request.stdin.then_some(sent),
        };
        let client = WaitingClient {
            request,
            output,
            input: request.stdin.then_some(input),
        };
        let running = container.with(|cell| match &cell.run {
            Some(run) => Ok(Some((run.clone(), client))),
            None if cell.waiting_clients.len() >= WAITING_CLIENTS_MAX => Err(Error::wrong_state(
                "too many clients wait for the container's start",
            )),
            None => {
                cell.waiting_clients.push(client);
                Ok(None)
            }
        })?;
        if let Some((Run { monitor, .. }, client)) = running {
            self.connect_client(&monitor, client).await?;
        }
        Ok(session)
    }

    /// Connects a client to a running (or held) container.
    pub(crate) async fn connect_client(
        self: &Arc<Self>,
        monitor: &Monitor,
        client: WaitingClient,
    ) -> Result<()> {
        let AttachStream { output, input } = monitor.attach(client.request).await?;
        self.pump(output, input, client.output, client.input, client.request);
        Ok(())
    }

    /// Makes a session of a process that was just started, and what keeps its output from ending.
    pub(crate) fn session(
        self: &Arc<Self>,
        stream: AttachStream,
        tty: bool,
        streams: AttachRequest,
    ) -> (AttachSession, OutputSender) {
        let (output, received) = mpsc::channel(OUTPUT_WAITING_MAX);
        let (sent, input) = mpsc::channel(INPUT_WAITING_MAX);
        let open = output.clone();
        let input = streams.stdin.then_some(input);
        self.pump(stream.output, stream.input, output, input, streams);
        let session = AttachSession {
            tty,
            output: received,
            input: streams.stdin.then_some(sent),
        };
        (session, open)
    }

    fn pump(
        self: &Arc<Self>,
        output: AttachOutput,
        input: AttachInput,
        to: mpsc::Sender<Result<OutputChunk>>,
        from: Option<mpsc::Receiver<Bytes>>,
        wanted: AttachRequest,
    ) {
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            // The input half is kept until the output ends: the monitor takes the end of a connection for a client that
            // left.
            let both = async {
                tokio::pin! {
                    let output = pump_output(output, to, wanted);
                }
                tokio::select! {
                    () = &mut output => {}
                    _input = pump_input(input, from) => output.await,
                }
            };
            tokio::select! {
                () = both => {}
                () = stopping.cancelled() => {}
            }
        });
    }
}

async fn pump_output(mut output: AttachOutput, to: mpsc::Sender<Result<OutputChunk>>, wanted: AttachRequest) {
    loop {
        // A piece that is lost when the client leaves is a piece that nobody reads.
        let next = tokio::select! {
            next = output.next() => next,
            () = to.closed() => return,
        };
        let chunk = match next {
            Ok(Some(Output::Stdout(_) | Output::Console(_))) if !wanted.stdout => continue,
            Ok(Some(Output::Stderr(_))) if !wanted.stderr => continue,
            Ok(Some(Output::Stdout(data) | Output::Console(data))) => Ok((OutputKind::Stdout, data)),
            Ok(Some(Output::Stderr(data))) => Ok((OutputKind::Stderr, data)),
            Ok(None) | Err(muster_runtime::RuntimeError::Gone) => return,
            Err(error) => Err(Error::from(error)),
        };
        let failed = chunk.is_err();
        let chunk = chunk.map(|(stream, data)| OutputChunk { stream, data });
        if to.send(chunk).await.is_err() || failed {
            return;
        }
    }
}

/// Passes input on until the client closes its own, then closes the process's. Returns the half, still open.
async fn pump_input(mut input: AttachInput, from: Option<mpsc::Receiver<Bytes>>) -> AttachInput {
    let Some(mut from) = from else {
        return input;
    };
    while let Some(bytes) = from.recv().await {
        if input.write_all(&bytes).await.is_err() {
            return input;
        }
    }
    // The process may have ended; then there is nothing to close.
    let _ = input.close().await;
    input
}
