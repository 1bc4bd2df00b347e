//! The changes that a user's update or rollback of a service makes.

use crate::{Change, PreviousSpec, Revision};
use muster_types::service::{UpdateState, UpdateStatus};
use muster_types::{Service, ServiceSpec, Timestamp};
use std::sync::Arc;

/// The change that replaces a service's spec. Progress of an earlier update is forgotten, as in Swarm.
pub fn update(service: &Service, spec: Arc<ServiceSpec>) -> Change {
    Change::ServiceSpec {
        service: service.id,
        revision: revision(&service.spec, &spec),
        spec,
        previous: PreviousSpec::Replaced,
        update: None,
    }
}

/// The change that returns to the previous spec on a user's request and lets a second one swap back; `None` when
/// there is no previous spec.
pub fn rollback(service: &Service, now: Timestamp) -> Option<Change> {
    let message = "manually requested rollback".to_owned();
    roll_back(service, now, PreviousSpec::Replaced, message)
}

/// The change by which failures return a service to its previous spec; `None` when there is none.
pub fn automatic_rollback(service: &Service, now: Timestamp, message: String) -> Option<Change> {
    roll_back(service, now, PreviousSpec::Nothing, message)
}

fn roll_back(service: &Service, now: Timestamp, previous: PreviousSpec, message: String) -> Option<Change> {
    let spec = service.previous_spec.clone()?;
    Some(Change::ServiceSpec {
        service: service.id,
        revision: revision(&service.spec, &spec),
        spec,
        previous,
        // A job is not replaced task by task: its next run begins.
        update: (!service.spec.mode.is_job()).then_some(UpdateStatus {
            state: UpdateState::RollbackStarted,
            started_at: now,
            completed_at: None,
            message,
        }),
    })
}

/// Labels, scale and update settings do not touch tasks; the template, ports and endpoint mode do. A job runs again
/// whatever changed, as in Swarm.
fn revision(before: &ServiceSpec, after: &ServiceSpec) -> Revision {
    let same = !after.mode.is_job()
        && before.template == after.template
        && before.ports == after.ports
        && before.endpoint_mode == after.endpoint_mode;
    match same {
        true => Revision::Kept,
        false => Revision::New,
    }
}
