//! Tasks whose node no longer is a place for them: gone, down, drained, or unfit.

use crate::draft::{Draft, TaskIndex};
use muster_scheduler::{Constraints, filter};
use muster_state::NodeLoad;
use muster_types::node::Availability;
use muster_types::{DesiredState, Node, NodeId, NodeState, Reason, TaskState};
use std::collections::BTreeMap;
use std::time::Duration;

/// After so long a down node's tasks are given up and their records may go, as in Swarm.
pub(super) const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Stops wanting tasks whose node is no place for them; the passes that follow replace them.
pub(super) fn leave_nodes(draft: &mut Draft<'_>) {
    let mut verdicts: BTreeMap<(NodeId, u64), Option<Reason>> = BTreeMap::new();
    for index in draft.indexes() {
        let task = draft.task(index);
        let Some(node) = task.node.filter(|_| !task.is_terminal()) else {
            continue;
        };
        let key = (node, task.template_version);
        let verdict = match verdicts.get(&key) {
            Some(verdict) => verdict.clone(),
            None => {
                let verdict = verdict(draft, index, node);
                verdicts.insert(key, verdict.clone());
                verdict
            }
        };
        let Some(reason) = verdict.or_else(|| overcommitted(draft, index, node)) else {
            continue;
        };
        if !draft.has_room_for(index) {
            return;
        }
        draft.set_desired(index, DesiredState::Shutdown, reason);
        give_up(draft, index, node);
    }
}

/// Why tasks of this revision may not stay on the node.
fn verdict(draft: &Draft<'_>, index: TaskIndex, id: NodeId) -> Option<Reason> {
    if let Some(absence) = draft.absence(id) {
        return Some(absence);
    }
    let node = draft.state.node(id)?;
    match node.spec.availability {
        Availability::Drain => return Some(Reason::NodeDrained { node: id }),
        // A paused node keeps what it has, whatever it looks like.
        Availability::Pause => return None,
        Availability::Active => {}
    }
    if node.status.state != NodeState::Ready {
        return None;
    }
    misfits(draft, index, node).then_some(Reason::NodeNoLongerFits { node: id })
}

fn misfits(draft: &Draft<'_>, index: TaskIndex, node: &Node) -> bool {
    let task = draft.task(index);
    if task.template_version == draft.service.template_version {
        return filter::misfit(&draft.constraints, node).is_some();
    }
    let revision = draft.state.template(task.service, task.template_version);
    revision.is_some_and(|revision| {
        let constraints = Constraints::of(&revision.template.placement);
        filter::misfit(&constraints, node).is_some()
    })
}

/// A node that shrank keeps the wanted tasks that still fit, by task id; the others leave.
fn overcommitted(draft: &Draft<'_>, index: TaskIndex, id: NodeId) -> Option<Reason> {
    let node = draft.state.node(id)?;
    let capacity = node.description.resources;
    let leaves = node.status.state == NodeState::Ready
        && node.spec.availability == Availability::Active
        && draft.state.load(id).exceeds(capacity)
        && draft.is_wanted(index);
    if !leaves {
        return None;
    }
    let mut staying: Vec<_> = draft
        .state
        .tasks_of_node(id)
        .filter(|task| task.wants_to_run() && !task.is_terminal())
        .collect();
    staying.sort_by_key(|task| task.id);
    let mut load = NodeLoad::default();
    for task in staying {
        let revision = draft.state.template(task.service, task.template_version)?;
        let mut with_task = load.clone();
        with_task.add(revision.template.reservations, &revision.ports);
        match with_task.exceeds(capacity) {
            true if task.id == draft.task(index).id => return Some(Reason::NodeNoLongerFits { node: id }),
            true => {}
            false => load = with_task,
        }
    }
    None
}

/// A task that nobody will ever report on again is over.
fn give_up(draft: &mut Draft<'_>, index: TaskIndex, id: NodeId) {
    let Some(node) = draft.state.node(id) else {
        let message = Reason::NodeRemoved { node: id }.to_string();
        draft.set_status(index, TaskState::Orphaned, &message, None);
        return;
    };
    match node.status.state {
        NodeState::Down | NodeState::Disconnected => {
            let deadline = node.status.since.after(GIVE_UP_AFTER);
            if draft.now >= deadline {
                let message = Reason::GivenUp { node: id }.to_string();
                draft.set_status(index, TaskState::Orphaned, &message, None);
            } else {
                let slot = draft.task(index).slot;
                draft.wake(slot, deadline);
            }
        }
        NodeState::Ready | NodeState::Unknown => {}
    }
}
