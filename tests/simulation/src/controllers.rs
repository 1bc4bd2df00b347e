//! A machine's controller: the production core between simulated inputs and outputs, as `muster-controller`'s thread
//! runs it.

use crate::oracle::{OracleWitness, SharedOracle, act_of_a_leader, lock};
use crate::planted::PlantedBug;
use crate::random::Dice;
use crate::rpc::{Purpose, ReplyTo};
use crate::wire::{Answer, Call, Packet, SessionMessage, address_of, machine_at};
use crate::world::{Event, World};
use crate::writes::WriteLoop;
use muster_consensus::{KeyRing, NodeConfig, RaftNode};
use muster_controller::authorize::Identity;
use muster_controller::control::ControlError;
use muster_controller::core::Controller;
use muster_controller::core::io::{Input, Members, Now, Output, Token};
use muster_controller::opening::{Opened, Opening, opening};
use muster_state::ClusterState;
use muster_types::{NodeId, NodeRole, RaftId, RequestId, SessionId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Length of a Raft tick.
pub const TICK: Duration = Duration::from_millis(50);
/// Shortest wait for the next decision; production has a tenth of it, which only costs events here.
const WAKE_MIN: Duration = Duration::from_millis(1);
/// Longest fetch of one piece of a snapshot.
const CHUNK_TIMEOUT_US: u64 = 5_000_000;
/// The cluster of every run.
pub const CLUSTER: u128 = 0x5EED;

/// Who waits for an answer of the core.
#[derive(Debug, Clone)]
pub enum Waiter {
    /// A write under way here.
    Write(u64),
    /// Somebody elsewhere.
    Elsewhere(ReplyTo),
    /// A node that joins by a token waits for its certificate.
    Issue {
        /// The node.
        reply: ReplyTo,
        /// Its request.
        id: RequestId,
        /// The token's role.
        role: NodeRole,
    },
    /// A node waits for another certificate.
    Renew {
        /// Its machine.
        reply: ReplyTo,
        /// The node.
        node: NodeId,
    },
}

/// A controller that runs.
pub struct ControllerProcess {
    /// The production core.
    pub core: Controller,
    /// Its Raft id.
    pub raft_id: RaftId,
    /// The certificate that it dialled the others with.
    pub certificate: Identity,
    /// Tells it from every other run.
    pub run: u64,
    /// When it started.
    pub started_us: u64,
    /// Waits for the disk.
    inbox: Vec<Input>,
    /// The disk is busy with the last round.
    busy: bool,
    /// What goes out when the disk is done.
    held: Vec<Output>,
    waiters: BTreeMap<Token, Waiter>,
    next_token: Token,
    /// Streams of the sessions here.
    pub sessions: BTreeMap<SessionId, u64>,
    /// The controllers as the core published them.
    pub members: Members,
    /// Writes that clients of this controller wait for.
    pub writes: BTreeMap<u64, WriteLoop>,
    /// It is out of the Raft group for good.
    pub removed: bool,
    /// The cluster counts it among its controllers, or did when the log on its disk was written.
    pub listed: bool,
    wake_at_us: u64,
    /// Leading since, by the simulation's clock.
    pub leading_since_us: Option<u64>,
}

impl ControllerProcess {
    /// Where a Raft id listens, as far as this controller knows.
    pub fn machine_of(&self, raft_id: RaftId) -> Option<usize> {
        let member = self.members.members.iter().find(|(id, _, _)| *id == raft_id);
        member.and_then(|(_, _, address)| machine_at(address))
    }

    /// The leader's address, when it is known and is not this controller.
    pub fn leader_address(&self) -> Option<String> {
        let leader = self.members.leader.filter(|leader| *leader != self.raft_id)?;
        let member = self.members.members.iter().find(|(id, _, _)| *id == leader);
        member.map(|(_, _, address)| address.clone())
    }

    /// Shows the oracle every leader, also one that loses its term before it has committed anything. Whether it leads.
    fn note_election(&self, oracle: &SharedOracle) -> bool {
        let role = self.core.raft().role();
        if role.is_leader() {
            lock(oracle).led(role.term, self.raft_id);
        }
        role.is_leader()
    }

    /// Notes who waits, and returns the token for the input.
    pub fn expect(&mut self, waiter: Waiter) -> Token {
        self.next_token += 1;
        self.waiters.insert(self.next_token, waiter);
        self.next_token
    }
}

impl World {
    /// Opens the machine's log and starts a controller on it.
    pub fn start_controller(
        &mut self,
        machine: usize,
        known: Vec<(RaftId, String)>,
        bootstrap: Option<&ClusterState>,
    ) {
        let files = &self.machines[machine].files;
        let (Some(raft_id), Some(certificate)) = (files.raft_id, files.certificate) else {
            return;
        };
        let seed = self.dice.draw();
        let config = self.raft_config(machine, raft_id, seed);
        let disk = Arc::new(self.machines[machine].disk.clone());
        let opened = |raft: &RaftNode| Opened {
            initialized: raft.is_initialized(),
            begins_cluster: bootstrap.is_some(),
            joins: !known.is_empty(),
        };
        let raft = RaftNode::open(config, disk, KeyRing::new([7; 32])).and_then(|mut raft| {
            let decision = opening(opened(&raft));
            if let (Opening::BeginCluster, Some(state)) = (decision, bootstrap) {
                let data = state.snapshot().unwrap_or_default();
                let begun = raft.bootstrap(&[raft_id.0], &data);
                begun.map_err(|error| muster_consensus::OpenError::Configuration(error.to_string()))?;
            }
            Ok((raft, decision))
        });
        let (raft, decision) = match raft {
            Ok(opened) => opened,
            Err(error) => {
                if self.machines[machine].disk.is_powered() {
                    self.controller_failed(machine, &error);
                } else {
                    self.power_cut(machine);
                }
                return;
            }
        };
        self.machines[machine].log_lost = false;
        if decision == Opening::GiveUpRaftId && self.planted != Some(PlantedBug::ReusedRaftId) {
            self.forget_raft_id(machine);
            return;
        }
        let listed = known.is_empty();
        let members: Vec<_> = known
            .into_iter()
            .map(|(id, address)| (id, NodeId::default(), address))
            .collect();
        let known = Members {
            members,
            ..Members::default()
        };
        let node = self.machines[machine].files.node.unwrap_or_default();
        let ids = Dice::new(self.dice.draw());
        let mut core = Controller::new(node, raft, known, Box::new(ids));
        core.set_witness(Box::new(OracleWitness::new(self.oracle.clone(), raft_id)));
        self.runs += 1;
        let (run, now_us) = (self.runs, self.now_us);
        self.tell(format_args!(
            "{} starts a controller with Raft id {raft_id}",
            name(machine)
        ));
        let Some(daemon) = self.machines[machine].daemon.as_mut() else {
            return;
        };
        daemon.controller = Some(ControllerProcess {
            core,
            raft_id,
            certificate,
            run,
            started_us: now_us,
            inbox: Vec::new(),
            busy: false,
            held: Vec::new(),
            waiters: BTreeMap::new(),
            next_token: 0,
            sessions: BTreeMap::new(),
            members: Members::default(),
            writes: BTreeMap::new(),
            removed: false,
            listed,
            wake_at_us: u64::MAX,
            leading_since_us: None,
        });
        self.run_controller(machine);
        let first = self.dice.below(50_000);
        self.push(first, Event::Tick { machine, run });
    }

    fn raft_config(&self, machine: usize, raft_id: RaftId, seed: u64) -> NodeConfig {
        let mut config = NodeConfig::new(raft_id.0, CLUSTER, seed);
        config.set_tick_ms(TICK.as_millis() as u64);
        config.segment_bytes = 128 * 1024;
        config.snapshot_interval_entries = self.settings.snapshot_interval;
        config.kept_entries = self.settings.kept_entries;
        config.entropy = self.machines[machine].entropy.clone();
        config.planted_bug = match self.planted {
            Some(PlantedBug::DoubleVote) => muster_consensus::sim::PlantedBug::DoubleVote,
            Some(PlantedBug::StaleRead) => muster_consensus::sim::PlantedBug::StaleReads,
            _ => muster_consensus::sim::PlantedBug::None,
        };
        config
    }

    /// The clocks as the machine's controller sees them.
    fn controller_now(&self, machine: usize, started_us: u64) -> Now {
        let clock = self.machines[machine].clock;
        Now {
            elapsed: clock.elapsed(started_us, self.now_us),
            wall: clock.wall(self.now_us),
        }
    }

    /// Hands an input to the machine's controller.
    pub fn input(&mut self, machine: usize, input: Input) {
        let Some(controller) = self.machines[machine].controller_mut() else {
            return;
        };
        controller.inbox.push(input);
        if !controller.busy {
            self.run_controller(machine);
        }
    }

    /// A Raft tick is due. Ticks that a stall swallowed are not made up for.
    pub fn tick(&mut self, machine: usize, run: u64) {
        let Some(controller) = self.controller_of_run(machine, run) else {
            return;
        };
        let waits = controller.inbox.iter().any(|input| matches!(input, Input::Tick));
        if !waits {
            self.input(machine, Input::Tick);
        }
        let next = self.machines[machine].clock.real_us(TICK);
        self.push(next, Event::Tick { machine, run });
    }

    fn controller_of_run(&mut self, machine: usize, run: u64) -> Option<&mut ControllerProcess> {
        let controller = self.machines[machine].controller_mut()?;
        (controller.run == run).then_some(controller)
    }

    /// A decision that waited for time alone may be due.
    pub fn wake_controller(&mut self, machine: usize, run: u64) {
        if let Some(controller) = self.controller_of_run(machine, run) {
            controller.wake_at_us = u64::MAX;
            if !controller.busy {
                self.run_controller(machine);
            }
        }
    }

    /// The disk is done: what was promised is durable and goes out.
    pub fn controller_free(&mut self, machine: usize, run: u64) {
        let Some(controller) = self.controller_of_run(machine, run) else {
            return;
        };
        controller.busy = false;
        let outputs = std::mem::take(&mut controller.held);
        self.deliver(machine, run, outputs);
        let waiting = self
            .controller_of_run(machine, run)
            .is_some_and(|controller| !controller.inbox.is_empty());
        if waiting {
            self.run_controller(machine);
        }
    }

    /// One round of the controller's thread: everything that waits goes in, and one flush.
    pub fn run_controller(&mut self, machine: usize) {
        let Some(started_us) = self.machines[machine].controller().map(|c| c.started_us) else {
            return;
        };
        let now = self.controller_now(machine, started_us);
        let oracle = self.oracle.clone();
        lock(&oracle).now_us = self.now_us;
        let disk = self.machines[machine].disk.clone();
        let Some(controller) = self.machines[machine].controller_mut() else {
            return;
        };
        let run = controller.run;
        let mut led = controller.note_election(&oracle);
        for input in std::mem::take(&mut controller.inbox) {
            controller.core.handle(input, now);
            led |= controller.note_election(&oracle);
        }
        let flushed = controller.core.flush(now);
        led |= controller.note_election(&oracle);
        let outputs = match flushed {
            Ok(outputs) => {
                if let Some(what) = outputs.iter().find_map(act_of_a_leader).filter(|_| !led) {
                    lock(&oracle).acted_without_leading(controller.raft_id, what);
                }
                outputs
            }
            Err(error) => {
                if disk.is_powered() {
                    self.controller_failed(machine, &error);
                } else {
                    self.power_cut(machine);
                }
                return;
            }
        };
        self.note_role(machine);
        let delay_us = disk.take_delay_us();
        if delay_us == 0 {
            self.deliver(machine, run, outputs);
        } else {
            if let Some(controller) = self.controller_of_run(machine, run) {
                controller.busy = true;
                controller.held = outputs;
            }
            self.push(delay_us, Event::ControllerFree { machine, run });
        }
        self.schedule_wake(machine, run, now);
    }

    fn schedule_wake(&mut self, machine: usize, run: u64, now: Now) {
        let (now_us, clock) = (self.now_us, self.machines[machine].clock);
        let Some(controller) = self.controller_of_run(machine, run) else {
            return;
        };
        let Some(wait) = controller.core.next_reconcile_in(now).filter(|wait| *wait < TICK) else {
            return;
        };
        let wait_us = clock.real_us(wait.max(WAKE_MIN));
        if now_us + wait_us < controller.wake_at_us {
            controller.wake_at_us = now_us + wait_us;
            self.push(wait_us, Event::ControllerWake { machine, run });
        }
    }

    fn note_role(&mut self, machine: usize) {
        let now_us = self.now_us;
        let Some(controller) = self.machines[machine].controller_mut() else {
            return;
        };
        let role = controller.core.raft().role();
        let leading = controller.core.is_leading();
        match (leading, controller.leading_since_us) {
            (true, None) => controller.leading_since_us = Some(now_us),
            (false, Some(_)) => controller.leading_since_us = None,
            (true, Some(_)) | (false, None) => return,
        }
        if leading {
            self.tell(format_args!("{} leads term {}", name(machine), role.term));
        } else {
            self.tell(format_args!("{} leads no more", name(machine)));
        }
    }

    fn deliver(&mut self, machine: usize, run: u64, outputs: Vec<Output>) {
        for output in outputs {
            if self.controller_of_run(machine, run).is_none() {
                return;
            }
            self.deliver_one(machine, output);
        }
    }

    fn deliver_one(&mut self, machine: usize, output: Output) {
        match output {
            Output::Send { to, message } => self.send_raft(machine, to, message),
            Output::FetchChunk { from, id, offset } => {
                let Some(controller) = self.machines[machine].controller() else {
                    return;
                };
                let Some(target) = controller.machine_of(from) else {
                    return;
                };
                let call = Call::Chunk { id, offset };
                let purpose = Purpose::Chunk { from, id };
                self.call(machine, target, call, CHUNK_TIMEOUT_US, purpose);
            }
            Output::ChunkServed { token, chunk } => self.answer_token(machine, token, Answer::Chunk(chunk)),
            Output::Reply { token, result } => self.answer_token(machine, token, Answer::Write(result)),
            Output::Read { token, result } => self.answer_token(machine, token, Answer::Read(result)),
            Output::HeartbeatTaken { token, accepted } => {
                self.answer_token(machine, token, Answer::Heartbeat { accepted });
            }
            Output::SessionOpened {
                session,
                heartbeat_period,
                ..
            } => {
                let welcome = SessionMessage::Welcome {
                    session,
                    heartbeat_period,
                };
                self.tell_session(machine, session, welcome);
            }
            Output::SessionEnded { session, leader, .. } => {
                self.tell_session(machine, session, SessionMessage::Redirect(leader));
                self.end_session_stream(machine, session);
            }
            Output::Assign { session, update } => self.send_assignments(machine, session, update),
            Output::View { session, view } => self.tell_session(machine, session, SessionMessage::View(view)),
            Output::Settled { session, index } => {
                self.tell_session(machine, session, SessionMessage::Settled(index));
            }
            Output::StatusCommitted { session, sequence } => {
                self.tell_session(machine, session, SessionMessage::StatusCommitted(sequence));
            }
            Output::Members(members) => {
                if let Some(controller) = self.machines[machine].controller_mut() {
                    controller.members = *members;
                }
            }
            Output::Changed { .. } | Output::KeysRotated { .. } => {}
            Output::Removed => {
                if let Some(controller) = self.machines[machine].controller_mut() {
                    controller.removed = true;
                }
                self.look_at_role(machine);
            }
        }
    }

    fn send_raft(&mut self, machine: usize, to: RaftId, message: bytes::Bytes) {
        let Some(controller) = self.machines[machine].controller() else {
            return;
        };
        let (from, target) = (controller.raft_id, controller.machine_of(to));
        let caller = controller.certificate;
        // A member whose address is not known yet; Raft sends again.
        let Some(target) = target else { return };
        self.story
            .mark(&[1, from.0, to.0, u64::from(crc32fast::hash(&message))]);
        self.send(
            machine,
            target,
            Packet::Raft {
                from,
                to,
                message,
                caller,
            },
        );
    }

    /// A Raft message arrived at the machine.
    pub fn raft_arrived(
        &mut self,
        sender: usize,
        machine: usize,
        packet: (RaftId, RaftId, bytes::Bytes),
        caller: Identity,
    ) {
        let (from, to, message) = packet;
        let controller = self.machines[machine].controller();
        let Some(controller) = controller.filter(|controller| controller.raft_id == to) else {
            if self.machines[machine].powered {
                self.send(machine, sender, Packet::Undeliverable { to });
            }
            return;
        };
        let met = controller.machine_of(from).is_none();
        if !self.may_speak(machine, caller, from) {
            // The stream ends.
            self.story.mark(&[32, machine as u64, from.0]);
            self.send(machine, sender, Packet::Undeliverable { to });
            return;
        }
        if met {
            let (raft_id, node, address) = (from, caller.node, address_of(sender));
            self.input(
                machine,
                Input::Met {
                    raft_id,
                    node,
                    address,
                },
            );
        }
        self.input(machine, Input::Raft { from, message });
    }

    fn answer_token(&mut self, machine: usize, token: Token, answer: Answer) {
        let waiter = self.machines[machine]
            .controller_mut()
            .and_then(|controller| controller.waiters.remove(&token));
        match waiter {
            Some(Waiter::Write(write)) => self.write_answered(machine, write, answer),
            Some(Waiter::Elsewhere(reply)) => self.answer(machine, reply, answer),
            Some(Waiter::Issue { reply, id, role }) => match answer {
                Answer::Read(view) => self.issue_read(machine, reply, (id, role), view),
                other => self.answer(machine, reply, other),
            },
            Some(Waiter::Renew { reply, node }) => match answer {
                Answer::Read(view) => self.renewal_read(machine, reply, node, view),
                other => self.answer(machine, reply, other),
            },
            None => {}
        }
    }

    /// Asks the core something on behalf of a caller elsewhere.
    pub fn ask_core(&mut self, machine: usize, reply: ReplyTo, input: impl FnOnce(Token) -> Input) {
        if let Some(controller) = self.machines[machine].controller_mut() {
            let token = controller.expect(Waiter::Elsewhere(reply));
            self.input(machine, input(token));
        }
    }

    /// The controller ended by itself.
    fn controller_failed(&mut self, machine: usize, error: &dyn std::error::Error) {
        let text = chain(error);
        self.tell(format_args!("{}: the controller ended: {text}", name(machine)));
        let excused = self.machines[machine].disk_fault;
        if !excused {
            let what = format!("the controller of {} ended: {text}", name(machine));
            self.violated("a controller ends only when its disk fails", what);
        }
        self.drop_controller(machine);
        if let Some(daemon) = &mut self.machines[machine].daemon {
            daemon.controller_failed = true;
        }
    }

    /// The controller is gone: its sessions end, and nobody hears an answer.
    pub fn drop_controller(&mut self, machine: usize) {
        let Some(daemon) = &mut self.machines[machine].daemon else {
            return;
        };
        if let Some(controller) = daemon.controller.take() {
            for stream in controller.sessions.values() {
                self.close_stream_from_controller(*stream);
            }
            // What was under way may have been committed.
            let unknown = || Answer::Write(Err(ControlError::OutcomeUnknown));
            for (_, write) in controller.writes {
                self.answer(machine, write.reply, unknown());
            }
            for (_, waiter) in controller.waiters {
                match waiter {
                    Waiter::Elsewhere(reply) | Waiter::Issue { reply, .. } | Waiter::Renew { reply, .. } => {
                        self.answer(machine, reply, unknown());
                    }
                    Waiter::Write(_) => {}
                }
            }
        }
    }
}

/// A machine in the story.
pub fn name(machine: usize) -> String {
    format!("m{}", machine + 1)
}

/// An error with its whole chain.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
