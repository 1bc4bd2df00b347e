//! What follows a task that ended by itself.

use crate::draft::{Draft, TaskIndex};
use muster_types::service::{RestartCondition, RestartPolicy};
use muster_types::{DesiredState, Reason, Slot, TaskState};

/// Follows each ended task by a new one in its slot, or notes that the restart policy lets it end.
pub(super) fn follow_ended_tasks(draft: &mut Draft<'_>) {
    if draft.service.removing {
        return;
    }
    for index in draft.indexes() {
        if !draft.is_wanted(index) || !draft.task(index).is_terminal() {
            continue;
        }
        if !draft.has_room(3) {
            return;
        }
        let slot = draft.task(index).slot;
        if let Some(reason) = already_followed(draft, index) {
            draft.set_desired(index, DesiredState::Shutdown, reason);
        } else if may_restart(draft, index, slot) {
            let delay = draft.revision.template.restart.delay;
            let start_after = (!delay.is_zero()).then(|| draft.now.after(delay));
            let of = draft.task(index).id;
            let next = draft.create(slot, start_after, Reason::Restart { of });
            let by = draft.task(next).id;
            draft.set_desired(index, DesiredState::Shutdown, Reason::Replaced { by });
        } else {
            draft.set_desired(index, DesiredState::Shutdown, Reason::RestartPolicyEnds);
        }
    }
}

/// Why nothing more follows a task that ended: another one of its slot is there, as start-first has them. A current one
/// decides for the slot, even if it ended too; a stale one that still serves is no replacement of a current one.
fn already_followed(draft: &Draft<'_>, index: TaskIndex) -> Option<Reason> {
    let current = draft.is_current(index);
    let follows = |other: &TaskIndex| {
        *other != index
            && draft.is_wanted(*other)
            && (draft.is_current(*other) || (!current && !draft.task(*other).is_terminal()))
    };
    let other = draft.in_slot(draft.task(index).slot).filter(follows).last()?;
    let by = draft.task(other).id;
    Some(if current {
        Reason::Replaced { by }
    } else {
        Reason::OutOfDate
    })
}

fn may_restart(draft: &Draft<'_>, index: TaskIndex, slot: Slot) -> bool {
    // A task of an older revision is followed by the first task of the current one.
    if !draft.is_current(index) {
        return true;
    }
    let policy = draft.revision.template.restart;
    let condition = match policy.condition {
        RestartCondition::None => false,
        RestartCondition::OnFailure => draft.task(index).status.state != TaskState::Complete,
        RestartCondition::Any => true,
    };
    condition && (policy.attempts_max == 0 || restarts(draft, slot, &policy) < policy.attempts_max)
}

/// Restarts of the slot within the window: its kept records that ended by themselves and were replaced for it.
fn restarts(draft: &Draft<'_>, slot: Slot, policy: &RestartPolicy) -> u64 {
    let since = (!policy.window.is_zero()).then(|| draft.now.before(policy.window));
    let replaced = draft.in_slot(slot).filter(|index| {
        let task = draft.task(*index);
        draft.is_current(*index)
            && matches!(task.reason, Reason::Replaced { .. })
            && matches!(
                task.status.state,
                TaskState::Complete | TaskState::Failed | TaskState::Rejected
            )
            && since.is_none_or(|since| task.meta.observed_at >= since)
    });
    replaced.count() as u64
}
