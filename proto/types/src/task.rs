//! Tasks: one-shot units of work on a node, and the table of who may change their state.

use crate::overlay::NetworkAddresses;
use crate::{ContainerId, Meta, NodeId, Reason, ServiceId, TaskId, Timestamp};
use serde::{Deserialize, Serialize};

/// A task as the cluster stores it. It points at a template revision of its service and does not copy it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Identity; never changes.
    pub id: TaskId,
    /// Times and versions.
    pub meta: Meta,
    /// The service it belongs to.
    pub service: ServiceId,
    /// Its stable position in the service.
    pub slot: Slot,
    /// The template revision it runs.
    pub template_version: u64,
    /// Its node, once placed; never changes after that.
    pub node: Option<NodeId>,
    /// What the controller wants.
    pub desired: DesiredState,
    /// Not before this time does the task start; how a restart delay is kept.
    pub start_after: Option<Timestamp>,
    /// Why the controller made or last changed it.
    pub reason: Reason,
    /// What was observed.
    pub status: TaskStatus,
    /// Its addresses on networks of the cluster, held until it is seen to stop.
    #[serde(default)]
    pub addresses: Vec<NetworkAddresses>,
}

impl Task {
    /// The task has ended, by its own status.
    pub fn is_terminal(&self) -> bool {
        self.status.state.is_terminal()
    }

    /// The controller wants it to run (or to get ready to).
    pub fn wants_to_run(&self) -> bool {
        self.desired <= DesiredState::Running
    }
}

/// A stable position within a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Slot {
    /// Replica number, from 1; of a job from 0.
    Replica(u64),
    /// The node of a global service's or job's task.
    Node(NodeId),
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Replica(number) => write!(f, "{number}"),
            Self::Node(node) => write!(f, "{node}"),
        }
    }
}

/// What was observed of a task. Owned by the agent of its node once the agent has accepted the task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Restarts by the node itself without a controller in reach; (attempt, state) never moves back.
    pub attempt: u32,
    /// State within the attempt.
    pub state: TaskState,
    /// When it was observed (cluster time for the controller's writes, the agent's wall time otherwise).
    pub at: Timestamp,
    /// For the user; what the state means here.
    pub message: String,
    /// The error that ended it, if one did.
    pub error: Option<String>,
    /// The container, once it exists.
    pub container: Option<TaskContainer>,
}

/// Most statuses in one report of an agent.
pub const REPORT_STATUSES_MAX: usize = 500;
/// Longest message or error of a status, which every controller keeps in memory.
pub const STATUS_TEXT_BYTES_MAX: usize = 1024;
/// Most bound ports of a status: every published port on two addresses, many times over.
const STATUS_PORTS_MAX: usize = 512;

impl TaskStatus {
    /// The same status with texts and lists cut to what is replicated of them.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let cut = |text: &mut String| {
            if text.len() > STATUS_TEXT_BYTES_MAX {
                let end = (0..=STATUS_TEXT_BYTES_MAX - '…'.len_utf8())
                    .rfind(|end| text.is_char_boundary(*end))
                    .unwrap_or(0);
                text.truncate(end);
                text.push('…');
            }
        };
        cut(&mut self.message);
        self.error.iter_mut().for_each(cut);
        if let Some(container) = &mut self.container {
            container.ports.truncate(STATUS_PORTS_MAX);
        }
        self
    }
}

/// The container of a task as the agent saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskContainer {
    /// Its id in the node's engine.
    pub id: ContainerId,
    /// Process id of its first process in the node's pid namespace; 0 when it does not run.
    pub pid: i32,
    /// Exit code, once it ended.
    pub exit_code: Option<i32>,
    /// Host-mode ports that the node bound, as (protocol, container port, host port).
    pub ports: Vec<(crate::service::Protocol, u16, u16)>,
}

/// Task states of SwarmKit, ordered: of two observations in one attempt the greater wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u16)]
pub enum TaskState {
    /// Created.
    New = 0,
    /// Resources allocated; waits for a node.
    Pending = 64,
    /// A node is chosen.
    Assigned = 192,
    /// The agent took it.
    Accepted = 256,
    /// Image, networks and container are being made.
    Preparing = 320,
    /// Prepared; waits until it may run.
    Ready = 384,
    /// Started; waits for its health check.
    Starting = 448,
    /// Running, and healthy where there is a health check.
    Running = 512,
    /// Ended with exit code zero.
    Complete = 576,
    /// Stopped on request.
    Shutdown = 640,
    /// Ended with an error at or after Starting.
    Failed = 704,
    /// Ended with an error before Starting.
    Rejected = 768,
    /// Its node has been gone for so long that it is given up.
    Orphaned = 832,
}

impl TaskState {
    /// Every state, in order.
    pub const ALL: [Self; 13] = [
        Self::New,
        Self::Pending,
        Self::Assigned,
        Self::Accepted,
        Self::Preparing,
        Self::Ready,
        Self::Starting,
        Self::Running,
        Self::Complete,
        Self::Shutdown,
        Self::Failed,
        Self::Rejected,
        Self::Orphaned,
    ];

