//! One run: machines, links, clients and faults on one virtual time line.

use crate::agents::{Life, Operation};
use crate::authority::certificate;
use crate::clients::Client;
use crate::controllers::CLUSTER;
use crate::faults::{self, Fault, Recovery};
use crate::history::{Key, Operation as Asked};
use crate::linearizability::{self, Verdict};
use crate::liveness::Liveness;
use crate::machine::Machine;
use crate::network::{Network, OUTSIDE};
use crate::networks::first_networks;
use crate::oracle::{Oracle, SharedOracle, Violation, lock};
use crate::planted::PlantedBug;
use crate::queue::Queue;
use crate::random::Dice;
use crate::rpc::PendingCall;
use crate::secrets::first_files;
use crate::settings::Settings;
use crate::story::Story;
use crate::streams::{End, Stream};
use crate::wire::{Packet, address_of};
use muster_controller::core::io::Input;
use muster_node_plan::Observation;
use muster_state::{Change, Changeset, ClusterState, Entry};
use muster_types::node::ControllerMember;
use muster_types::{
    AssignmentUpdate, Cluster, ClusterId, ClusterSpec, ContainerId, IdSource, JoinToken, JoinTokens, Meta,
    NodeDescription, NodeId, NodeRole, NodeSpec, RaftId, Reason, RequestId, RootCa, ServiceId, SessionId,
    TaskId,
};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

pub const SECOND: u64 = 1_000_000;
/// Machines of a run.
const MACHINES: usize = 5;
/// Faults begin after this.
const CALM_US: u64 = 10 * SECOND;
/// How often slow checks run.
const CHECK_EVERY_US: u64 = SECOND;

/// What happens at a time.
pub enum Event {
    /// A Raft tick.
    Tick { machine: usize, run: u64 },
    /// The disk of a controller is done.
    ControllerFree { machine: usize, run: u64 },
    /// A decision may be due.
    ControllerWake { machine: usize, run: u64 },
    /// A packet arrives.
    Arrive { from: usize, to: usize, packet: Packet },
    /// A question waits no longer.
    CallTimeout { call: u64 },
    /// A message of a session may arrive.
    StreamDue { stream: u64, to: End },
    /// One end learns that its connection is over.
    StreamBroken { stream: u64, to: End },
    /// Keep-alive looks.
    KeepAlive { stream: u64 },
    /// A copy of an assignment set arrives late.
    LateAssignments {
        machine: usize,
        node: NodeId,
        set: Box<AssignmentUpdate>,
    },
    /// A write is tried again.
    WriteRetry { machine: usize, run: u64, write: u64 },
    /// A write's time is over.
    WriteDeadline { machine: usize, run: u64, write: u64 },
    /// An agent has something to do.
    AgentWake { machine: usize, epoch: u64 },
    /// An agent reads the list of controllers again.
    LookAgain { machine: usize, epoch: u64, round: u64 },
    /// An agent asks a controller again.
    AskAgain {
        machine: usize,
        epoch: u64,
        round: u64,
        by: String,
        wait_us: u64,
    },
    /// The opening of a session takes too long.
    OpenTimeout { machine: usize, stream: u64 },
    /// A lease is to be renewed.
    Beat {
        machine: usize,
        epoch: u64,
        session: SessionId,
    },
    /// An engine operation is done.
    OperationDone { number: u64 },
    /// A container ends by itself.
    ContainerEnds {
        machine: usize,
        container: ContainerId,
        pid: i32,
        exit_code: i32,
    },
    /// An observation that was held up.
    Observed {
        machine: usize,
        epoch: u64,
        observation: Observation,
    },
    /// A daemon compares its role with its record.
    LookAtRole { machine: usize, epoch: u64 },
    /// A node asks for a record again.
    JoinAgain { machine: usize, epoch: u64 },
    /// A client does its next thing.
    ClientActs { client: usize },
    /// A machine does something for a standalone container.
    Chore,
    /// A client tries again.
    ClientTries { client: usize },
    /// The record of a node that left is to be removed.
    RemoveNode { node: NodeId },
    /// Something goes wrong.
    Fault(Fault),
    /// And ends.
    Recover(Recovery),
    /// Slow checks.
    Check,
}

