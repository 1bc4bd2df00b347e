//! A replicated service has its number of slots.

use crate::draft::Draft;
use muster_types::service::ServiceMode;
use muster_types::{DesiredState, NodeId, Reason, Slot, Task, TaskState};
use std::collections::BTreeMap;

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
    let filled = used >= wanted || fill(draft, used, wanted - used);
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

/// Whether a loaded slot is one of the replicas.
fn in_use(draft: &Draft<'_>, slot: Slot) -> bool {
    matches!(slot, Slot::Replica(_)) && (draft.wanted_in(slot).is_some() || draft.is_finished(slot))
}

/// How many slots are in use: as counted, but for the loaded ones, which are looked at.
fn used_count(draft: &Draft<'_>) -> usize {
    let current = draft.current_revisions();
    let ended = current.iter().map(|version| draft.counted.ended_count(*version));
    let counted = draft.counted.wanted_slots() + ended.sum::<u64>();
    let (mut stored, mut used) = (0, 0);
    for slot in draft.slot_list() {
        stored += u64::from(draft.was_counted(slot, &current));
        used += u64::from(in_use(draft, slot));
    }
    usize::try_from((counted + used).saturating_sub(stored)).unwrap_or(usize::MAX)
}

/// Every slot in use, in order.
fn used_slots(draft: &Draft<'_>) -> Vec<Slot> {
    let counted = &draft.counted;
    let wanted = counted
        .revisions()
        .flat_map(|(version, _)| counted.wanted_of(version));
    let current = draft.current_revisions();
    let ended = current.iter().flat_map(|version| counted.ended_of(*version));
    let mut slots: Vec<Slot> = wanted
        .chain(ended)
        .filter(|slot| matches!(slot, Slot::Replica(_)) && !draft.is_loaded(*slot))
        .collect();
    slots.extend(draft.slot_list().into_iter().filter(|slot| in_use(draft, *slot)));
    slots.sort_unstable();
    slots.dedup();
    slots
}

/// New tasks in the lowest free slots; false when the budget ended.
fn fill(draft: &mut Draft<'_>, used: usize, missing: usize) -> bool {
    for slot in free_slots(draft, used).take(missing) {
        if !draft.may_add(1) {
            return false;
        }
        draft.load(slot);
        let reason = reason_to_fill(draft, slot);
        draft.create(slot, None, reason);
    }
    true
}

/// Slots that are not in use, in order and without end. Holes are seldom, and then mostly what was loaded because it
/// changed: all slots are read only where the count says that others are free.
fn free_slots(draft: &Draft<'_>, used: usize) -> impl Iterator<Item = Slot> + use<> {
    let counted = &draft.counted;
    let current = draft.current_revisions();
    let wanted = counted
        .revisions()
        .filter_map(|(version, _)| counted.wanted_of(version).next_back());
    let ended = current
        .iter()
        .filter_map(|version| counted.ended_of(*version).next_back());
    let loaded = draft.slot_list();
    let last = wanted
        .chain(ended)
        .chain(loaded.iter().copied())
        .filter_map(replica)
        .max();
    let last = last.unwrap_or(0);
    let mut holes: Vec<Slot> = loaded.into_iter().filter(|slot| !in_use(draft, *slot)).collect();
    if u64::try_from(used + holes.len()).is_ok_and(|known| known < last) {
        let mut taken = used_slots(draft).into_iter().peekable();
        holes = (1..=last)
            .map(Slot::Replica)
            .filter(|slot| taken.next_if_eq(slot).is_none())
            .collect();
    }
    holes.into_iter().chain((last + 1..).map(Slot::Replica))
}

fn replica(slot: Slot) -> Option<u64> {
    match slot {
        Slot::Replica(number) => Some(number),
        Slot::Node(_) => None,
    }
}

/// A slot that lost its task to its node says so.
pub(super) fn reason_to_fill(draft: &Draft<'_>, slot: Slot) -> Reason {
    let last = draft.in_slot(slot).last().map(|index| &draft.task(index).reason);
    match last {
        Some(
            reason @ (Reason::NodeDown { .. }
            | Reason::NodeDrained { .. }
            | Reason::NodeRemoved { .. }
            | Reason::NodeNoLongerFits { .. }),
        ) => reason.clone(),
        Some(_) | None => match slot {
            Slot::Replica(_) => Reason::MissingReplica,
            Slot::Node(_) => Reason::MissingOnNode,
        },
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
