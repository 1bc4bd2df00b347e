//! A replicated service has its number of slots.

use crate::draft::Draft;
use muster_types::service::ServiceMode;
use muster_types::{DesiredState, NodeId, Reason, Slot, TaskState};
use std::collections::BTreeMap;

/// Fills missing slots, empties surplus ones, and forgets the records of slots that are not in use.
pub(super) fn keep_replicas(draft: &mut Draft<'_>) {
    let ServiceMode::Replicated { replicas } = draft.service.spec.mode else {
        return;
    };
    if draft.service.removing {
        return;
    }
    let slots = draft.slot_list();
    let in_use = |draft: &Draft<'_>, slot: Slot| {
        matches!(slot, Slot::Replica(_)) && (draft.wanted_in(slot).is_some() || draft.is_finished(slot))
    };
    let (mut used, unused): (Vec<Slot>, Vec<Slot>) = slots.into_iter().partition(|slot| in_use(draft, *slot));
    let wanted = usize::try_from(replicas).unwrap_or(usize::MAX);
    if used.len() < wanted {
        fill(draft, &used, wanted);
        return;
    }
    let surplus = used.split_off(wanted.min(used.len()));
    let leaving = if surplus.is_empty() {
        Vec::new()
    } else {
        used.extend(surplus);
        most_dispensable_first(draft, used, wanted)
    };
    for (slot, reason) in leaving
        .into_iter()
        .map(|slot| (slot, Reason::SurplusReplica))
        .chain(unused.into_iter().map(|slot| (slot, Reason::HistoryLimit)))
    {
        for index in draft.in_slot(slot).collect::<Vec<_>>() {
            if !draft.has_room_for(index) {
                return;
            }
            draft.set_desired(index, DesiredState::Remove, reason.clone());
        }
    }
}

/// New tasks in the lowest free slots.
fn fill(draft: &mut Draft<'_>, used: &[Slot], wanted: usize) {
    let mut missing = wanted - used.len();
    let mut number = 0;
    let mut taken = used.iter().copied().peekable();
    while missing > 0 {
        number += 1;
        let slot = Slot::Replica(number);
        if taken.next_if_eq(&slot).is_some() {
            continue;
        }
        if !draft.has_room(1) {
            return;
        }
        let reason = reason_to_fill(draft, slot);
        draft.create(slot, None, reason);
        missing -= 1;
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
            let task = draft.wanted_in(slot).map(|index| draft.task(index));
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
