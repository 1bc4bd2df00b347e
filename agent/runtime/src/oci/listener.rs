//! The listener of a container's filter (`seccomp.listenerPath`) goes to the container's agent.

use serde_json::Value;
use std::os::fd::RawFd;

use super::error::Result;
use super::record::Record;
use super::state_json;
use crate::error::RuntimeError;
use crate::launch::{AgentPlan, ExecTarget, Observer};

/// Takes a process's listener and sends it to the container's agent.
pub(super) fn hand_over(
    record: &Record,
    status: &str,
    process: &ExecTarget<'_>,
    listener: RawFd,
) -> Result<()> {
    let linux = record.spec.linux().as_ref();
    let agent = AgentPlan::of(linux.and_then(|linux| linux.seccomp().as_ref()));
    let agent =
        agent.ok_or_else(|| RuntimeError::spec("the filter has a listener, and nobody to send it to"))?;
    let state: Value = serde_json::from_str(&state_json(record, status))
        .map_err(|error| RuntimeError::io("describe the container", error))?;
    Ok(agent.hand_over(&state, process, listener)?)
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
