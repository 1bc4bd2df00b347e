//! Which numbered slots of a service are in use, and which are free, by what is counted and what was looked at.

use crate::draft::Draft;
use muster_types::{Reason, Slot};
use std::ops::Range;

/// Whether a loaded slot is in use: a task there shall run, or nothing follows the last one.
pub(super) fn in_use(draft: &Draft<'_>, slot: Slot) -> bool {
    matches!(slot, Slot::Replica(_)) && (draft.wanted_in(slot).is_some() || draft.is_finished(slot))
}

/// How many slots are in use: as counted, but for the loaded ones, which are looked at.
pub(super) fn used_count(draft: &Draft<'_>) -> usize {
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
pub(super) fn used_slots(draft: &Draft<'_>) -> Vec<Slot> {
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

/// New tasks in the lowest free slots among these numbers; false when the budget ended.
pub(super) fn fill(draft: &mut Draft<'_>, used: usize, missing: usize, numbers: Range<u64>) -> bool {
    if missing == 0 {
        return true;
    }
    let among = |slot: &Slot| replica(*slot).is_some_and(|number| numbers.contains(&number));
    let free = free_slots(draft, used, numbers.start).take_while(among);
    for slot in free.take(missing) {
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
fn free_slots(draft: &Draft<'_>, used: usize, first: u64) -> impl Iterator<Item = Slot> + use<> {
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
    let end = last.map_or(first, |last| last.saturating_add(1));
    let mut holes: Vec<Slot> = loaded.into_iter().filter(|slot| !in_use(draft, *slot)).collect();
    if u64::try_from(used + holes.len()).is_ok_and(|known| known < end - first) {
        let mut taken = used_slots(draft).into_iter().peekable();
        holes = (first..end)
            .map(Slot::Replica)
            .filter(|slot| taken.next_if_eq(slot).is_none())
            .collect();
    }
    holes.into_iter().chain((end..).map(Slot::Replica))
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
