//! From a draft to the changeset that makes it so.

use crate::draft::{Draft, TaskDraft};
use muster_state::{Change, Changeset, NewTask, ObjectKey, Part, Precondition, Reporter, service_update};
use muster_types::{Reason, Task};

/// The changeset by which the stored service becomes the draft; `None` when they are the same.
pub(crate) fn of(draft: Draft<'_>) -> Option<Changeset> {
    let mut changes = Vec::new();
    service_row(&draft, &mut changes);
    for task in draft.drafts() {
        task_changes(task, &mut changes);
    }
    let service = draft.service.id;
    let templates = draft.dropped_templates.iter();
    changes.extend(templates.map(|version| Change::TemplateRemove {
        service,
        version: *version,
    }));
    if draft.drop_service {
        changes.push(Change::ServiceRemove { service });
    }
    if changes.is_empty() {
        return None;
    }
    Some(Changeset {
        request: None,
        reason: reason(&draft),
        preconditions: preconditions(&draft),
        changes,
    })
}

fn service_row(draft: &Draft<'_>, changes: &mut Vec<Change>) {
    let service = &draft.service;
    let rolled_back = draft
        .rollback
        .clone()
        .and_then(|message| service_update::automatic_rollback(service, draft.now, message));
    if rolled_back.is_some() {
        changes.extend(rolled_back);
    } else if service.update != draft.update
        || service.allocated_ports != draft.allocated_ports
        || service.vips != draft.vips
    {
        changes.push(Change::ServiceControl {
            service: service.id,
            update: draft.update.clone(),
            allocated_ports: draft.allocated_ports.clone(),
            vips: draft.vips.clone(),
        });
    }
}

fn task_changes(draft: &TaskDraft, changes: &mut Vec<Change>) {
    let row = &draft.row;
    let Some(stored) = &draft.stored else {
        if !draft.removed {
            changes.push(Change::TaskCreate(new_task(row)));
        }
        return;
    };
    let control = |task: &Task| (task.node, task.desired, task.start_after, task.reason.clone());
    if !draft.removed && control(stored) != control(row) {
        changes.push(Change::TaskControl {
            task: row.id,
            node: row.node.filter(|_| stored.node.is_none()),
            desired: row.desired,
            start_after: row.start_after,
            reason: row.reason.clone(),
            addresses: match stored.node {
                None => row.addresses.clone(),
                Some(_) => Vec::new(),
            },
        });
    }
    if !draft.removed && stored.status != row.status {
        changes.push(Change::TaskStatus {
            task: row.id,
            reporter: Reporter::Controller,
            status: row.status.clone(),
        });
    }
    if draft.removed {
        changes.push(Change::TaskRemove { task: row.id });
    }
}

fn new_task(row: &Task) -> NewTask {
    NewTask {
        id: row.id,
        service: row.service,
        slot: row.slot,
        template_version: row.template_version,
        node: row.node,
        desired: row.desired,
        start_after: row.start_after,
        reason: row.reason.clone(),
        message: row.status.message.clone(),
        error: row.status.error.clone(),
        addresses: row.addresses.clone(),
    }
}

/// What the decision read: the service, the tasks it changes, and the nodes that it chose.
fn preconditions(draft: &Draft<'_>) -> Vec<Precondition> {
    let mut found = Vec::new();
    let mut unchanged = |object: ObjectKey, parts: &[Part]| {
        for part in parts {
            if let Some(version) = draft.state.version(object, *part) {
                let part = *part;
                found.push(Precondition::Version {
                    object,
                    part,
                    version,
                });
            }
        }
    };
    unchanged(ObjectKey::Service(draft.service.id), &[Part::Spec, Part::Control]);
    for task in draft.drafts() {
        let Some(stored) = &task.stored else {
            continue;
        };
        let object = ObjectKey::Task(stored.id);
        if !task.removed && stored == &task.row {
            continue;
        }
        // A task that ended may come back only as a higher attempt, and then it must not be replaced.
        match stored.is_terminal() {
            true => unchanged(object, &[Part::Control, Part::Status]),
            false => unchanged(object, &[Part::Control]),
        }
    }
    for node in &draft.relied_on {
        unchanged(ObjectKey::Node(*node), &[Part::Spec, Part::Status]);
    }
    found
}

/// The first task's reason stands for the whole; each task keeps its own.
fn reason(draft: &Draft<'_>) -> Reason {
    if draft.drop_service {
        return Reason::ServiceRemoved;
    }
    let changed = draft.drafts().find(|task| match &task.stored {
        None => !task.removed,
        Some(stored) => task.removed || stored != &task.row,
    });
    match changed {
        Some(task) if task.removed => Reason::HistoryLimit,
        Some(task) => task.row.reason.clone(),
        None => Reason::OutOfDate,
    }
}
