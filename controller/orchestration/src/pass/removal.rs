//! A service that its user removed: its tasks stop, their records go, then the service does.

use crate::draft::Draft;
use muster_types::{DesiredState, Reason};

/// Wants every task of a removed service gone.
pub(super) fn remove_tasks_of_removed_service(draft: &mut Draft<'_>) {
    if !draft.service.removing {
        return;
    }
    for index in draft.indexes() {
        if draft.task(index).desired < DesiredState::Remove {
            if !draft.has_room_for(index) {
                return;
            }
            draft.set_desired(index, DesiredState::Remove, Reason::ServiceRemoved);
        }
    }
}
