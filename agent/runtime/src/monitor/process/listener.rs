//! The listener of the container's filter goes to its agent.

use serde_json::{Value, json};
use std::os::fd::RawFd;

use crate::error::{Result, RuntimeError};
use crate::launch::{ExecTarget, Observer};
use crate::plan::ContainerPlan;

/// The version of the specification whose container process state is sent.
const OCI_VERSION: &str = "1.2.0";

/// Sends a process's listener to the container's agent.
pub(super) fn hand_over(
    plan: &ContainerPlan,
    status: &str,
    container_pid: i32,
    process: &ExecTarget<'_>,
    listener: RawFd,
) -> Result<()> {
    let agent = plan.agent.as_ref();
    let agent = agent.ok_or_else(|| RuntimeError::protocol("nobody listens to the container's filter"))?;
    agent.hand_over(&state(plan, status, container_pid), process, listener)
}

fn state(plan: &ContainerPlan, status: &str, pid: i32) -> Value {
    json!({
        "ociVersion": OCI_VERSION,
        "id": plan.id,
        "status": status,
        "pid": pid,
        "bundle": plan.state_dir,
    })
}

/// Sees another process of a container start.
pub(super) struct Executing<'a> {
    pub plan: &'a ContainerPlan,
    pub container_pid: i32,
}

impl Observer for Executing<'_> {
    fn started(&mut self, _pid: i32) -> Result<()> {
        Ok(())
    }

    fn built(&mut self, _process: &ExecTarget<'_>) -> Result<()> {
        Ok(())
    }

    fn listening(&mut self, process: &ExecTarget<'_>, listener: RawFd) -> Result<()> {
        hand_over(self.plan, "running", self.container_pid, process, listener)
    }
}
