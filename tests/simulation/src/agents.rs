//! A machine's agent: the production core between simulated sessions, heartbeats and containers, as `muster-agent`
//! runs it.

use crate::controllers::name;
use crate::engine::ContainerState;
use crate::machine::Saved;
use crate::planted::PlantedBug;
use crate::rpc::Purpose;
use crate::streams::End;
use crate::wire::{Answer, Call, SessionMessage, address_of, machine_at};
use crate::world::{Event, World};
use muster_node_plan::agent_core::StartedContainer;
use muster_node_plan::{Action, AgentCore, Observation, Phase, Taken};
use muster_types::{
    AssignedTask, AssignmentAge, AssignmentUpdate, ContainerId, NodeDescription, NodeId, Resources,
    SessionId, TaskId, Timestamp,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The file is written at most this often.
const SAVE_INTERVAL_US: u64 = 250_000;
/// First wait before the controllers are tried again; doubled up to [`BACKOFF_MAX_US`].
const BACKOFF_MIN_US: u64 = 50_000;
/// Longest such wait.
const BACKOFF_MAX_US: u64 = 400_000;
/// The list of controllers is read again after this.
const LOOK_AGAIN_US: u64 = 5_000_000;
/// A controller that does not answer the opening within this is passed over.
const OPEN_TIMEOUT_US: u64 = 2_000_000;

/// The live session, as heartbeats name it.
#[derive(Debug, Clone)]
struct LiveSession {
    id: SessionId,
    stream: u64,
    controller: String,
    period: Duration,
}

/// Looking for the leader.
#[derive(Debug, Default)]
struct Search {
    /// Tells this look from earlier ones.
    round: u64,
    /// Connections being opened.
    openings: BTreeMap<u64, Opening>,
}

/// One way to the leader.
#[derive(Debug, Clone)]
struct Opening {
    /// The controller that was asked first.
    by: String,
    /// Wait before it is asked again.
    wait_us: u64,
    /// It named another as leader, which is being asked.
    redirected: bool,
}

/// An agent that runs.
pub struct AgentProcess {
    /// The production core.
    pub core: AgentCore,
    /// Controllers that it knows.
    pub controllers: Vec<String>,
    /// The node's record wants it to be a controller.
    pub role: Option<bool>,
    session: Option<LiveSession>,
    search: Search,
    /// Controllers still to be asked in this round of renewal, and when the round began.
    beat: (VecDeque<String>, u64),
    watching: BTreeMap<TaskId, ContainerId>,
    unsaved: bool,
    saved_us: u64,
    wake_at_us: u64,
    /// Age of the newest set that it took.
    pub newest: AssignmentAge,
}

impl AgentProcess {
    /// Whether it has a session.
    pub fn connected(&self) -> bool {
        self.session.is_some()
    }
}

/// An engine operation under way.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Make a container.
    Prepare(Box<AssignedTask>),
    /// Start it.
    Start(TaskId, ContainerId),
    /// Stop it.
    Stop(TaskId, ContainerId),
    /// Remove it.
    Remove(TaskId, ContainerId),
}

impl World {
    fn wall(&self, machine: usize) -> Timestamp {
        self.machines[machine].clock.wall(self.now_us)
    }

    /// Starts the agent from its file and from what its engine holds.
    pub fn start_agent(&mut self, machine: usize) {
        let now = self.wall(machine);
        let files = &self.machines[machine].files;
        let saved = files.saves.last().cloned().unwrap_or_default();
        let mut controllers = files.controllers.clone();
        controllers.extend(
            files
                .told_controllers
                .iter()
                .filter(|known| !files.controllers.contains(known))
                .cloned(),
        );
        let found = self.machines[machine].engine.restored();
        let newest = saved.set.age;
        let core = AgentCore::restore(saved.set, saved.records, found, now);
        let watching = core
            .records()
            .iter()
            .filter(|(_, record)| matches!(record.phase, Phase::Running | Phase::AwaitingHealth))
            .filter_map(|(task, record)| Some((*task, record.container()?.clone())))
            .collect();
        let Some(daemon) = &mut self.machines[machine].daemon else {
            return;
        };
        daemon.agent = Some(AgentProcess {
            core,
            controllers,
            role: None,
            session: None,
            search: Search::default(),
            beat: (VecDeque::new(), 0),
            watching,
            unsaved: false,
            saved_us: self.now_us,
            wake_at_us: u64::MAX,
            newest,
        });
        self.search(machine);
        self.act(machine);
    }

