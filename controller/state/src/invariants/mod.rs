//! The named invariants of ARCHITECTURE.md that can be seen on one controller's state, one checker each.
//!
//! The simulation and the tests of apply and reconcile run them after every step.

mod jobs;
mod networks;

use crate::{ClusterState, Entry, NodeLoad};
use muster_types::service::{Protocol, PublishMode, UpdateOrder};
use muster_types::{DesiredState, ServiceId, Slot, Task, TaskId};
use std::collections::BTreeMap;
use std::fmt;

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's name in ARCHITECTURE.md.
    pub invariant: &'static str,
    /// What breaks it.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

type StateCheck = fn(&ClusterState, &mut Vec<Violation>);
type StepCheck = fn(&ClusterState, &ClusterState, &mut Vec<Violation>);

/// Invariants of any one state.
pub const OF_STATE: &[StateCheck] = &[
    at_most_two_tasks_per_slot_are_desired_running,
    no_port_is_given_out_twice,
    networks::no_address_is_given_out_twice,
    networks::no_subnet_is_given_out_twice,
    networks::every_network_reference_leads_somewhere,
    every_reference_leads_somewhere,
    indexes_equal_the_tables,
];

/// Invariants of two states, the second reached from the first by applying one entry.
pub const OF_STEP: &[StepCheck] = &[
    overlaps_begin_only_in_start_first,
    jobs::a_slot_completes_exactly_once_as_far_as_known,
    attempt_and_state_never_move_back,
    a_task_never_changes_node,
    desired_state_only_moves_forward,
    a_record_goes_only_after_its_task_stopped,
    reservations_never_exceed_capacity,
    index_and_time_never_go_back,
];

/// Everything that is wrong with one state.
pub fn check(state: &ClusterState) -> Vec<Violation> {
    let mut found = Vec::new();
    for check in OF_STATE {
        check(state, &mut found);
    }
    found
}

/// Everything that is wrong with going from one state to the next.
pub fn check_step(before: &ClusterState, after: &ClusterState) -> Vec<Violation> {
    let mut found = Vec::new();
    for check in OF_STEP {
        check(before, after, &mut found);
    }
    found
}

/// Equal index means equal state on every controller.
pub fn equal_index_means_equal_state(one: &ClusterState, other: &ClusterState) -> Option<Violation> {
    (one.index() == other.index() && one != other).then(|| Violation {
        invariant: "equal index means equal state",
        detail: format!("two controllers differ at index {}", one.index()),
    })
}

/// An entry means the same after a trip through its bytes.
pub fn entry_round_trips(entry: &Entry) -> bool {
    entry
        .encode()
        .and_then(|bytes| Entry::decode(&bytes))
        .is_ok_and(|read| read == *entry)
}

/// Whatever the settings were while they changed, no slot ever has more than the old task and its successor.
fn at_most_two_tasks_per_slot_are_desired_running(state: &ClusterState, found: &mut Vec<Violation>) {
    let mut slots: BTreeMap<(ServiceId, Slot), usize> = BTreeMap::new();
    for task in state.tasks().filter(|task| task.desired == DesiredState::Running) {
        *slots.entry((task.service, task.slot)).or_default() += 1;
    }
    for ((service, slot), tasks) in slots.into_iter().filter(|(_, tasks)| *tasks > 2) {
        found.push(Violation {
            invariant: "at most one task per slot is desired running outside start-first",
            detail: format!("{tasks} tasks in slot {slot} of service {service}"),
        });
    }
}

/// An overlap may outlive the settings that allowed it, but begins only under them.
fn overlaps_begin_only_in_start_first(
    before: &ClusterState,
    after: &ClusterState,
    found: &mut Vec<Violation>,
) {
    let running = |state: &ClusterState, task: &Task| {
        state
            .tasks_of_slot(task.service, task.slot)
            .filter(|task| task.desired == DesiredState::Running)
            .count()
    };
    for item in before.tasks.diff(&after.tasks) {
        let task = match item {
            imbl::ordmap::DiffItem::Add(_, task) | imbl::ordmap::DiffItem::Update { new: (_, task), .. } => {
                task
            }
            imbl::ordmap::DiffItem::Remove(..) => continue,
        };
        let start_first = after.service(task.service).is_some_and(|service| {
            [service.spec.update.order, service.spec.rollback.order].contains(&UpdateOrder::StartFirst)
        });
        let tasks = running(after, task);
        if task.desired == DesiredState::Running && !start_first && tasks > 1 && tasks > running(before, task)
        {
            found.push(broken(
                "at most one task per slot is desired running outside start-first",
                task.id,
                format!("{tasks} tasks in slot {} of service {}", task.slot, task.service),
            ));
        }
    }
}

fn no_port_is_given_out_twice(state: &ClusterState, found: &mut Vec<Violation>) {
    let mut ingress: BTreeMap<(Protocol, u16), ServiceId> = BTreeMap::new();
    for service in state.services().filter(|service| !service.removing) {
        for port in &service.allocated_ports {
            let key = (port.protocol, port.published_port);
            if port.mode == PublishMode::Ingress
                && let Some(other) = ingress.insert(key, service.id)
            {
                found.push(Violation {
                    invariant: "no port is given out twice",
                    detail: format!("{}/{} to services {other} and {}", key.1, key.0, service.id),
                });
            }
        }
    }
    for (node, load) in &state.indexes.load {
        for ((protocol, port), _) in load.ports.iter().filter(|(_, holders)| **holders > 1) {
            found.push(Violation {
                invariant: "no port is given out twice",
                detail: format!("{port}/{protocol} of node {node}"),
            });
        }
    }
}

