//! The state machine of one task on its node.

use muster_types::service::{Protocol, RestartCondition};
use muster_types::task::TaskContainer;
use muster_types::{AssignedTask, ContainerId, DesiredState, TaskState, TaskStatus, Timestamp};
use serde::{Deserialize, Serialize};

/// What exists of a task on this node, and which operation on it is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing was made yet.
    Absent,
    /// Image, network and container are being made.
    Preparing,
    /// The container exists and was never started.
    Prepared,
    /// The container is being started.
    Starting,
    /// It started; its health check has not passed yet.
    AwaitingHealth,
    /// It runs.
    Running,
    /// It is being stopped.
    Stopping,
    /// It ended, or never came to be.
    Ended,
    /// Its container is being removed.
    Removing,
}

impl Phase {
    /// An operation of the engine is under way; the next step waits for its result.
    pub fn is_busy(self) -> bool {
        match self {
            Self::Preparing | Self::Starting | Self::Stopping | Self::Removing => true,
            Self::Absent | Self::Prepared | Self::AwaitingHealth | Self::Running | Self::Ended => false,
        }
    }
}

/// The next effect that a task needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make image, network and container.
    Prepare,
    /// Start the container.
    Start,
    /// Stop the container.
    Stop,
    /// Remove the container.
    Remove,
    /// Nothing is left of it: forget the record.
    Forget,
}

/// One task of this node: what exists of it, and the status that the node owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// What exists.
    pub phase: Phase,
    /// The newest status.
    pub status: TaskStatus,
    /// The last (attempt, state) that the controllers acknowledged.
    pub acknowledged: Option<(u32, TaskState)>,
    /// It must stop: the controllers asked for it, or its health check failed for good.
    pub stop_requested: bool,
    /// It ended with the machine, not by itself: it may begin another attempt when no controller is in reach.
    pub lost_by_reboot: bool,
}

impl TaskRecord {
    /// A task that was just assigned.
    pub fn accepted(now: Timestamp) -> Self {
        Self {
            phase: Phase::Absent,
            status: TaskStatus {
                attempt: 0,
                state: TaskState::Accepted,
                at: now,
                message: "accepted".to_owned(),
                error: None,
                container: None,
            },
            acknowledged: None,
            stop_requested: false,
            lost_by_reboot: false,
        }
    }

    /// The container, once it exists.
    pub fn container(&self) -> Option<&ContainerId> {
        self.status.container.as_ref().map(|container| &container.id)
    }

    /// (attempt, state), which never moves back.
    pub fn rank(&self) -> (u32, TaskState) {
        (self.status.attempt, self.status.state)
    }

    /// What to do next, given what the controllers want; `None` for `wanted` means the task is no longer assigned.
    /// Nothing while an operation is under way.
    pub fn next_step(&self, wanted: Option<&AssignedTask>) -> Option<Step> {
        if self.phase.is_busy() {
            return None;
        }
        let stop = self.stop_requested || wanted.is_none_or(|task| task.desired >= DesiredState::Shutdown);
        let run = !stop && wanted.is_some_and(|task| task.desired == DesiredState::Running);
        match self.phase {
            Phase::Absent if stop => Some(Step::Forget).filter(|_| wanted.is_none()),
            Phase::Absent => Some(Step::Prepare),
            Phase::Prepared if run => Some(Step::Start),
            Phase::Prepared if stop => Some(Step::Stop),
            Phase::AwaitingHealth | Phase::Running if stop => Some(Step::Stop),
            Phase::Ended if wanted.is_none() && self.container().is_some() => Some(Step::Remove),
            Phase::Ended if wanted.is_none() => Some(Step::Forget),
            Phase::Prepared | Phase::AwaitingHealth | Phase::Running | Phase::Ended => None,
            Phase::Preparing | Phase::Starting | Phase::Stopping | Phase::Removing => None,
        }
    }

    /// Moves the status forward; an observation that would move it back is ignored.
    pub fn advance(&mut self, state: TaskState, message: &str, error: Option<String>, now: Timestamp) {
        if state > self.status.state && !self.status.state.is_terminal() {
            self.status.state = state;
            self.status.at = now;
            self.status.message = message.to_owned();
            self.status.error = error;
        }
    }

    /// Notes the container that was made for the task.
    pub fn prepared(&mut self, container: ContainerId, now: Timestamp) {
        self.phase = Phase::Prepared;
        self.status.container = Some(TaskContainer {
            id: container,
            pid: 0,
            exit_code: None,
            ports: Vec::new(),
        });
        self.advance(TaskState::Ready, "prepared", None, now);
    }

    /// Notes that making the container failed: the task is rejected.
    pub fn prepare_failed(&mut self, error: String, now: Timestamp) {
        self.phase = Phase::Ended;
        if self.stop_requested {
            self.advance(TaskState::Shutdown, "shutdown", Some(error), now);
        } else {
            self.advance(TaskState::Rejected, "preparing", Some(error), now);
        }
    }

    /// Notes that the container started.
    pub fn started(
        &mut self,
        pid: i32,
        ports: Vec<(Protocol, u16, u16)>,
        health_checked: bool,
        now: Timestamp,
    ) {
        if let Some(container) = &mut self.status.container {
            container.pid = pid;
            container.ports = ports;
        }
        if health_checked {
            self.phase = Phase::AwaitingHealth;
        } else {
            self.phase = Phase::Running;
            self.advance(TaskState::Running, "started", None, now);
        }
    }

    /// Notes the end of the container, or that it could not be started.
    pub fn ended(&mut self, exit_code: Option<i32>, error: Option<String>, now: Timestamp) {
        self.phase = Phase::Ended;
        if let Some(container) = &mut self.status.container {
            container.pid = 0;
            container.exit_code = exit_code;
        }
        if self.stop_requested {
            self.advance(TaskState::Shutdown, "shutdown", None, now);
        } else if exit_code == Some(0) && error.is_none() {
            self.advance(TaskState::Complete, "finished", None, now);
        } else {
            let error = error.or_else(|| exit_code.map(|code| format!("task: non-zero exit ({code})")));
            self.advance(TaskState::Failed, "started", error, now);
        }
    }

    /// Whether the task may run again on this node after a reboot with no controller in reach.
    pub fn may_begin_attempt(&self, wanted: &AssignedTask) -> bool {
        self.lost_by_reboot
            && self.phase == Phase::Ended
            && wanted.desired == DesiredState::Running
            && wanted.template.restart.condition != RestartCondition::None
    }

    /// Begins the next attempt of the same task: its old container is started again.
    pub fn begin_attempt(&mut self, now: Timestamp) {
        self.lost_by_reboot = false;
        self.status.attempt += 1;
        self.status.state = TaskState::Accepted;
        self.status.at = now;
        self.status.message = "running again after a restart of the node".to_owned();
        self.status.error = None;
        self.phase = if self.status.container.is_some() {
            Phase::Prepared
        } else {
            Phase::Absent
        };
    }
}
