//! What decisions about large services cost, and what their rows take of memory; prints the whole table:
//! `cargo run --release -p muster-orchestration --example large_service`. Arguments: other numbers of replicas.

use muster_orchestration::{Dirty, reconcile};
use muster_scheduler::{Group, NodeView, place};
use muster_state::{
    Change, Changeset, ClusterState, Entry, NewTask, Outcome, Reporter, Touched, service_update,
};
use muster_types::task::TaskContainer;
use muster_types::{
    ContainerId, DesiredState, IdSource, NodeDescription, NodeId, NodeSpec, NodeState, Reason, ServiceId,
    ServiceMode, ServiceSpec, Slot, TaskId, TaskState, TaskStatus, Timestamp,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SERVICE: ServiceId = ServiceId::from_u128(1);
/// Tasks of a node that is lost, and of a step up in scale.
const THOUSAND: u64 = 1000;
/// Repetitions of what is quick.
const REPEATED: usize = 20;
/// Statuses in one report.
const REPORT: usize = 500;
const PLACED: u64 = 100_000;
const PLACED_OVER: u64 = 1000;
const ROWS: u64 = 2_000_000;
const ROWS_PER_SERVICE: u64 = 100_000;

struct Ids(u128);

impl IdSource for Ids {
    fn next_u128(&mut self) -> u128 {
        self.0 += 1;
        self.0
    }
}

/// What some calls of reconcile cost, their plans' application apart.
#[derive(Debug, Default, Clone, Copy)]
struct Cost {
    calls: u32,
    deciding: Duration,
    longest: Duration,
    applying: Duration,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.deciding += other.deciding;
        self.longest = self.longest.max(other.longest);
        self.applying += other.applying;
    }
}

/// A cluster without agents: they are played by the scenarios.
struct Cluster {
    state: ClusterState,
    dirty: Dirty,
    ids: Ids,
    now: Timestamp,
    /// Tasks that changed and that nobody looked at.
    changed: BTreeSet<TaskId>,
}

impl Cluster {
    fn new(nodes: u64) -> Self {
        let mut cluster = Self {
            state: ClusterState::new(),
            dirty: Dirty::nothing(),
            ids: Ids(1 << 32),
            now: Timestamp::from_secs(1),
            changed: BTreeSet::new(),
        };
        for number in 1..=nodes {
            let node = NodeId::from_u128(u128::from(number));
            cluster.apply(vec![
                Change::NodeCreate {
                    node,
                    spec: NodeSpec::default(),
                    description: Arc::new(NodeDescription {
                        hostname: format!("node-{number}"),
                        ..NodeDescription::default()
                    }),
                },
                node_status(node, NodeState::Ready),
            ]);
        }
        cluster
    }

    fn apply(&mut self, changes: Vec<Change>) {
        self.apply_set(Changeset::new(Reason::UserRequest, changes));
    }

    fn apply_set(&mut self, changeset: Changeset) {
        let entry = Entry::new(self.now, changeset);
        let applied = self.state.apply(self.state.index() + 1, &entry);
        assert_eq!(applied.outcome, Outcome::Applied, "{entry:?}");
        self.note(&applied.touched);
    }

    fn note(&mut self, touched: &Touched) {
        self.dirty.touch(touched);
        self.changed.extend(touched.tasks.iter().copied());
    }

    /// Reconciles until nothing is left.
    fn settle(&mut self) -> Cost {
        let mut cost = Cost::default();
        while self.dirty.is_due(self.now) {
            let began = Instant::now();
            let plan = reconcile(&self.state, &self.dirty, self.now, &mut self.ids);
            let took = began.elapsed();
            self.dirty = plan.leftover;
            let began = Instant::now();
            for changeset in plan.changesets {
                self.apply_set(changeset);
            }
            cost += Cost {
                calls: 1,
                deciding: took,
                longest: took,
                applying: began.elapsed(),
            };
        }
        cost
    }

    /// Agents do what the changed tasks ask of them; then reconcile until nothing is left.
    fn agents(&mut self) -> Cost {
        let statuses: Vec<Change> = std::mem::take(&mut self.changed)
            .into_iter()
            .filter_map(|id| self.state.task(id))
            .filter(|task| !task.is_terminal())
            .filter_map(|task| {
                let state = match task.desired {
                    DesiredState::Running if task.status.state < TaskState::Running => TaskState::Running,
                    DesiredState::Shutdown | DesiredState::Remove => TaskState::Shutdown,
                    DesiredState::Ready | DesiredState::Running => return None,
                };
                Some(status(task.id, task.node?, state, "done"))
            })
            .collect();
        for report in statuses.chunks(REPORT) {
            self.apply(report.to_vec());
        }
        self.settle()
    }
}

