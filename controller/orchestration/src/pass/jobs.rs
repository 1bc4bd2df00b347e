//! A job has each of its slots complete once, so many of them at a time.
//!
//! A run of a job has a template revision of its own, so that tasks of an earlier run are those of another revision. The
//! named invariant is that a job slot completes exactly once as far as the cluster can know: where one task of a run is
//! known to have completed, no other one of that run begins, and those under way are stopped.

use super::slots::{fill, used_count};
use crate::draft::{Draft, TaskIndex};
use muster_types::service::ServiceMode;
use muster_types::{DesiredState, Reason, Slot, TaskState};

/// Slots of jobs are numbered from here.
const FIRST_SLOT: u64 = 0;

/// Tasks of earlier runs stop, whether they completed or not.
pub(super) fn leave_earlier_runs(draft: &mut Draft<'_>) {
    if draft.service.removing || draft.service.job.is_none() {
        return;
    }
    let counted = draft.counted.clone();
    for version in draft.stale_revisions() {
        for slot in counted.wanted_of(version) {
            draft.load(slot);
        }
    }
    for index in draft.indexes() {
        if !draft.is_wanted(index) || draft.is_current(index) {
            continue;
        }
        if !draft.has_room_for(index) {
            return;
        }
        draft.set_desired(index, DesiredState::Shutdown, Reason::OutOfDate);
    }
}

/// Where a task of this run completed nothing more shall run: not the task itself, and not one that took its place while
/// its node was out of reach.
pub(super) fn settle_completed_slots(draft: &mut Draft<'_>) {
    if draft.service.removing || draft.service.job.is_none() {
        return;
    }
    for slot in draft.slot_list() {
        let tasks: Vec<TaskIndex> = draft.in_slot(slot).collect();
        if !tasks.iter().any(|index| has_completed(draft, *index)) {
            continue;
        }
        let newest = tasks.last().copied();
        for index in tasks {
            let settles = draft.is_wanted(index) || Some(index) == newest;
            if !settles || draft.task(index).reason == Reason::Completed {
                continue;
            }
            if !draft.has_room_for(index) {
                return;
            }
            draft.set_desired(index, DesiredState::Shutdown, Reason::Completed);
            draft.set_reason(index, Reason::Completed);
        }
    }
}

/// Whether this task of the current run completed.
pub(super) fn has_completed(draft: &Draft<'_>, index: TaskIndex) -> bool {
    draft.service.job.is_some()
        && draft.is_current(index)
        && draft.task(index).status.state == TaskState::Complete
}

/// Begins as many slots as may be under way and are left, and forgets the records of slots that the job has no more.
pub(super) fn run_slots(draft: &mut Draft<'_>) {
    let ServiceMode::ReplicatedJob {
        concurrent_max,
        completions,
    } = draft.service.spec.mode
    else {
        return;
    };
    if draft.service.removing || draft.slots_unfinished {
        return;
    }
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let used = used_count(draft);
    let under_way = used.saturating_sub(ended_count(draft));
    let missing = count(concurrent_max)
        .saturating_sub(under_way)
        .min(count(completions).saturating_sub(used));
    fill(draft, used, missing, FIRST_SLOT..completions);
    for slot in draft.slot_list() {
        if is_slot_of(slot, completions) {
            continue;
        }
        for index in draft.in_slot(slot).collect::<Vec<_>>() {
            if !draft.has_room_for(index) {
                return;
            }
            draft.set_desired(index, DesiredState::Remove, Reason::SurplusReplica);
        }
    }
}

fn is_slot_of(slot: Slot, completions: u64) -> bool {
    match slot {
        Slot::Replica(number) => number < completions,
        Slot::Node(_) => false,
    }
}

/// How many slots of this run completed, or were given up by their restart policy: as counted, but for the loaded ones,
/// which are looked at.
fn ended_count(draft: &Draft<'_>) -> usize {
    let current = draft.service.template_version;
    let (mut stored, mut ended) = (0, 0);
    for slot in draft.slot_list() {
        stored += u64::from(draft.was_ended(slot, current));
        ended += u64::from(draft.wanted_in(slot).is_none() && draft.is_finished(slot));
    }
    let counted = draft.counted.ended_count(current) + ended;
    usize::try_from(counted.saturating_sub(stored)).unwrap_or(usize::MAX)
}
