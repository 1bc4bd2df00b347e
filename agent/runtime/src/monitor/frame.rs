//! The protocol between the daemon and a monitor: frames over a unix stream socket.
//!
//! A monitor outlives the daemon that started it, so a newer daemon must understand an older monitor. A payload's layout
//! therefore never changes: what is new gets a new kind, and [`VERSION`] (sent in the hello frame) says which kinds
//! a monitor knows. A monitor answers an unknown kind with an error frame.

use serde::{Deserialize, Serialize};

use crate::error::{Result, RuntimeError};

/// The protocol version of monitors that this binary forks.
pub const VERSION: u32 = 1;

/// Bytes before a payload: kind, three zero bytes, the payload's length (little endian).
pub const HEADER_BYTES: usize = 8;

/// The longest payload towards a monitor: an exec plan with the longest environment that the kernel takes (2 MiB), twice.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;

/// The longest payload towards the daemon: a chunk of output.
pub const REPLY_BYTES_MAX: usize = 64 << 10;

/// The container's init as the target of a request; exec'ed processes count from 1.
pub const TARGET_INIT: u32 = 0;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// What a frame says.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $value,)* }

        impl Kind {
            /// The kind with this number, where there is one.
            pub fn from_byte(byte: u8) -> Option<Kind> {
                match byte { $($value => Some(Kind::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// Answer with [`Kind::Exited`] once the container has ended.
    Wait = 1,
    /// Stream the container's output: [`AttachBody`].
    Attach = 2,
    /// Set a terminal's size: [`ResizeBody`].
    Resize = 3,
    /// Send a signal: [`SignalBody`].
    Signal = 4,
    /// Let a held container run.
    Release = 5,
    /// Start a process in the container: an exec plan.
    Exec = 6,
    /// Answer with [`Kind::ExecExited`] once the exec'ed process has ended: its number (u32).
    WaitExec = 7,
    /// Bytes for standard input.
    StdinData = 8,
    /// End of standard input.
    StdinClose = 9,
    /// First frame of a connection: [`HelloBody`].
    Hello = 64,
    /// The request was carried out.
    Done = 65,
    /// The request failed: [`ErrorBody`].
    Error = 66,
    /// The container ended: an exit status.
    Exited = 67,
    /// Bytes of standard output.
    Stdout = 68,
    /// Bytes of standard error.
    Stderr = 69,
    /// Bytes of the terminal.
    Console = 70,
    /// An exec'ed process runs: [`ExecStartedBody`].
    ExecStarted = 71,
    /// An exec'ed process ended: its code (i32).
    ExecExited = 72,
    /// No more output follows.
    OutputEnd = 73,
}

/// Payload of [`Kind::Hello`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct HelloBody {
    pub version: u32,
    pub pid: i32,
    pub started_at_ns: i128,
}

/// Payload of [`Kind::Attach`]: which streams.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct AttachBody {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// Payload of [`Kind::Resize`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ResizeBody {
    pub target: u32,
    pub rows: u16,
    pub columns: u16,
}

/// Payload of [`Kind::Signal`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct SignalBody {
    pub target: u32,
    pub signal: i32,
    pub all: bool,
}

/// Payload of [`Kind::Error`]; a code other than 0 means that a process could not be started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    pub code: i32,
    pub message: String,
}

/// Payload of [`Kind::ExecStarted`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ExecStartedBody {
    pub pid: i32,
    pub number: u32,
}

/// The header of a frame.
pub fn header(kind: Kind, length: usize) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    [kind as u8, 0, 0, 0, a, b, c, d]
}

/// The kind byte and the payload's length of a header.
pub fn parse_header(header: [u8; HEADER_BYTES]) -> (u8, usize) {
    let [kind, _, _, _, a, b, c, d] = header;
    (kind, u32::from_le_bytes([a, b, c, d]) as usize)
}

/// A whole frame with an encoded payload.
pub fn encode<T: Serialize>(kind: Kind, body: &T) -> Vec<u8> {
    // Our payloads are plain structs in memory: encoding them cannot fail.
    encode_bytes(kind, &postcard::to_stdvec(body).unwrap_or_default())
}

/// A whole frame with a payload of bytes.
pub fn encode_bytes(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(&header(kind, payload.len()));
    frame.extend_from_slice(payload);
    frame
}

/// Decodes a payload.
pub fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T> {
    postcard::from_bytes(payload).map_err(|error| RuntimeError::protocol(format!("bad payload: {error}")))
}
