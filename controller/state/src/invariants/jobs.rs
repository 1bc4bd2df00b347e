//! What must be so of jobs.

use super::{Violation, broken};
use crate::ClusterState;
use muster_types::{DesiredState, Task, TaskState};

/// Once a task of a slot is known to have completed in a run of its job, no other task of that run begins there. Two may
/// still complete where a node was out of reach while its task was replaced: nobody could know.
pub(super) fn a_slot_completes_exactly_once_as_far_as_known(
    before: &ClusterState,
    after: &ClusterState,
    found: &mut Vec<Violation>,
) {
    for item in before.tasks.diff(&after.tasks) {
        let (old, task) = match item {
            imbl::ordmap::DiffItem::Add(_, task) => (None, task),
            imbl::ordmap::DiffItem::Update { old, new } => (Some(old.1), new.1),
            imbl::ordmap::DiffItem::Remove(..) => continue,
        };
        let was_let_run = old.is_some_and(|old| old.desired == DesiredState::Running);
        // A report may be committed between a task's decision and its creation; it is then made and never let run.
        let begins = !was_let_run && task.desired == DesiredState::Running;
        if begins && is_of_job(after, task) && was_complete(before, task) {
            found.push(broken(
                "a job slot completes exactly once as far as the cluster can know",
                task.id,
                format!(
                    "begins in slot {} of service {}, which completed",
                    task.slot, task.service
                ),
            ));
        }
    }
}

fn is_of_job(state: &ClusterState, task: &Task) -> bool {
    let revision = state.template(task.service, task.template_version);
    revision.is_some_and(|revision| revision.iteration.is_some())
}

fn was_complete(before: &ClusterState, task: &Task) -> bool {
    before.tasks_of_slot(task.service, task.slot).any(|other| {
        other.id != task.id
            && other.template_version == task.template_version
            && other.status.state == TaskState::Complete
    })
}