/// One run.
pub struct World {
    /// Virtual time.
    pub now_us: u64,
    queue: Queue<Event>,
    /// For everything without a source of its own.
    pub dice: Dice,
    /// For faults.
    pub fault_dice: Dice,
    /// What the run is like.
    pub settings: Settings,
    /// For standalone containers.
    pub chore_dice: Dice,
    /// A bug to be found.
    pub planted: Option<PlantedBug>,
    /// The machines.
    pub machines: Vec<Machine>,
    /// The links.
    pub network: Network,
    /// What is true of the log.
    pub oracle: SharedOracle,
    /// What happened.
    pub story: Story,
    /// Questions that wait.
    pub calls: HashMap<u64, PendingCall>,
    /// Sessions' connections.
    pub streams: BTreeMap<u64, Stream>,
    /// Engine operations under way.
    pub operations: BTreeMap<u64, (usize, Operation)>,
    /// How long tasks' containers live.
    pub lives: BTreeMap<TaskId, Life>,
    /// Tasks that completed, by the stream and the number of the report that says so.
    pub told_completions: BTreeMap<(u64, u64), Vec<TaskId>>,
    /// Where tasks' containers were made.
    pub places: BTreeMap<TaskId, usize>,
    /// Which machine a node is.
    pub owners: BTreeMap<NodeId, usize>,
    /// Requests of nodes that join.
    pub join_requests: BTreeMap<usize, RequestId>,
    /// The newest session of each node.
    pub last_sessions: BTreeMap<NodeId, SessionId>,
    /// Nodes that left, whose records are to be removed, with the time when that was first asked for.
    pub leavers: BTreeMap<NodeId, u64>,
    /// The clients.
    pub clients: Vec<Client>,
    /// What they were told.
    pub history: Vec<Asked>,
    /// Nothing goes wrong any more.
    pub healing: bool,
    /// Since when.
    pub healed_us: u64,
    /// When the cluster had come to rest after that.
    pub rested_us: u64,
    /// The index of the last look, and since when it stands.
    pub quiet: (u64, u64),
    /// What waits to be done.
    pub liveness: Liveness,
    /// Counters for names.
    pub next_call: u64,
    /// Counter.
    pub next_stream: u64,
    /// Counter.
    pub next_write: u64,
    /// Counter.
    pub next_operation: u64,
    /// Counter.
    pub next_mark: u64,
    /// Controllers started.
    pub runs: u64,
    done: Option<Result<(), Violation>>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The first broken invariant.
    pub violation: Option<Violation>,
    /// Digest of everything that happened.
    pub digest: u64,
    /// How many events that was.
    pub events: u64,
    /// Log entries applied.
    pub index: u64,
    /// Client operations.
    pub operations: usize,
    /// How long it took to rest after the heal, in virtual time.
    pub rested_after_us: u64,
    /// The story, when it was asked for.
    pub story: Vec<String>,
}

/// Runs a seed.
pub fn run(seed: u64, planted: Option<PlantedBug>, story: Story) -> Outcome {
    let mut world = World::new(seed, planted, story);
    let violation = world.live().err();
    if let Some(violation) = &violation {
        world.describe();
        world.tell(format_args!("VIOLATED {violation}"));
    }
    let index = world.oracle().newest().index();
    Outcome {
        seed,
        violation,
        digest: world.story.digest(),
        events: world.story.events(),
        index,
        operations: world.history.len(),
        rested_after_us: world.rested_us.saturating_sub(world.healed_us),
        story: world.story.lines(),
    }
}

