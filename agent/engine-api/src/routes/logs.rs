//! Logs of containers, services and tasks.

use super::hijack::{content_type, frame};
use crate::backend::{LogEntry, LogOptions, LogSelection, TaskLogEntry};
use crate::http::{BoxError, Call, Failure, Reply, encode, lines};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use muster_types::{ServiceId, TaskId};

/// `GET /containers/{id}/logs`.
pub(super) async fn container(call: Call) -> Reply {
    let options = options(&call)?;
    let (timestamps, details) = (call.query.flag("timestamps"), call.query.flag("details"));
    let session = call.engine().container_logs(call.reference(), options).await?;
    let tty = session.tty;
    let body = session.entries.map(move |entry| {
        entry.map(|entry| {
            let attributes = if details {
                attributes(&entry)
            } else {
                String::new()
            };
            line(tty, &entry, prefix(timestamps, &entry, &attributes))
        })
    });
    Ok(answer(&call, tty, body))
}

/// `GET /services/{id}/logs`.
pub(super) async fn service(call: Call) -> Reply {
    let service = call.cluster().service_inspect(call.reference()).await?.service;
    let tty = service.spec.template.container.tty;
    cluster_logs(&call, tty, selection(Some(service.id), None)).await
}

/// `GET /tasks/{id}/logs`.
pub(super) async fn task(call: Call) -> Reply {
    let view = call.cluster().task_inspect(call.reference()).await?;
    cluster_logs(
        &call,
        view.template.container.tty,
        selection(None, Some(view.task.id)),
    )
    .await
}

fn selection(service: Option<ServiceId>, task: Option<TaskId>) -> LogSelection {
    LogSelection {
        services: service.into_iter().collect(),
        tasks: task.into_iter().collect(),
    }
}

async fn cluster_logs(call: &Call, tty: bool, selection: LogSelection) -> Reply {
    let options = options(call)?;
    let (timestamps, details) = (call.query.flag("timestamps"), call.query.flag("details"));
    let entries = call.cluster().task_logs(selection, options).await?;
    let body = entries.map(move |entry| {
        entry.map(|entry| {
            let origin = if details { origin(&entry) } else { String::new() };
            line(tty, &entry.entry, prefix(timestamps, &entry.entry, &origin))
        })
    });
    Ok(answer(call, tty, body))
}

/// Where a line comes from, as clients parse it.
fn origin(entry: &TaskLogEntry) -> String {
    format!(
        "com.docker.swarm.node.id={},com.docker.swarm.service.id={},com.docker.swarm.task.id={} ",
        entry.node, entry.service, entry.task
    )
}

/// What the log driver adds to a line, as clients parse it. Also without anything there is the space behind it.
fn attributes(entry: &LogEntry) -> String {
    let pairs: Vec<String> = entry
        .attributes
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
        .collect();
    pairs.join(",") + " "
}

fn prefix(timestamps: bool, entry: &LogEntry, details: &str) -> String {
    if timestamps {
        format!("{} {details}", entry.at)
    } else {
        details.to_owned()
    }
}

fn line(tty: bool, entry: &LogEntry, prefix: String) -> Bytes {
    let data = if prefix.is_empty() {
        entry.data.clone()
    } else {
        let mut data = prefix.into_bytes();
        data.extend_from_slice(&entry.data);
        Bytes::from(data)
    };
    if tty { data } else { frame(entry.stream, &data) }
}

fn answer(
    call: &Call,
    tty: bool,
    body: impl Stream<Item = crate::backend::Result<Bytes>> + Send + 'static,
) -> hyper::Response<crate::http::Body> {
    let stopping = call.app.stopping.clone();
    let body = body
        .map(|line| line.map_err(BoxError::from))
        .take_until(async move { stopping.cancelled().await });
    lines(content_type(call, tty), body)
}

fn options(call: &Call) -> Result<LogOptions, Failure> {
    let (stdout, stderr) = (call.query.flag("stdout"), call.query.flag("stderr"));
    if !stdout && !stderr {
        return Err(Failure::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    // Docker takes everything that is no number for "all".
    let tail = call.query.get("tail").and_then(|tail| tail.parse().ok());
    Ok(LogOptions {
        stdout,
        stderr,
        follow: call.query.flag("follow"),
        since: call.query.time("since")?,
        until: call.query.time("until")?,
        tail,
    })
}
