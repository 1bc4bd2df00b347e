//! Volumes.

use crate::backend::{ContainerFilterHint, ErrorKind, VolumeInfo};
use crate::convert;
use crate::http::{Call, Failure, Filters, Reply, json, json_created, status_only};
use crate::wire::volume::CreateBody;
use hyper::StatusCode;
use serde_json::json as value;

/// `GET /volumes`.
pub(super) async fn list(call: Call) -> Reply {
    let filters = Filters::parse(&call.query, &["dangling", "driver", "label", "label!", "name"])?;
    let dangling = filters.truth("dangling")?;
    let containers = match dangling {
        Some(_) => {
            call.engine()
                .container_list(ContainerFilterHint::default())
                .await?
        }
        None => Vec::new(),
    };
    let unused = |volume: &VolumeInfo| convert::volume::users(&volume.name, &containers) == 0;
    let volumes: Vec<_> = call
        .engine()
        .volume_list()
        .await?
        .iter()
        .filter(|volume| filters.exact("driver", &volume.driver))
        .filter(|volume| filters.labels("label", &volume.labels))
        .filter(|volume| !(filters.has("label!") && filters.labels("label!", &volume.labels)))
        .filter(|volume| filters.part("name", &volume.name))
        .filter(|volume| dangling.is_none_or(|wanted| wanted == unused(volume)))
        .map(convert::volume::volume)
        .collect();
    json(&value!({"Volumes": volumes, "Warnings": null}))
}

/// `POST /volumes/create`.
pub(super) async fn create(mut call: Call) -> Reply {
    let body: CreateBody = call.body().await?;
    let request = convert::volume::read(body)?;
    let volume = call.engine().volume_create(request).await?;
    json_created(&convert::volume::volume(&volume))
}

/// `GET /volumes/{name}`.
pub(super) async fn inspect(call: Call) -> Reply {
    let name = call.reference();
    let volumes = match call.engine().volume_list().await {
        // Where none can be made none exists; `docker inspect` asks every kind of object in turn.
        Err(error) if error.kind == ErrorKind::NotImplemented => Vec::new(),
        listed => listed?,
    };
    let volume = volumes
        .iter()
        .find(|volume| volume.name == name)
        .ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, format!("get {name}: no such volume")))?;
    json(&convert::volume::volume(volume))
}

/// `DELETE /volumes/{name}`.
pub(super) async fn remove(call: Call) -> Reply {
    let force = call.query.flag("force");
    call.engine().volume_remove(call.reference(), force).await?;
    Ok(status_only(StatusCode::NO_CONTENT))
}
