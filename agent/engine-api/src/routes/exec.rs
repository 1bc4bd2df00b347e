//! Processes in running containers.

use super::{containers::terminal_size, hijack};
use crate::backend::BackendError;
use crate::convert;
use crate::http::{Call, Object, Reply, json, json_created, status_only};
use crate::wire::exec::{CreateBody, StartBody};
use hyper::StatusCode;
use serde_json::json as value;

/// `POST /containers/{id}/exec`.
pub(super) async fn create(mut call: Call) -> Reply {
    let body: CreateBody = call.body_of(Object::Exec).await?;
    let config = convert::exec::read(body)?;
    let id = call.engine().exec_create(call.reference(), config).await?;
    json_created(&value!({"Id": id}))
}

/// `POST /exec/{id}/start`. The body is read to its end before the connection leaves HTTP: what is left of it would
/// otherwise reach the process, or break the connection. The process starts once the answer's head is on its way.
pub(super) async fn start(mut call: Call) -> Reply {
    let body: StartBody = call.optional_body_of(Object::Exec).await?.unwrap_or_default();
    let size = body.console_size.and_then(convert::exec::size);
    let info = call.engine().exec_inspect(call.reference()).await?;
    if body.detach {
        call.engine().exec_start(call.reference(), false, size).await?;
        return Ok(status_only(StatusCode::OK));
    }
    let (engine, id) = (call.app.backends.engine.clone(), call.reference().to_owned());
    let session = async move {
        let session = engine.exec_start(&id, true, size).await?;
        session.ok_or_else(|| BackendError::internal(format!("exec {id} was started without its streams")))
    };
    let opening = hijack::Opening {
        // What the client says now counts, not what the process has: some expect a terminal's output in frames.
        tty: body.tty,
        session: Box::pin(session),
    };
    hijack::answer(&call, opening, &info.config.detach_keys)
}

/// `POST /exec/{id}/resize`.
pub(super) async fn resize(call: Call) -> Reply {
    let (rows, columns) = terminal_size(&call)?;
    call.engine().exec_resize(call.reference(), rows, columns).await?;
    Ok(status_only(StatusCode::OK))
}

/// `GET /exec/{id}/json`.
pub(super) async fn inspect(call: Call) -> Reply {
    let info = call.engine().exec_inspect(call.reference()).await?;
    json(&convert::exec::inspect(&info))
}