    /// The task has ended.
    pub fn is_terminal(self) -> bool {
        self >= Self::Complete
    }

    /// Lower-case name as the Engine API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Orphaned => "orphaned",
        }
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What the controller wants of a task. It only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u16)]
pub enum DesiredState {
    /// Prepare, and wait.
    Ready = 384,
    /// Run.
    Running = 512,
    /// Stop.
    Shutdown = 640,
    /// Stop, then forget the record.
    Remove = 800,
}

impl DesiredState {
    /// Lower-case name as the Engine API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Shutdown => "shutdown",
            Self::Remove => "remove",
        }
    }
}

/// Who may change a task's state (architecture: one owner per field).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Actor {
    /// The reconcile passes: create, allocate, place, reject, give up.
    Controller,
    /// The agent of the task's node, over its live session.
    Agent,
}

/// Whether `actor` may move a task's status from one (attempt, state) to another.
///
/// Within an attempt the state only moves forward; a new attempt begins at [`TaskState::Accepted`] or later and only
/// the agent makes one. The table is tested exhaustively.
pub fn may_transition(actor: Actor, from: (u32, TaskState), to: (u32, TaskState)) -> bool {
    use TaskState::{Accepted, Assigned, New, Orphaned, Pending, Rejected, Shutdown};
    match actor {
        Actor::Controller => {
            from.0 == to.0
                && match to.1 {
                    New => false,
                    Pending => from.1 == New,
                    Assigned => matches!(from.1, New | Pending),
                    // Never reached a node, or the node can no longer hold it.
                    Shutdown => matches!(from.1, New | Pending),
                    Rejected => !from.1.is_terminal(),
                    Orphaned => !from.1.is_terminal() && from.1 >= Assigned,
                    Accepted
                    | TaskState::Preparing
                    | TaskState::Ready
                    | TaskState::Starting
                    | TaskState::Running
                    | TaskState::Complete
                    | TaskState::Failed => false,
                }
        }
        Actor::Agent => {
            let agent_state = to.1 >= Accepted && to.1 != Orphaned;
            let owned = from.1 >= Assigned && from.1 != Orphaned;
            let forward = if from.0 == to.0 {
                to.1 > from.1 && !from.1.is_terminal()
            } else {
                to.0 > from.0
            };
            agent_state && owned && forward
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_actor_moves_a_state_back_within_an_attempt() {
        for actor in [Actor::Controller, Actor::Agent] {
            for from in TaskState::ALL {
                for to in TaskState::ALL {
                    if may_transition(actor, (0, from), (0, to)) {
                        assert!(to > from, "{actor:?} {from} {to}");
                        assert!(!from.is_terminal(), "{actor:?} {from} {to}");
                    }
                }
            }
        }
    }

    #[test]
    fn only_the_agent_reports_execution_and_only_after_assignment() {
        use TaskState::*;
        for to in [Accepted, Preparing, Ready, Starting, Running, Complete, Failed] {
            for from in TaskState::ALL {
                assert!(!may_transition(Actor::Controller, (0, from), (0, to)));
            }
            assert!(may_transition(Actor::Agent, (0, Assigned), (0, to)));
            assert!(!may_transition(Actor::Agent, (0, Pending), (0, to)));
            assert!(!may_transition(Actor::Agent, (0, New), (0, to)));
        }
    }

    #[test]
    fn a_status_is_cut_to_its_bounds_between_characters() {
        let long = "é".repeat(STATUS_TEXT_BYTES_MAX);
        let status = TaskStatus {
            attempt: 0,
            state: TaskState::Failed,
            at: Timestamp::ZERO,
            message: "started".to_owned(),
            error: Some(long),
            container: Some(TaskContainer {
                id: ContainerId::from_bytes([1; 32]),
                pid: 1,
                exit_code: None,
                ports: vec![(crate::service::Protocol::Tcp, 1, 1); 60_000],
            }),
        };
        let bounded = status.clone().bounded();
        assert_eq!(bounded.message, status.message);
        let error = bounded.error.clone().unwrap();
        assert!((STATUS_TEXT_BYTES_MAX - 4..=STATUS_TEXT_BYTES_MAX).contains(&error.len()));
        assert!(error.ends_with("é…"));
        assert!(bounded.container.as_ref().unwrap().ports.len() < 1000);
        assert_eq!(bounded.clone().bounded(), bounded);
    }

    #[test]
    fn only_the_agent_begins_a_higher_attempt() {
        assert!(may_transition(
            Actor::Agent,
            (0, TaskState::Failed),
            (1, TaskState::Running)
        ));
        assert!(!may_transition(
            Actor::Agent,
            (1, TaskState::Failed),
            (0, TaskState::Running)
        ));
        assert!(!may_transition(
            Actor::Controller,
            (0, TaskState::Running),
            (1, TaskState::Rejected)
        ));
        assert!(!may_transition(
            Actor::Agent,
            (0, TaskState::Orphaned),
            (1, TaskState::Running)
        ));
    }
}
