//! Plugins: there are none.

use crate::http::{Call, Failure, Reply, json};
use hyper::StatusCode;

/// `GET /plugins`.
pub(super) async fn list(_call: Call) -> Reply {
    json(&[(); 0])
}

/// `GET /plugins/{name}/json`.
pub(super) async fn inspect(call: Call) -> Reply {
    Err(Failure::new(
        StatusCode::NOT_FOUND,
        format!("plugin {:?} not found", call.reference()),
    ))
}