impl World {
    fn new(seed: u64, planted: Option<PlantedBug>, story: Story) -> Self {
        let mut dice = Dice::new(seed);
        let settings = Settings::draw(seed, &mut dice);
        let mut machines: Vec<Machine> = (0..MACHINES).map(|_| Machine::new(&mut dice)).collect();
        for machine in &mut machines {
            machine
                .disk
                .set_sync_delay_us(settings.sync_us.0, settings.sync_us.1);
            machine.disk.skip_syncs(planted == Some(PlantedBug::SkippedSync));
        }
        let clients = (0..settings.clients).map(|_| Client::new(dice.fork())).collect();
        let network = Network::new(MACHINES, dice.fork());
        Self {
            now_us: 0,
            queue: Queue::default(),
            fault_dice: dice.fork(),
            chore_dice: dice.fork(),
            network,
            clients,
            settings,
            planted,
            machines,
            oracle: Arc::new(Mutex::new(Oracle::default())),
            story,
            calls: HashMap::new(),
            streams: BTreeMap::new(),
            operations: BTreeMap::new(),
            lives: BTreeMap::new(),
            told_completions: BTreeMap::new(),
            places: BTreeMap::new(),
            owners: BTreeMap::new(),
            join_requests: BTreeMap::new(),
            last_sessions: BTreeMap::new(),
            leavers: BTreeMap::new(),
            history: Vec::new(),
            healing: false,
            healed_us: 0,
            rested_us: 0,
            quiet: (0, 0),
            liveness: Liveness::default(),
            next_call: 0,
            next_stream: 0,
            next_write: 0,
            next_operation: 0,
            next_mark: 0,
            runs: 0,
            done: None,
            dice,
        }
    }

    fn live(&mut self) -> Result<(), Violation> {
        self.begin();
        while self.done.is_none() {
            let Some((at_us, event)) = self.queue.pop() else {
                break;
            };
            self.now_us = at_us;
            self.happen(event);
            let violation = self.oracle().violation.clone();
            if let Some(violation) = violation {
                return Err(violation);
            }
        }
        self.done.take().unwrap_or(Ok(()))
    }

    /// A new cluster on the first machine; the others join it.
    fn begin(&mut self) {
        let node = NodeId::from_u128(self.dice.next_u128());
        let state = first_state(node, &mut self.dice, &self.settings);
        *self.oracle() = Oracle::new(state.clone());
        self.owners.insert(node, 0);
        let files = &mut self.machines[0].files;
        files.node = Some(node);
        files.raft_id = Some(RaftId(1));
        files.controllers = vec![address_of(0)];
        self.keep_certificate(0, certificate(node, NodeRole::Controller, 0));
        // The log is made before the daemon starts as ever.
        self.machines[0].daemon = None;
        self.begin_cluster(&state);
        for machine in 1..MACHINES {
            let at = self.dice.between(SECOND / 5, 3 * SECOND);
            self.push(at, Event::Recover(Recovery::Start(machine)));
        }
        for client in 0..self.clients.len() {
            self.push(4 * SECOND, Event::ClientActs { client });
        }
        self.push(5 * SECOND, Event::Chore);
        for _ in 0..self.settings.faults {
            let at = self.fault_dice.between(CALM_US, self.settings.trouble_us);
            let fault = faults::draw(&mut self.fault_dice);
            self.push(at, Event::Fault(fault));
        }
        self.push(CHECK_EVERY_US, Event::Check);
    }

    /// Puts an event into the future.
    pub fn push(&mut self, after_us: u64, event: Event) {
        self.queue.push(self.now_us + after_us, event);
    }

    /// Tells something, when somebody listens.
    pub fn tell(&mut self, text: fmt::Arguments<'_>) {
        self.story.tell(self.now_us, text);
    }

