//! Attach and exec: the connection leaves HTTP and carries the process's streams both ways.

use super::websocket;
use crate::backend::{
    AttachOptions, AttachSession, BackendError, InputStream, OutputChunk, OutputStream, StreamKind,
};
use crate::http::{Body, Call, Failure, Reply, empty};
use crate::server::Client;
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::future::BoxFuture;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use hyper::{Response, StatusCode};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Content type of streams in frames.
pub(super) const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
/// Content type of raw streams.
pub(super) const RAW: &str = "application/vnd.docker.raw-stream";
/// First version that names streams in frames as such.
const NAMES_MULTIPLEXED: u32 = 42;
/// Bytes read from a client at once; the size of a pipe.
const INPUT_BYTES: usize = 64 << 10;
/// Ctrl-P Ctrl-Q, Docker's default.
const DETACH_KEYS: &[u8] = &[0x10, 0x11];

/// The content type of a process's streams.
pub(super) fn content_type(call: &Call, tty: bool) -> &'static str {
    if !tty && call.version.minor >= NAMES_MULTIPLEXED {
        MULTIPLEXED
    } else {
        RAW
    }
}

/// `POST /containers/{id}/attach`.
pub(super) async fn container_attach(mut call: Call) -> Reply {
    call.body_bytes().await?;
    let options = options(&call);
    let keys = call.query.get("detachKeys").unwrap_or_default().to_owned();
    detach_keys(&keys)?;
    let session = call.engine().container_attach(call.reference(), options).await?;
    let opening = Opening {
        tty: session.tty,
        session: Box::pin(std::future::ready(Ok(session))),
    };
    answer(&call, opening, &keys)
}

/// What the query asks to attach.
pub(super) fn options(call: &Call) -> AttachOptions {
    AttachOptions {
        stdin: call.query.flag("stdin"),
        stdout: call.query.flag("stdout"),
        stderr: call.query.flag("stderr"),
        logs: call.query.flag("logs"),
        stream: call.query.flag("stream"),
    }
}

/// A session that begins once the answer's head is on its way.
pub(super) struct Opening {
    /// The client wants output as it is, not in frames.
    pub tty: bool,
    /// Begins it. What goes wrong is told in the stream, because the head is sent by then.
    pub session: BoxFuture<'static, Result<AttachSession, BackendError>>,
}

/// Answers 101 to clients that ask for an upgrade and 200 to old ones, which do not; either way the connection carries
/// the session after the answer's head.
pub(super) fn answer(call: &Call, opening: Opening, keys: &str) -> Reply {
    let keys = detach_keys(keys)?;
    let mut response = Response::new(empty());
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(content_type(call, opening.tty)),
    );
    if call.request.headers().contains_key(UPGRADE) {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
    begin(&mut response, opening, keys, Framing::Docker);
    Ok(response)
}

/// Makes an answer the beginning of a session.
pub(super) fn begin(response: &mut Response<Body>, opening: Opening, keys: Vec<u8>, framing: Framing) {
    let begun = Begun(Arc::new(Mutex::new(Some((opening, keys, framing)))));
    response.extensions_mut().insert(begun);
}

/// How the streams look on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Raw with a terminal, else in Docker's frames.
    Docker,
    /// Messages of a WebSocket.
    Websocket,
}

/// A session as an extension of the answer that begins it, until it is taken.
#[derive(Clone)]
struct Begun(Arc<Mutex<Option<Session>>>);

/// A session, the keys that detach from it, and its look.
type Session = (Opening, Vec<u8>, Framing);

/// What takes over a connection after a request.
pub(crate) struct Takeover {
    head: Vec<u8>,
    opening: Opening,
    keys: Vec<u8>,
    framing: Framing,
}

impl Takeover {
    /// The session that an answer begins, if it begins one.
    pub fn of(response: &Response<Body>) -> Option<Self> {
        let Begun(begun) = response.extensions().get()?;
        let (opening, keys, framing) = begun.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Self {
            head: head(response),
            opening,
            keys,
            framing,
        })
    }

    /// Writes the answer's head and carries the session. `received` is what the client already sent after its request.
    pub async fn carry(self, mut connection: impl Client, received: Bytes) {
        let carried = async {
            connection.write_all(&self.head).await?;
            connection.flush().await?;
            // Whoever begins the session meanwhile keeps its output until the client has the head.
            let (session, ()) = tokio::join!(self.opening.session, head_is_read(&connection));
            let (from_client, to_client) = tokio::io::split(connection);
            let from_client = std::io::Cursor::new(received).chain(from_client);
            match self.framing {
                Framing::Docker => {
                    carry_frames(from_client, to_client, session, self.opening.tty, self.keys).await
                }
                Framing::Websocket => {
                    let connection = tokio::io::join(from_client, to_client);
                    websocket::carry(connection, session, self.keys).await
                }
            }
        };
        if let Err(error) = carried.await {
            tracing::debug!(%error, "attached client is gone");
        }
    }
}

