//! Tasks.

use crate::backend::{ErrorKind, TaskSelection, TaskView};
use crate::convert;
use crate::http::{Call, Failure, Filters, Object, Reply, json_gated};

const FILTERS: &[&str] = &[
    "_up-to-date",
    "desired-state",
    "id",
    "label",
    "name",
    "node",
    "runtime",
    "service",
];

/// `GET /tasks`.
pub(super) async fn list(call: Call) -> Reply {
    let filters = Filters::parse(&call.query, FILTERS)?;
    const STATES: &[&str] = &["running", "shutdown", "accepted", "ready", "complete", "remove"];
    if let Some(bad) = filters
        .values("desired-state")
        .find(|state| !STATES.contains(state))
    {
        return Err(Failure::invalid(format!("invalid filter 'desired-state={bad}'")));
    }
    let up_to_date = filters.truth("_up-to-date")?;
    let Some(selection) = selection(&call, &filters).await? else {
        return json_gated(Object::Task, call.version, &[(); 0]);
    };
    let tasks: Vec<_> = call
        .cluster()
        .task_list(selection)
        .await?
        .iter()
        .filter(|view| up_to_date.is_none_or(|wanted| wanted == view.up_to_date))
        .filter(|view| matches(view, &filters))
        .map(convert::task::write)
        .collect();
    json_gated(Object::Task, call.version, &tasks)
}

/// The services and nodes that the filters name; `None` when they name none that exists.
async fn selection(call: &Call, filters: &Filters) -> Result<Option<TaskSelection>, Failure> {
    let mut selection = TaskSelection::default();
    for reference in filters.values("service") {
        match call.cluster().service_inspect(reference).await {
            Ok(view) => selection.services.push(view.service.id),
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    for reference in filters.values("node") {
        match call.cluster().node_inspect(reference).await {
            Ok(view) => selection.nodes.push(view.node.id),
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    let unknown = (filters.has("service") && selection.services.is_empty())
        || (filters.has("node") && selection.nodes.is_empty());
    Ok((!unknown).then_some(selection))
}

fn matches(view: &TaskView, filters: &Filters) -> bool {
    let task = &view.task;
    let id = task.id.to_string();
    let name = format!("{}.{}.{id}", view.service_name, task.slot);
    filters.prefix("id", &id)
        && filters.prefix("name", &name)
        && filters.exact("desired-state", convert::task::desired_state(view))
        && filters.labels("label", &view.template.container.labels)
        && filters.exact("runtime", "container")
}

/// `GET /tasks/{id}`.
pub(super) async fn inspect(call: Call) -> Reply {
    let view = call.cluster().task_inspect(call.reference()).await?;
    json_gated(Object::Task, call.version, &convert::task::write(&view))
}
