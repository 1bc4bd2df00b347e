//! Sessions' connections: in order, sent again when lost, broken by a partition that lasts or by the end of a process.

use crate::planted::PlantedBug;
use crate::wire::SessionMessage;
use crate::world::{Event, World};
use muster_controller::authorize::Identity;
use muster_controller::core::io::Input;
use muster_types::{AssignmentUpdate, IdSource, NodeId, SessionId, TaskId, TaskState, TaskStatus};
use std::collections::VecDeque;

/// A connection whose other side is silent for this long is broken (keep-alive interval and time-out).
const SILENCE_US: u64 = 3_000_000;
/// How often keep-alive looks.
const LOOK_US: u64 = 500_000;
/// Wait before a message that was held up by a cut link is tried again.
const RESEND_US: u64 = 100_000;

/// Which end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The agent's.
    Agent,
    /// The controller's.
    Controller,
}

impl End {
    fn other(self) -> Self {
        match self {
            Self::Agent => Self::Controller,
            Self::Controller => Self::Agent,
        }
    }
}

/// One end: where it is, and what is on its way to it.
#[derive(Debug)]
struct Side {
    machine: usize,
    /// The daemon's epoch at the agent's end, the controller's run at the other; 0 until hello arrives.
    process: u64,
    open: bool,
    incoming: VecDeque<SessionMessage>,
    last_due_us: u64,
}

/// One connection.
#[derive(Debug)]
pub struct Stream {
    agent: Side,
    controller: Side,
    node: NodeId,
    /// The agent's node, by the certificate that it dialled with.
    caller: Option<Identity>,
    session: Option<SessionId>,
    silent_since_us: Option<u64>,
}

impl Stream {
    /// Where the controller's end is.
    pub fn controller_machine(&self) -> usize {
        self.controller.machine
    }

    fn side(&mut self, end: End) -> &mut Side {
        match end {
            End::Agent => &mut self.agent,
            End::Controller => &mut self.controller,
        }
    }
}

impl World {
    /// The agent of a machine dials another one and says hello.
    pub fn open_stream(&mut self, machine: usize, to: usize, hello: SessionMessage) -> u64 {
        self.next_stream += 1;
        let stream = self.next_stream;
        let side = |machine, process| Side {
            machine,
            process,
            open: true,
            incoming: VecDeque::new(),
            last_due_us: 0,
        };
        let caller = self.machines[machine].files.certificate;
        let node = caller.map(|caller| caller.node).unwrap_or_default();
        let epoch = self.machines[machine].epoch;
        self.streams.insert(
            stream,
            Stream {
                agent: side(machine, epoch),
                controller: side(to, 0),
                node,
                caller,
                session: None,
                silent_since_us: None,
            },
        );
        self.send_on_stream(stream, End::Controller, hello);
        self.push(LOOK_US, Event::KeepAlive { stream });
        stream
    }

    /// Puts a message on its way to one end.
    pub fn send_on_stream(&mut self, stream: u64, to: End, message: SessionMessage) {
        let now_us = self.now_us;
        let Some(found) = self.streams.get_mut(&stream) else {
            return;
        };
        if !found.side(to.other()).open {
            return;
        }
        let (from, target) = (found.side(to.other()).machine, found.side(to).machine);
        let delay = self.network.stream_delay_us(from, target);
        let side = found.side(to);
        side.last_due_us = side.last_due_us.max(now_us + delay);
        side.incoming.push_back(message);
        let due = side.last_due_us - now_us;
        self.push(due, Event::StreamDue { stream, to });
    }

