//! The agent's decisions: assignments and observations in, actions out.

use crate::leaving::Leaving;
use crate::report::{Report, Reporter};
use crate::restored::{Restored, reconcile_found, reconcile_missing};
use crate::task_record::{Phase, Step, TaskRecord};
use muster_types::service::Protocol;
use muster_types::{
    AssignedFile, AssignedTask, AssignmentSet, AssignmentUpdate, ContainerId, DesiredState, TaskId,
    TaskState, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a rebooted node looks for a controller before it runs its tasks again by itself.
pub const REATTEMPT_AFTER: Duration = Duration::from_secs(10);

/// An effect for the shell to perform. Every engine operation is answered by exactly one [`Observation`].
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make image, network and container of this task.
    Prepare(Box<AssignedTask>),
    /// Start the container.
    Start {
        /// The task.
        task: Box<AssignedTask>,
        /// Its container.
        container: ContainerId,
        /// The secrets and configs that it needs, where the node was given them.
        files: Vec<AssignedFile>,
    },
    /// Stop the container: stop signal, grace, SIGKILL.
    Stop {
        /// The task.
        task: TaskId,
        /// Its container.
        container: ContainerId,
    },
    /// Remove the container.
    Remove {
        /// The task.
        task: TaskId,
        /// Its container.
        container: ContainerId,
    },
    /// Send these statuses over the session.
    Report(Report),
    /// Ask the leader to say once every node has applied what it was told of networks up to this applied index.
    AwaitSettled {
        /// The index.
        index: u64,
    },
    /// Keep the assignment set and the records on disk.
    Persist,
}

/// What the shell saw.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation {
    /// Answer to [`Action::Prepare`].
    Prepared {
        /// The task.
        task: TaskId,
        /// Its container, or why there is none.
        result: Result<ContainerId, String>,
    },
    /// Answer to [`Action::Start`].
    Started {
        /// The task.
        task: TaskId,
        /// What runs, or why it could not start.
        result: Result<StartedContainer, String>,
    },
    /// A started container ended; also the answer to [`Action::Stop`].
    Ended {
        /// The task.
        task: TaskId,
        /// Exit code, when it ever ran.
        exit_code: Option<i32>,
        /// Why it ended, when the exit code does not say it.
        error: Option<String>,
    },
    /// The health check passed for the first time, or failed for good.
    Health {
        /// The task.
        task: TaskId,
        /// It passed.
        healthy: bool,
    },
    /// Answer to [`Action::Remove`]. The shell tries until the container is gone.
    Removed {
        /// The task.
        task: TaskId,
    },
}

/// A container that started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StartedContainer {
    /// Process id of its first process.
    pub pid: i32,
    /// Host-mode ports, as (protocol, container port, host port).
    pub ports: Vec<(Protocol, u16, u16)>,
    /// It has a health check; it counts as running once that passes.
    pub health_checked: bool,
}

/// What became of assignments that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// They are what the node goes by from now on.
    Yes,
    /// It has newer ones.
    Older,
    /// They change a set that it does not have: a session must be opened anew, which begins with the whole set.
    Gap,
}

/// The agent's state: the newest assignment set, one record per task, and the session's reports.
#[derive(Debug, Default)]
pub struct AgentCore {
    set: AssignmentSet,
    records: BTreeMap<TaskId, TaskRecord>,
    reporter: Option<Reporter>,
    leaving: Leaving,
    started_at: Timestamp,
    changed: bool,
    /// Tasks whose containers were found and that the file on disk knew nothing of: it was written before they were
    /// assigned. They run on until a set says what is to become of them.
    unheard_of: BTreeSet<TaskId>,
}

impl AgentCore {
    /// The state of a node whose daemon starts: what it had on disk, and what the engine found running.
    pub fn restore(
        set: AssignmentSet,
        mut records: BTreeMap<TaskId, TaskRecord>,
        found: BTreeMap<TaskId, Restored>,
        now: Timestamp,
    ) -> Self {
        let unheard_of = found
            .keys()
            .filter(|task| !records.contains_key(task))
            .copied()
            .collect();
        for (task, restored) in &found {
            let record = records.entry(*task).or_insert_with(|| TaskRecord::accepted(now));
            reconcile_found(record, restored, now);
        }
        for (task, record) in &mut records {
            if !found.contains_key(task) {
                reconcile_missing(record, now);
            }
        }
        Self {
            set,
            records,
            reporter: None,
            leaving: Leaving::default(),
            started_at: now,
            changed: true,
            unheard_of,
        }
    }

