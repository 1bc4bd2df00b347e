//! The agent of a container's filter (`seccomp.listenerPath`): somebody else who decides about system calls. It gets the
//! filter's listener, with what the specification calls the container process state.

use oci_spec::runtime::LinuxSeccomp;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use rustix::process::PidfdGetfdFlags;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ExecTarget;
use crate::error::{Result, RuntimeError};

/// How long whoever listens on a socket may take to accept, and an agent to answer while a process becomes its program:
/// the monitor does nothing else meanwhile.
const REPLY_LIMIT: Duration = Duration::from_secs(10);

/// Whom a container's filter asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgentPlan {
    /// The socket that it listens on.
    pub path: PathBuf,
    /// What it is told beside the state.
    pub metadata: Option<String>,
}

impl AgentPlan {
    /// That of a filter, which need not have one.
    pub fn of(seccomp: Option<&LinuxSeccomp>) -> Option<Self> {
        let seccomp = seccomp?;
        Some(Self {
            path: seccomp.listener_path().clone()?,
            metadata: seccomp.listener_metadata().clone(),
        })
    }

    /// Takes a process's listener and sends it, with the state of its container.
    pub fn hand_over(&self, state: &Value, process: &ExecTarget<'_>, listener: RawFd) -> Result<()> {
        let taken = rustix::process::pidfd_getfd(process.init, listener, PidfdGetfdFlags::empty())
            .map_err(|error| RuntimeError::io("take the listener of the system call filter", error))?;
        let mut told = json!({
            "ociVersion": state["ociVersion"],
            "fds": ["seccompFd"],
            "pid": process.init_pid,
            "state": state,
        });
        if let Some(metadata) = &self.metadata {
            told["metadata"] = json!(metadata);
        }
        let what = "the listener of the system call filter";
        send_descriptor(&self.path, taken.as_fd(), what, told.to_string().as_bytes())
    }
}

/// Waits for a process that its agent may keep from going on for so long only.
pub(super) fn limit_wait(sync: BorrowedFd<'_>) -> Result<()> {
    set_socket_timeout(sync, Timeout::Recv, Some(REPLY_LIMIT))
        .map_err(|error| RuntimeError::io("limit the wait for the agent of the system call filter", error))
}

/// Why nothing was heard of a process.
pub(super) fn silence(error: Errno) -> RuntimeError {
    match error {
        Errno::AGAIN => RuntimeError::Start {
            message: format!(
                "the agent of the system call filter (listenerPath) did not let the process start within {} s",
                REPLY_LIMIT.as_secs()
            ),
            code: 128,
        },
        error => RuntimeError::io("hear from the container's process", error),
    }
}

/// Sends a descriptor and these bytes to somebody who listens on a socket.
pub(crate) fn send_descriptor(
    path: &Path,
    descriptor: BorrowedFd<'_>,
    what: &str,
    bytes: &[u8],
) -> Result<()> {
    let describe = || format!("send {what} to {}", path.display());
    let send = || {
        let mut socket = UnixStream::from(connect(path)?);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        let parts = [IoSlice::new(bytes)];
        let sent = rustix::net::sendmsg(&socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
        socket.write_all(bytes.get(sent..).unwrap_or_default())
    };
    send().map_err(|error: std::io::Error| RuntimeError::io(describe(), error))
}

fn connect(path: &Path) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // It also limits how long connect waits for a place in a full queue.
    set_socket_timeout(&socket, Timeout::Send, Some(REPLY_LIMIT))?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}
