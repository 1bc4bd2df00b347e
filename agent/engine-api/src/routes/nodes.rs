//! Nodes.

use super::swarm::object_version;
use crate::backend::NodeView;
use crate::convert;
use crate::http::{Call, Failure, Filters, Reply, json, status_only};
use crate::wire::node::NodeSpec;
use hyper::StatusCode;

const FILTERS: &[&str] = &["id", "label", "membership", "name", "node.label", "role"];

/// `GET /nodes`.
pub(super) async fn list(call: Call) -> Reply {
    let filters = Filters::parse(&call.query, FILTERS)?;
    for (key, known) in [
        ("role", ["worker", "manager"]),
        ("membership", ["accepted", "pending"]),
    ] {
        if let Some(bad) = filters.values(key).find(|value| !known.contains(value)) {
            return Err(Failure::invalid(format!("Invalid {key} filter: '{bad}'")));
        }
    }
    let nodes: Vec<_> = call
        .cluster()
        .node_list()
        .await?
        .iter()
        .filter(|view| matches(view, &filters))
        .map(convert::node::write)
        .collect();
    json(&nodes)
}

fn matches(view: &NodeView, filters: &Filters) -> bool {
    let node = &view.node;
    filters.prefix("id", &node.id.to_string())
        && (filters.prefix("name", &node.description.hostname) || (filters.has("name") && !node.spec.name.is_empty() && filters.prefix("name", &node.spec.name)))
        // `label` means the engine's own labels, `node.label` those of the cluster.
        && filters.labels("label", &node.description.engine_labels)
        && filters.labels("node.label", &node.spec.labels)
        && filters.exact("role", convert::node::role(node.spec.role))
        // Every node that the cluster knows was accepted.
        && filters.exact("membership", "accepted")
}

/// `GET /nodes/{id}`.
pub(super) async fn inspect(call: Call) -> Reply {
    let view = call.cluster().node_inspect(call.reference()).await?;
    json(&convert::node::write(&view))
}

/// `POST /nodes/{id}/update`.
pub(super) async fn update(mut call: Call) -> Reply {
    let version = object_version(&call)?;
    let body: NodeSpec = call.body().await?;
    let spec = convert::node::read_spec(body)?;
    let node = call.cluster().node_inspect(call.reference()).await?.node.id;
    call.cluster().node_update(node, version, spec).await?;
    Ok(status_only(StatusCode::OK))
}

/// `DELETE /nodes/{id}`.
pub(super) async fn remove(call: Call) -> Reply {
    let node = call.cluster().node_inspect(call.reference()).await?.node.id;
    call.cluster().node_remove(node, call.query.flag("force")).await?;
    Ok(status_only(StatusCode::OK))
}
