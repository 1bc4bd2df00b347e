//! The agents' sessions with the leader: opening, statuses, heartbeats, and the end.

use super::Controller;
use super::io::{Input, Now, Output};
use super::proposals::Origin;
use crate::leases::RESTART_GRACE;
use crate::pace::Limit;
use muster_state::{Change, Changeset, Reporter};
use muster_types::{NodeDescription, NodeId, NodeState, RaftId, Reason, SessionId, TaskId, TaskStatus};
use std::sync::Arc;
use std::time::Duration;

/// Openings of one node's sessions, each of which is an entry of the log. An honest agent opens one and keeps it; one
/// that the network cuts off again and again comes back within its back-off.
const OPENINGS: Limit = Limit {
    burst: 10,
    interval: Duration::from_millis(500),
};

impl Controller {
    /// Input of an agent.
    pub(super) fn handle_agent(&mut self, input: Input, now: Now) {
        match input {
            Input::SessionOpen {
                node,
                session,
                description,
                address,
            } => {
                self.open_session(node, session, *description, address, now);
            }
            Input::SessionLost { node, session } => {
                if let Some(leader) = &mut self.leader {
                    leader.leases.lost(node, session);
                    leader.dispatch.close(node, session);
                }
            }
            Input::Farewell {
                node,
                session,
                restarting,
            } => self.farewell(node, session, restarting, now),
            Input::NetworksApplied { node, session, index } => {
                if let Some(leader) = &mut self.leader {
                    leader
                        .dispatch
                        .settle(node, session, |settling| settling.applied(index));
                }
            }
            Input::AwaitSettled { node, session, index } => {
                if let Some(leader) = &mut self.leader {
                    leader
                        .dispatch
                        .settle(node, session, |settling| settling.awaits(index));
                }
            }
            Input::Heartbeat { token, node, session } => {
                let accepted = self
                    .leader
                    .as_mut()
                    .is_some_and(|leader| leader.leases.renew(node, session, now.elapsed));
                self.outputs.push(Output::HeartbeatTaken { token, accepted });
            }
            Input::Status {
                node,
                session,
                sequence,
                statuses,
            } => {
                self.take_statuses(node, session, sequence, statuses, now);
            }
            Input::Tick
            | Input::Raft { .. }
            | Input::Met { .. }
            | Input::Unreachable(_)
            | Input::Chunk { .. }
            | Input::ChunkUnavailable(_)
            | Input::ServeChunk { .. }
            | Input::Write { .. }
            | Input::Read { .. }
            | Input::RotateKeys { .. }
            | Input::AnewNoted
            | Input::StepDown => {}
        }
    }

    fn open_session(
        &mut self,
        node: NodeId,
        session: SessionId,
        description: NodeDescription,
        address: String,
        now: Now,
    ) {
        let record = self.state.node(node).cloned();
        let (Some(record), true) = (record, self.is_leading()) else {
            let leader = self.raft.role().leader.and_then(|id| self.address_of(RaftId(id)));
            self.outputs.push(Output::SessionEnded {
                node,
                session,
                leader,
            });
            return;
        };
        if !self.may_open(node, now) {
            tracing::warn!(%node, "a node opens sessions too often; it has to wait");
            self.outputs.push(Output::SessionEnded {
                node,
                session,
                leader: None,
            });
            return;
        }
        let mut changes = vec![Change::NodeStatus {
            node,
            state: NodeState::Ready,
            message: String::new(),
            address,
        }];
        if *record.description != description {
            changes.push(Change::NodeDescription {
                node,
                description: Arc::new(description),
            });
        }
        let changeset = Changeset::new(Reason::SessionOpened, changes);
        if self
            .propose(changeset, Origin::Session { node, session }, now)
            .is_err()
        {
            self.outputs.push(Output::SessionEnded {
                node,
                session,
                leader: None,
            });
            return;
        }
        let Some(leader) = &mut self.leader else { return };
        // The lease counts from now, so that the node cannot be called down while its first entry is on its way.
        let replaced = leader.leases.session(node);
        leader.leases.open(node, session, now.elapsed);
        leader.opening.insert(node, session);
        if let Some(old) = replaced {
            leader.dispatch.close(node, old);
            self.outputs.push(Output::SessionEnded {
                node,
                session: old,
                leader: None,
            });
        }
    }

