//! Changes of task rows: the one place that enforces who may change what of a task.

use crate::networks::held;
use crate::{Change, ClusterState, NewTask, ObjectKey, Rejection, Reporter, Touched};
use muster_types::task::{Actor, may_transition};
use muster_types::{DesiredState, Meta, NodeId, Service, ServiceId, Task, TaskId, TaskState, TaskStatus};

impl ClusterState {
    pub(super) fn apply_task(&mut self, change: &Change, touched: &mut Touched) -> Result<(), Rejection> {
        match change {
            Change::TaskCreate(new) => self.create_task(new, touched),
            Change::TaskControl {
                task,
                node,
                desired,
                start_after,
                reason,
                addresses,
            } => {
                let mut row = self.task_row(*task)?;
                if !addresses.is_empty() {
                    self.check_new_places(held(&row), addresses)?;
                    self.note_given(addresses);
                    row.addresses.clone_from(addresses);
                }
                touched.loads |= row.node.is_none() && node.is_some();
                row.node = self.assigned_node(&row, *node)?;
                row.desired = forward(*task, row.desired, *desired)?;
                row.start_after = *start_after;
                row.reason = reason.clone();
                row.meta.control_version = self.index;
                row.meta.updated_at = self.time;
                touched.assignments.extend(row.node);
                self.touch_and_put(row, touched);
                Ok(())
            }
            Change::TaskStatus {
                task,
                reporter,
                status,
            } => self.observe_task(*task, *reporter, status, touched),
            Change::TaskRemove { task } => self.remove_task(*task, touched),
            other => unreachable!("apply_change sends only changes of tasks here, not {other:?}"),
        }
    }

    fn task_row(&self, id: TaskId) -> Result<Task, Rejection> {
        let object = ObjectKey::Task(id);
        self.tasks
            .get(&id)
            .map(|task| Task::clone(task))
            .ok_or(Rejection::NotFound { object })
    }

    fn touch_and_put(&mut self, row: Task, touched: &mut Touched) {
        touched.tasks.insert(row.id);
        touched.slots.insert((row.service, row.slot));
        self.touch_task(row.id, Some(&row), touched);
        self.put_task(row);
    }

    fn create_task(&mut self, new: &NewTask, touched: &mut Touched) -> Result<(), Rejection> {
        let task = ObjectKey::Task(new.id);
        if self.tasks.contains_key(&new.id) {
            return Err(Rejection::AlreadyExists { object: task });
        }
        let template = ObjectKey::Template(new.service, new.template_version);
        if !self.exists(template) {
            return Err(Rejection::NotFound { object: template });
        }
        let service = ObjectKey::Service(new.service);
        match self.services.get(&new.service) {
            None => return Err(Rejection::NotFound { object: service }),
            Some(row) if row.removing => return Err(Rejection::Removing { object: service }),
            Some(_) => {}
        }
        self.check_node(new.node)?;
        self.check_free(&new.addresses)?;
        self.note_given(&new.addresses);
        let row = Task {
            id: new.id,
            meta: Meta {
                spec_version: new.template_version,
                ..self.new_meta()
            },
            service: new.service,
            slot: new.slot,
            template_version: new.template_version,
            node: new.node,
            desired: new.desired,
            start_after: new.start_after,
            reason: new.reason.clone(),
            status: TaskStatus {
                attempt: 0,
                state: match new.node {
                    Some(_) => TaskState::Assigned,
                    None => TaskState::Pending,
                },
                at: self.time,
                message: new.message.clone(),
                error: new.error.clone(),
                container: None,
            },
            addresses: new.addresses.clone(),
        };
        touched.loads |= row.node.is_some();
        touched.assignments.extend(row.node);
        self.touch_and_put(row, touched);
        self.note_creation(new.service);
        Ok(())
    }