    /// The first message on its way to this end is due.
    pub fn stream_due(&mut self, stream: u64, to: End) {
        let Some(found) = self.streams.get_mut(&stream) else {
            return;
        };
        let (from, target) = (found.side(to.other()).machine, found.side(to).machine);
        if !found.side(to).open {
            found.side(to).incoming.clear();
            return;
        }
        if found.controller.process == 0 && !found.agent.open {
            // The dialler gave up before anybody answered.
            self.streams.remove(&stream);
            return;
        }
        if self.network.is_cut(from, target) || !self.machines[target].powered {
            self.push(RESEND_US, Event::StreamDue { stream, to });
            return;
        }
        if let Some(wait) = self.stalled(target) {
            self.push(wait, Event::StreamDue { stream, to });
            return;
        }
        let found = self.streams.get_mut(&stream);
        let Some(message) = found.and_then(|found| found.side(to).incoming.pop_front()) else {
            return;
        };
        match to {
            End::Agent => self.agent_hears(target, stream, message),
            End::Controller => self.controller_hears(target, stream, message),
        }
    }

    fn controller_hears(&mut self, machine: usize, stream: u64, message: SessionMessage) {
        let Some(found) = self.streams.get(&stream) else {
            return;
        };
        let (node, session, process) = (found.node, found.session, found.controller.process);
        let caller = found.caller;
        let run = self.machines[machine]
            .controller()
            .map(|controller| controller.run);
        if run.is_none() && matches!(message, SessionMessage::Hello { .. }) {
            self.refer(machine, stream);
            return;
        }
        if run.is_none() || (process != 0 && run != Some(process)) {
            self.break_stream(stream, End::Controller);
            return;
        }
        match (message, session) {
            (SessionMessage::Hello { description, .. }, None) => {
                if self.may_open_session(machine, caller) {
                    self.hello(machine, stream, node, description);
                } else {
                    self.break_stream(stream, End::Controller);
                }
            }
            (SessionMessage::Status { sequence, statuses }, Some(session)) => {
                self.note_completions((stream, sequence), &statuses);
                let dropped = self.planted == Some(PlantedBug::LostFinalStatus);
                let mut statuses: Vec<_> = statuses
                    .into_iter()
                    .filter(|(_, status)| !(dropped && status.state >= TaskState::Complete))
                    .collect();
                self.maybe_misreport(&mut statuses);
                self.input(
                    machine,
                    Input::Status {
                        node,
                        session,
                        sequence,
                        statuses,
                    },
                );
            }
            (SessionMessage::NetworksApplied(index), Some(session)) => {
                let applied = Input::NetworksApplied { node, session, index };
                self.input(machine, applied);
            }
            (SessionMessage::AwaitSettled(index), Some(session)) => {
                let awaited = Input::AwaitSettled { node, session, index };
                self.input(machine, awaited);
            }
            (SessionMessage::Farewell { restarting }, Some(session)) => {
                self.input(
                    machine,
                    Input::Farewell {
                        node,
                        session,
                        restarting,
                    },
                );
            }
            (_, _) => {}
        }
    }

    /// Which tasks a report says completed, until it is acknowledged.
    fn note_completions(&mut self, report: (u64, u64), statuses: &[(TaskId, TaskStatus)]) {
        let completed = statuses
            .iter()
            .filter(|(_, status)| status.state == TaskState::Complete);
        let tasks: Vec<TaskId> = completed.map(|(task, _)| *task).collect();
        if !tasks.is_empty() {
            self.told_completions.insert(report, tasks);
        }
    }

    /// With this bug planted, what completed is reported as failed.
    fn maybe_misreport(&mut self, statuses: &mut [(TaskId, TaskStatus)]) {
        if self.planted != Some(PlantedBug::MisreportedCompletion) {
            return;
        }
        for (_, status) in statuses {
            if status.state == TaskState::Complete && self.dice.permille(300) {
                status.state = TaskState::Failed;
            }
        }
    }

