//! How long one reconcile takes after one task of a large service changed:
//! `cargo run --release -p muster-orchestration --example large_service -- 100000`.

use muster_orchestration::{Dirty, reconcile};
use muster_state::{Change, Changeset, ClusterState, Entry, Reporter};
use muster_types::{
    IdSource, NodeDescription, NodeId, NodeSpec, NodeState, Reason, ServiceId, ServiceMode, ServiceSpec,
    TaskId, TaskState, TaskStatus, Timestamp,
};
use std::sync::Arc;
use std::time::Instant;

const NODES: u128 = 1000;
const SERVICE: ServiceId = ServiceId::from_u128(1);

struct Ids(u128);

impl IdSource for Ids {
    fn next_u128(&mut self) -> u128 {
        self.0 += 1;
        self.0
    }
}

fn apply(state: &mut ClusterState, changeset: Changeset, dirty: &mut Dirty) {
    let entry = Entry::new(state.time(), changeset);
    let applied = state.apply(state.index() + 1, &entry);
    dirty.touch(&applied.touched);
}

/// Reconciles until nothing is left; returns the number of calls.
fn settle(state: &mut ClusterState, dirty: &mut Dirty, ids: &mut Ids) -> usize {
    let mut calls = 0;
    while dirty.is_due(state.time()) {
        let plan = reconcile(state, dirty, state.time(), ids);
        *dirty = plan.leftover;
        for changeset in plan.changesets {
            apply(state, changeset, dirty);
        }
        calls += 1;
    }
    calls
}

fn main() {
    let replicas = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(100_000);
    let (mut state, mut dirty, mut ids) = (ClusterState::new(), Dirty::nothing(), Ids(1000));
    for number in 1..=NODES {
        let node = NodeId::from_u128(number);
        let changes = vec![
            Change::NodeCreate {
                node,
                spec: NodeSpec::default(),
                description: Arc::new(NodeDescription::default()),
            },
            Change::NodeStatus {
                node,
                state: NodeState::Ready,
                message: String::new(),
                address: String::new(),
            },
        ];
        apply(
            &mut state,
            Changeset::new(Reason::NodeJoined, changes),
            &mut dirty,
        );
    }
    let spec = Arc::new(ServiceSpec {
        name: "large".to_owned(),
        mode: ServiceMode::Replicated { replicas },
        ..ServiceSpec::default()
    });
    let create = Change::ServiceCreate {
        service: SERVICE,
        spec,
    };
    apply(
        &mut state,
        Changeset::new(Reason::UserRequest, vec![create]),
        &mut dirty,
    );
    let began = Instant::now();
    let calls = settle(&mut state, &mut dirty, &mut ids);
    println!("{replicas} tasks made in {calls} calls and {:?}", began.elapsed());
    let tasks: Vec<(TaskId, NodeId)> = state
        .tasks()
        .filter_map(|task| Some((task.id, task.node?)))
        .take(20)
        .collect();
    let began = Instant::now();
    for (task, node) in &tasks {
        let status = TaskStatus {
            attempt: 0,
            state: TaskState::Running,
            at: Timestamp::ZERO,
            message: "started".to_owned(),
            error: None,
            container: None,
        };
        let change = Change::TaskStatus {
            task: *task,
            reporter: Reporter::Agent(*node),
            status,
        };
        apply(
            &mut state,
            Changeset::new(Reason::AgentReport, vec![change]),
            &mut dirty,
        );
        settle(&mut state, &mut dirty, &mut ids);
    }
    println!(
        "one status of {replicas} tasks: {:?}",
        began.elapsed() / tasks.len() as u32
    );
}
