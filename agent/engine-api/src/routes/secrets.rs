//! Secrets and configs.

use crate::convert;
use crate::http::{Call, Failure, Filters, Reply, json, json_created, status_only};
use crate::wire::file::FileSpec;
use hyper::StatusCode;
use muster_types::{ClusterFile, FileKind};
use serde_json::json as value;

const SECRET_FILTERS: &[&str] = &["id", "label", "name", "names"];
const CONFIG_FILTERS: &[&str] = &["id", "label", "name"];

/// `GET /secrets`.
pub(super) async fn list_secrets(call: Call) -> Reply {
    list(&call, FileKind::Secret, SECRET_FILTERS).await
}

/// `GET /configs`.
pub(super) async fn list_configs(call: Call) -> Reply {
    list(&call, FileKind::Config, CONFIG_FILTERS).await
}

async fn list(call: &Call, kind: FileKind, known: &[&str]) -> Reply {
    let filters = Filters::parse(&call.query, known)?;
    let files = call.cluster().file_list(kind).await?;
    let files: Vec<_> = files
        .iter()
        .filter(|file| matches(file, &filters))
        .map(|file| convert::file::write(file))
        .collect();
    json(&files)
}

fn matches(file: &ClusterFile, filters: &Filters) -> bool {
    filters.prefix("id", &file.id.to_string())
        && filters.labels("label", &file.spec.labels)
        && filters.prefix("name", &file.spec.name)
        && filters.exact("names", &file.spec.name)
}

/// `POST /secrets/create`.
pub(super) async fn create_secret(call: Call) -> Reply {
    create(call, FileKind::Secret).await
}

/// `POST /configs/create`.
pub(super) async fn create_config(call: Call) -> Reply {
    create(call, FileKind::Config).await
}

async fn create(mut call: Call, kind: FileKind) -> Reply {
    let body: FileSpec = call.body().await?;
    let id = call
        .cluster()
        .file_create(kind, convert::file::read(kind, body)?)
        .await?;
    json_created(&value!({"ID": id.to_string()}))
}

/// `GET /secrets/{id}`.
pub(super) async fn inspect_secret(call: Call) -> Reply {
    inspect(&call, FileKind::Secret).await
}

/// `GET /configs/{id}`.
pub(super) async fn inspect_config(call: Call) -> Reply {
    inspect(&call, FileKind::Config).await
}

async fn inspect(call: &Call, kind: FileKind) -> Reply {
    let file = call.cluster().file_inspect(kind, call.reference()).await?;
    json(&convert::file::write(&file))
}

/// `POST /secrets/{id}/update`.
pub(super) async fn update_secret(call: Call) -> Reply {
    update(call, FileKind::Secret).await
}

/// `POST /configs/{id}/update`.
pub(super) async fn update_config(call: Call) -> Reply {
    update(call, FileKind::Config).await
}

async fn update(mut call: Call, kind: FileKind) -> Reply {
    let body: FileSpec = call.body().await?;
    let version = call.query.get("version").unwrap_or_default().parse();
    let version = version.map_err(|_| Failure::invalid(format!("invalid {kind} version")))?;
    let file = call.cluster().file_inspect(kind, call.reference()).await?;
    let spec = convert::file::read(kind, body)?;
    call.cluster().file_update(kind, file.id, version, spec).await?;
    Ok(status_only(StatusCode::OK))
}

/// `DELETE /secrets/{id}`.
pub(super) async fn remove_secret(call: Call) -> Reply {
    remove(&call, FileKind::Secret).await
}

/// `DELETE /configs/{id}`.
pub(super) async fn remove_config(call: Call) -> Reply {
    remove(&call, FileKind::Config).await
}

async fn remove(call: &Call, kind: FileKind) -> Reply {
    let file = call.cluster().file_inspect(kind, call.reference()).await?;
    call.cluster().file_remove(kind, file.id).await?;
    Ok(status_only(StatusCode::NO_CONTENT))
}