    /// Looks for the leader: every controller that is known is asked, side by side.
    fn search(&mut self, machine: usize) {
        let epoch = self.machines[machine].epoch;
        self.give_up_search(machine);
        let Some(agent) = self.machines[machine].agent_mut() else {
            return;
        };
        if agent.session.is_some() {
            return;
        }
        agent.search.round += 1;
        let round = agent.search.round;
        for address in agent.controllers.clone() {
            self.ask(machine, address, BACKOFF_MIN_US, false);
        }
        self.push(
            LOOK_AGAIN_US,
            Event::LookAgain {
                machine,
                epoch,
                round,
            },
        );
    }

    /// Drops every opening that was begun.
    fn give_up_search(&mut self, machine: usize) {
        let Some(agent) = self.machines[machine].agent_mut() else {
            return;
        };
        for stream in std::mem::take(&mut agent.search.openings).into_keys() {
            self.break_stream(stream, End::Agent);
        }
    }

    /// Asks one controller, on the way of `by` to the leader.
    fn ask(&mut self, machine: usize, by: String, wait_us: u64, redirected_to: bool) {
        self.ask_at(
            machine,
            by.clone(),
            Opening {
                by,
                wait_us,
                redirected: redirected_to,
            },
        );
    }

    fn ask_at(&mut self, machine: usize, address: String, opening: Opening) {
        let hello = self.hello_of(machine);
        let target = machine_at(&address).unwrap_or(machine);
        let stream = self.open_stream(machine, target, hello);
        if let Some(agent) = self.machines[machine].agent_mut() {
            agent.search.openings.insert(stream, opening);
        }
        self.push(OPEN_TIMEOUT_US, Event::OpenTimeout { machine, stream });
    }

    /// One way to the leader ended; it is tried again after a wait.
    fn ask_later(&mut self, machine: usize, stream: u64) {
        let (epoch, jitter) = (self.machines[machine].epoch, self.dice.between(500, 1000));
        self.break_stream(stream, End::Agent);
        let Some(agent) = self.machines[machine].agent_mut() else {
            return;
        };
        let Some(opening) = agent.search.openings.remove(&stream) else {
            return;
        };
        let round = agent.search.round;
        let wait_us = (opening.wait_us * 2).min(BACKOFF_MAX_US);
        self.push(
            opening.wait_us * jitter / 1000,
            Event::AskAgain {
                machine,
                epoch,
                round,
                by: opening.by,
                wait_us,
            },
        );
    }

    /// The wait before a controller is asked again is over.
    pub fn ask_again(&mut self, machine: usize, (epoch, round): (u64, u64), by: String, wait_us: u64) {
        if self.is_searching(machine, epoch, round) {
            self.ask(machine, by, wait_us, false);
        }
    }

    /// The list of controllers is read again.
    pub fn search_again(&mut self, machine: usize, epoch: u64, round: u64) {
        if self.is_searching(machine, epoch, round) {
            self.search(machine);
        }
    }

    fn is_searching(&self, machine: usize, epoch: u64, round: u64) -> bool {
        self.machines[machine].epoch == epoch
            && self.machines[machine]
                .agent()
                .is_some_and(|agent| agent.session.is_none() && agent.search.round == round)
    }

    fn hello_of(&self, machine: usize) -> SessionMessage {
        let description = self.description_of(machine);
        SessionMessage::Hello { description }
    }

