//! A replicated service has its number of slots.

use super::slots::{fill, in_use, used_count, used_slots};
use crate::draft::Draft;
use muster_types::service::ServiceMode;
use muster_types::{DesiredState, NodeId, Reason, Slot, Task, TaskState};
use std::collections::BTreeMap;

/// Replicas are numbered from here.
const FIRST_REPLICA: u64 = 1;

/// Fills missing slots, empties surplus ones, and forgets the records of slots that are not in use.
pub(super) fn keep_replicas(draft: &mut Draft<'_>) {
    let ServiceMode::Replicated { replicas } = draft.service.spec.mode else {
        return;
    };
    if draft.service.removing {
        return;
    }
    // Slots that were finished, and are not since the service says something else, are of no use.
    for version in draft
        .stale_revisions()
        .into_iter()
        .chain(draft.relaxed_revisions())
    {
        for slot in draft.counted.clone().ended_of(version) {
            draft.load(slot);
        }
    }
    let wanted = usize::try_from(replicas).unwrap_or(usize::MAX);
    let used = used_count(draft);
    let leaving = if used > wanted {
        most_dispensable_first(draft, used_slots(draft), wanted)
    } else {
        Vec::new()
    };
    let filled = used >= wanted || fill(draft, used, wanted - used, FIRST_REPLICA..u64::MAX);
    let unused: Vec<Slot> = draft
        .slot_list()
        .into_iter()
        .filter(|slot| !in_use(draft, *slot))
        .collect();
    if !filled {
        // They may be the next to be filled.
        draft.slots_unfinished |= !unused.is_empty();
        return;
    }
    for (slot, reason) in leaving
        .into_iter()
        .map(|slot| (slot, Reason::SurplusReplica))
        .chain(unused.into_iter().map(|slot| (slot, Reason::HistoryLimit)))
    {
        draft.load(slot);
        for index in draft.in_slot(slot).collect::<Vec<_>>() {
            if !draft.has_room_for(index) {
                return;
            }
            draft.set_desired(index, DesiredState::Remove, reason.clone());
        }
    }
}

/// Slots beyond `kept`: those that do not run first, then those on the nodes with the most of the service.
fn most_dispensable_first(draft: &Draft<'_>, slots: Vec<Slot>, kept: usize) -> Vec<Slot> {
    let mut on_node: BTreeMap<Option<NodeId>, u64> = BTreeMap::new();
    let mut order: Vec<(bool, u64, Slot)> = slots
        .into_iter()
        .map(|slot| {
            let task = wanted_task(draft, slot);
            let running = task.is_some_and(|task| task.status.state == TaskState::Running);
            let node = task.and_then(|task| task.node);
            let nth = on_node.entry(node).or_default();
            *nth += u64::from(running);
            (!running, *nth, slot)
        })
        .collect();
    order.sort_unstable();
    order
        .split_off(kept)
        .into_iter()
        .map(|(_, _, slot)| slot)
        .collect()
}

/// The newest task of a slot that shall run, without loading the slot.
fn wanted_task<'a>(draft: &'a Draft<'_>, slot: Slot) -> Option<&'a Task> {
    if draft.is_loaded(slot) {
        return draft.wanted_in(slot).map(|index| draft.task(index));
    }
    let stored = draft.state.tasks_of_slot(draft.service.id, slot);
    stored
        .filter(|task| task.wants_to_run())
        .max_by_key(|task| (task.meta.created_at, task.id))
        .map(AsRef::as_ref)
}