    /// The newest assignment set.
    pub fn assignments(&self) -> &AssignmentSet {
        &self.set
    }

    /// One record per task that something exists of.
    pub fn records(&self) -> &BTreeMap<TaskId, TaskRecord> {
        &self.records
    }

    /// A session with the leader began; whether that answers [`Action::AwaitSettled`].
    pub fn session_opened(&mut self, settles: bool) {
        self.reporter = Some(Reporter::default());
        self.leaving.session_opened(settles);
    }

    /// The session ended. Nothing that runs is touched.
    pub fn session_lost(&mut self) {
        self.reporter = None;
        self.leaving.session_lost();
    }

    /// The leader says that every node it can reach has applied what it was told of networks up to this applied index.
    pub fn settled(&mut self, index: u64) {
        self.leaving.settled(index);
    }

    /// Takes a newer assignment set, or what changed in the one it has; changes nothing unless it answers
    /// [`Taken::Yes`].
    pub fn assign(&mut self, update: AssignmentUpdate, now: Timestamp) -> Taken {
        match update.from {
            None if update.age < self.set.age => return Taken::Older,
            Some(_) if update.age <= self.set.age => return Taken::Older,
            Some(from) if from != self.set.age => return Taken::Gap,
            None | Some(_) => {}
        }
        for task in &update.tasks {
            let unknown = !self.records.contains_key(&task.id);
            if unknown && !task.recorded.1.is_terminal() {
                let mut record = TaskRecord::accepted(now);
                record.status.attempt = task.recorded.0;
                self.records.insert(task.id, record);
            }
            if let Some(record) = self.records.get_mut(&task.id)
                && task.recorded.1 >= TaskState::Accepted
            {
                record.acknowledged = record.acknowledged.max(Some(task.recorded));
            }
        }
        self.set.update_networks(&update);
        self.set.update_files(&update);
        if update.from.is_some() {
            let news = update.tasks.iter().map(|task| task.id);
            let replaced: BTreeSet<TaskId> = news.chain(update.gone).collect();
            self.set.tasks.retain(|task| !replaced.contains(&task.id));
        } else {
            self.set.tasks.clear();
        }
        self.set.tasks.extend(update.tasks);
        self.set.node = update.node;
        self.set.age = update.age;
        self.unheard_of.clear();
        self.changed = true;
        Taken::Yes
    }

    /// The controllers committed a report of the live session.
    pub fn report_acknowledged(&mut self, sequence: u64) {
        if let Some(reporter) = &mut self.reporter {
            reporter.acknowledged(sequence, &mut self.records);
            self.changed = true;
        }
    }

    /// Takes in what the shell saw. An observation of a task that is no longer known is ignored.
    pub fn observe(&mut self, observation: Observation, now: Timestamp) {
        self.changed = true;
        match observation {
            Observation::Prepared { task, result } => {
                self.with(task, |record| match result {
                    Ok(container) => record.prepared(container, now),
                    Err(error) => record.prepare_failed(error, now),
                });
            }
            Observation::Started { task, result } => {
                self.with(task, |record| match result {
                    Ok(started) => record.started(started.pid, started.ports, started.health_checked, now),
                    Err(error) => record.ended(None, Some(error), now),
                });
            }
            Observation::Ended {
                task,
                exit_code,
                error,
            } => {
                self.with(task, |record| {
                    if matches!(
                        record.phase,
                        Phase::Starting | Phase::AwaitingHealth | Phase::Running | Phase::Stopping
                    ) {
                        record.ended(exit_code, error, now);
                    }
                });
                self.leaving.forget(&task);
            }
            Observation::Health { task, healthy } => self.observe_health(task, healthy, now),
            Observation::Removed { task } => self.forget(task),
        }
    }

    /// Everything to do now. Call it after every input and at [`AgentCore::wake_at`].
    pub fn tick(&mut self, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        self.reattempt(now);
        self.step_tasks(&mut actions, now);
        let question = self.leaving.question();
        actions.extend(question.map(|index| Action::AwaitSettled { index }));
        if std::mem::take(&mut self.changed) {
            actions.push(Action::Persist);
        }
        if let Some(reporter) = &mut self.reporter
            && let Some(report) = reporter.next(&self.records, now)
        {
            actions.push(Action::Report(report));
        }
        actions
    }

