//! The cluster as a whole.

use crate::backend::{ClusterUpdate, TokenRotation};
use crate::convert;
use crate::http::{Call, Failure, Reply, json, status_only};
use crate::wire::swarm::{InitBody, JoinBody, Spec};
use hyper::StatusCode;

/// `GET /swarm`.
pub(super) async fn inspect(call: Call) -> Reply {
    let cluster = call.cluster().swarm_inspect().await?;
    json(&convert::swarm::swarm(&cluster))
}

/// `POST /swarm/init`.
pub(super) async fn init(mut call: Call) -> Reply {
    let body: InitBody = call.body().await?;
    let request = convert::swarm::read_init(body)?;
    let node = call.cluster().swarm_init(request).await?;
    json(&node.to_string())
}

/// `POST /swarm/join`.
pub(super) async fn join(mut call: Call) -> Reply {
    let body: JoinBody = call.body().await?;
    let request = convert::swarm::read_join(body)?;
    call.cluster().swarm_join(request).await?;
    Ok(status_only(StatusCode::OK))
}

/// `POST /swarm/leave`.
pub(super) async fn leave(call: Call) -> Reply {
    call.cluster().swarm_leave(call.query.flag("force")).await?;
    Ok(status_only(StatusCode::OK))
}

/// `POST /swarm/update`.
pub(super) async fn update(mut call: Call) -> Reply {
    let version = object_version(&call)?;
    if call.query.flag("rotateManagerUnlockKey") {
        return Err(convert::unsupported("autolock of managers"));
    }
    let tokens = TokenRotation {
        worker: call.query.flag("rotateWorkerToken"),
        controller: call.query.flag("rotateManagerToken"),
    };
    let body: Spec = call.body().await?;
    let root = convert::swarm::read_root(&body.ca_config)?;
    let spec = convert::swarm::read_spec(body)?;
    let update = ClusterUpdate { spec, tokens, root };
    call.cluster().swarm_update(version, update).await?;
    Ok(status_only(StatusCode::OK))
}

/// The version that an update is based on.
pub(super) fn object_version(call: &Call) -> Result<u64, Failure> {
    let text = call.query.get("version").unwrap_or_default();
    text.parse().map_err(|_| {
        Failure::invalid(format!(
            "invalid version {text:?}: the object's Version.Index is expected"
        ))
    })
}