fn node_status(node: NodeId, state: NodeState) -> Change {
    Change::NodeStatus {
        node,
        state,
        message: String::new(),
        address: String::new(),
    }
}

fn status(task: TaskId, node: NodeId, state: TaskState, message: &str) -> Change {
    Change::TaskStatus {
        task,
        reporter: Reporter::Agent(node),
        status: TaskStatus {
            attempt: 0,
            state,
            at: Timestamp::ZERO,
            message: message.to_owned(),
            error: None,
            container: Some(TaskContainer {
                id: ContainerId::from_bytes([1; 32]),
                pid: 1,
                exit_code: None,
                ports: Vec::new(),
            }),
        },
    }
}

fn spec(name: &str, replicas: u64) -> ServiceSpec {
    let mut spec = ServiceSpec {
        name: name.to_owned(),
        mode: ServiceMode::Replicated { replicas },
        ..ServiceSpec::default()
    };
    spec.template.container.image = "v1".to_owned();
    spec
}

fn row(replicas: u64, what: &str, each: u32, cost: Cost) {
    println!(
        "| {replicas} | {what} | {} | {:.3} | {:.3} | {:.3} |",
        cost.calls / each,
        millis(cost.deciding / each),
        millis(cost.longest),
        millis(cost.applying / each)
    );
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Every scenario with a service of so many replicas, a thousand on each node.
fn scenarios(replicas: u64) {
    let nodes = (replicas / THOUSAND).max(2);
    let mut cluster = Cluster::new(nodes);
    cluster.settle();
    let service = SERVICE;
    let create = Arc::new(spec("large", replicas));
    cluster.apply(vec![Change::ServiceCreate {
        service,
        spec: create,
    }]);
    row(replicas, "made and placed", 1, cluster.settle());
    row(replicas, "all of them start", 1, cluster.agents());
    cluster.agents();
    row(
        replicas,
        "one status",
        REPEATED as u32,
        repeat(&mut cluster, "again", TaskState::Running),
    );
    row(
        replicas,
        "one failure",
        REPEATED as u32,
        repeat(&mut cluster, "failed", TaskState::Failed),
    );
    cluster.now = cluster.now.after(Duration::from_secs(60));
    cluster.settle();
    while cluster.agents().calls > 0 {}
    scale(&mut cluster, replicas);
    lose_node(&mut cluster, replicas);
    update(&mut cluster, replicas);
}

/// So many tasks report so, one after the other.
fn repeat(cluster: &mut Cluster, message: &str, state: TaskState) -> Cost {
    let tasks: Vec<(TaskId, NodeId)> = cluster
        .state
        .tasks()
        .filter(|task| task.status.state == TaskState::Running)
        .filter_map(|task| Some((task.id, task.node?)))
        .take(REPEATED)
        .collect();
    let mut cost = Cost::default();
    for (task, node) in tasks {
        cluster.apply(vec![status(task, node, state, message)]);
        cost += cluster.settle();
    }
    cost
}

fn edit(cluster: &mut Cluster, change: impl FnOnce(&mut ServiceSpec)) {
    let service = cluster.state.service(SERVICE).expect("it was made").clone();
    let mut spec = service.spec.as_ref().clone();
    change(&mut spec);
    cluster.apply(vec![service_update::update(&service, Arc::new(spec))]);
}

fn scale(cluster: &mut Cluster, replicas: u64) {
    let to = replicas + THOUSAND;
    edit(cluster, |spec| {
        spec.mode = ServiceMode::Replicated { replicas: to }
    });
    row(replicas, "1000 more replicas", 1, cluster.settle());
    while cluster.agents().calls > 0 {}
}

fn lose_node(cluster: &mut Cluster, replicas: u64) {
    let node = NodeId::from_u128(2);
    let tasks = cluster.state.tasks_of_node(node).count();
    cluster.apply(vec![node_status(node, NodeState::Down)]);
    let what = format!("a node is lost with {tasks} tasks");
    row(replicas, &what, 1, cluster.settle());
    while cluster.agents().calls > 0 {}
}

/// One replica at a time, each watched for as long as reconcile asks for.
fn update(cluster: &mut Cluster, replicas: u64) {
    edit(cluster, |spec| spec.template.container.image = "v2".to_owned());
    row(replicas, "an update begins", 1, cluster.settle());
    let mut cost = Cost::default();
    for _ in 0..REPEATED {
        cost += cluster.agents();
        cluster.now = cluster.now.after(Duration::from_millis(100));
        cost += cluster.settle();
    }
    row(replicas, "a step of the update", REPEATED as u32, cost);
}

/// The scheduler alone, and reconcile with it.
fn placements() {
    let mut cluster = Cluster::new(PLACED_OVER);
    cluster.settle();
    let template = Arc::new(spec("placed", PLACED).template);
    let group = Group {
        template,
        ports: Vec::new(),
        feature_level: 1,
        tasks: (0..PLACED).map(|id| TaskId::from_u128(u128::from(id))).collect(),
    };
    let mut views: Vec<NodeView> = cluster
        .state
        .nodes()
        .map(|node| NodeView::empty(node.clone()))
        .collect();
    let began = Instant::now();
    let placed = place(&group, &mut views).placed.len();
    let alone = began.elapsed();
    let spec = Arc::new(spec("placed", PLACED));
    cluster.apply(vec![Change::ServiceCreate {
        service: SERVICE,
        spec,
    }]);
    let cost = cluster.settle();
    let rate = |taken: Duration| placed as f64 / taken.as_secs_f64();
    println!(
        "{placed} tasks over {PLACED_OVER} nodes: {:.0} placements/s by the scheduler alone, {:.0}/s decided by reconcile \
         in {} calls (longest {:.1} ms), {:.0}/s decided and applied",
        rate(alone),
        rate(cost.deciding),
        cost.calls,
        millis(cost.longest),
        rate(cost.deciding + cost.applying)
    );
}

/// Rows as they are in a cluster that runs: placed, running, each with a container.
fn memory() {
    let mut cluster = Cluster::new(PLACED_OVER);
    let before = resident_bytes();
    for service in 0..ROWS / ROWS_PER_SERVICE {
        let service = ServiceId::from_u128(u128::from(100 + service));
        let named = Arc::new(spec(&service.to_string(), ROWS_PER_SERVICE));
        cluster.apply(vec![Change::ServiceCreate { service, spec: named }]);
        let template_version = cluster.state.index();
        let mut number = 0;
        while number < ROWS_PER_SERVICE {
            let made: Vec<(TaskId, NodeId)> = (0..REPORT as u64)
                .map(|_| {
                    let id = cluster.ids.next_u128();
                    let node = NodeId::from_u128(1 + id % u128::from(PLACED_OVER));
                    // Ids are as random as they are in a cluster.
                    (
                        TaskId::from_u128(id.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)),
                        node,
                    )
                })
                .collect();
            let creations = made.iter().map(|(id, node)| {
                number += 1;
                Change::TaskCreate(NewTask {
                    id: *id,
                    service,
                    slot: Slot::Replica(number),
                    template_version,
                    node: Some(*node),
                    desired: DesiredState::Running,
                    start_after: None,
                    reason: Reason::MissingReplica,
                    message: Reason::Placed.to_string(),
                    error: None,
                    addresses: Vec::new(),
                })
            });
            let creations = creations.collect();
            cluster.apply(creations);
            let running = made
                .iter()
                .map(|(id, node)| status(*id, *node, TaskState::Running, "started"));
            cluster.apply(running.collect());
            cluster.changed.clear();
            cluster.dirty = Dirty::nothing();
        }
    }
    let taken = resident_bytes().saturating_sub(before);
    let rows = cluster.state.counts().2 as u64;
    println!(
        "{rows} task rows take {:.2} GiB, {} bytes each with their indexes",
        taken as f64 / f64::from(1 << 30),
        taken / rows
    );
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = text.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.expect("it is a number") * 1024
}

fn main() {
    let asked: Vec<u64> = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    let sizes = if asked.is_empty() {
        vec![1000, 10_000, 100_000]
    } else {
        asked
    };
    println!("| replicas | what | calls | deciding, ms | longest call, ms | applying, ms |");
    println!("|---:|---|---:|---:|---:|---:|");
    sizes.into_iter().for_each(scenarios);
    println!();
    placements();
    memory();
}
