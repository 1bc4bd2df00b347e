//! Controllers on simulated disks and a network that drops, delays and repeats: the harness of the fault tests.
//!
//! Checked as it goes: equal index means equal entry; a read sees every write acknowledged before it began.

use super::arrivals::Arrivals;
use crate::keys::nonces;
use crate::seeded::SeededSource;
use crate::sim::{PlantedBug, SeededEntropy, SimDisk};
use crate::{
    InstalledSnapshot, KeyRing, NodeConfig, Payload, ProposalTicket, RaftNode, Ready, SnapshotChunk,
    SnapshotRequest, StepError,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Broken invariants are told apart from broken tests.
pub(super) type Checked<T = ()> = Result<T, String>;

/// What goes over the network.
#[derive(Clone)]
enum Packet {
    Raft(Bytes),
    Request(SnapshotRequest),
    Chunk(SnapshotChunk),
    Gone(crate::SnapshotId),
}

struct Parcel {
    due: u64,
    number: u64,
    from: u64,
    to: u64,
    packet: Packet,
}

/// How bad the world is.
#[derive(Clone, Copy, Default)]
pub(super) struct Weather {
    pub(super) drop_percent: u64,
    pub(super) repeat_percent: u64,
    pub(super) delay_ticks: u64,
    /// One in so many ticks, some controller loses power.
    pub(super) crash_one_in: u64,
    /// Percentage of snapshot chunks that are lost.
    pub(super) chunk_drop_percent: u64,
}

pub(super) struct Machine {
    pub(super) disk: SimDisk,
    entropy: Arc<SeededEntropy>,
    pub(super) node: Option<RaftNode>,
    restart_at: u64,
    /// The state machine: every value, and how far it got.
    pub(super) values: Vec<u64>,
    pub(super) applied: u64,
    waiting: BTreeMap<ProposalTicket, u64>,
    /// Reads that wait: by context, the acknowledged index that they must see.
    reads: BTreeMap<u64, u64>,
}

pub(super) struct Cluster {
    pub(super) source: SeededSource,
    pub(super) machines: BTreeMap<u64, Machine>,
    pub(super) weather: Weather,
    pub(super) isolated: BTreeSet<u64>,
    pub(super) padding: usize,
    pub(super) seed: u64,
    pub(super) tick_ms: u64,
    pub(super) planted_bug: PlantedBug,
    network: Vec<Parcel>,
    pub(super) now: u64,
    parcels: u64,
    history: BTreeMap<u64, (u64, Payload)>,
    pub(super) acknowledged: BTreeMap<u64, u64>,
    acknowledged_index: u64,
    pub(super) reads_confirmed: u64,
    /// A digest of everything that was sent and applied.
    pub(super) trace: u64,
    /// What came of snapshots.
    pub(super) arrivals: Arrivals,
}

impl Cluster {
    pub(super) fn new(seed: u64, ids: &[u64], weather: Weather) -> Cluster {
        nonces::watch();
        let mut source = SeededSource::new(seed);
        let machine = |source: &mut SeededSource| Machine {
            disk: SimDisk::new(source.draw()),
            entropy: Arc::new(SeededEntropy::new(source.draw())),
            node: None,
            restart_at: 0,
            values: Vec::new(),
            applied: 0,
            waiting: BTreeMap::new(),
            reads: BTreeMap::new(),
        };
        let machines = ids.iter().map(|id| (*id, machine(&mut source))).collect();
        Cluster {
            source,
            machines,
            weather,
            isolated: BTreeSet::new(),
            padding: 0,
            seed,
            tick_ms: 50,
            planted_bug: PlantedBug::None,
            network: Vec::new(),
            now: 0,
            parcels: 0,
            history: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            acknowledged_index: 0,
            reads_confirmed: 0,
            trace: 0,
            arrivals: Arrivals::default(),
        }
    }

    /// Opens every node and begins a cluster of `voters`.
    pub(super) fn start(&mut self, voters: &[u64]) -> Checked {
        for id in self.ids() {
            self.open(id)?;
            if voters.contains(&id) {
                self.node(id)
                    .bootstrap(voters, &encode(&[], 0))
                    .map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    pub(super) fn ids(&self) -> Vec<u64> {
        self.machines.keys().copied().collect()
    }

    pub(super) fn node(&mut self, id: u64) -> &mut RaftNode {
        self.machine(id).node.as_mut().expect("the node runs")
    }

    pub(super) fn machine(&mut self, id: u64) -> &mut Machine {
        self.machines.get_mut(&id).expect("the machine exists")
    }

    pub(super) fn leader(&self) -> Option<u64> {
        let ready = |machine: &Machine| {
            machine
                .node
                .as_ref()
                .is_some_and(|node| node.status().leader_ready)
        };
        self.machines
            .iter()
            .find(|(_, machine)| ready(machine))
            .map(|(id, _)| *id)
    }

    fn open(&mut self, id: u64) -> Checked {
        self.arrivals.begin_anew(id);
        let (seed, tick_ms, planted_bug) = (self.seed, self.tick_ms, self.planted_bug);
        let machine = self.machine(id);
        let mut config = NodeConfig::new(id, 42, seed);
        config.set_tick_ms(tick_ms);
        config.segment_bytes = 64 * 1024;
        config.snapshot_interval_entries = 60;
        config.kept_entries = 20;
        config.entropy = machine.entropy.clone();
        config.planted_bug = planted_bug;
        machine.disk.power_on();
        machine.values.clear();
        machine.applied = 0;
        machine.waiting.clear();
        machine.reads.clear();
        let disk = Arc::new(machine.disk.clone());
        let node = RaftNode::open(config, disk, KeyRing::new([8; 32]));
        machine.node = Some(node.map_err(|error| format!("controller {id} does not open: {error}"))?);
        Ok(())
    }

    /// Cuts a controller's power; it is back some ticks later.
    pub(super) fn crash(&mut self, id: u64, ticks: u64) {
        let now = self.now;
        let machine = self.machine(id);
        machine.disk.crash();
        machine.node = None;
        machine.restart_at = now + ticks;
    }

    /// Lets one tick pass everywhere.
    pub(super) fn tick(&mut self) -> Checked {
        self.now += 1;
        if self.weather.crash_one_in > 0 && self.source.below(self.weather.crash_one_in) == 0 {
            let ids = self.ids();
            let victim = ids[self.source.below(ids.len() as u64) as usize];
            let operations = 1 + self.source.below(20);
            self.machine(victim).disk.crash_after(operations);
        }
        for id in self.ids() {
            let now = self.now;
            let machine = self.machine(id);
            let ticked = machine.node.as_mut().map(RaftNode::tick);
            let (powered, restart_at) = (machine.disk.is_powered(), machine.restart_at);
            match ticked {
                Some(Err(_)) if !powered => self.crash(id, 10),
                Some(ticked) => ticked.map_err(|error| error.to_string())?,
                None if now >= restart_at => self.open(id)?,
                None => {}
            }
        }
        self.deliver()?;
        for id in self.ids() {
            self.rounds(id)?;
        }
        Ok(())
    }

    fn deliver(&mut self) -> Checked {
        let (mut due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.network)
            .into_iter()
            .partition(|parcel| parcel.due <= self.now);
        self.network = later;
        due.sort_by_key(|parcel| (parcel.due, parcel.number));
        for parcel in due {
            if self.isolated.contains(&parcel.from) || self.isolated.contains(&parcel.to) {
                continue;
            }
            self.receive(parcel)?;
        }
        Ok(())
    }

    fn receive(&mut self, parcel: Parcel) -> Checked {
        let (from, to) = (parcel.from, parcel.to);
        let Some(node) = self
            .machines
            .get_mut(&to)
            .and_then(|machine| machine.node.as_mut())
        else {
            return Ok(());
        };
        match parcel.packet {
            Packet::Raft(bytes) => match node.step(from, &bytes) {
                Ok(()) | Err(StepError::Refused { .. }) => {}
                Err(StepError::Fatal(error)) => return Err(format!("controller {to}: {error}")),
            },
            Packet::Request(request) => {
                let chunk = node.snapshot_chunk(from, &request.id, request.offset, request.bytes_max);
                let answer = chunk.map_or(Packet::Gone(request.id), Packet::Chunk);
                self.send(to, from, answer);
            }
            Packet::Chunk(chunk) => {
                // A repeated chunk is refused, which is right.
                if node.install_chunk(from, chunk.clone()).is_ok() {
                    self.arrivals.came(to, from, &chunk)?;
                }
            }
            Packet::Gone(id) => {
                node.snapshot_unavailable(&id);
                self.arrivals.begin_anew(to);
            }
        }
        Ok(())
    }

    fn send(&mut self, from: u64, to: u64, packet: Packet) {
        let weather = self.weather;
        let chunk = matches!(packet, Packet::Chunk(_));
        let drop = if chunk {
            weather.chunk_drop_percent
        } else {
            weather.drop_percent
        };
        if self.source.below(100) < drop {
            return;
        }
        let copies = 1 + u64::from(self.source.below(100) < weather.repeat_percent);
        for _ in 0..copies {
            let due = self.now + self.source.below(weather.delay_ticks + 1);
            self.parcels += 1;
            let number = self.parcels;
            self.network.push(Parcel {
                due,
                number,
                from,
                to,
                packet: packet.clone(),
            });
        }
    }

    /// Everything that a node has to do now.
    fn rounds(&mut self, id: u64) -> Checked {
        while self.machine(id).node.as_ref().is_some_and(RaftNode::has_ready) {
            let ready = match self.node(id).ready() {
                Ok(ready) => ready,
                Err(_) if !self.machine(id).disk.is_powered() => {
                    let ticks = 1 + self.source.below(40);
                    self.crash(id, ticks);
                    return Ok(());
                }
                Err(error) => return Err(format!("controller {id}: {error}")),
            };
            self.handle(id, ready)?;
        }
        Ok(())
    }

    fn handle(&mut self, id: u64, ready: Ready) -> Checked {
        for message in ready.messages {
            self.note(&[id, message.to, u64::from(crc32fast::hash(&message.bytes))]);
            self.send(id, message.to, Packet::Raft(message.bytes));
        }
        for request in ready.snapshot_requests {
            self.arrivals.asked(id, &request)?;
            self.send(id, request.to, Packet::Request(request));
        }
        if let Some(snapshot) = ready.snapshot {
            self.install(id, &snapshot)?;
        }
        for entry in ready.committed {
            self.apply(id, entry.index, entry.term, entry.payload)?;
        }
        for read in ready.read_states {
            let needed = self.machine(id).reads.remove(&read.context).unwrap_or(0);
            if read.index < needed {
                return Err(format!(
                    "controller {id} read at {}, {needed} was acknowledged",
                    read.index
                ));
            }
            self.reads_confirmed += 1;
        }
        let padding = self.padding;
        let machine = self.machine(id);
        let applied = machine.applied;
        let node = machine.node.as_mut().expect("the node runs");
        node.applied(applied).map_err(|error| error.to_string())?;
        if node.snapshot_due() {
            let data = encode(&machine.values, padding);
            if let Err(error) = node.create_snapshot(applied, &data) {
                if machine.disk.is_powered() {
                    return Err(format!("controller {id}: {error}"));
                }
                self.crash(id, 5);
            }
        }
        Ok(())
    }

    fn install(&mut self, id: u64, snapshot: &InstalledSnapshot) -> Checked {
        let machine = self.machine(id);
        if snapshot.index < machine.applied {
            return Err(format!("controller {id} went back to {}", snapshot.index));
        }
        machine.values = decode(&snapshot.data);
        machine.applied = snapshot.index;
        self.note(&[id, snapshot.index]);
        Ok(())
    }

    fn apply(&mut self, id: u64, index: u64, term: u64, payload: Payload) -> Checked {
        self.note(&[id, index, term]);
        let machine = self.machine(id);
        if index != machine.applied + 1 {
            return Err(format!(
                "controller {id} applies {index} after {}",
                machine.applied
            ));
        }
        machine.applied = index;
        if let Payload::Data(data) = &payload {
            machine.values.push(read_value(data));
        }
        let lost: Vec<ProposalTicket> = machine
            .waiting
            .keys()
            .copied()
            .filter(|ticket| ticket.index <= index)
            .collect();
        for ticket in lost {
            let value = machine.waiting.remove(&ticket);
            if ticket == (ProposalTicket { index, term }) {
                self.acknowledged.extend(value.map(|value| (value, index)));
                self.acknowledged_index = self.acknowledged_index.max(index);
                break;
            }
        }
        let known = self
            .history
            .entry(index)
            .or_insert_with(|| (term, payload.clone()));
        if *known != (term, payload) {
            return Err(format!(
                "controller {id} applies another entry at {index} than others did"
            ));
        }
        Ok(())
    }

    /// Proposes a value, when some node takes it.
    pub(super) fn propose(&mut self, value: u64) {
        for machine in self.machines.values_mut() {
            let Some(node) = machine.node.as_mut() else {
                continue;
            };
            if let Ok(ticket) = node.propose(value.to_le_bytes().to_vec().into()) {
                machine.waiting.insert(ticket, value);
            }
        }
    }

    /// Begins a read on a node.
    pub(super) fn read(&mut self, id: u64, context: u64) {
        let needed = self.acknowledged_index;
        let machine = self.machine(id);
        if machine
            .node
            .as_mut()
            .is_some_and(|node| node.read_index(context).is_ok())
        {
            machine.reads.insert(context, needed);
        }
    }

    /// Lets time pass until something holds.
    pub(super) fn run_until(
        &mut self,
        what: &str,
        ticks: u64,
        done: impl Fn(&mut Cluster) -> bool,
    ) -> Checked {
        for _ in 0..ticks {
            if done(self) {
                return Ok(());
            }
            self.tick()?;
        }
        let states: Vec<_> = self
            .machines
            .values()
            .filter_map(|machine| machine.node.as_ref().map(RaftNode::status))
            .collect();
        Err(format!("not reached: {what}; {states:#?}"))
    }

    /// Good weather until every node is at the same point, then looks for every acknowledged value.
    pub(super) fn heal_and_check(&mut self) -> Checked {
        self.weather = Weather::default();
        self.isolated.clear();
        for machine in self.machines.values() {
            machine.disk.crash_after(u64::MAX);
        }
        self.run_until("a leader", 400, |cluster| cluster.leader().is_some())?;
        let last = u64::MAX;
        self.run_until("agreement", 1_000, |cluster| {
            if !cluster
                .machines
                .values()
                .any(|machine| machine.values.last() == Some(&last))
            {
                cluster.propose(last);
            }
            let members = cluster.leader().map(|leader| cluster.node(leader).membership());
            let applied = |id: &u64| cluster.machines.get(id).map(|machine| machine.applied);
            members.is_some_and(|members| {
                let mut indexes = members.voters.iter().chain(&members.learners).map(applied);
                let first = indexes.next().flatten();
                indexes.all(|index| index == first)
            }) && cluster
                .machines
                .values()
                .any(|machine| machine.values.last() == Some(&last))
        })?;
        let leader = self.leader().ok_or("the leader is gone")?;
        let values: BTreeSet<u64> = self.machine(leader).values.iter().copied().collect();
        match self.acknowledged.keys().find(|value| !values.contains(value)) {
            Some(value) => Err(format!("the acknowledged value {value} is lost")),
            None => Ok(()),
        }
    }

    fn note(&mut self, facts: &[u64]) {
        for fact in facts {
            self.trace = SeededSource::new(self.trace ^ fact).draw();
        }
    }
}

fn encode(values: &[u64], padding: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    bytes.splice(..0, (values.len() as u64).to_le_bytes());
    bytes.resize(bytes.len() + padding, 0x5A);
    bytes
}

fn decode(bytes: &[u8]) -> Vec<u64> {
    let count = read_value(bytes) as usize;
    bytes[8..].chunks_exact(8).take(count).map(read_value).collect()
}

fn read_value(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .copied()
        .map(u64::from_le_bytes)
        .expect("a value has 8 bytes")
}