    /// The oracle.
    pub fn oracle(&self) -> MutexGuard<'_, Oracle> {
        lock(&self.oracle)
    }

    /// Notes a broken invariant.
    pub fn violated(&self, invariant: &str, detail: String) {
        self.oracle().violated(invariant, detail);
    }

    /// How long the machine is still paused.
    pub fn stalled(&self, machine: usize) -> Option<u64> {
        let until = self
            .machines
            .get(machine)
            .map_or(0, |machine| machine.stalled_until_us);
        until.checked_sub(self.now_us).filter(|left| *left > 0)
    }

    /// Sends a datagram: it may be lost, repeated or overtaken.
    pub fn send(&mut self, from: usize, to: usize, packet: Packet) {
        for delay in self.network.datagram_delays_us(from, to) {
            let packet = packet.clone();
            self.push(delay, Event::Arrive { from, to, packet });
        }
    }

    /// Sends a question or answer: over a connection, so it is not lost unless the link is cut.
    pub fn send_call(&mut self, from: usize, to: usize, packet: Packet) {
        if !self.network.is_cut(from, to) {
            let delay = self.network.stream_delay_us(from, to);
            self.push(delay, Event::Arrive { from, to, packet });
        }
    }

    fn happen(&mut self, event: Event) {
        if let Some((machine, wait)) = self.held_up(&event) {
            self.story.mark(&[9, machine as u64, wait]);
            self.push(wait, event);
            return;
        }
        match event {
            Event::Tick { machine, run } => self.tick(machine, run),
            Event::ControllerFree { machine, run } => self.controller_free(machine, run),
            Event::ControllerWake { machine, run } => self.wake_controller(machine, run),
            Event::Arrive { from, to, packet } => self.arrive(from, to, packet),
            Event::CallTimeout { call } => self.answer_arrived(call, crate::wire::Answer::Silence),
            Event::StreamDue { stream, to } => self.stream_due(stream, to),
            Event::StreamBroken { stream, to } => self.stream_broken(stream, to),
            Event::KeepAlive { stream } => self.keep_alive(stream),
            Event::LateAssignments { machine, node, set } => self.late_assignments(machine, node, *set),
            Event::WriteRetry { machine, run, write } => {
                let same = self.machines[machine]
                    .controller()
                    .is_some_and(|found| found.run == run);
                if same {
                    self.try_write(machine, write);
                }
            }
            Event::WriteDeadline { machine, run, write } => self.write_deadline(machine, run, write),
            Event::AgentWake { machine, epoch } => self.wake_agent(machine, epoch),
            Event::LookAgain {
                machine,
                epoch,
                round,
            } => self.search_again(machine, epoch, round),
            Event::AskAgain {
                machine,
                epoch,
                round,
                by,
                wait_us,
            } => self.ask_again(machine, (epoch, round), by, wait_us),
            Event::OpenTimeout { machine, stream } => self.open_timeout(machine, stream),
            Event::Beat {
                machine,
                epoch,
                session,
            } => {
                if self.machines[machine].epoch == epoch {
                    self.beat(machine, session);
                }
            }
            Event::OperationDone { number } => self.operation_done(number),
            Event::ContainerEnds {
                machine,
                container,
                pid,
                exit_code,
            } => self.container_ends(machine, &container, pid, exit_code),
            Event::Observed {
                machine,
                epoch,
                observation,
            } => {
                if self.machines[machine].epoch == epoch {
                    self.observe(machine, observation);
                }
            }
            Event::LookAtRole { machine, epoch } => self.look_again(machine, epoch),
            Event::JoinAgain { machine, epoch } => {
                if self.machines[machine].epoch == epoch {
                    self.join_node(machine);
                }
            }
            Event::ClientActs { client } => self.client_acts(client),
            Event::Chore => self.do_chore(),
            Event::ClientTries { client } => self.client_tries(client),
            Event::RemoveNode { node } => self.remove_node(node),
            Event::Fault(fault) => self.fault(fault),
            Event::Recover(recovery) => self.recover(recovery),
            Event::Check => self.check(),
        }
    }

    /// On a paused machine nothing happens until the pause is over.
    fn held_up(&self, event: &Event) -> Option<(usize, u64)> {
        let machine = match event {
            Event::Tick { machine, .. }
            | Event::ControllerFree { machine, .. }
            | Event::ControllerWake { machine, .. }
            | Event::WriteRetry { machine, .. }
            | Event::WriteDeadline { machine, .. }
            | Event::AgentWake { machine, .. }
            | Event::LookAgain { machine, .. }
            | Event::AskAgain { machine, .. }
            | Event::OpenTimeout { machine, .. }
            | Event::Beat { machine, .. }
            | Event::LookAtRole { machine, .. }
            | Event::JoinAgain { machine, .. } => *machine,
            Event::Arrive { to, .. } if *to != OUTSIDE => *to,
            Event::Arrive { .. }
            | Event::CallTimeout { .. }
            | Event::StreamDue { .. }
            | Event::StreamBroken { .. }
            | Event::KeepAlive { .. }
            | Event::LateAssignments { .. }
            | Event::OperationDone { .. }
            | Event::ContainerEnds { .. }
            | Event::Observed { .. }
            | Event::ClientActs { .. }
            | Event::Chore
            | Event::ClientTries { .. }
            | Event::RemoveNode { .. }
            | Event::Fault(_)
            | Event::Recover(_)
            | Event::Check => return None,
        };
        self.stalled(machine).map(|wait| (machine, wait))
    }

    fn arrive(&mut self, from: usize, to: usize, packet: Packet) {
        if to != OUTSIDE && !self.machines[to].powered {
            return;
        }
        match packet {
            Packet::Raft {
                from: sender,
                to: receiver,
                message,
                caller,
            } => self.raft_arrived(from, to, (sender, receiver, message), caller),
            Packet::Undeliverable { to: receiver } => self.input(to, Input::Unreachable(receiver)),
            Packet::Call { call, body, caller } => self.call_arrived(from, to, call, (caller, body)),
            Packet::Answer { call, body } => self.answer_arrived(call, body),
        }
    }

    fn check(&mut self) {
        self.check_leases();
        self.maybe_renew_dead_leases();
        self.maybe_repeat_farewells();
        self.check_liveness();
        self.check_files();
        if !self.healing && self.now_us >= self.settings.trouble_us {
            self.heal();
        } else if self.healing {
            self.check_rest();
        }
        self.push(CHECK_EVERY_US, Event::Check);
    }

    fn check_rest(&mut self) {
        if self.liveness.has_probe() {
            if self.probe_runs() {
                self.done = Some(self.final_checks());
            }
            return;
        }
        let Some(unrest) = self.unrest() else {
            self.rested_us = self.now_us;
            self.begin_probe();
            return;
        };
        let passed = self.now_us - self.healed_us;
        if passed > self.settings.rest_within_us {
            self.violated(
                "the cluster converges",
                format!("{} s after the heal {unrest}", passed / SECOND),
            );
        }
    }

    fn final_checks(&mut self) -> Result<(), Violation> {
        let state = self.oracle().newest().clone();
        self.oracle().check_acknowledged(&state);
        if let Some(violation) = self.oracle().violation.clone() {
            return Err(violation);
        }
        let first = |key: &Key| match key {
            Key::Service(_) => None,
            Key::Node(node) => Some((ServiceId::from_u128(node.as_u128()), 0)),
        };
        match linearizability::check(&self.history, &first) {
            Verdict::Linearizable => Ok(()),
            Verdict::Violated(detail) => Err(Violation {
                invariant: "client histories are linearizable".to_owned(),
                detail,
            }),
            Verdict::Undecided => Err(Violation {
                invariant: "the linearizability check decides".to_owned(),
                detail: format!("{} operations were too many", self.history.len()),
            }),
        }
    }
}