/// Longest wait for a client to read the answer's head; one that is slower may lose its first output.
const HEAD_READ_MAX: Duration = Duration::from_millis(200);
/// Time between two looks; shorter than a process takes to start.
const HEAD_LOOK_PERIOD: Duration = Duration::from_millis(1);

/// Waits until the client has read what was sent. Some clients (docker-py) read the head through a buffer and the output
/// past it: output that comes together with the head is lost to them.
async fn head_is_read(client: &impl Client) {
    let read = async {
        while client.unread_bytes() > 0 {
            tokio::time::sleep(HEAD_LOOK_PERIOD).await;
        }
    };
    // Too slow a client gets its output nevertheless.
    let _ = tokio::time::timeout(HEAD_READ_MAX, read).await;
}

async fn carry_frames(
    mut from_client: impl AsyncRead + Unpin,
    mut to_client: impl AsyncWrite + Unpin,
    session: Result<AttachSession, BackendError>,
    tty: bool,
    keys: Vec<u8>,
) -> io::Result<()> {
    match session {
        Ok(session) => {
            let sending = send_output(to_client, session.output, tty);
            let keys = if session.tty { keys } else { Vec::new() };
            carry(from_client, sending, session.input, keys).await
        }
        Err(error) => {
            to_client.write_all(&framed(tty, &refusal(&error))).await?;
            to_client.shutdown().await?;
            discard_input(&mut from_client).await;
            Ok(())
        }
    }
}

/// How Docker tells in the stream that a session could not begin.
pub(super) fn refusal(error: &BackendError) -> OutputChunk {
    OutputChunk {
        stream: StreamKind::Stdout,
        data: Bytes::from(format!("{}\r\n", error.message)),
    }
}

fn head(response: &Response<Body>) -> Vec<u8> {
    let status = response.status();
    // Docker's words.
    let reason = match status {
        StatusCode::SWITCHING_PROTOCOLS if response.headers().contains_key(SEC_WEBSOCKET_ACCEPT) => {
            "Switching Protocols"
        }
        StatusCode::SWITCHING_PROTOCOLS => "UPGRADED",
        _ => "OK",
    };
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    for (name, value) in response.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Carries both directions until the output ends, the client detaches, or the connection breaks. The end of the
/// client's input closes the process's input only.
pub(super) async fn carry(
    mut from_client: impl AsyncRead + Unpin,
    sending: impl Future<Output = io::Result<()>>,
    input: Option<InputStream>,
    keys: Vec<u8>,
) -> io::Result<()> {
    {
        tokio::pin!(sending);
        let receiving = async {
            match input {
                Some(input) => receive_input(&mut from_client, input, keys).await,
                None => Received::Closed,
            }
        };
        tokio::select! {
            sent = &mut sending => sent?,
            received = receiving => match received {
                Received::Detached => return Ok(()),
                Received::Closed => sending.await?,
            },
        }
    }
    discard_input(&mut from_client).await;
    Ok(())
}

/// How long a client may take to close its side after the end of the output.
const CLOSING_MAX: Duration = Duration::from_secs(2);

/// Reads what a client still sends after the end of the output, until it closes its side: a connection that is closed
/// over unread input ends with an error for the client.
async fn discard_input(client: &mut (impl AsyncRead + Unpin)) {
    let mut nowhere = tokio::io::sink();
    let discarding = tokio::io::copy(client, &mut nowhere);
    // One that broke or stays is closed over what it sends.
    let _ = tokio::time::timeout(CLOSING_MAX, discarding).await;
}

async fn send_output(
    mut client: impl AsyncWrite + Unpin,
    mut output: OutputStream,
    tty: bool,
) -> io::Result<()> {
    while let Some(chunk) = output.next().await {
        client.write_all(&framed(tty, &chunk?)).await?;
        client.flush().await?;
    }
    client.shutdown().await
}

/// Why input ended.
#[derive(Debug, PartialEq, Eq)]
enum Received {
    /// The client pressed the detach keys.
    Detached,
    /// The client closed its side, or the process its input.
    Closed,
}

async fn receive_input(
    mut client: impl AsyncRead + Unpin,
    mut input: InputStream,
    keys: Vec<u8>,
) -> Received {
    let mut scanner = DetachScanner { keys, matched: 0 };
    let mut buffer = vec![0; INPUT_BYTES];
    loop {
        let count = match client.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let scanned = scanner.scan(&buffer[..count]);
        let written = async {
            input.write_all(&scanned.pass).await?;
            input.flush().await
        };
        let written = written.await;
        if scanned.detach {
            // The process keeps its input: detaching is not closing.
            return Received::Detached;
        }
        if written.is_err() {
            break;
        }
    }
    // A process that is gone cannot be told; that is no error of the client.
    if let Err(error) = input.shutdown().await {
        tracing::debug!(%error, "cannot close the process's input");
    }
    Received::Closed
}

/// Finds the detach keys in input that comes in pieces. Keys that may be the beginning are held back.
struct DetachScanner {
    keys: Vec<u8>,
    matched: usize,
}

/// What a piece of input means.
#[derive(Debug, PartialEq, Eq)]
struct Scanned {
    /// For the process.
    pass: Vec<u8>,
    /// All keys were pressed.
    detach: bool,
}

impl DetachScanner {
    fn scan(&mut self, piece: &[u8]) -> Scanned {
        let mut pass = Vec::with_capacity(piece.len());
        for byte in piece {
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return Scanned { pass, detach: true };
                }
                continue;
            }
            pass.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(self.keys.len() > 1 && self.keys.first() == Some(byte));
            if self.matched == 0 {
                pass.push(*byte);
            }
        }
        Scanned { pass, detach: false }
    }
}