    /// What the machine's node says of itself.
    pub fn description_of(&self, machine: usize) -> Box<NodeDescription> {
        let resources = Resources {
            nano_cpus: 64_000_000_000,
            memory_bytes: 64 << 30,
            pids: 0,
        };
        Box::new(NodeDescription {
            hostname: name(machine),
            resources,
            feature_level: muster_state::SUPPORTED_FEATURE_LEVEL,
            advertise_address: address_of(machine),
            ..NodeDescription::default()
        })
    }

    /// A controller did not answer the opening of a session.
    pub fn open_timeout(&mut self, machine: usize, stream: u64) {
        let agent = self.machines[machine].agent();
        if agent.is_some_and(|agent| agent.search.openings.contains_key(&stream)) {
            self.ask_later(machine, stream);
        }
    }

    /// A message of a session.
    pub fn agent_hears(&mut self, machine: usize, stream: u64, message: SessionMessage) {
        let Some(agent) = self.machines[machine].agent_mut() else {
            return;
        };
        if agent.search.openings.contains_key(&stream) {
            self.opening_answered(machine, stream, message);
            return;
        }
        if agent.session.as_ref().is_none_or(|live| live.stream != stream) {
            return;
        }
        match message {
            SessionMessage::Assign(set) => self.take_assignments(machine, *set),
            SessionMessage::StatusCommitted(sequence) => {
                agent.core.report_acknowledged(sequence);
                let told = self.told_completions.remove(&(stream, sequence));
                let told = told.unwrap_or_default();
                self.oracle().completions_acknowledged(&told);
                self.act(machine);
            }
            SessionMessage::View(view) => {
                let told = view.controllers;
                if !told.is_empty() {
                    agent.controllers.clone_from(&told);
                }
                agent.role = Some(view.controller);
                agent.unsaved = true;
                if !told.is_empty() {
                    self.machines[machine].files.told_controllers = told;
                }
                self.act(machine);
                self.look_at_role(machine);
            }
            SessionMessage::Redirect(_) => {
                self.break_stream(stream, End::Agent);
                self.lose_session(machine);
            }
            SessionMessage::Settled(index) => {
                agent.core.settled(index);
                self.act(machine);
            }
            SessionMessage::Hello { .. }
            | SessionMessage::Status { .. }
            | SessionMessage::Farewell { .. }
            | SessionMessage::NetworksApplied(_)
            | SessionMessage::AwaitSettled(_)
            | SessionMessage::Welcome { .. } => {}
        }
    }

    fn say(&mut self, machine: usize, message: SessionMessage) {
        let agent = self.machines[machine].agent();
        if let Some(stream) = agent.and_then(|agent| Some(agent.session.as_ref()?.stream)) {
            self.send_on_stream(stream, End::Controller, message);
        }
    }

    fn opening_answered(&mut self, machine: usize, stream: u64, message: SessionMessage) {
        match message {
            SessionMessage::Welcome {
                session,
                heartbeat_period,
            } => {
                let target = self.streams.get(&stream).map(|found| found.controller_machine());
                let Some(agent) = self.machines[machine].agent_mut() else {
                    return;
                };
                agent.search.openings.remove(&stream);
                agent.session = Some(LiveSession {
                    id: session,
                    stream,
                    controller: address_of(target.unwrap_or(machine)),
                    period: heartbeat_period,
                });
                agent.core.session_opened(true);
                self.give_up_search(machine);
                self.tell(format_args!("{} has a session", name(machine)));
                self.beat(machine, session);
                self.act(machine);
            }
            SessionMessage::Redirect(Some(leader)) => {
                let agent = self.machines[machine].agent_mut();
                let opening = agent.and_then(|agent| agent.search.openings.get(&stream).cloned());
                // A leader that is asked already is left alone.
                let asked = self.machines[machine]
                    .agent()
                    .is_some_and(|agent| agent.controllers.contains(&leader));
                match opening.filter(|opening| !opening.redirected && !asked) {
                    Some(opening) => {
                        self.break_stream(stream, End::Agent);
                        if let Some(agent) = self.machines[machine].agent_mut() {
                            agent.search.openings.remove(&stream);
                        }
                        let redirected = true;
                        self.ask_at(
                            machine,
                            leader,
                            Opening {
                                redirected,
                                ..opening
                            },
                        );
                    }
                    None => self.ask_later(machine, stream),
                }
            }
            _ => self.ask_later(machine, stream),
        }
    }

