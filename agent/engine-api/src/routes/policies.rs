//! Policies of the cluster's networks, and the ways that connections take there: beyond Docker's API.

use super::networks::{cluster_id, of_cluster};
use crate::backend::{BackendError, Candidate, resolve};
use crate::http::{Call, Failure, Reply, json, status_only};
use crate::wire::network::{Policy, TraceStep};
use hyper::StatusCode;
use muster_types::policy::{NetworkPolicy, read_port};
use muster_types::{ClusterNetwork, NetworkId};
use std::sync::Arc;

/// `GET /networks/{id}/policy`.
pub(super) async fn inspect(call: Call) -> Reply {
    let network = find(&call).await?;
    let policy = network.policy.as_deref().cloned().unwrap_or_default();
    json(&Policy {
        default: policy.unruled.name().to_owned(),
        rules: policy.rules.iter().map(ToString::to_string).collect(),
    })
}

/// `PUT /networks/{id}/policy`.
pub(super) async fn set(mut call: Call) -> Reply {
    let body: Policy = call.body().await?;
    let rules = body.rules.iter().map(String::as_str);
    let policy = NetworkPolicy::read(&body.default, rules)
        .map_err(|problems| Failure::invalid(problems.join("; ")))?;
    let id = find(&call).await?.id;
    call.cluster().network_set_policy(id, policy).await?;
    Ok(status_only(StatusCode::NO_CONTENT))
}

/// `GET /services/{id}/trace`, with `to` and perhaps `port`.
pub(super) async fn trace(call: Call) -> Reply {
    let given = |name: &str| call.query.get(name).filter(|value| !value.is_empty());
    let to = given("to").ok_or_else(|| Failure::invalid("the query has to name a service: ?to=NAME"))?;
    let port = given("port")
        .map(read_port)
        .transpose()
        .map_err(Failure::invalid)?;
    let steps = call.cluster().service_trace(call.reference(), to, port).await?;
    let steps: Vec<TraceStep> = steps
        .into_iter()
        .map(|step| TraceStep {
            step: step.step,
            passes: step.passes,
            text: step.text,
        })
        .collect();
    json(&steps)
}

/// The network of the cluster that the path names.
async fn find(call: &Call) -> Result<Arc<ClusterNetwork>, Failure> {
    let reference = call.reference();
    let infos = match call.cluster().local().controller {
        true => of_cluster(call).await?,
        false => return Err(BackendError::not_controller().into()),
    };
    let candidates = infos.iter().map(|network| Candidate {
        id: &network.id,
        name: &network.spec.name,
    });
    let id: NetworkId = cluster_id(&infos[resolve("network", reference, candidates)?])?;
    let networks = call.cluster().network_list().await?;
    let network = networks.into_iter().find(|network| network.id == id);
    network.ok_or_else(|| BackendError::not_found(format!("network {reference} not found")).into())
}
