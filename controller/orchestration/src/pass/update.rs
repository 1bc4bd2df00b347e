//! Rolling updates and rollbacks: stale tasks are replaced a few slots at a time.

use super::global::may_be_replaced;
use crate::draft::{Draft, TaskIndex};
use muster_types::service::{FailureAction, UpdateConfig, UpdateOrder, UpdateState, UpdateStatus};
use muster_types::{DesiredState, Reason, Slot, TaskState, Timestamp};
use std::time::Duration;

/// Replaces tasks that do not run what the service says, as its update settings say.
pub(super) fn replace_stale_tasks(draft: &mut Draft<'_>) {
    if draft.service.removing {
        return;
    }
    let config = config(draft);
    finish_overlaps(draft, config.order);
    let stale = stale_slots(draft);
    let Some(started_at) = begin(draft, &stale) else {
        return;
    };
    let progress = Progress::of(draft, &stale, started_at, &config);
    if let Some(failed) = progress.failed_too_often(draft, &config) {
        fail(draft, &config, failed);
        return;
    }
    let parallelism = match config.parallelism {
        0 => usize::MAX,
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let free = parallelism.saturating_sub(progress.busy);
    for slot in stale.iter().take(free) {
        if !replace(draft, *slot, config.order) {
            return;
        }
    }
    if stale.is_empty() && progress.busy == 0 {
        complete(draft, progress.settled_at);
    }
}

/// Where an update stands, read from the records.
struct Progress {
    /// Slots whose replacement does not run yet, or not for long enough.
    busy: usize,
    /// Slots that belong to the update.
    slots: usize,
    /// A task of each slot whose replacement failed.
    failed: Vec<TaskIndex>,
    /// When the newest replacement will have been watched for long enough.
    settled_at: Timestamp,
}

impl Progress {
    fn of(draft: &mut Draft<'_>, stale: &[Slot], started_at: Timestamp, config: &UpdateConfig) -> Self {
        let mut progress = Self {
            busy: 0,
            slots: stale.len(),
            failed: Vec::new(),
            settled_at: started_at,
        };
        for slot in draft.slot_list() {
            let replacements: Vec<TaskIndex> = draft
                .in_slot(slot)
                .filter(|index| draft.is_current(*index) && draft.task(*index).meta.created_at >= started_at)
                .collect();
            let Some(newest) = replacements.last() else {
                continue;
            };
            progress.slots += 1;
            let failure = replacements.iter().find(|index| has_failed(draft, **index));
            progress.failed.extend(failure);
            let until = busy_until(draft, failure.copied(), *newest, config.delay);
            match until {
                Busy::Until(at) if at > draft.now => {
                    draft.wake(at);
                    progress.busy += 1;
                }
                Busy::Starting => progress.busy += 1,
                Busy::Until(_) | Busy::Done => {}
            }
            let task = draft.task(*newest);
            if draft.is_wanted(*newest) && task.status.state == TaskState::Running {
                let watched = task.meta.observed_at.after(monitor(config));
                progress.settled_at = progress.settled_at.max(watched);
            }
        }
        progress
    }

    /// A failed task, when more slots failed than the settings allow.
    fn failed_too_often(&self, draft: &Draft<'_>, config: &UpdateConfig) -> Option<TaskIndex> {
        let first = self.failed.first()?;
        let rolling_back = draft
            .update
            .as_ref()
            .is_some_and(|update| is_rollback(update.state));
        let continues = match config.failure_action {
            FailureAction::Continue => true,
            FailureAction::Pause => false,
            // A rollback is never rolled back again; it pauses.
            FailureAction::Rollback => !rolling_back && draft.service.previous_spec.is_none(),
        };
        let ratio = self.failed.len() as f32 / self.slots.max(1) as f32;
        (!continues && ratio > config.failure_ratio_max).then_some(*first)
    }
}

enum Busy {
    Starting,
    Until(Timestamp),
    Done,
}

/// A slot is served when its first replacement ran, or failed, and the delay passed.
fn busy_until(draft: &Draft<'_>, failure: Option<TaskIndex>, newest: TaskIndex, delay: Duration) -> Busy {
    if let Some(failure) = failure {
        return Busy::Until(draft.task(failure).meta.observed_at.after(delay));
    }
    let task = draft.task(newest);
    match task.status.state {
        TaskState::Running => Busy::Until(task.meta.observed_at.after(delay)),
        state if state < TaskState::Running && draft.is_wanted(newest) => Busy::Starting,
        _ => Busy::Done,
    }
}

fn has_failed(draft: &Draft<'_>, index: TaskIndex) -> bool {
    matches!(
        draft.task(index).status.state,
        TaskState::Failed | TaskState::Rejected
    )
}

/// A watch that ends before the next batch begins would miss it, so it lasts longer than the delay (as in Swarm).
fn monitor(config: &UpdateConfig) -> Duration {
    if config.delay >= config.monitor {
        config.delay.saturating_add(Duration::from_secs(1))
    } else {
        config.monitor
    }
}

fn is_rollback(state: UpdateState) -> bool {
    match state {
        UpdateState::RollbackStarted | UpdateState::RollbackPaused | UpdateState::RollbackCompleted => true,
        UpdateState::Updating | UpdateState::Paused | UpdateState::Completed => false,
    }
}

fn config(draft: &Draft<'_>) -> UpdateConfig {
    match &draft.update {
        Some(update) if is_rollback(update.state) => draft.service.spec.rollback,
        Some(_) | None => draft.service.spec.update,
    }
}

/// Start-first: once the new task runs, the stale one stops.
fn finish_overlaps(draft: &mut Draft<'_>, order: UpdateOrder) {
    for index in draft.indexes() {
        if !draft.is_wanted(index) || draft.is_current(index) {
            continue;
        }
        let slot = draft.task(index).slot;
        let successor = draft
            .in_slot(slot)
            .filter(|other| draft.is_wanted(*other) && draft.is_current(*other))
            .last();
        let Some(successor) = successor else {
            continue;
        };
        let runs = draft.task(successor).status.state == TaskState::Running;
        if runs || order == UpdateOrder::StopFirst {
            if !draft.has_room_for(index) {
                return;
            }
            let by = draft.task(successor).id;
            draft.set_desired(index, DesiredState::Shutdown, Reason::Replaced { by });
        }
    }
}

/// Slots served by a stale task only.
fn stale_slots(draft: &Draft<'_>) -> Vec<Slot> {
    let served_stale = |slot: &Slot| {
        // A replacement that its restart policy let end is not tried again; the stale task stays.
        if draft.is_finished(*slot) || !may_be_replaced(draft, *slot) {
            return false;
        }
        let mut wanted = draft
            .in_slot(*slot)
            .filter(|index| draft.is_wanted(*index))
            .peekable();
        wanted.peek().is_some() && wanted.all(|index| !draft.is_current(index))
    };
    draft.slot_list().into_iter().filter(served_stale).collect()
}

/// When the update in progress began, beginning one if there are stale tasks; `None` when there is nothing to do.
fn begin(draft: &mut Draft<'_>, stale: &[Slot]) -> Option<Timestamp> {
    if let Some(update) = &draft.update {
        match update.state {
            UpdateState::Updating | UpdateState::RollbackStarted => return Some(update.started_at),
            UpdateState::Paused | UpdateState::RollbackPaused => return None,
            UpdateState::Completed | UpdateState::RollbackCompleted => {}
        }
    }
    if stale.is_empty() {
        return None;
    }
    draft.update = Some(UpdateStatus {
        state: UpdateState::Updating,
        started_at: draft.now,
        completed_at: None,
        message: "update in progress".to_owned(),
    });
    Some(draft.now)
}

/// Replaces the slot's stale tasks; `false` when the budget ended.
fn replace(draft: &mut Draft<'_>, slot: Slot, order: UpdateOrder) -> bool {
    let stale: Vec<TaskIndex> = draft
        .in_slot(slot)
        .filter(|index| draft.is_wanted(*index))
        .collect();
    if !draft.has_room(2 * stale.len() + 1) {
        return false;
    }
    match order {
        UpdateOrder::StartFirst => {
            // One stale task serves until the new one runs: one that runs itself, if there is one.
            let runs = |index: &&TaskIndex| draft.task(**index).status.state == TaskState::Running;
            let serving = stale.iter().find(runs).or(stale.last()).copied();
            for index in stale.iter().filter(|index| Some(**index) != serving) {
                draft.set_desired(*index, DesiredState::Shutdown, Reason::OutOfDate);
            }
            create_overlapping(draft, slot);
        }
        UpdateOrder::StopFirst => {
            // The task is made after the others are told to stop, so that it waits for them.
            for index in &stale {
                draft.set_desired(*index, DesiredState::Shutdown, Reason::OutOfDate);
            }
            draft.create(slot, None, Reason::OutOfDate);
        }
    }
    true
}

/// The new task runs beside the stale one that serves, whatever else of the slot still stops.
fn create_overlapping(draft: &mut Draft<'_>, slot: Slot) {
    let new = draft.create(slot, None, Reason::OutOfDate);
    draft.set_desired(new, DesiredState::Running, Reason::OutOfDate);
}

/// Another service may have taken a port of the previous spec; then the update pauses instead.
fn may_roll_back(draft: &Draft<'_>) -> bool {
    let previous = draft.service.previous_spec.as_ref();
    previous.is_some_and(|spec| {
        draft
            .state
            .check_ports_free(draft.service.id, &spec.ports)
            .is_ok()
    })
}

fn fail(draft: &mut Draft<'_>, config: &UpdateConfig, failed: TaskIndex) {
    let rolling_back = draft
        .update
        .as_ref()
        .is_some_and(|update| is_rollback(update.state));
    let task = draft.task(failed).id;
    if config.failure_action == FailureAction::Rollback && !rolling_back && may_roll_back(draft) {
        draft.rollback = Some(format!(
            "update rolled back due to failure or early termination of task {task}"
        ));
        return;
    }
    let (state, word) = match rolling_back {
        true => (UpdateState::RollbackPaused, "rollback"),
        false => (UpdateState::Paused, "update"),
    };
    if let Some(update) = &mut draft.update {
        update.state = state;
        update.message = format!("{word} paused due to failure or early termination of task {task}");
    }
}

/// Ends the update once the newest replacement has been watched for long enough.
fn complete(draft: &mut Draft<'_>, settled_at: Timestamp) {
    if settled_at > draft.now {
        draft.wake(settled_at);
        return;
    }
    let now = draft.now;
    if let Some(update) = &mut draft.update {
        let (state, message) = match is_rollback(update.state) {
            true => (UpdateState::RollbackCompleted, "rollback completed"),
            false => (UpdateState::Completed, "update completed"),
        };
        update.state = state;
        update.message = message.to_owned();
        update.completed_at = Some(now);
    }
}