    /// The agent's connection broke.
    pub fn stream_lost(&mut self, machine: usize, stream: u64) {
        let Some(agent) = self.machines[machine].agent() else {
            return;
        };
        if agent.search.openings.contains_key(&stream) {
            self.ask_later(machine, stream);
        } else if agent.session.as_ref().is_some_and(|live| live.stream == stream) {
            self.lose_session(machine);
        }
    }

    fn lose_session(&mut self, machine: usize) {
        let Some(agent) = self.machines[machine].agent_mut() else {
            return;
        };
        agent.session = None;
        agent.core.session_lost();
        self.tell(format_args!("{} lost its session", name(machine)));
        self.search(machine);
        self.act(machine);
    }

    /// A set of a session that may be long over.
    pub fn late_assignments(&mut self, machine: usize, node: NodeId, set: AssignmentUpdate) {
        if self.machines[machine].files.node == Some(node) && self.machines[machine].agent().is_some() {
            self.take_assignments(machine, set);
        }
    }

    fn take_assignments(&mut self, machine: usize, mut set: AssignmentUpdate) {
        let now = self.wall(machine);
        let lax = self.planted == Some(PlantedBug::OlderAssignments);
        let Some(agent) = self.machines[machine].agent_mut() else {
            return;
        };
        let (age, known) = (set.age, agent.newest);
        if lax {
            let newest = agent.core.assignments().age;
            let after = AssignmentAge {
                index: newest.index + 1,
                ..newest
            };
            set.from = set.from.map(|_| newest);
            set.age = set.age.max(after);
        }
        match agent.core.assign(set, now) {
            Taken::Yes => {}
            Taken::Older => return,
            Taken::Gap => {
                if let Some(live) = agent.session.clone() {
                    self.break_stream(live.stream, End::Agent);
                    self.lose_session(machine);
                }
                return;
            }
        }
        agent.newest = agent.newest.max(age);
        if age < known {
            let what = format!(
                "{} took a set of age {age:?} after one of {known:?}",
                name(machine)
            );
            self.violated("assignments to a node never go back in age", what);
        }
        // Its networks stand at once.
        self.say(machine, SessionMessage::NetworksApplied(age.index));
        self.act(machine);
    }

    /// A round of renewal begins.
    pub fn beat(&mut self, machine: usize, session: SessionId) {
        let now_us = self.now_us;
        let Some(agent) = self.machines[machine].agent_mut() else {
            return;
        };
        let Some(live) = agent.session.as_ref().filter(|live| live.id == session) else {
            return;
        };
        let others = agent
            .controllers
            .iter()
            .filter(|address| **address != live.controller);
        let order = std::iter::once(&live.controller).chain(others).cloned().collect();
        agent.beat = (order, now_us);
        self.beat_next(machine, session);
    }

    fn beat_next(&mut self, machine: usize, session: SessionId) {
        let (now_us, clock, epoch) = (
            self.now_us,
            self.machines[machine].clock,
            self.machines[machine].epoch,
        );
        let node = self.machines[machine].files.node.unwrap_or_default();
        let Some(agent) = self.machines[machine].agent_mut() else {
            return;
        };
        let Some(live) = agent.session.as_ref().filter(|live| live.id == session) else {
            return;
        };
        let period_us = clock.real_us(live.period);
        let Some(address) = agent.beat.0.pop_front() else {
            let next = (agent.beat.1 + period_us).saturating_sub(now_us).max(1);
            self.push(
                next,
                Event::Beat {
                    machine,
                    epoch,
                    session,
                },
            );
            return;
        };
        let target = machine_at(&address).unwrap_or(machine);
        let call = Call::Heartbeat { node, session };
        self.call(
            machine,
            target,
            call,
            period_us / 2,
            Purpose::Heartbeat { session },
        );
    }

