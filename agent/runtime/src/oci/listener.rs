//! The listener of a container's filter (`seccomp.listenerPath`): whoever decides about system calls gets it, with what the
//! specification calls the container process state.

use rustix::process::PidfdGetfdFlags;
use serde_json::{Value, json};
use std::os::fd::{AsFd, RawFd};

use super::error::Result;
use super::record::Record;
use super::{console, state_json};
use crate::error::RuntimeError;
use crate::launch::{ExecTarget, Observer};

/// Takes a process's listener and sends it to the container's agent.
pub(super) fn hand_over(
    record: &Record,
    status: &str,
    process: &ExecTarget<'_>,
    listener: RawFd,
) -> Result<()> {
    let seccomp = record
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().as_ref());
    let path = seccomp.and_then(|seccomp| seccomp.listener_path().as_ref());
    let path =
        path.ok_or_else(|| RuntimeError::spec("the filter has a listener, and nobody to send it to"))?;
    let taken = rustix::process::pidfd_getfd(process.init, listener, PidfdGetfdFlags::empty())
        .map_err(|error| RuntimeError::io("take the listener of the system call filter", error))?;
    let state: Value = serde_json::from_str(&state_json(record, status))
        .map_err(|error| RuntimeError::io("describe the container", error))?;
    let mut told = json!({
        "ociVersion": record.spec.version(),
        "fds": ["seccompFd"],
        "pid": process.init_pid,
        "state": state,
    });
    if let Some(metadata) = seccomp.and_then(|seccomp| seccomp.listener_metadata().as_ref()) {
        told["metadata"] = json!(metadata);
    }
    let what = "the listener of the system call filter";
    console::send_with(path, taken.as_fd(), what, told.to_string().as_bytes())
}

/// Sees another process of a container start.
pub(super) struct Executing<'a>(pub &'a Record);

impl Observer for Executing<'_> {
    fn started(&mut self, _pid: i32) -> crate::error::Result<()> {
        Ok(())
    }

    fn built(&mut self, _process: &ExecTarget<'_>) -> crate::error::Result<()> {
        Ok(())
    }

    fn listening(&mut self, process: &ExecTarget<'_>, listener: RawFd) -> crate::error::Result<()> {
        hand_over(self.0, "running", process, listener).map_err(RuntimeError::from)
    }
}
