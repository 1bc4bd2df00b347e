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
        // A report may be committed between a task's decision and its creation. It is made to wait for the one before it,
        // of which nobody knew that it had ended, and stopped by the next decision.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::tests::{NODE, TASK, WEB, node, spec, status};
    use crate::{Change, Changeset, Entry, NewTask, Outcome, Reporter};
    use muster_types::{Reason, ServiceMode, ServiceSpec, Slot, TaskId, Timestamp};
    use std::sync::Arc;

    const NEXT: TaskId = TaskId::from_u128(101);

    /// The violations of this step.
    fn step(state: &mut ClusterState, change: Change) -> Vec<Violation> {
        let before = state.clone();
        let changeset = Changeset::new(Reason::UserRequest, vec![change]);
        let entry = Entry::new(Timestamp::ZERO, changeset);
        let applied = state.apply(state.index() + 1, &entry);
        assert_eq!(applied.outcome, Outcome::Applied);
        let mut found = Vec::new();
        a_slot_completes_exactly_once_as_far_as_known(&before, state, &mut found);
        found
    }

    fn task(id: TaskId, desired: DesiredState, template_version: u64) -> Change {
        Change::TaskCreate(NewTask {
            id,
            service: WEB,
            slot: Slot::Node(NODE),
            template_version,
            node: Some(NODE),
            desired,
            start_after: None,
            reason: Reason::MissingOnNode,
            message: String::new(),
            error: None,
            addresses: Vec::new(),
        })
    }

    /// A global job of which the node's slot completed; and the version of its tasks.
    fn completed() -> (ClusterState, u64) {
        let mut state = ClusterState::new();
        let job = ServiceSpec {
            mode: ServiceMode::GlobalJob,
            ..spec("job")
        };
        step(&mut state, node(NODE));
        let create = Change::ServiceCreate {
            service: WEB,
            spec: Arc::new(job),
        };
        step(&mut state, create);
        let version = state.service(WEB).unwrap().template_version;
        assert_eq!(step(&mut state, task(TASK, DesiredState::Running, version)), []);
        let complete = status(Reporter::Agent(NODE), 0, TaskState::Complete);
        assert_eq!(step(&mut state, complete), []);
        (state, version)
    }

    #[test]
    fn what_is_let_run_after_a_completion_is_noticed() {
        let (mut state, version) = completed();
        assert_eq!(
            step(&mut state, task(NEXT, DesiredState::Running, version)).len(),
            1
        );
    }

    #[test]
    fn what_is_made_to_wait_is_noticed_once_it_is_let_run() {
        let (mut state, version) = completed();
        assert_eq!(step(&mut state, task(NEXT, DesiredState::Ready, version)), []);
        let lets_run = Change::TaskControl {
            task: NEXT,
            node: None,
            desired: DesiredState::Running,
            start_after: None,
            reason: Reason::MissingOnNode,
            addresses: Vec::new(),
        };
        assert_eq!(step(&mut state, lets_run).len(), 1);
    }
}