    /// A controller answered a heartbeat, or did not.
    pub fn heartbeat_answered(&mut self, machine: usize, session: SessionId, answer: &Answer) {
        let Some(agent) = self.machines[machine].agent_mut() else {
            return;
        };
        if agent.session.as_ref().is_none_or(|live| live.id != session) {
            return;
        }
        match answer {
            Answer::Heartbeat { accepted: true } => {
                agent.beat.0.clear();
                self.oracle().heard_of(machine);
                self.beat_next(machine, session);
            }
            Answer::Heartbeat { accepted: false } => {
                let stream = agent.session.as_ref().map(|live| live.stream);
                stream
                    .into_iter()
                    .for_each(|stream| self.break_stream(stream, End::Agent));
                self.lose_session(machine);
            }
            _ => self.beat_next(machine, session),
        }
    }

    /// Performs what the core decides now.
    pub fn act(&mut self, machine: usize) {
        let now = self.wall(machine);
        let now_us = self.now_us;
        let Some(agent) = self.machines[machine].agent_mut() else {
            return;
        };
        for action in agent.core.tick(now) {
            self.perform(machine, action);
        }
        let Some(agent) = self.machines[machine].agent_mut() else {
            return;
        };
        if agent.unsaved && now_us - agent.saved_us >= SAVE_INTERVAL_US {
            self.save_agent(machine);
        }
        self.schedule_agent(machine, now);
    }

    /// The agent writes its file.
    pub fn save_agent(&mut self, machine: usize) {
        let now_us = self.now_us;
        let Some(agent) = self.machines[machine].agent_mut() else {
            return;
        };
        let saved = Saved {
            set: agent.core.assignments().clone(),
            records: agent.core.records().clone(),
        };
        agent.unsaved = false;
        agent.saved_us = now_us;
        self.machines[machine].files.save(saved);
    }

    fn schedule_agent(&mut self, machine: usize, now: Timestamp) {
        let (now_us, epoch) = (self.now_us, self.machines[machine].epoch);
        let Some(agent) = self.machines[machine].agent_mut() else {
            return;
        };
        let core = agent.core.wake_at().map(|at| at.since(now).as_micros() as u64);
        let save = agent
            .unsaved
            .then(|| (agent.saved_us + SAVE_INTERVAL_US).saturating_sub(now_us));
        let Some(wait) = core.into_iter().chain(save).min() else {
            return;
        };
        let wait = wait.max(1_000);
        if now_us + wait < agent.wake_at_us {
            agent.wake_at_us = now_us + wait;
            self.push(wait, Event::AgentWake { machine, epoch });
        }
    }

    /// The agent has something to do without being told.
    pub fn wake_agent(&mut self, machine: usize, epoch: u64) {
        if self.machines[machine].epoch != epoch {
            return;
        }
        if let Some(agent) = self.machines[machine].agent_mut() {
            agent.wake_at_us = u64::MAX;
            self.act(machine);
        }
    }

