//! Services.

use super::pull::auth_of;
use super::swarm::object_version;
use crate::backend::{ServiceChange, ServiceView};
use crate::convert;
use crate::http::{Call, Failure, Filters, Object, Reply, json, json_created, json_gated, status_only};
use crate::wire::service::ServiceSpec;
use hyper::StatusCode;
use muster_types::image::RegistryAuth;
use muster_types::{Service, ServiceMode};
use serde_json::json as value;

/// `GET /services`.
pub(super) async fn list(call: Call) -> Reply {
    let filters = Filters::parse(&call.query, &["id", "label", "mode", "name", "runtime"])?;
    const MODES: &[&str] = &["replicated", "global", "replicated-job", "global-job"];
    if let Some(bad) = filters.values("mode").find(|mode| !MODES.contains(mode)) {
        return Err(Failure::invalid(format!("invalid filter 'mode={bad}'")));
    }
    let views = call.cluster().service_list(call.query.flag("status")).await?;
    let services: Vec<_> = views
        .iter()
        .filter(|view| matches(view, &filters))
        .map(convert::service::write)
        .collect();
    json_gated(Object::Service, call.version, &services)
}

fn matches(view: &ServiceView, filters: &Filters) -> bool {
    let spec = &view.service.spec;
    let mode = match spec.mode {
        ServiceMode::Replicated { .. } => "replicated",
        ServiceMode::Global => "global",
        ServiceMode::ReplicatedJob { .. } => "replicated-job",
        ServiceMode::GlobalJob => "global-job",
    };
    filters.prefix("id", &view.service.id.to_string())
        && filters.labels("label", &spec.labels)
        && filters.exact("mode", mode)
        && filters.prefix("name", &spec.name)
        && filters.exact("runtime", "container")
}

/// `POST /services/create`.
pub(super) async fn create(mut call: Call) -> Reply {
    let body: ServiceSpec = call.body_of(Object::ServiceSpec).await?;
    let mut spec = convert::service::read_spec(body)?;
    spec.template.container.registry_auth = auth_of(&call);
    let created = call.cluster().service_create(spec).await?;
    json_created(&value!({
        "ID": created.id.to_string(),
        "Warnings": (!created.warnings.is_empty()).then_some(created.warnings),
    }))
}

/// `GET /services/{id}`.
pub(super) async fn inspect(call: Call) -> Reply {
    let view = call.cluster().service_inspect(call.reference()).await?;
    json_gated(Object::Service, call.version, &convert::service::write(&view))
}

/// `POST /services/{id}/update`.
pub(super) async fn update(mut call: Call) -> Reply {
    let version = object_version(&call)?;
    let change = match call.query.get("rollback") {
        None => None,
        Some("previous") => Some(ServiceChange::RollBack),
        Some(other) => return Err(Failure::invalid(format!("unrecognized rollback option {other}"))),
    };
    // A rollback carries the current spec too; it does not count.
    let body: ServiceSpec = call.body_of(Object::ServiceSpec).await?;
    let change = match change {
        Some(change) => change,
        None => ServiceChange::Spec(Box::new(convert::service::read_spec(body)?)),
    };
    let service = call.cluster().service_inspect(call.reference()).await?.service;
    let change = match change {
        ServiceChange::Spec(mut spec) => {
            spec.template.container.registry_auth = updated_auth(&call, &service)?;
            ServiceChange::Spec(spec)
        }
        ServiceChange::RollBack => ServiceChange::RollBack,
    };
    let warnings = call.cluster().service_update(service.id, version, change).await?;
    json(&value!({"Warnings": (!warnings.is_empty()).then_some(warnings)}))
}

/// Who pulls from now on: whoever the request names, else as `registryAuthFrom` says.
fn updated_auth(call: &Call, service: &Service) -> Result<RegistryAuth, Failure> {
    let given = auth_of(call);
    if !given.0.is_empty() {
        return Ok(given);
    }
    let spec = match call.query.get("registryAuthFrom") {
        None | Some("" | "spec") => Some(&service.spec),
        Some("previous-spec") => service.previous_spec.as_ref(),
        Some(other) => {
            return Err(Failure::invalid(format!(
                "unsupported registryAuthFrom value: {other}"
            )));
        }
    };
    Ok(spec
        .map(|spec| spec.template.container.registry_auth.clone())
        .unwrap_or_default())
}

/// `DELETE /services/{id}`.
pub(super) async fn remove(call: Call) -> Reply {
    let service = call.cluster().service_inspect(call.reference()).await?.service.id;
    call.cluster().service_remove(service).await?;
    Ok(status_only(StatusCode::OK))
}
