//! Secrets and configs: none can be made yet, so that lists are empty and nothing is found. Nodes that are not
//! controllers say so, as for every cluster object.

use crate::http::{Call, Failure, Reply, json};
use hyper::StatusCode;

/// `GET /secrets` and `GET /configs`.
pub(super) async fn list(call: Call) -> Reply {
    call.cluster().swarm_inspect().await?;
    json(&[(); 0])
}

/// `GET /secrets/{id}`.
pub(super) async fn inspect_secret(call: Call) -> Reply {
    missing(&call, "secret").await
}

/// `GET /configs/{id}`.
pub(super) async fn inspect_config(call: Call) -> Reply {
    missing(&call, "config").await
}

async fn missing(call: &Call, kind: &str) -> Reply {
    call.cluster().swarm_inspect().await?;
    Err(Failure::new(
        StatusCode::NOT_FOUND,
        format!("{kind} {} not found", call.reference()),
    ))
}