    /// When [`AgentCore::tick`] must be called again, if no input comes before.
    pub fn wake_at(&self) -> Option<Timestamp> {
        let due = match &self.reporter {
            Some(reporter) => reporter.next_at(&self.records),
            None => {
                let waiting = self.records.values().any(|record| record.lost_by_reboot);
                waiting.then(|| self.started_at.after(REATTEMPT_AFTER))
            }
        };
        due.into_iter().chain(self.leaving.wake_at()).min()
    }

    fn step_tasks(&mut self, actions: &mut Vec<Action>, now: Timestamp) {
        let wanted: BTreeMap<TaskId, &AssignedTask> =
            self.set.tasks.iter().map(|task| (task.id, task)).collect();
        let mut gone = Vec::new();
        for (id, record) in &mut self.records {
            let task = wanted.get(id).copied();
            if task.is_none() && self.unheard_of.contains(id) {
                continue;
            }
            record.stop_requested |= task.is_none_or(|task| task.desired >= DesiredState::Shutdown);
            if record.phase == Phase::Absent && record.stop_requested && task.is_some() {
                record.ended(None, None, now);
                self.changed = true;
            }
            match record.next_step(task) {
                Some(Step::Forget) => gone.push(*id),
                Some(Step::Stop)
                    if is_endpoint(record, task) && !self.leaving.may_stop(*id, self.set.age.index, now) => {}
                Some(step) => {
                    // One that waited may be gone from the set meanwhile, and waits no more.
                    self.leaving.forget(id);
                    self.changed = true;
                    actions.extend(perform(*id, record, step, (&self.set, task), now));
                }
                None => {}
            }
        }
        for id in gone {
            self.forget(id);
        }
    }

    fn observe_health(&mut self, task: TaskId, healthy: bool, now: Timestamp) {
        self.with(task, |record| match (record.phase, healthy) {
            (Phase::AwaitingHealth, true) => {
                record.phase = Phase::Running;
                record.advance(TaskState::Running, "started", None, now);
            }
            (Phase::AwaitingHealth | Phase::Running, false) => {
                let error = Some("task: unhealthy container".to_owned());
                record.advance(TaskState::Failed, "started", error, now);
                record.stop_requested = true;
            }
            (
                Phase::Absent
                | Phase::Preparing
                | Phase::Prepared
                | Phase::Starting
                | Phase::Running
                | Phase::Stopping
                | Phase::Ended
                | Phase::Removing,
                _,
            ) => {}
        });
    }

    fn reattempt(&mut self, now: Timestamp) {
        if self.reporter.is_some() || now < self.started_at.after(REATTEMPT_AFTER) {
            return;
        }
        for task in &self.set.tasks {
            if let Some(record) = self.records.get_mut(&task.id)
                && record.may_begin_attempt(task)
            {
                record.begin_attempt(now);
                self.changed = true;
            }
        }
    }

    fn with(&mut self, task: TaskId, change: impl FnOnce(&mut TaskRecord)) {
        if let Some(record) = self.records.get_mut(&task) {
            change(record);
        }
    }

    fn forget(&mut self, task: TaskId) {
        self.records.remove(&task);
        self.leaving.forget(&task);
        if let Some(reporter) = &mut self.reporter {
            reporter.forget(&task);
        }
        self.changed = true;
    }
}

/// Whether others may lead connections to the task until they hear that it is to stop.
fn is_endpoint(record: &TaskRecord, task: Option<&AssignedTask>) -> bool {
    let leaves = task.is_some_and(|task| task.desired >= DesiredState::Shutdown && !task.networks.is_empty());
    record.phase == Phase::Running && leaves
}

/// Marks the operation as under way and names it for the shell.
fn perform(
    id: TaskId,
    record: &mut TaskRecord,
    step: Step,
    (set, task): (&AssignmentSet, Option<&AssignedTask>),
    now: Timestamp,
) -> Option<Action> {
    let container = record.container().cloned();
    match step {
        Step::Prepare => {
            let task = task?.clone();
            record.phase = Phase::Preparing;
            record.advance(TaskState::Preparing, "preparing", None, now);
            Some(Action::Prepare(Box::new(task)))
        }
        Step::Start => {
            let task = task?;
            record.phase = Phase::Starting;
            record.advance(TaskState::Starting, "starting", None, now);
            container.map(|container| Action::Start {
                task: Box::new(task.clone()),
                container,
                files: set.files_of(task),
            })
        }
        Step::Stop => {
            record.phase = Phase::Stopping;
            container.map(|container| Action::Stop { task: id, container })
        }
        Step::Remove => {
            record.phase = Phase::Removing;
            container.map(|container| Action::Remove { task: id, container })
        }
        Step::Forget => None,
    }
}