    /// A machine without a controller names one of those that its agent knows.
    fn refer(&mut self, machine: usize, stream: u64) {
        let known = self.machines[machine].agent().map(|agent| &agent.controllers);
        let Some(known) = known.cloned() else {
            self.break_stream(stream, End::Controller);
            return;
        };
        let controller = self.dice.pick(&known).cloned();
        self.send_on_stream(stream, End::Agent, SessionMessage::Redirect(controller));
        if let Some(found) = self.streams.get_mut(&stream) {
            found.controller.open = false;
        }
    }

    fn hello(
        &mut self,
        machine: usize,
        stream: u64,
        node: NodeId,
        description: Box<muster_types::NodeDescription>,
    ) {
        let session = SessionId::from_u128(self.dice.next_u128());
        let Some(controller) = self.machines[machine].controller_mut() else {
            return;
        };
        if !controller.members.leading {
            let leader = controller.leader_address();
            self.send_on_stream(stream, End::Agent, SessionMessage::Redirect(leader));
            if let Some(found) = self.streams.get_mut(&stream) {
                found.controller.open = false;
            }
            return;
        }
        controller.sessions.insert(session, stream);
        self.last_sessions.insert(node, session);
        let Some(controller) = self.machines[machine].controller() else {
            return;
        };
        let run = controller.run;
        if let Some(found) = self.streams.get_mut(&stream) {
            found.session = Some(session);
            found.controller.process = run;
        }
        let address = format!("10.0.0.{}", machine + 1);
        self.input(
            machine,
            Input::SessionOpen {
                node,
                session,
                description,
                address,
            },
        );
    }

    /// A controller sends a message over a session.
    pub fn tell_session(&mut self, machine: usize, session: SessionId, message: SessionMessage) {
        let controller = self.machines[machine].controller();
        if let Some(stream) = controller.and_then(|controller| controller.sessions.get(&session)) {
            self.send_on_stream(*stream, End::Agent, message);
        }
    }

    /// A controller sends an assignment set; a copy may arrive late, when the session is long over.
    pub fn send_assignments(&mut self, machine: usize, session: SessionId, set: Box<AssignmentUpdate>) {
        let controller = self.machines[machine].controller();
        let Some(stream) = controller
            .and_then(|controller| controller.sessions.get(&session))
            .copied()
        else {
            return;
        };
        if self.planted == Some(PlantedBug::LostAssignments) && self.dice.permille(100) {
            return;
        }
        let mut set = self.maybe_move_tasks(machine, set);
        if self.planted == Some(PlantedBug::KeptSecrets) {
            set.files_gone.clear();
        }
        if self.planted == Some(PlantedBug::LostNetworkNews) && self.dice.permille(100) {
            set.networks.retain(|network| network.facts.is_some());
        }
        if self.dice.permille(self.settings.late_assignments_permille)
            && let Some(found) = self.streams.get(&stream)
        {
            let (target, node) = (found.agent.machine, found.node);
            let late = self.dice.between(50_000, 20_000_000);
            let set = set.clone();
            self.push(
                late,
                Event::LateAssignments {
                    machine: target,
                    node,
                    set,
                },
            );
        }
        self.send_on_stream(stream, End::Agent, SessionMessage::Assign(set));
    }

    fn maybe_move_tasks(&mut self, machine: usize, mut set: Box<AssignmentUpdate>) -> Box<AssignmentUpdate> {
        if self.planted == Some(PlantedBug::MovedTask) && self.dice.permille(50) {
            let other = self.machines[machine].controller().and_then(|controller| {
                let state = controller.core.state();
                let other = state.nodes().find(|node| node.id != set.node)?;
                Some(muster_controller::core::dispatch::assignment_set(state, other.id))
            });
            set.tasks = other.map_or_else(|| set.tasks.clone(), |other| other.tasks);
        }
        set
    }

    /// The controller ends a session: what it said before still arrives.
    pub fn end_session_stream(&mut self, machine: usize, session: SessionId) {
        let controller = self.machines[machine].controller_mut();
        if let Some(stream) = controller.and_then(|controller| controller.sessions.remove(&session)) {
            self.close_stream_from_controller(stream);
        }
    }

