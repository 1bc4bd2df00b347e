//! The daemon's side of one connection to a monitor.

use std::io;
use std::path::Path;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::frame::{self, ErrorBody, HEADER_BYTES, HelloBody, Kind};
use crate::error::{Result, RuntimeError};

/// The name of a monitor's socket in the container's run directory.
pub(crate) const SOCKET_NAME: &str = "monitor.sock";

/// The longest path that a unix socket's address holds.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Connects and reads the hello frame.
pub(super) async fn open(state_dir: &Path) -> Result<(UnixStream, HelloBody)> {
    let path = state_dir.join(SOCKET_NAME);
    let stream = match connect(&path).await {
        Ok(stream) => stream,
        Err(error) if is_gone(&error) => return Err(RuntimeError::Gone),
        Err(error) => return Err(RuntimeError::io(format!("connect to {}", path.display()), error)),
    };
    greet(stream).await
}

/// Reads the hello frame of a fresh connection.
pub(crate) async fn greet(mut stream: UnixStream) -> Result<(UnixStream, HelloBody)> {
    match read(&mut stream).await? {
        Some((Kind::Hello, payload)) => {
            let hello = frame::decode(&payload)?;
            Ok((stream, hello))
        }
        Some((Kind::Error, payload)) => Err(refusal(&payload)),
        Some((kind, _)) => Err(unexpected(kind)),
        None => Err(RuntimeError::Gone),
    }
}

/// Long paths are reached through the directory's descriptor, as socket addresses are short.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return UnixStream::connect(path).await;
    }
    let directory = std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&directory);
    UnixStream::connect(format!("/proc/self/fd/{descriptor}/{SOCKET_NAME}")).await
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
    )
}

/// Sends a whole frame.
pub(super) async fn send(stream: &mut UnixStream, frame: &[u8]) -> Result<()> {
    stream.write_all(frame).await.map_err(broken)
}

/// Reads one frame; `None` at the end of the connection.
pub(super) async fn read<R: AsyncRead + Unpin>(stream: &mut R) -> Result<Option<(Kind, Vec<u8>)>> {
    let mut header = [0; HEADER_BYTES];
    match stream.read_exact(&mut header).await {
        Ok(_) => {}
        Err(error) if is_end(&error) => return Ok(None),
        Err(error) => return Err(broken(error)),
    }
    let (kind, length) = frame::parse_header(header);
    let known = Kind::from_byte(kind);
    let kind = known.ok_or_else(|| RuntimeError::protocol(format!("unknown frame kind {kind}")))?;
    if length > frame::REPLY_BYTES_MAX {
        return Err(RuntimeError::protocol(format!("a frame of {length} bytes")));
    }
    let mut payload = vec![0; length];
    match stream.read_exact(&mut payload).await {
        Ok(_) => Ok(Some((kind, payload))),
        Err(error) if is_end(&error) => Ok(None),
        Err(error) => Err(broken(error)),
    }
}

/// Reads the answer to a request that is only done or refused.
pub(crate) async fn expect_done(stream: &mut UnixStream) -> Result<()> {
    match read(stream).await? {
        Some((Kind::Done, _)) => Ok(()),
        Some((Kind::Error, payload)) => Err(refusal(&payload)),
        Some((kind, _)) => Err(unexpected(kind)),
        None => Err(RuntimeError::Gone),
    }
}

/// The error that an error frame carries.
pub(super) fn refusal(payload: &[u8]) -> RuntimeError {
    match frame::decode::<ErrorBody>(payload) {
        Ok(ErrorBody { code: 0, message }) => RuntimeError::Refused { message },
        Ok(ErrorBody { code, message }) => RuntimeError::Start { message, code },
        Err(error) => error,
    }
}

pub(super) fn unexpected(kind: Kind) -> RuntimeError {
    RuntimeError::protocol(format!("{kind:?} frame out of turn"))
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

fn broken(error: io::Error) -> RuntimeError {
    if is_end(&error) {
        RuntimeError::Gone
    } else {
        RuntimeError::io("talk to the container's monitor", error)
    }
}
