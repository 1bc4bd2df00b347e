//! Tasks in answers.

use super::{container::time, overlay, service};
use crate::backend::TaskView;
use crate::wire::ObjectVersion;
use crate::wire::task::Task;
use muster_types::task::Slot;
use muster_types::{DesiredState, Reason, TaskState};
use serde_json::{Value, json};

/// Writes a task.
pub(crate) fn write(view: &TaskView) -> Task {
    let task = &view.task;
    let meta = &task.meta;
    let own_node = match task.slot {
        Slot::Node(node) => Some(node),
        Slot::Replica(_) => None,
    };
    Task {
        id: task.id.to_string(),
        // Nobody updates tasks, so that every change may count.
        version: ObjectVersion {
            index: meta
                .spec_version
                .max(meta.control_version)
                .max(meta.status_version),
        },
        created_at: time(meta.created_at),
        updated_at: time(meta.updated_at.max(task.status.at)),
        labels: Default::default(),
        spec: service::write_template(&view.template),
        service_id: task.service.to_string(),
        slot: match task.slot {
            Slot::Replica(number) => Some(number),
            Slot::Node(_) => None,
        },
        // Where it will go is known before there is room for it.
        node_id: task
            .node
            .or(own_node)
            .map(|node| node.to_string())
            .unwrap_or_default(),
        status: status(view),
        desired_state: desired_state(view),
        networks_attachments: view.places.iter().map(overlay::attachment).collect(),
        job_iteration: view.iteration.map(|index| ObjectVersion { index }),
    }
}

/// What is wanted of a task; of a job's that it completes, also once it has.
pub(crate) fn desired_state(view: &TaskView) -> &'static str {
    let task = &view.task;
    let completes = match task.desired {
        DesiredState::Running => true,
        DesiredState::Shutdown => {
            task.status.state == TaskState::Complete && task.reason == Reason::Completed
        }
        DesiredState::Ready | DesiredState::Remove => false,
    };
    match view.iteration {
        Some(_) if completes => "complete",
        Some(_) | None => task.desired.name(),
    }
}

fn status(view: &TaskView) -> Value {
    let status = &view.task.status;
    let mut value = json!({
        "Timestamp": time(status.at),
        "State": status.state.name(),
        "Message": status.message,
        "PortStatus": {},
    });
    if let Some(error) = &status.error {
        value["Err"] = error.as_str().into();
    }
    if let Some(container) = &status.container {
        value["ContainerStatus"] = json!({
            "ContainerID": container.id.as_str(),
            "PID": container.pid,
            "ExitCode": container.exit_code.unwrap_or(0),
        });
        let ports: Vec<Value> = container
            .ports
            .iter()
            .map(|(protocol, target, published)| {
                json!({
                    "Protocol": protocol.to_string(),
                    "TargetPort": target,
                    "PublishedPort": published,
                    "PublishMode": "host",
                })
            })
            .collect();
        if !ports.is_empty() {
            value["PortStatus"] = json!({"Ports": ports});
        }
    }
    value
}
