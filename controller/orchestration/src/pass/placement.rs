//! Tasks without a node get one, or say why not.

use crate::draft::{Draft, TaskIndex};
use muster_scheduler::place::FAILURE_WINDOW;
use muster_scheduler::{Group, NodeView, Placements, place};
use muster_state::load::host_ports;
use muster_state::{LEVEL_OF_POLICIES, TemplateRevision};
use muster_types::leading::LABEL_ADDRESS;
use muster_types::{Node, NodeId, Reason, Slot, Task, TaskState};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Places the tasks that are wanted and have no node, those of one revision together.
pub(super) fn place_tasks(draft: &mut Draft<'_>) {
    draft.load_unplaced();
    let mut groups: BTreeMap<(u64, Option<NodeId>), Vec<TaskIndex>> = BTreeMap::new();
    for index in draft.indexes() {
        let task = draft.task(index);
        if draft.is_wanted(index) && task.node.is_none() && !task.is_terminal() {
            let own_node = match task.slot {
                Slot::Node(node) => Some(node),
                Slot::Replica(_) => None,
            };
            groups
                .entry((task.template_version, own_node))
                .or_default()
                .push(index);
        }
    }
    if groups.is_empty() {
        return;
    }
    groups.retain(|(version, _), tasks| match no_virtual_address(draft, *version) {
        Some(problem) => {
            wait_for_addresses(draft, tasks, &problem);
            false
        }
        None => true,
    });
    if groups.is_empty() {
        return;
    }
    let mut views = node_views(draft);
    for ((version, own_node), tasks) in groups {
        let Some(group) = group(draft, version, &tasks) else {
            continue;
        };
        note_failures(draft, version, &mut views);
        let placements = match own_node {
            None => place(&group, &mut views),
            Some(node) => {
                let position = views.iter().position(|view| view.id() == node);
                place(&group, position.map_or(&mut [], |at| &mut views[at..=at]))
            }
        };
        note(draft, version, &tasks, &placements);
    }
}

/// Why the service has no virtual address on a network of this revision. One that it lacks on a network which only other
/// revisions are on does not matter: an update that leaves a full network frees its addresses.
fn no_virtual_address(draft: &Draft<'_>, version: u64) -> Option<String> {
    let revision = draft.state.template(draft.service.id, version)?;
    let networks = draft.state.networks_used_by(&revision.template, &revision.ports);
    let mut problems = networks
        .iter()
        .filter_map(|network| draft.without_address.get(network));
    problems.next().cloned()
}

/// Every node with what all services take of it. Resources and ports are taken until a task is seen to stop; rank and
/// the limit per node count the tasks that shall run, as in Swarm.
fn node_views(draft: &Draft<'_>) -> Vec<NodeView> {
    // What this draft adds to the stored counts, and takes from them.
    let (mut more, mut less): (BTreeMap<NodeId, u64>, BTreeMap<NodeId, u64>) = Default::default();
    for task in &draft.tasks {
        let running = |task: &Task| task.node.filter(|_| task.wants_to_run() && !task.is_terminal());
        if let Some(node) = running(&task.row) {
            *more.entry(node).or_default() += 1;
        }
        if let Some(node) = task.stored.as_deref().and_then(running) {
            *less.entry(node).or_default() += 1;
        }
    }
    let count = |counts: &BTreeMap<NodeId, u64>, id| counts.get(&id).copied().unwrap_or(0);
    let view = |node: &Arc<Node>| {
        let load = draft.state.load(node.id);
        let stored = draft.counted.on_node(node.id);
        let service_tasks = (stored + count(&more, node.id)).saturating_sub(count(&less, node.id));
        let others = load.wanted.saturating_sub(stored);
        NodeView {
            free: load.free(node.description.resources),
            ports: load.ports.keys().copied().collect(),
            tasks: others + service_tasks,
            service_tasks,
            failures: 0,
            node: node.clone(),
        }
    };
    draft.state.nodes().map(view).collect()
}

/// Counts the revision's recent failures on each node.
fn note_failures(draft: &Draft<'_>, version: u64, views: &mut [NodeView]) {
    let since = draft.now.before(FAILURE_WINDOW);
    let mut failures: BTreeMap<NodeId, u64> = BTreeMap::new();
    for slot in draft.counted.failed_of(version) {
        for task in draft.state.tasks_of_slot(draft.service.id, slot) {
            let failed = matches!(task.status.state, TaskState::Failed | TaskState::Rejected)
                && task.template_version == version
                && task.meta.observed_at >= since;
            if let Some(node) = task.node.filter(|_| failed) {
                *failures.entry(node).or_default() += 1;
            }
        }
    }
    for view in views {
        view.failures = failures.get(&view.id()).copied().unwrap_or(0);
    }
}

fn group(draft: &Draft<'_>, version: u64, tasks: &[TaskIndex]) -> Option<Group> {
    let revision = draft.state.template(draft.service.id, version)?;
    Some(Group {
        template: revision.template.clone(),
        ports: host_ports(&revision.ports).collect(),
        feature_level: node_level(draft, revision),
        tasks: tasks.iter().map(|index| draft.task(*index).id).collect(),
    })
}

/// The feature level that a node has to have. An older one would let everybody reach the tasks, or open their ports at
/// every address.
fn node_level(draft: &Draft<'_>, revision: &TemplateRevision) -> u32 {
    let networks = draft.state.networks_used_by(&revision.template, &revision.ports);
    let mut networks = networks
        .iter()
        .filter_map(|network| draft.state.network(*network));
    let is_bounded = networks.any(|network| network.policy.is_some())
        || draft.service.spec.labels.contains_key(LABEL_ADDRESS);
    match is_bounded {
        true => revision.node_level().max(LEVEL_OF_POLICIES),
        false => revision.node_level(),
    }
}

/// Writes placements into the draft. The scheduler keeps the order of tasks, so placed ones come first.
fn note(draft: &mut Draft<'_>, version: u64, tasks: &[TaskIndex], placements: &Placements) {
    let (placed, unplaced) = tasks.split_at(placements.placed.len());
    let revision = draft.state.template(draft.service.id, version);
    let networks = revision.map_or(Vec::new(), |revision| {
        draft.state.networks_used_by(&revision.template, &revision.ports)
    });
    for (index, (task, node)) in placed.iter().zip(&placements.placed) {
        debug_assert_eq!(
            draft.task(*index).id,
            *task,
            "the scheduler keeps the order of tasks"
        );
        if !draft.has_room_for(*index) {
            return;
        }
        match draft.take_addresses(&networks) {
            Ok(addresses) => draft.assign(*index, *node, addresses),
            Err(problem) => wait_for_addresses(draft, &[*index], &problem),
        }
    }
    let Some(explanation) = &placements.explanation else {
        return;
    };
    let causes = explanation.to_string();
    let reason = Reason::NoSuitableNode {
        causes: causes.clone(),
    };
    wait(draft, unplaced, causes, &reason.to_string());
}

/// Tasks that have no address wait until one comes free.
fn wait_for_addresses(draft: &mut Draft<'_>, tasks: &[TaskIndex], problem: &str) {
    wait(draft, tasks, problem.to_owned(), problem);
}

fn wait(draft: &mut Draft<'_>, tasks: &[TaskIndex], causes: String, error: &str) {
    let before = draft.unplaced.take().map_or(0, |(count, _)| count);
    draft.unplaced = Some((before + tasks.len(), causes));
    for index in tasks {
        if !draft.has_room_for(*index) {
            return;
        }
        let message = "pending task scheduling";
        draft.set_status(*index, TaskState::Pending, message, Some(error.to_owned()));
    }
}
