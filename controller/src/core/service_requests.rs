//! Writes that concern services: from the request to the changeset.

use super::requests::{invalid, rejected};
use super::{file_requests, network_requests};
use crate::control::{ControlError, RefusalKind, ServiceChange};
use muster_state::{
    Change, Changeset, ClusterState, LEVEL_OF_JOBS, ObjectKey, Part, Precondition, Rejection, service_update,
};
use muster_types::service::PublishMode;
use muster_types::{Reason, RequestId, Service, ServiceId, ServiceSpec, validate};
use std::sync::Arc;

pub(super) fn known(state: &ClusterState, id: ServiceId) -> Result<&Arc<Service>, ControlError> {
    let service = state.service(id).filter(|service| !service.removing);
    service.ok_or_else(|| ControlError::not_found("service", id))
}

pub(super) fn create(
    state: &ClusterState,
    id: RequestId,
    spec: &ServiceSpec,
) -> Result<Changeset, ControlError> {
    validate::service_spec(spec).map_err(|problems| invalid(&problems))?;
    check_jobs(state, spec)?;
    let spec = network_requests::resolved(state, spec)?;
    if state.service_by_name(&spec.name).is_some() {
        let name = spec.name.clone();
        return Err(rejected(&Rejection::NameConflict { name }));
    }
    check_ports(state, None, &spec)?;
    let files = file_requests::needed(state, &spec.template)?;
    let service = ServiceId::from_u128(id.as_u128());
    let change = Change::ServiceCreate {
        service,
        spec: spec.clone(),
    };
    let changeset = Changeset::new(Reason::UserRequest, vec![change])
        .when(Precondition::ServiceNameFree(spec.name.clone()));
    Ok(files.into_iter().fold(changeset, Changeset::when))
}

pub(super) fn update(
    state: &ClusterState,
    id: ServiceId,
    version: u64,
    change: &ServiceChange,
) -> Result<Changeset, ControlError> {
    let service = known(state, id)?;
    let change = match change {
        ServiceChange::Spec(spec) => {
            validate::service_spec(spec).map_err(|problems| invalid(&problems))?;
            if spec.name != service.spec.name {
                return Err(rejected(&Rejection::Rename));
            }
            if std::mem::discriminant(&spec.mode) != std::mem::discriminant(&service.spec.mode) {
                return Err(ControlError::refused(
                    RefusalKind::Invalid,
                    "service mode change is not allowed",
                ));
            }
            check_ports(state, Some(id), spec)?;
            service_update::update(service, network_requests::resolved(state, spec)?)
        }
        ServiceChange::RollBack => service_update::rollback(service, state.time()).ok_or_else(|| {
            ControlError::refused(
                RefusalKind::Invalid,
                format!("service {id} does not have a previous spec"),
            )
        })?,
    };
    let files = match &change {
        Change::ServiceSpec { spec, .. } => file_requests::needed(state, &spec.template)?,
        other => unreachable!("an update of a service changes its spec, not {other:?}"),
    };
    let object = ObjectKey::Service(id);
    let precondition = Precondition::Version {
        object,
        part: Part::Spec,
        version,
    };
    let changeset = Changeset::new(Reason::UserRequest, vec![change]).when(precondition);
    Ok(files.into_iter().fold(changeset, Changeset::when))
}

/// Agents need to know nothing of jobs, but every controller does.
fn check_jobs(state: &ClusterState, spec: &ServiceSpec) -> Result<(), ControlError> {
    let level = state.cluster().map_or(0, |cluster| cluster.feature_level);
    if !spec.mode.is_job() || level >= LEVEL_OF_JOBS {
        return Ok(());
    }
    Err(ControlError::refused(
        RefusalKind::Unavailable,
        "some controllers run a version of Muster without jobs: update them first, or remove them",
    ))
}

/// A port that is published on every node belongs to one service.
fn check_ports(state: &ClusterState, own: Option<ServiceId>, spec: &ServiceSpec) -> Result<(), ControlError> {
    let wanted = spec
        .ports
        .iter()
        .filter(|port| port.mode == PublishMode::Ingress && port.published_port != 0);
    for port in wanted {
        let taken = state
            .services()
            .filter(|other| Some(other.id) != own && !other.removing)
            .find(|other| {
                let theirs = other.spec.ports.iter().chain(&other.allocated_ports);
                theirs.into_iter().any(|their| {
                    their.mode == PublishMode::Ingress
                        && their.protocol == port.protocol
                        && their.published_port == port.published_port
                })
            });
        if let Some(other) = taken {
            return Err(ControlError::refused(
                RefusalKind::Invalid,
                format!(
                    "port '{}' is already in use by service '{}' ({}) as an ingress port",
                    port.published_port, other.spec.name, other.id
                ),
            ));
        }
    }
    Ok(())
}
