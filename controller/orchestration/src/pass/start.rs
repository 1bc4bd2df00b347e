//! Prepared tasks run once their time has come and their slot is free.

use crate::draft::{Draft, TaskIndex};
use muster_types::service::UpdateOrder;
use muster_types::{DesiredState, Timestamp};
use std::time::Duration;

/// Longest wait for the task before it in the slot to stop, as in Swarm.
const STOP_WAIT: Duration = Duration::from_secs(60);
/// What stopping may cost beyond the container's own stop grace.
const STOP_MARGIN: Duration = Duration::from_secs(10);
/// Stop grace where the template names none.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Lets tasks run that waited for a delay or for the task before them.
pub(super) fn let_tasks_run(draft: &mut Draft<'_>) {
    if draft.service.removing {
        return;
    }
    for index in draft.indexes() {
        let task = draft.task(index);
        if task.desired != DesiredState::Ready || draft.tasks[index].removed {
            continue;
        }
        let slot = task.slot;
        let ready_at = free_at(draft, index).max(task.start_after);
        match ready_at {
            Some(at) if at > draft.now => draft.wake(slot, at),
            Some(_) | None if is_slot_taken(draft, index) => {}
            Some(_) | None => {
                if !draft.has_room_for(index) {
                    return;
                }
                let reason = draft.task(index).reason.clone();
                draft.set_desired(index, DesiredState::Running, reason);
            }
        }
    }
}

/// Until when to wait at most for tasks of the slot that still stop; `None` when none does.
fn free_at(draft: &Draft<'_>, index: TaskIndex) -> Option<Timestamp> {
    let task = draft.task(index);
    let stopping = draft.in_slot(task.slot).any(|other| draft.is_stopping(other));
    let grace = draft.revision.template.container.stop_grace.unwrap_or(STOP_GRACE);
    let wait = STOP_WAIT.max(grace.saturating_add(STOP_MARGIN));
    stopping.then(|| task.meta.created_at.after(wait))
}

/// Another task of the slot shall run, and they may not overlap.
fn is_slot_taken(draft: &Draft<'_>, index: TaskIndex) -> bool {
    // A rollback that this plan begins counts already.
    let rolled_back = draft.service.previous_spec.as_ref();
    let spec = rolled_back
        .filter(|_| draft.rollback.is_some())
        .unwrap_or(&draft.service.spec);
    let overlap = [spec.update.order, spec.rollback.order].contains(&UpdateOrder::StartFirst);
    !overlap
        && draft
            .in_slot(draft.task(index).slot)
            .any(|other| other != index && draft.task(other).desired == DesiredState::Running)
}