fn every_reference_leads_somewhere(state: &ClusterState, found: &mut Vec<Violation>) {
    let mut dangling = |task: &Task, what: &str| {
        found.push(Violation {
            invariant: "every reference leads somewhere",
            detail: format!("{what} of task {}", task.id),
        });
    };
    for task in state.tasks() {
        if state.service(task.service).is_none() {
            dangling(task, "the service");
        }
        if state.template(task.service, task.template_version).is_none() {
            dangling(task, "the template revision");
        }
    }
}

fn indexes_equal_the_tables(state: &ClusterState, found: &mut Vec<Violation>) {
    let mut rebuilt = ClusterState {
        templates: state.templates.clone(),
        ..ClusterState::default()
    };
    state
        .networks()
        .for_each(|network| rebuilt.put_network(network.as_ref().clone()));
    state
        .nodes()
        .for_each(|node| rebuilt.put_node(node.as_ref().clone()));
    state
        .services()
        .for_each(|service| rebuilt.put_service(service.as_ref().clone()));
    state
        .tasks()
        .for_each(|task| rebuilt.put_task(task.as_ref().clone()));
    state
        .attachments()
        .for_each(|attachment| rebuilt.put_attachment(attachment.as_ref().clone()));
    state
        .files()
        .for_each(|file| rebuilt.put_file(file.as_ref().clone()));
    if rebuilt.indexes != state.indexes {
        found.push(Violation {
            invariant: "indexes equal the tables",
            detail: format!("at index {}", state.index()),
        });
    }
}

/// Tasks that are in both states and differ.
fn changed_tasks<'a>(
    before: &'a ClusterState,
    after: &'a ClusterState,
) -> impl Iterator<Item = (&'a Task, &'a Task)> {
    before.tasks.diff(&after.tasks).filter_map(|item| match item {
        imbl::ordmap::DiffItem::Update { old, new } => Some((old.1.as_ref(), new.1.as_ref())),
        imbl::ordmap::DiffItem::Add(..) | imbl::ordmap::DiffItem::Remove(..) => None,
    })
}

fn attempt_and_state_never_move_back(
    before: &ClusterState,
    after: &ClusterState,
    found: &mut Vec<Violation>,
) {
    for (old, new) in changed_tasks(before, after) {
        let (from, to) = (
            (old.status.attempt, old.status.state),
            (new.status.attempt, new.status.state),
        );
        if to < from {
            found.push(broken(
                "(attempt, state) of a task never moves back",
                new.id,
                format!("{from:?} to {to:?}"),
            ));
        }
    }
}

fn a_task_never_changes_node(before: &ClusterState, after: &ClusterState, found: &mut Vec<Violation>) {
    for (old, new) in changed_tasks(before, after) {
        if old.node.is_some() && old.node != new.node {
            found.push(broken(
                "a task never changes node",
                new.id,
                format!("{:?}", new.node),
            ));
        }
    }
}

fn desired_state_only_moves_forward(before: &ClusterState, after: &ClusterState, found: &mut Vec<Violation>) {
    for (old, new) in changed_tasks(before, after) {
        if new.desired < old.desired {
            found.push(broken(
                "desired state only moves forward",
                new.id,
                format!("{} to {}", old.desired.name(), new.desired.name()),
            ));
        }
    }
}

fn a_record_goes_only_after_its_task_stopped(
    before: &ClusterState,
    after: &ClusterState,
    found: &mut Vec<Violation>,
) {
    for item in before.tasks.diff(&after.tasks) {
        if let imbl::ordmap::DiffItem::Remove(id, task) = item
            && task.node.is_some()
            && !task.is_terminal()
        {
            found.push(broken(
                "a task record goes only after its task stopped",
                *id,
                task.status.state.name().to_owned(),
            ));
        }
    }
}

/// A node that shrank may be over its capacity for a while; no placement may make that worse.
fn reservations_never_exceed_capacity(
    before: &ClusterState,
    after: &ClusterState,
    found: &mut Vec<Violation>,
) {
    for item in before.indexes.load.diff(&after.indexes.load) {
        let (node, old, new) = match item {
            imbl::ordmap::DiffItem::Add(node, new) => (*node, NodeLoad::default(), new),
            imbl::ordmap::DiffItem::Update { old, new } => (*new.0, old.1.clone(), new.1),
            imbl::ordmap::DiffItem::Remove(..) => continue,
        };
        let Some(row) = after.node(node) else {
            continue;
        };
        let grew = new.nano_cpus > old.nano_cpus || new.memory_bytes > old.memory_bytes;
        if grew && new.exceeds(row.description.resources) {
            found.push(Violation {
                invariant: "reservations never exceed capacity",
                detail: format!("node {node} has {:?} reserved", (new.nano_cpus, new.memory_bytes)),
            });
        }
    }
}

fn index_and_time_never_go_back(before: &ClusterState, after: &ClusterState, found: &mut Vec<Violation>) {
    if after.index() < before.index() || after.time() < before.time() {
        found.push(Violation {
            invariant: "index and cluster time never go back",
            detail: format!("{} to {}", before.index(), after.index()),
        });
    }
}

fn broken(invariant: &'static str, task: TaskId, detail: String) -> Violation {
    Violation {
        invariant,
        detail: format!("task {task}: {detail}"),
    }
}