    /// Raises the service's control version, so that a second decision made on the state before this task existed is
    /// rejected by its precondition instead of creating the task twice.
    fn note_creation(&mut self, service: ServiceId) {
        if let Some(row) = self.services.get(&service)
            && row.meta.control_version != self.index
        {
            let mut row = Service::clone(row);
            row.meta.control_version = self.index;
            self.put_service(row);
        }
    }

    fn check_node(&self, node: Option<NodeId>) -> Result<(), Rejection> {
        match node.map(ObjectKey::Node) {
            Some(object) if !self.exists(object) => Err(Rejection::NotFound { object }),
            Some(_) | None => Ok(()),
        }
    }

    /// The task's node after a change that names `node` (`None`: unchanged).
    fn assigned_node(&self, row: &Task, node: Option<NodeId>) -> Result<Option<NodeId>, Rejection> {
        match (row.node, node) {
            (before, None) => Ok(before),
            (Some(before), Some(after)) if before == after => Ok(Some(before)),
            (Some(_), Some(_)) => Err(Rejection::NodeChange { task: row.id }),
            (None, Some(_)) => {
                self.check_node(node)?;
                Ok(node)
            }
        }
    }

    fn observe_task(
        &mut self,
        id: TaskId,
        reporter: Reporter,
        status: &TaskStatus,
        touched: &mut Touched,
    ) -> Result<(), Rejection> {
        let mut row = self.task_row(id)?;
        if let Reporter::Agent(node) = reporter
            && row.node != Some(node)
        {
            return Err(Rejection::NotTheTasksNode { task: id, node });
        }
        let (from, to) = (
            (row.status.attempt, row.status.state),
            (status.attempt, status.state),
        );
        if !may_observe(reporter, from, to) {
            return Err(Rejection::IllegalTransition { task: id, from, to });
        }
        if row.node.is_none() && (TaskState::Assigned..TaskState::Complete).contains(&to.1) {
            return Err(Rejection::NoNode { task: id });
        }
        touched.loads |= to.1.is_terminal() && row.node.is_some();
        if row.is_terminal() && !to.1.is_terminal() {
            self.drop_lost_addresses(&mut row);
        }
        if row.is_terminal() != to.1.is_terminal() && self.needs_files(&row) {
            touched.assignments.extend(row.node);
        }
        row.status = status.clone();
        row.meta.status_version = self.index;
        row.meta.observed_at = self.time;
        self.touch_and_put(row, touched);
        Ok(())
    }

    fn needs_files(&self, task: &Task) -> bool {
        let revision = self.template(task.service, task.template_version);
        revision.is_some_and(|revision| revision.template.files().next().is_some())
    }

    fn remove_task(&mut self, id: TaskId, touched: &mut Touched) -> Result<(), Rejection> {
        let row = self.task_row(id)?;
        if row.node.is_some() && !row.is_terminal() {
            return Err(Rejection::NotStopped { task: id });
        }
        touched.assignments.extend(row.node);
        touched.slots.insert((row.service, row.slot));
        touched.tasks.insert(id);
        self.touch_task(id, None, touched);
        self.take_task(id);
        Ok(())
    }
}

/// Whether the reporter may say so: a legal transition, or more about the state that the task is in.
fn may_observe(reporter: Reporter, from: (u32, TaskState), to: (u32, TaskState)) -> bool {
    match reporter {
        Reporter::Controller => {
            let unplaced = from.1 < TaskState::Assigned;
            (from == to && unplaced) || may_transition(Actor::Controller, from, to)
        }
        Reporter::Agent(_) => {
            let running = from.1 >= TaskState::Accepted && !from.1.is_terminal();
            (from == to && running) || may_transition(Actor::Agent, from, to)
        }
    }
}

fn forward(task: TaskId, from: DesiredState, to: DesiredState) -> Result<DesiredState, Rejection> {
    if to >= from {
        return Ok(to);
    }
    Err(Rejection::DesiredMovesBack { task, from, to })
}