    /// Counts an opening against the node's limit; false when it has to wait.
    fn may_open(&mut self, node: NodeId, now: Now) -> bool {
        let Some(leader) = &mut self.leader else {
            return false;
        };
        let pace = leader.opened.entry(node).or_default();
        let allowed = pace.wait(OPENINGS, now.elapsed).is_zero();
        if allowed {
            pace.count(OPENINGS, now.elapsed);
        }
        allowed
    }

    /// The session's first entry is committed: it is live.
    pub(super) fn session_committed(&mut self, node: NodeId, session: SessionId) {
        let known = self.state.node(node).is_some();
        let Some(leader) = &mut self.leader else { return };
        if leader.opening.get(&node) == Some(&session) {
            leader.opening.remove(&node);
        }
        if !known || leader.leases.session(node) != Some(session) {
            self.outputs.push(Output::SessionEnded {
                node,
                session,
                leader: None,
            });
            return;
        }
        leader.dispatch.open(node, session);
        leader.assignments_due.insert(node);
        leader.views_due = true;
        let heartbeat_period = leader.leases.period();
        self.outputs.push(Output::SessionOpened {
            node,
            session,
            heartbeat_period,
        });
    }

    /// The daemon stops. One that restarts is to hold its lease whoever leads by then, so that is replicated; the
    /// session ends, and the agent knows that it was heard, once it is committed.
    fn farewell(&mut self, node: NodeId, session: SessionId, restarting: bool, now: Now) {
        let Some(leader) = &mut self.leader else { return };
        if leader.leases.session(node) != Some(session) {
            return;
        }
        if restarting {
            let until = leader.cluster_time(now).after(RESTART_GRACE);
            let change = Change::NodeRestarting { node, until };
            let changeset = Changeset::new(Reason::DaemonRestarts, vec![change]);
            // A leader that cannot propose keeps at least its own lease.
            match self.propose(changeset, Origin::Farewell { node, session }, now) {
                Ok(()) => {}
                Err(_) => self.farewell_committed(node, session, now),
            }
            return;
        }
        leader.leases.farewell(node, session, now.elapsed);
        self.end_session(node, session);
    }

    /// It is recorded that the daemon restarts.
    pub(super) fn farewell_committed(&mut self, node: NodeId, session: SessionId, now: Now) {
        if let Some(leader) = &mut self.leader {
            leader
                .leases
                .restarting(node, session, RESTART_GRACE, now.elapsed);
        }
        self.end_session(node, session);
    }

    /// A session cannot go on.
    pub(super) fn end_session(&mut self, node: NodeId, session: SessionId) {
        if let Some(leader) = &mut self.leader {
            leader.leases.lost(node, session);
            leader.dispatch.close(node, session);
            if leader.opening.get(&node) == Some(&session) {
                leader.opening.remove(&node);
            }
        }
        self.outputs.push(Output::SessionEnded {
            node,
            session,
            leader: None,
        });
    }

    /// Statuses count only over the node's live session, and only for its own tasks.
    fn take_statuses(
        &mut self,
        node: NodeId,
        session: SessionId,
        sequence: u64,
        statuses: Vec<(TaskId, TaskStatus)>,
        now: Now,
    ) {
        let live = self
            .leader
            .as_ref()
            .is_some_and(|leader| leader.leases.session(node) == Some(session));
        if !live {
            self.outputs.push(Output::SessionEnded {
                node,
                session,
                leader: None,
            });
            return;
        }
        // One changeset is applied whole or not at all, so what cannot apply is left out here.
        let changes: Vec<Change> = statuses
            .into_iter()
            .filter(|(task, status)| self.status_applies(node, *task, status))
            .map(|(task, status)| Change::TaskStatus {
                task,
                reporter: Reporter::Agent(node),
                status: status.bounded(),
            })
            .collect();
        if changes.is_empty() {
            self.outputs.push(Output::StatusCommitted { session, sequence });
            return;
        }
        let origin = Origin::Status {
            node,
            session,
            sequence,
        };
        if self
            .propose(Changeset::new(Reason::AgentReport, changes), origin, now)
            .is_err()
        {
            self.end_session(node, session);
        }
    }

    fn status_applies(&self, node: NodeId, task: TaskId, status: &TaskStatus) -> bool {
        use muster_types::task::{Actor, may_transition};
        self.state.task(task).is_some_and(|known| {
            let (from, to) = (
                (known.status.attempt, known.status.state),
                (status.attempt, status.state),
            );
            known.node == Some(node) && may_transition(Actor::Agent, from, to)
        })
    }
}
