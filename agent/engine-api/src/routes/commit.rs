//! Images made of containers and archives, and archives made of images.

use super::archive::octets;
use crate::backend::{ChangeKind, CommitRequest, ImportRequest};
use crate::convert;
use crate::http::{Call, Failure, Object, Reply, json, json_created, json_lines, upload};
use serde_json::{Value, json as value};

/// `GET /containers/{id}/changes`. Without changes the answer is `null`, as Docker's.
pub(super) async fn changes(call: Call) -> Reply {
    let changes = call.engine().container_changes(call.reference()).await?;
    if changes.is_empty() {
        return json(&Value::Null);
    }
    let listed = changes.iter().map(|change| {
        let kind = match change.kind {
            ChangeKind::Modified => 0,
            ChangeKind::Added => 1,
            ChangeKind::Deleted => 2,
        };
        value!({"Path": change.path, "Kind": kind})
    });
    json(&listed.collect::<Vec<_>>())
}

/// `POST /commit`.
pub(super) async fn commit(mut call: Call) -> Reply {
    let config: Option<Value> = call.optional_body_of(Object::ContainerCreate).await?;
    let container = call
        .query
        .get("container")
        .ok_or_else(|| Failure::invalid("parameter \"container\" is missing: it names what is committed"))?;
    let text = |name: &str| call.query.get(name).unwrap_or_default().to_owned();
    let request = CommitRequest {
        reference: named(&call)?,
        comment: text("comment"),
        author: text("author"),
        pause: call.query.flag_or("pause", true),
        changes: call.query.all("changes").map(str::to_owned).collect(),
        config: config.filter(|config| config.as_object().is_some_and(|fields| !fields.is_empty())),
    };
    let id = call.engine().container_commit(container, request).await?;
    json_created(&value!({"Id": id}))
}

/// `GET /images/{name}/get` and `GET /images/get`.
pub(super) async fn save(call: Call) -> Reply {
    if call.query.get("platform").is_some() {
        return Err(convert::unsupported("saving single platforms of an image"));
    }
    let names: Vec<String> = match call.captures.first() {
        Some(name) => vec![name.clone()],
        None => call
            .query
            .all("names")
            .flat_map(|names| names.split(','))
            .map(str::to_owned)
            .collect(),
    };
    if names.is_empty() {
        return Err(Failure::invalid(
            "parameter \"names\" is missing: it names the images to save",
        ));
    }
    Ok(octets(call.engine().image_save(names).await?))
}

/// `POST /images/create?fromSrc=-`. The archive is streamed into the store; a bad one is answered with a status.
pub(super) async fn import(mut call: Call) -> Reply {
    if call.query.get("fromSrc") != Some("-") {
        return Err(convert::unsupported(
            "importing from an address; download the archive and pass it to \"docker import -\"",
        ));
    }
    let body = std::mem::take(call.request.body_mut());
    let request = ImportRequest {
        reference: named(&call)?,
        message: call.query.get("message").unwrap_or("Imported from -").to_owned(),
        changes: call.query.all("changes").map(str::to_owned).collect(),
        platform: call.query.get("platform").unwrap_or_default().to_owned(),
    };
    let (archive, feeding) = upload(body);
    let (imported, ()) = tokio::join!(call.engine().image_import(archive, request), feeding);
    Ok(json_lines(&[value!({"status": imported?})]))
}

/// The name that `repo` and `tag` give; none without a repository.
fn named(call: &Call) -> Result<Option<String>, Failure> {
    let Some(repository) = call.query.get("repo") else {
        return Ok(None);
    };
    if repository.contains('@') {
        return Err(Failure::invalid("cannot import digest reference"));
    }
    Ok(Some(match call.query.get("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    }))
}