    fn perform(&mut self, machine: usize, action: Action) {
        let Some(agent) = self.machines[machine].agent_mut() else {
            return;
        };
        let dice = |world: &mut Self, from, to| world.machines[machine].dice.between(from, to);
        let (wait, operation) = match action {
            Action::Report(report) => {
                let (sequence, statuses) = (report.sequence, report.statuses);
                self.say(machine, SessionMessage::Status { sequence, statuses });
                return;
            }
            Action::AwaitSettled { index } => {
                self.say(machine, SessionMessage::AwaitSettled(index));
                return;
            }
            Action::Persist => {
                agent.unsaved = true;
                return;
            }
            Action::Prepare(task) => {
                let slow = self.machines[machine].dice.permille(50);
                let wait = if slow {
                    dice(self, 500_000, 6_000_000)
                } else {
                    dice(self, 10_000, 300_000)
                };
                (wait, Operation::Prepare(task))
            }
            Action::Start {
                task,
                container,
                files,
            } => {
                self.check_started_with(machine, &task, &files);
                (dice(self, 3_000, 80_000), Operation::Start(task.id, container))
            }
            Action::Stop { task, container } => {
                agent.watching.remove(&task);
                (dice(self, 2_000, 2_000_000), Operation::Stop(task, container))
            }
            Action::Remove { task, container } => {
                agent.watching.remove(&task);
                (dice(self, 2_000, 60_000), Operation::Remove(task, container))
            }
        };
        self.next_operation += 1;
        let number = self.next_operation;
        self.operations.insert(number, (machine, operation));
        self.push(wait, Event::OperationDone { number });
    }

    /// An engine operation is done.
    pub fn operation_done(&mut self, number: u64) {
        if let Some((machine, operation)) = self.operations.remove(&number) {
            let observation = self.carry_out(machine, operation);
            self.observe(machine, observation);
        }
    }

