//! Pulling an image. There is no registry client yet: what the cluster's nodes have can be pulled.

use crate::backend::{ErrorKind, LocalSwarmState};
use crate::http::{Call, Failure, Reply, json_lines};
use hyper::StatusCode;
use serde_json::json;

/// Brings an image of this name here from another node of the cluster, unless it is here.
pub(super) async fn from_cluster(call: &Call, name: &str) -> Reply {
    let engine = call.engine();
    let here = match engine.image_inspect(name).await {
        Ok(_) => true,
        Err(error) if error.kind == ErrorKind::NotFound => false,
        Err(error) => return Err(error.into()),
    };
    if here {
        return Ok(status(&format!(
            "Status: Image is up to date for {name} (no registry was asked: this version has no client of registries)"
        )));
    }
    if call.cluster().local().state != LocalSwarmState::Active {
        return Err(nowhere(name, ""));
    }
    match call.cluster().image_fetch(name).await {
        Ok(()) => {}
        Err(error) if error.kind == ErrorKind::NotFound => {
            return Err(nowhere(name, ", and no node of the cluster has it"));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(status(&format!(
        "Status: Downloaded newer image for {name} from a node of the cluster"
    )))
}

fn status(text: &str) -> hyper::Response<crate::http::Body> {
    json_lines(&[json!({"status": text})])
}

fn nowhere(name: &str, also: &str) -> Failure {
    Failure::new(
        StatusCode::NOT_FOUND,
        format!(
            "pull access denied for {name}: this version cannot pull images from registries{also}; load the image with \
             \"docker load\""
        ),
    )
}