    /// The controller's end is gone; the agent hears of it.
    pub fn close_stream_from_controller(&mut self, stream: u64) {
        self.break_stream(stream, End::Controller);
    }

    /// One end is gone. The other hears of it when the link lets it, or by keep-alive.
    pub fn break_stream(&mut self, stream: u64, end: End) {
        let now_us = self.now_us;
        let Some(found) = self.streams.get_mut(&stream) else {
            return;
        };
        if !std::mem::replace(&mut found.side(end).open, false) {
            return;
        }
        let (from, to) = (found.side(end).machine, found.side(end.other()).machine);
        let after_us = found.side(end.other()).last_due_us.saturating_sub(now_us);
        if self.machines[from].powered && !self.network.is_cut(from, to) {
            let delay = self.network.stream_delay_us(from, to).max(after_us + 1);
            let to = end.other();
            self.push(delay, Event::StreamBroken { stream, to });
        }
    }

    /// This end learns that the connection is over.
    pub fn stream_broken(&mut self, stream: u64, end: End) {
        let Some(found) = self.streams.get_mut(&stream) else {
            return;
        };
        let side = found.side(end);
        let (open, machine, process) = (side.open, side.machine, side.process);
        if let Some(wait) = self.stalled(machine).filter(|_| open) {
            self.push(wait, Event::StreamBroken { stream, to: end });
            return;
        }
        let Some(found) = self.streams.get_mut(&stream) else {
            return;
        };
        found.side(end).open = false;
        let (node, session) = (found.node, found.session);
        let over = !found.agent.open && !found.controller.open;
        if over {
            self.streams.remove(&stream);
        }
        if !open {
            return;
        }
        match end {
            End::Agent if self.machines[machine].epoch == process => self.stream_lost(machine, stream),
            End::Controller => {
                let run = self.machines[machine]
                    .controller()
                    .map(|controller| controller.run);
                if let (Some(session), true) = (session, run == Some(process)) {
                    if let Some(controller) = self.machines[machine].controller_mut() {
                        controller.sessions.remove(&session);
                    }
                    if self.planted != Some(PlantedBug::EternalLease) {
                        self.input(machine, Input::SessionLost { node, session });
                    }
                }
            }
            End::Agent => {}
        }
    }

    /// Looks whether the other side still answers.
    pub fn keep_alive(&mut self, stream: u64) {
        let now_us = self.now_us;
        let Some(found) = self.streams.get_mut(&stream) else {
            return;
        };
        let (agent, controller) = (found.agent.machine, found.controller.machine);
        let silent = self.network.is_cut(agent, controller)
            || self.network.is_cut(controller, agent)
            || !self.machines[agent].powered
            || !self.machines[controller].powered
            || self.stalled(agent).is_some()
            || self.stalled(controller).is_some();
        let Some(found) = self.streams.get_mut(&stream) else {
            return;
        };
        let half_open = found.agent.open != found.controller.open && found.controller.process != 0;
        if !silent && !half_open {
            found.silent_since_us = None;
        } else if now_us - *found.silent_since_us.get_or_insert(now_us) >= SILENCE_US {
            for to in [End::Agent, End::Controller] {
                self.push(1, Event::StreamBroken { stream, to });
            }
        }
        self.push(LOOK_US, Event::KeepAlive { stream });
    }

    /// The daemon of a machine is gone, and with it its ends of connections.
    pub fn break_streams_of(&mut self, machine: usize) {
        let ends: Vec<(u64, End)> = self
            .streams
            .iter()
            .flat_map(|(stream, found)| {
                let agent = (found.agent.machine == machine).then_some((*stream, End::Agent));
                let controller = (found.controller.machine == machine).then_some((*stream, End::Controller));
                agent.into_iter().chain(controller)
            })
            .collect();
        for (stream, end) in ends {
            self.break_stream(stream, end);
        }
    }
}