/// Reads keys such as `ctrl-p,ctrl-q` or `a`; empty means the default.
pub(super) fn detach_keys(text: &str) -> Result<Vec<u8>, Failure> {
    if text.is_empty() {
        return Ok(DETACH_KEYS.to_vec());
    }
    text.split(',')
        .map(|key| match (key.strip_prefix("ctrl-"), key.as_bytes()) {
            (Some(control), _) => match control.as_bytes() {
                [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
                [symbol @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Some(symbol & 0x1f),
                _ => None,
            },
            (None, [byte]) => Some(*byte),
            _ => None,
        })
        .collect::<Option<_>>()
        .ok_or_else(|| Failure::invalid(format!("Invalid escape keys ({text}) provided")))
}

/// A chunk as it is sent: raw with a terminal, else with Docker's 8-byte header.
fn framed(tty: bool, chunk: &OutputChunk) -> Bytes {
    if tty {
        chunk.data.clone()
    } else {
        frame(chunk.stream, &chunk.data)
    }
}

/// Stream number, three zeros, length in network order, bytes.
pub(super) fn frame(stream: StreamKind, data: &[u8]) -> Bytes {
    let number = match stream {
        StreamKind::Stdin => 0,
        StreamKind::Stdout => 1,
        StreamKind::Stderr => 2,
    };
    let mut framed = BytesMut::with_capacity(8 + data.len());
    framed.put_slice(&[number, 0, 0, 0]);
    framed.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
    framed.put_slice(data);
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanner() -> DetachScanner {
        DetachScanner {
            keys: DETACH_KEYS.to_vec(),
            matched: 0,
        }
    }

    #[test]
    fn detach_keys_are_found_across_pieces() {
        let mut scanner = scanner();
        let passed = |pass: &[u8]| Scanned {
            pass: pass.to_vec(),
            detach: false,
        };
        assert_eq!(scanner.scan(b"ab\x10"), passed(b"ab"));
        assert_eq!(scanner.scan(b"c\x10\x10"), passed(b"\x10c\x10"));
        assert!(scanner.scan(b"\x11rest").detach);
    }

    #[tokio::test]
    async fn what_is_typed_before_the_detach_keys_arrives() {
        let (mut typing, client) = tokio::io::duplex(64);
        let (input, mut process) = tokio::io::duplex(64);
        typing.write_all(b"last\x10\x11").await.unwrap();
        let ended = receive_input(client, Box::new(input), DETACH_KEYS.to_vec()).await;
        assert_eq!(ended, Received::Detached);
        let mut arrived = Vec::new();
        process.read_to_end(&mut arrived).await.unwrap();
        assert_eq!(arrived, b"last");
    }

    #[tokio::test]
    async fn late_input_leaves_the_end_of_the_output_whole() {
        let (mut client, connection) = tokio::net::UnixStream::pair().unwrap();
        let (from_client, to_client) = tokio::io::split(connection);
        client.write_all(b"typed too late").await.unwrap();
        let chunk = OutputChunk {
            stream: StreamKind::Stdout,
            data: Bytes::from_static(b"out"),
        };
        let output: OutputStream = Box::pin(futures::stream::iter([Ok(chunk)]));
        let carrying = carry(
            from_client,
            send_output(to_client, output, true),
            None,
            Vec::new(),
        );
        let reading = async {
            let mut shown = Vec::new();
            let read = client.read_to_end(&mut shown).await;
            drop(client);
            (read.map_err(|error| error.kind()), shown)
        };
        let (carried, read) = tokio::join!(carrying, reading);
        carried.unwrap();
        assert_eq!(read, (Ok(3), b"out".to_vec()));
    }

    #[test]
    fn keys_are_read_as_docker_writes_them() {
        assert_eq!(detach_keys("ctrl-p,ctrl-q"), Ok(vec![16, 17]));
        assert_eq!(detach_keys("a,ctrl-["), Ok(vec![b'a', 27]));
        for bad in ["ctrl-", "ab", "ctrl-P", "a,,b"] {
            assert!(detach_keys(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn frames_have_dockers_header() {
        assert_eq!(&frame(StreamKind::Stderr, b"hi")[..], b"\x02\0\0\0\0\0\0\x02hi");
    }
}