    /// The daemon is gone: what it had begun was done, or was not.
    pub fn abandon_operations(&mut self, machine: usize) {
        let mine = |(_, (of, _)): &(&u64, &(usize, Operation))| *of == machine;
        let numbers: Vec<u64> = self
            .operations
            .iter()
            .filter(mine)
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            if let Some((_, operation)) = self.operations.remove(&number)
                && self.machines[machine].dice.permille(500)
            {
                self.carry_out(machine, operation);
            }
        }
    }

    fn carry_out(&mut self, machine: usize, operation: Operation) -> Observation {
        match operation {
            Operation::Prepare(task) => self.make_container(machine, &task),
            Operation::Start(task, container) => self.start_container(machine, task, container),
            Operation::Stop(task, container) => {
                let code = if self.machines[machine].dice.permille(900) {
                    143
                } else {
                    137
                };
                let exit_code = self.machines[machine].engine.end(&container, code);
                Observation::Ended {
                    task,
                    exit_code,
                    error: None,
                }
            }
            Operation::Remove(task, container) => {
                self.machines[machine].engine.containers.remove(&container);
                Observation::Removed { task }
            }
        }
    }

    fn make_container(&mut self, machine: usize, task: &AssignedTask) -> Observation {
        let fails = !self.healing && self.machines[machine].dice.permille(15);
        let result = if fails {
            Err("no such image".to_owned())
        } else {
            self.saw_container(task.id, machine);
            self.lives.insert(task.id, life_of(task));
            Ok(self.machines[machine].engine.prepare(task.id))
        };
        Observation::Prepared {
            task: task.id,
            result,
        }
    }

    /// A container of a task exists on one machine only, because a task never changes node.
    fn saw_container(&mut self, task: TaskId, machine: usize) {
        let first = *self.places.entry(task).or_insert(machine);
        if first != machine {
            let what = format!(
                "task {task} has containers on {} and {}",
                name(first),
                name(machine)
            );
            self.violated("a task never changes node", what);
        }
    }

    fn start_container(&mut self, machine: usize, task: TaskId, container: ContainerId) -> Observation {
        let fails = !self.healing && self.machines[machine].dice.permille(10);
        if fails {
            let result = Err("the executable was not found".to_owned());
            return Observation::Started { task, result };
        }
        let started = self.machines[machine].engine.start(&container);
        if let Ok(pid) = started {
            self.begin_life(machine, task, &container, pid);
        }
        let result = started.map(|pid| StartedContainer {
            pid,
            ..StartedContainer::default()
        });
        Observation::Started { task, result }
    }

    fn begin_life(&mut self, machine: usize, task: TaskId, container: &ContainerId, pid: i32) {
        let life = self.lives.get(&task).copied().unwrap_or(Life::Long);
        let dice = &mut self.machines[machine].dice;
        let (shortest, longest, failing) = match life {
            Life::Long => return,
            Life::Flaky => (5_000_000, 200_000_000, 700),
            Life::Short => (500_000, 20_000_000, 300),
            Life::Job => (200_000, 4_000_000, 300),
        };
        let wait = dice.between(shortest, longest);
        let exit_code = i32::from(dice.permille(failing));
        let container = container.clone();
        self.push(
            wait,
            Event::ContainerEnds {
                machine,
                container,
                pid,
                exit_code,
            },
        );
    }

    /// A container ends by itself.
    pub fn container_ends(&mut self, machine: usize, container: &ContainerId, pid: i32, exit_code: i32) {
        let engine = &self.machines[machine].engine;
        let task = engine.containers.get(container).map(|found| found.task);
        // What shall go on does, once nothing goes wrong any more; what shall complete does.
        let completes = task.is_some_and(|task| self.lives.get(&task) == Some(&Life::Job));
        if !engine.runs_as(container, pid) || (self.healing && !completes) {
            return;
        }
        let exit_code = if self.healing { 0 } else { exit_code };
        self.machines[machine].engine.end(container, exit_code);
        let Some((task, agent)) = task.zip(self.machines[machine].agent_mut()) else {
            return;
        };
        if agent.watching.get(&task) == Some(container) {
            agent.watching.remove(&task);
            self.observe(
                machine,
                Observation::Ended {
                    task,
                    exit_code: Some(exit_code),
                    error: None,
                },
            );
        }
    }

    /// Something happened to a container; the agent hears of it when nothing holds it up.
    pub fn observe(&mut self, machine: usize, observation: Observation) {
        if let Some(wait) = self.stalled(machine) {
            let epoch = self.machines[machine].epoch;
            self.push(
                wait,
                Event::Observed {
                    machine,
                    epoch,
                    observation,
                },
            );
            return;
        }
        let now = self.wall(machine);
        let Some(agent) = self.machines[machine].agent_mut() else {
            return;
        };
        let started = match &observation {
            Observation::Started { task, result: Ok(_) } => Some(*task),
            _ => None,
        };
        agent.core.observe(observation, now);
        if let Some(task) = started {
            self.watch(machine, task);
        }
        self.act(machine);
    }

    /// Watches a container that was started; one that has ended by now ends at once.
    fn watch(&mut self, machine: usize, task: TaskId) {
        let found = self.machines[machine]
            .engine
            .containers
            .iter()
            .find(|(_, container)| container.task == task);
        let Some((id, state)) = found.map(|(id, container)| (id.clone(), container.state)) else {
            return;
        };
        match state {
            ContainerState::Ended { exit_code, .. } => self.observe(
                machine,
                Observation::Ended {
                    task,
                    exit_code: Some(exit_code),
                    error: None,
                },
            ),
            ContainerState::Running(_) | ContainerState::Created => {
                if let Some(agent) = self.machines[machine].agent_mut() {
                    agent.watching.insert(task, id);
                }
            }
        }
    }

    /// The daemon stops and will be back: it says so and writes its file.
    pub fn say_farewell(&mut self, machine: usize) {
        let session = self.machines[machine]
            .agent()
            .and_then(|agent| agent.session.clone());
        if let Some(live) = session {
            self.machines[machine].said_farewell = true;
            let farewell = SessionMessage::Farewell { restarting: true };
            self.send_on_stream(live.stream, End::Controller, farewell);
        }
        self.save_agent(machine);
    }
}

/// How long containers of a task live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Until they are stopped.
    Long,
    /// Some minutes at most.
    Flaky,
    /// Seconds.
    Short,
    /// Seconds, also while the cluster heals.
    Job,
}

fn life_of(task: &AssignedTask) -> Life {
    match task.template.container.args.first().map(String::as_str) {
        Some("flaky") => Life::Flaky,
        Some("short") => Life::Short,
        Some("job") => Life::Job,
        Some(_) | None => Life::Long,
    }
}
