//! Policies of the cluster's networks, and the ways that connections take there: beyond Docker's API.

use crate::backend::{Candidate, resolve};
use crate::http::{Call, Failure, Reply, json, status_only};
use crate::wire::network::{Policy, PolicyBody, TraceStep};
use hyper::StatusCode;
use muster_types::ClusterNetwork;
use muster_types::policy::{NetworkPolicy, read_port};
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
    let policy = read(call.exact_body().await?)?;
    let id = find(&call).await?.id;
    call.cluster().network_set_policy(id, policy).await?;
    Ok(status_only(StatusCode::NO_CONTENT))
}

/// An empty object takes the policy away, and nothing else does.
fn read(body: Option<PolicyBody>) -> Result<NetworkPolicy, Failure> {
    let Some(body) = body else {
        return Ok(NetworkPolicy::default());
    };
    let Some(default) = body.default.filter(|default| !default.is_empty()) else {
        return Err(Failure::invalid(
            "the policy has to say its Default, \"allow\" or \"deny\"; {} takes it away",
        ));
    };
    let rules = body.rules.iter().flatten().map(String::as_str);
    NetworkPolicy::read(&default, rules).map_err(|problems| Failure::invalid(problems.join("; ")))
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

/// The network of the cluster that the path names. Where the cluster cannot be asked, nobody can say that there is none.
async fn find(call: &Call) -> Result<Arc<ClusterNetwork>, Failure> {
    let mut networks = call.cluster().network_list().await?;
    let ids: Vec<String> = networks.iter().map(|network| network.id.to_string()).collect();
    let candidates = networks.iter().zip(&ids).map(|(network, id)| Candidate {
        id,
        name: &network.spec.name,
    });
    let found = resolve("network", call.reference(), candidates)?;
    Ok(networks.swap_remove(found))
}
