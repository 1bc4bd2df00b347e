//! Measures committed and applied entries per second of three nodes in one process: a thread per node, channels between
//! them, real files, 500-byte entries. Usage: `throughput DIRECTORY [SECONDS]`; the directory should be on the disk in
//! question and is left with the logs in it.

use bytes::Bytes;
use muster_consensus::{KeyRing, NodeConfig, OutboundMessage, Payload, RaftNode, RealDisk};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(50);
const ENTRY_BYTES: usize = 500;
const NODES: [u64; 3] = [1, 2, 3];

enum Input {
    Message(u64, Bytes),
    Stop,
}

type Links = BTreeMap<u64, Sender<Input>>;

/// What one run measured.
struct Figures {
    entries: u64,
    elapsed: Duration,
    latencies: Vec<Duration>,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(directory) = arguments.next().map(PathBuf::from) else {
        eprintln!("usage: throughput DIRECTORY [SECONDS]");
        std::process::exit(2);
    };
    let seconds = arguments
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(3);
    println!("| in flight | entries/s | p50 | p99 |\n|---|---|---|---|");
    for in_flight in [1, 64, 1024] {
        let run = directory.join(format!("run-{in_flight}"));
        let mut figures = measure(&run, in_flight, Duration::from_secs(seconds));
        figures.latencies.sort_unstable();
        let at = |share: usize| figures.latencies[(figures.latencies.len() - 1) * share / 100];
        let rate = figures.entries as f64 / figures.elapsed.as_secs_f64();
        println!("| {in_flight} | {rate:.0} | {:?} | {:?} |", at(50), at(99));
    }
}

fn measure(directory: &Path, in_flight: usize, length: Duration) -> Figures {
    let (links, inputs): (Links, Vec<_>) = NODES
        .iter()
        .map(|id| {
            let (sender, receiver) = channel();
            ((*id, sender), (*id, receiver))
        })
        .unzip();
    std::thread::scope(|scope| {
        let mut leader = None;
        for (id, input) in inputs {
            let links = links.clone();
            let node = open(directory, id);
            if id == NODES[0] {
                leader = Some(scope.spawn(move || lead(node, &input, &links, in_flight, length)));
            } else {
                scope.spawn(move || follow(id, node, &input, &links));
            }
        }
        leader
            .expect("the first node leads")
            .join()
            .expect("the leader ran")
    })
}

fn open(directory: &Path, id: u64) -> RaftNode {
    let disk = RealDisk::open(&directory.join(id.to_string())).expect("open the directory");
    let config = NodeConfig::new(id, 1, 1);
    let mut node = RaftNode::open(config, Arc::new(disk), KeyRing::new([1; 32])).expect("open the node");
    node.bootstrap(&NODES, b"").expect("an empty directory");
    node
}

fn follow(raft_id: u64, mut node: RaftNode, input: &Receiver<Input>, links: &Links) {
    let mut applied = Applier { raft_id, applied: 0 };
    let mut next_tick = Instant::now() + TICK;
    while take_input(&mut node, input, &mut next_tick) {
        applied.round(&mut node, links, || {});
    }
}

fn lead(
    mut node: RaftNode,
    input: &Receiver<Input>,
    links: &Links,
    in_flight: usize,
    length: Duration,
) -> Figures {
    let mut applier = Applier {
        raft_id: NODES[0],
        applied: 0,
    };
    let mut next_tick = Instant::now() + TICK;
    node.campaign().expect("campaign");
    while !node.is_leader_ready() {
        applier.round(&mut node, links, || {});
        take_input(&mut node, input, &mut next_tick);
    }
    let data = Bytes::from(vec![7; ENTRY_BYTES]);
    let begun = Instant::now();
    let mut waiting = std::collections::VecDeque::new();
    let mut figures = Figures {
        entries: 0,
        elapsed: Duration::ZERO,
        latencies: Vec::new(),
    };
    while begun.elapsed() < length {
        while waiting.len() < in_flight {
            node.propose(data.clone()).expect("propose");
            waiting.push_back(Instant::now());
        }
        applier.round(&mut node, links, || {
            figures.entries += 1;
            figures
                .latencies
                .extend(waiting.pop_front().map(|since| since.elapsed()));
        });
        if waiting.len() == in_flight {
            take_input(&mut node, input, &mut next_tick);
        }
    }
    figures.elapsed = begun.elapsed();
    for link in links.values() {
        // A follower that is gone already needs no stop.
        let _ = link.send(Input::Stop);
    }
    figures
}

/// Waits for input, then takes all there is; false when the run is over.
fn take_input(node: &mut RaftNode, input: &Receiver<Input>, next_tick: &mut Instant) -> bool {
    let mut timeout = next_tick.saturating_duration_since(Instant::now());
    loop {
        match input.recv_timeout(timeout) {
            Ok(Input::Message(from, bytes)) => node.step(from, &bytes).expect("step"),
            Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => break,
        }
        timeout = Duration::ZERO;
    }
    if Instant::now() >= *next_tick {
        *next_tick += TICK;
        node.tick().expect("tick");
    }
    true
}

struct Applier {
    raft_id: u64,
    applied: u64,
}

impl Applier {
    fn round(&mut self, node: &mut RaftNode, links: &Links, mut on_entry: impl FnMut()) {
        while node.has_ready() {
            let from = self.raft_id;
            let send = |message: OutboundMessage| {
                // A node that has stopped loses its messages.
                let _ = links[&message.to].send(Input::Message(from, message.bytes));
            };
            let ready = node.ready_sending(&mut { send }).expect("ready");
            ready.messages.into_iter().for_each(send);
            for entry in ready.committed {
                self.applied = entry.index;
                if matches!(entry.payload, Payload::Data(_)) {
                    on_entry();
                }
            }
            node.applied(self.applied).expect("applied");
            if node.snapshot_due() {
                node.create_snapshot(self.applied, b"state").expect("snapshot");
            }
        }
    }
}