/// The first state of a cluster, as `swarm init` makes it.
fn first_state(node: NodeId, dice: &mut Dice, settings: &Settings) -> ClusterState {
    let old = settings.old_cluster;
    let mut token = || JoinToken {
        root_digest: [0; 32],
        secret: dice.next_u128(),
    };
    let record = Cluster {
        id: ClusterId::from_u128(CLUSTER),
        meta: Meta::default(),
        spec: ClusterSpec {
            snapshot_interval: settings.snapshot_interval,
            log_entries_kept: settings.kept_entries,
            ..ClusterSpec::default()
        },
        root_ca: RootCa {
            certificate_pem: String::new(),
            key_pem: String::new(),
        },
        join_tokens: JoinTokens {
            worker: token(),
            controller: token(),
        },
        incarnation: 1,
        feature_level: if old {
            1
        } else {
            muster_state::SUPPORTED_FEATURE_LEVEL
        },
        next_raft_id: 1,
        issuer: None,
        root_rotation: None,
    };
    let member = ControllerMember {
        raft_id: RaftId(1),
        address: address_of(0),
        voter: true,
    };
    let spec = NodeSpec {
        role: NodeRole::Controller,
        ..NodeSpec::default()
    };
    let mut changes = vec![
        Change::ClusterCreate(Box::new(record)),
        Change::NodeCreate {
            node,
            spec,
            description: Arc::new(NodeDescription::default()),
        },
        Change::NodeController {
            node,
            member: Some(member),
        },
    ];
    if !old {
        changes.extend(first_networks());
        changes.extend(settings.files.then(first_files).into_iter().flatten());
    }
    let mut state = ClusterState::new();
    state.apply(
        1,
        &Entry::new(
            muster_types::Timestamp::from_secs(1),
            Changeset::new(Reason::Bootstrap, changes),
        ),
    );
    state
}
