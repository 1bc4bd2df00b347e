//! Records that nobody needs: of tasks that shall be forgotten, beyond the history limit, and of unused revisions.

use super::jobs::has_completed;
use crate::draft::{Draft, TaskIndex};
use muster_types::{ClusterSpec, DesiredState, Slot, TaskState};

/// Most records kept in a slot for a restart policy that counts attempts. Policies beyond it never run out of
/// attempts, which bounds what one slot can cost.
const ATTEMPT_RECORDS_MAX: u64 = 1000;

/// Ends tasks that never had a node, forgets records, and in the end the service itself.
pub(super) fn forget_records(draft: &mut Draft<'_>) {
    for index in draft.indexes() {
        if !end(draft, index) {
            return;
        }
    }
    for slot in draft.slot_list() {
        if !trim(draft, slot) {
            return;
        }
    }
    forget_revisions(draft);
}

/// `false` when the budget ended.
fn end(draft: &mut Draft<'_>, index: TaskIndex) -> bool {
    let task = draft.task(index);
    let (desired, ended) = (task.desired, task.is_terminal());
    let over = task.node.is_none() || draft.was_over(index);
    let ends = match desired {
        DesiredState::Remove => over,
        DesiredState::Shutdown => over && !ended,
        DesiredState::Ready | DesiredState::Running => false,
    };
    if !ends {
        return true;
    }
    if !draft.has_room_for(index) {
        return false;
    }
    if desired == DesiredState::Remove {
        draft.remove(index);
    } else {
        let message = draft.task(index).reason.to_string();
        draft.set_status(index, TaskState::Shutdown, &message, None);
    }
    true
}

/// Forgets the slot's oldest ended tasks beyond the limit. The newest stays: it says whether the slot is finished. So does
/// what completed in this run of a job.
/// `false` when the budget ended.
fn trim(draft: &mut Draft<'_>, slot: Slot) -> bool {
    let Some(limit) = history_limit(draft) else {
        return true;
    };
    let records: Vec<TaskIndex> = draft.in_slot(slot).collect();
    let Some((_, older)) = records.split_last() else {
        return true;
    };
    let mut surplus = records.len().saturating_sub(limit.max(1));
    for index in older {
        if surplus == 0 {
            return true;
        }
        let counts = has_completed(draft, *index);
        if draft.was_over(*index) && !draft.is_wanted(*index) && !counts {
            if !draft.has_room_for(*index) {
                return false;
            }
            draft.remove(*index);
            surplus -= 1;
        }
    }
    true
}

/// Records kept per slot, the current task included; `None` keeps all.
fn history_limit(draft: &Draft<'_>) -> Option<usize> {
    let attempts = draft.revision.template.restart.attempts_max;
    if attempts > 0 {
        let records = attempts.saturating_add(1).min(ATTEMPT_RECORDS_MAX);
        return usize::try_from(records).ok();
    }
    let limit = match draft.state.cluster() {
        Some(cluster) => cluster.spec.task_history_limit,
        None => ClusterSpec::default().task_history_limit,
    };
    usize::try_from(limit).ok()
}

fn forget_revisions(draft: &mut Draft<'_>) {
    let used = draft.revisions_left();
    if draft.service.removing {
        draft.drop_service = used.is_empty();
        return;
    }
    let state = draft.state;
    for (version, _) in state.templates_of(draft.service.id) {
        if version == draft.service.template_version || used.contains_key(&version) {
            continue;
        }
        if !draft.may_add(1) {
            return;
        }
        draft.charge();
        draft.dropped_templates.push(version);
    }
}
