//! Logs of tasks, gathered from the nodes that run or ran them.

use super::member::Member;
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use muster_engine_api::backend::{
    BackendError, LogEntry, LogOptions, LogSelection, StreamKind, TaskLogEntry, TaskLogStream,
};
use muster_proto::node::TaskLogsRequest;
use muster_proto::node::node_client::NodeClient;
use muster_proto::transport::Dialer;
use muster_state::ClusterState;
use muster_types::{NodeState, Task, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// A node that does not begin to answer within this is reported as out of reach.
const BEGIN_WITHIN: Duration = Duration::from_secs(3);

/// The tasks' logs, merged; a node that cannot be reached becomes an error after everything else.
pub fn merged(
    member: &Member,
    state: &ClusterState,
    selection: &LogSelection,
    options: &LogOptions,
) -> TaskLogStream {
    let wanted =
        |task: &&Arc<Task>| selection.services.contains(&task.service) || selection.tasks.contains(&task.id);
    let mut streams: SelectAll<BoxStream<'static, Result<TaskLogEntry, BackendError>>> = SelectAll::new();
    let mut unreachable = Vec::new();
    for task in state.tasks().filter(wanted) {
        let Some(node) = task.node.and_then(|node| state.node(node)) else {
            continue;
        };
        if task.status.container.is_none() {
            continue;
        }
        if node.status.state == NodeState::Down {
            let hostname = &node.description.hostname;
            unreachable.push(BackendError::unavailable(format!(
                "logs of task {} cannot be read: node {hostname} ({}) is down",
                task.id, node.id
            )));
            continue;
        }
        let address = node.description.advertise_address.clone();
        streams.push(of_task(
            member.dialer.clone(),
            address,
            task.clone(),
            options.clone(),
        ));
    }
    // Errors of nodes come last, so that they do not end the others' entries.
    let (mut errors, mut live) = (unreachable, streams);
    futures::stream::poll_fn(move |context| {
        loop {
            match live.poll_next_unpin(context) {
                std::task::Poll::Ready(Some(Err(error))) => errors.push(error),
                std::task::Poll::Ready(None) => return std::task::Poll::Ready(errors.pop().map(Err)),
                other => return other,
            }
        }
    })
    .boxed()
}

fn of_task(
    dialer: Dialer,
    address: String,
    task: Arc<Task>,
    options: LogOptions,
) -> BoxStream<'static, Result<TaskLogEntry, BackendError>> {
    let name = task.id;
    let failed = move |why: &dyn std::fmt::Display| {
        BackendError::unavailable(format!("logs of task {name} cannot be read: {why}"))
    };
    let opening = async move {
        let request = request(&task, &options);
        let mut client = NodeClient::new(dialer.node(&address)).max_decoding_message_size(4 << 20);
        let begun = tokio::time::timeout(BEGIN_WITHIN, client.task_logs(request)).await;
        let records = begun
            .map_err(|_| failed(&"its node does not answer"))?
            .map_err(|status| failed(&status.message()))?
            .into_inner();
        Ok((records, task))
    };
    futures::stream::once(opening)
        .flat_map(move |opened| match opened {
            Err(error) => futures::stream::once(std::future::ready(Err(error))).boxed(),
            Ok((records, task)) => records
                .map(move |record| match record {
                    Ok(record) => Ok(entry(&task, record)),
                    Err(status) => Err(failed(&status.message())),
                })
                .boxed(),
        })
        .boxed()
}

fn request(task: &Task, options: &LogOptions) -> TaskLogsRequest {
    let bound = |time: Option<Timestamp>| time.map_or(0, Timestamp::unix_ns);
    TaskLogsRequest {
        task: task.id.to_string(),
        stdout: options.stdout,
        stderr: options.stderr,
        follow: options.follow,
        since: bound(options.since),
        until: bound(options.until),
        tail: options
            .tail
            .and_then(|tail| i64::try_from(tail).ok())
            .unwrap_or(-1),
    }
}

fn entry(task: &Task, record: muster_proto::node::LogRecord) -> TaskLogEntry {
    let stream = if record.stderr {
        StreamKind::Stderr
    } else {
        StreamKind::Stdout
    };
    TaskLogEntry {
        node: task.node.unwrap_or_default(),
        service: task.service,
        task: task.id,
        entry: LogEntry {
            stream,
            at: Timestamp(record.at),
            data: record.line,
            attributes: Default::default(),
        },
    }
}
