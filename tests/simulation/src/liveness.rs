//! While nothing is wrong, what is decided is done soon: a wake-up that is lost must not hide until something else
//! happens by chance.

use crate::controllers::name;
use crate::network::OUTSIDE;
use crate::rpc::Purpose;
use crate::wire::{Answer, Call};
use crate::world::World;
use muster_controller::control::{ControlReply, ControlRequest};
use muster_orchestration::{Dirty, reconcile};
use muster_state::ClusterState;
use muster_types::node::Availability;
use muster_types::service::ServiceMode;
use muster_types::{
    DesiredState, IdSource, NodeState, RequestId, ServiceId, ServiceSpec, Task, TaskId, TaskState, Timestamp,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// The leader decides what is due within this.
const DECIDED_WITHIN_US: u64 = 4_000_000;
/// A node does what it was assigned within this: the slowest preparation takes 6 s, a restart waits up to 5 s.
const DONE_WITHIN_US: u64 = 20_000_000;
/// The tasks of a new service run within this, in a cluster at rest.
const PROBE_WITHIN_US: u64 = 12_000_000;
/// Tasks of that service.
const PROBE_REPLICAS: u64 = 3;

/// What a task waits for.
type Wait = (TaskState, u32, DesiredState);

/// What waits to be done, and since when nothing stands in its way.
#[derive(Debug, Default)]
pub struct Liveness {
    /// Whatever changes when a daemon, a leader or a session does.
    signature: (u64, u64, u64, u64),
    undisturbed_since_us: Option<u64>,
    /// What each unfinished task waits for, since when.
    waiting: BTreeMap<TaskId, (Wait, u64)>,
    /// Index at which the leader was last found to have decided everything.
    decided: u64,
    probe: Option<Probe>,
}

/// The service that is made in the cluster that rests.
#[derive(Debug)]
struct Probe {
    since_us: u64,
    service: Option<ServiceId>,
}

impl Liveness {
    /// Whether the last service was asked for.
    pub fn has_probe(&self) -> bool {
        self.probe.is_some()
    }
}

impl World {
    /// Decisions that are due and tasks that a node could go on with do not wait.
    pub fn check_liveness(&mut self) {
        let Some((leader, since_us)) = self.undisturbed_leader() else {
            return;
        };
        let Some(controller) = self.machines[leader].controller() else {
            return;
        };
        let state = controller.core.state().clone();
        self.note_index(&state);
        let stands_us = self.now_us - self.quiet.1.max(since_us);
        if stands_us >= DECIDED_WITHIN_US && self.liveness.decided != state.index() {
            let passed = Duration::from_micros(stands_us - DECIDED_WITHIN_US / 2);
            if let Some(what) = self.undecided(&state, state.time().after(passed)) {
                self.violated(
                    "the leader decides what is due",
                    format!("{stands_us} us at index {}: {what}", state.index()),
                );
            }
            self.liveness.decided = state.index();
        }
        self.check_waiting(&state);
    }

    /// Notes since when the leader's index stands.
    pub fn note_index(&mut self, state: &ClusterState) {
        if state.index() != self.quiet.0 {
            self.quiet = (state.index(), self.now_us);
        }
    }

    /// The leader, and since when every machine runs, every agent has a session and every link is whole.
    fn undisturbed_leader(&mut self) -> Option<(usize, u64)> {
        let leader = self.leader();
        let term = leader
            .and_then(|leader| self.machines[leader].controller())
            .map_or(0, |controller| controller.core.raft().role().term);
        let epochs = self.machines.iter().map(|machine| machine.epoch).sum();
        let signature = (epochs, term, self.runs, self.next_stream);
        let whole = self.network.is_fair()
            && (0..self.machines.len()).all(|machine| {
                let found = &self.machines[machine];
                found.powered
                    && !found.disk_fault
                    && self.stalled(machine).is_none()
                    && found.agent().is_some_and(|agent| agent.connected())
                    && !found.daemon.as_ref().is_some_and(|daemon| daemon.joining)
            });
        let now_us = self.now_us;
        let liveness = &mut self.liveness;
        if !whole || liveness.signature != signature {
            liveness.signature = signature;
            liveness.undisturbed_since_us = None;
            liveness.waiting.clear();
        }
        let leader = leader.filter(|_| whole)?;
        Some((leader, *liveness.undisturbed_since_us.get_or_insert(now_us)))
    }

    fn check_waiting(&mut self, state: &ClusterState) {
        let now_us = self.now_us;
        let before = std::mem::take(&mut self.liveness.waiting);
        let unfinished = state.tasks().filter(|task| is_unfinished(state, task));
        for task in unfinished {
            let wait = (task.status.state, task.status.attempt, task.desired);
            let since_us = match before.get(&task.id) {
                Some((known, since_us)) if *known == wait => *since_us,
                Some(_) | None => now_us,
            };
            if now_us - since_us > DONE_WITHIN_US {
                let node = task.node.and_then(|node| self.owners.get(&node));
                let what = format!(
                    "task {} on {:?} is {:?}, wanted {:?}, for {} us",
                    task.id,
                    node.map(|machine| name(*machine)),
                    task.status.state,
                    task.desired,
                    now_us - since_us
                );
                self.violated("a node does what it was assigned", what);
            }
            self.liveness.waiting.insert(task.id, (wait, since_us));
        }
    }

    /// A full look at everything, at this time, decides nothing.
    pub fn undecided(&mut self, state: &ClusterState, time: Timestamp) -> Option<String> {
        let mut dice = self.dice.clone();
        let plan = reconcile(state, &Dirty::everything(), time, &mut dice);
        let first = plan.changesets.first()?;
        Some(format!("reconcile still wants {:?}", first.changes))
    }

    /// The cluster rests: a last service is made.
    pub fn begin_probe(&mut self) {
        self.liveness.probe = Some(Probe {
            since_us: self.now_us,
            service: None,
        });
        let contacts = self.machines_with_controllers();
        let Some(contact) = self.dice.pick(&contacts).copied() else {
            return;
        };
        let mut spec = ServiceSpec {
            name: "probe".to_owned(),
            mode: ServiceMode::Replicated {
                replicas: PROBE_REPLICAS,
            },
            ..ServiceSpec::default()
        };
        spec.template.container.image = "busybox".to_owned();
        let id = RequestId::from_u128(self.dice.next_u128());
        let request = ControlRequest::CreateService { spec: Box::new(spec) };
        self.tell(format_args!("a last service is made"));
        let call = Call::ClientWrite { id, request };
        self.call(OUTSIDE, contact, call, PROBE_WITHIN_US, Purpose::Probe);
    }

    /// The answer to the one who made it.
    pub fn probe_answered(&mut self, answer: &Answer) {
        match (answer, &mut self.liveness.probe) {
            (Answer::Write(Ok(ControlReply::ServiceCreated { id })), Some(probe)) => {
                probe.service = Some(*id)
            }
            _ => self.violated("a cluster at rest takes a write", format!("{answer:?}")),
        }
    }

    /// The last service runs; it must within its time.
    pub fn probe_runs(&mut self) -> bool {
        let Some((since_us, service)) = self.liveness.probe.as_ref().map(|p| (p.since_us, p.service)) else {
            return false;
        };
        let Some(leader) = self
            .leader()
            .and_then(|leader| self.machines[leader].controller())
        else {
            self.violated("a cluster at rest keeps its leader", String::new());
            return false;
        };
        let state = leader.core.state();
        let active = state.nodes().any(|node| {
            node.status.state == NodeState::Ready && node.spec.availability == Availability::Active
        });
        let tasks = service
            .into_iter()
            .flat_map(|service| state.tasks_of_service(service));
        let states: Vec<TaskState> = tasks.map(|task| task.status.state).collect();
        let running = states
            .iter()
            .filter(|state| **state == TaskState::Running)
            .count();
        let wanted = if active { PROBE_REPLICAS as usize } else { 0 };
        let runs = service.is_some() && running == wanted;
        let passed = self.now_us - since_us;
        if !runs && passed > PROBE_WITHIN_US {
            let what = format!("{passed} us after service {service:?} was made its tasks are {states:?}");
            self.violated("a new service runs soon in a cluster at rest", what);
        }
        runs
    }
}

/// The node that has the task could go on with it.
fn is_unfinished(state: &ClusterState, task: &Task) -> bool {
    let node = task.node.and_then(|node| state.node(node));
    let ready = node.is_some_and(|node| node.status.state == NodeState::Ready);
    let at = task.status.state;
    let to_start = task.desired == DesiredState::Running && at < TaskState::Running;
    let to_stop = task.desired > DesiredState::Running && at <= TaskState::Running;
    ready && at >= TaskState::Assigned && (to_start || to_stop)
}
