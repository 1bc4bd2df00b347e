//! A global service, or job, has one task on every node that fits.

use super::slots::reason_to_fill;
use crate::draft::Draft;
use muster_scheduler::filter;
use muster_types::node::Availability;
use muster_types::{DesiredState, Node, NodeId, NodeState, Reason, Slot};

/// Gives every fitting node its task, and takes tasks from nodes that do not fit.
pub(super) fn keep_one_per_node(draft: &mut Draft<'_>) {
    if !draft.service.spec.mode.is_per_node() || draft.service.removing {
        return;
    }
    // Slots of a job that completed may not have been settled yet.
    if draft.service.job.is_some() && draft.slots_unfinished {
        return;
    }
    if draft.scope.nodes {
        draft.load_unplaced();
    }
    for node in nodes_to_serve(draft) {
        let slot = Slot::Node(node);
        draft.load(slot);
        if draft.wanted_in(slot).is_some() || draft.is_finished(slot) {
            continue;
        }
        if !draft.may_add(1) {
            return;
        }
        let reason = match reason_to_fill(draft, slot) {
            // The node is back.
            Reason::NodeDown { .. } | Reason::NodeDrained { .. } => Reason::MissingOnNode,
            reason => reason,
        };
        draft.create(slot, None, reason);
    }
    leave_unfit(draft);
}

/// Fitting nodes that may lack their task: of all nodes those without a wanted one, or those of the loaded slots.
fn nodes_to_serve(draft: &Draft<'_>) -> Vec<NodeId> {
    let may_lack = |node: &Node| {
        let slot = Slot::Node(node.id);
        let mut stored = draft.state.tasks_of_slot(draft.service.id, slot);
        draft.is_loaded(slot) || (draft.scope.nodes && !stored.any(|task| task.wants_to_run()))
    };
    let nodes = draft.state.nodes().map(AsRef::as_ref);
    nodes
        .filter(|node| takes_new_tasks(node) && may_lack(node) && fits(draft, node))
        .map(|node| node.id)
        .collect()
}

/// Whether an update may replace the task of this slot: a paused or absent node keeps the one that it has.
pub(super) fn may_be_replaced(draft: &Draft<'_>, slot: Slot) -> bool {
    match slot {
        Slot::Replica(_) => true,
        Slot::Node(id) => {
            let node = draft.state.node(id);
            node.is_some_and(|node| takes_new_tasks(node) && fits(draft, node))
        }
    }
}

fn takes_new_tasks(node: &Node) -> bool {
    node.status.state == NodeState::Ready && node.spec.availability == Availability::Active
}

fn fits(draft: &Draft<'_>, node: &Node) -> bool {
    let platforms = &draft.revision.template.placement.platforms;
    let platform = &node.description.platform;
    filter::misfit(&draft.constraints, node).is_none()
        && (platforms.is_empty() || platforms.iter().any(|wanted| filter::runs(platform, wanted)))
}

/// Tasks that were never placed leave nodes that will not take them; records of nodes that are gone, or of another
/// mode, serve nobody.
fn leave_unfit(draft: &mut Draft<'_>) {
    for index in draft.indexes() {
        let task = draft.task(index);
        let (desired, reason) = match task.slot {
            Slot::Replica(_) => (DesiredState::Remove, Reason::SurplusReplica),
            Slot::Node(id) => match (draft.state.node(id), task.node) {
                (None, _) => (DesiredState::Remove, Reason::NodeRemoved { node: id }),
                (Some(node), None) => match cannot_wait_for(draft, node) {
                    Some(reason) => (DesiredState::Shutdown, reason),
                    None => continue,
                },
                // The template that it should be updated to does not want the node.
                (Some(node), Some(_))
                    if !draft.is_current(index) && takes_new_tasks(node) && !fits(draft, node) =>
                {
                    (DesiredState::Shutdown, Reason::NodeNoLongerFits { node: id })
                }
                (Some(_), Some(_)) => continue,
            },
        };
        if !draft.has_room_for(index) {
            return;
        }
        draft.set_desired(index, desired, reason);
    }
}

fn cannot_wait_for(draft: &Draft<'_>, node: &Node) -> Option<Reason> {
    let id = node.id;
    if let Some(absence) = draft.absence(id) {
        return Some(absence);
    }
    match node.spec.availability {
        Availability::Drain => Some(Reason::NodeDrained { node: id }),
        Availability::Active | Availability::Pause => {
            (!fits(draft, node)).then_some(Reason::NodeNoLongerFits { node: id })
        }
    }
}
