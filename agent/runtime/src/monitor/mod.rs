//! The per-container monitor: the process itself, and the daemon's handle to it.

mod client;
pub(crate) mod connection;
pub(crate) mod frame;
#[cfg(test)]
mod hostile;
pub(crate) mod process;
mod record;
mod stream;

pub use client::{AttachRequest, ExecControl, ExecRequest, ExecSession, Monitor};
pub use record::recover_lost;
pub use stream::{AttachInput, AttachOutput, AttachStream, Output};
