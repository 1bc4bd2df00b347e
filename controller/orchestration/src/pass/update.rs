//! Rolling updates and rollbacks: stale tasks are replaced a few slots at a time.

use super::global::may_be_replaced;
use crate::draft::{Draft, TaskIndex};
use muster_types::service::{FailureAction, UpdateConfig, UpdateOrder, UpdateState, UpdateStatus};
use muster_types::{DesiredState, Reason, Slot, TaskState, Timestamp};
use std::collections::BTreeSet;
use std::time::Duration;

/// Replaces tasks that do not run what the service says, as its update settings say.
pub(super) fn replace_stale_tasks(draft: &mut Draft<'_>) {
    // Tasks of a job's earlier runs are not replaced but over.
    if draft.service.removing || draft.service.job.is_some() {
        return;
    }
    let config = config(draft);
    if draft.scope.whole {
        load_overlaps(draft);
    }
    finish_overlaps(draft, config.order);
    if let Some(started_at) = in_progress(draft) {
        for slot in draft.slot_list() {
            watch(draft, slot, started_at, &config);
        }
    }
    if !draft.scope.whole {
        // What is left to look at may be a replacement that failed, or is watched.
        return;
    }
    let first = next_stale(draft, None);
    let Some(started_at) = begin(draft, first.is_some()) else {
        return;
    };
    if let Some(failed) = failed_too_often(draft, started_at, &config) {
        fail(draft, &config, failed);
        return;
    }
    let parallelism = match config.parallelism {
        0 => usize::MAX,
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    match first {
        None => complete_when_watched(draft, started_at, &config),
        Some(first) if parallelism == usize::MAX => replace_some(draft, first, parallelism, &config),
        Some(first) => {
            let busy = busy_slots(draft, started_at, &config, parallelism);
            replace_some(draft, first, parallelism - busy, &config);
        }
    }
}

fn replace_some(draft: &mut Draft<'_>, first: Slot, most: usize, config: &UpdateConfig) {
    let mut next = Some(first);
    for _ in 0..most {
        let Some(slot) = next else { return };
        if !replace(draft, slot, config.order) {
            return;
        }
        next = next_stale(draft, Some(slot));
    }
}

/// When the update in progress began.
fn in_progress(draft: &Draft<'_>) -> Option<Timestamp> {
    let update = draft.update.as_ref()?;
    match update.state {
        UpdateState::Updating | UpdateState::RollbackStarted => Some(update.started_at),
        UpdateState::Paused
        | UpdateState::Completed
        | UpdateState::RollbackPaused
        | UpdateState::RollbackCompleted => None,
    }
}

/// Where an update stands in one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// No task of the update is there.
    Untouched,
    /// The replacement does not run yet, or not for long enough for the next one to begin.
    Busy,
    /// The replacement is watched.
    Watched,
    /// Whatever comes is no concern of the update.
    Settled,
}

/// Looks at one slot, and sees to it that it is looked at again when a wait is over.
fn watch(draft: &mut Draft<'_>, slot: Slot, started_at: Timestamp, config: &UpdateConfig) -> Stand {
    draft.load(slot);
    let replacements = replacements(draft, slot, started_at);
    let Some(newest) = replacements.last().copied() else {
        return Stand::Untouched;
    };
    let failure = replacements.iter().find(|index| has_failed(draft, **index));
    let busy = busy_until(draft, failure.copied(), newest, config.delay);
    let task = draft.task(newest);
    let runs = draft.is_wanted(newest) && task.status.state == TaskState::Running;
    let watched = runs.then(|| task.meta.observed_at.after(monitor(config)));
    if let Some(until) = watched {
        draft.wake(slot, until);
    }
    match busy {
        Busy::Until(at) if at > draft.now => {
            draft.wake(slot, at);
            Stand::Busy
        }
        Busy::Starting => Stand::Busy,
        Busy::Until(_) | Busy::Done if watched.is_some_and(|until| until > draft.now) => Stand::Watched,
        Busy::Until(_) | Busy::Done => Stand::Settled,
    }
}

/// Tasks of a slot that the update made, oldest first.
fn replacements(draft: &Draft<'_>, slot: Slot, started_at: Timestamp) -> Vec<TaskIndex> {
    draft
        .in_slot(slot)
        .filter(|index| draft.is_current(*index) && draft.task(*index).meta.created_at >= started_at)
        .collect()
}

/// Slots in which the update may wait for something: those that were looked at, those with a task that does not run
/// yet, and those that are due once a wait is over.
fn open_slots(draft: &Draft<'_>) -> BTreeSet<Slot> {
    let mut open: BTreeSet<Slot> = draft.slot_list().into_iter().collect();
    open.extend(draft.counted.starting());
    open.extend(draft.scope.due.of_service(draft.service.id));
    open
}

/// Slots whose replacement does not run yet, or not for long enough; no more than `most` are counted.
fn busy_slots(draft: &mut Draft<'_>, started_at: Timestamp, config: &UpdateConfig, most: usize) -> usize {
    let mut busy = 0;
    for slot in open_slots(draft) {
        if busy >= most {
            break;
        }
        busy += usize::from(watch(draft, slot, started_at, config) == Stand::Busy);
    }
    busy
}

/// Ends the update once every replacement has been watched for long enough.
fn complete_when_watched(draft: &mut Draft<'_>, started_at: Timestamp, config: &UpdateConfig) {
    for slot in open_slots(draft) {
        match watch(draft, slot, started_at, config) {
            Stand::Busy | Stand::Watched => return,
            Stand::Untouched | Stand::Settled => {}
        }
    }
    complete(draft);
}

/// A failed task, when more slots failed than the settings allow.
fn failed_too_often(
    draft: &mut Draft<'_>,
    started_at: Timestamp,
    config: &UpdateConfig,
) -> Option<TaskIndex> {
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
    if continues {
        return None;
    }
    let mut slots: BTreeSet<Slot> = draft.slot_list().into_iter().collect();
    for version in draft
        .current_revisions()
        .into_iter()
        .chain(draft.relaxed_revisions())
    {
        slots.extend(draft.counted.failed_of(version));
    }
    let (mut first, mut failed) = (None, 0);
    for slot in slots {
        draft.load(slot);
        let found = replacements(draft, slot, started_at)
            .into_iter()
            .find(|index| has_failed(draft, *index));
        failed += usize::from(found.is_some());
        first = first.or(found);
        if first.is_some() && config.failure_ratio_max <= 0.0 {
            return first;
        }
    }
    first?;
    let ratio = failed as f32 / updated_slots(draft, started_at).max(1) as f32;
    first.filter(|_| ratio > config.failure_ratio_max)
}

/// How many slots belong to the update. All have to be read for it, which only settings that tolerate some failures
/// ask for, and only after a failure.
fn updated_slots(draft: &mut Draft<'_>, started_at: Timestamp) -> usize {
    draft.load_all();
    let slots = draft.slot_list().into_iter();
    let belongs = |slot: &Slot| is_stale(draft, *slot) || !replacements(draft, *slot, started_at).is_empty();
    slots.filter(belongs).count()
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

/// Loads the slots that have a stale task beside one of the current revision. Where the service is changed back while an
/// update is under way, the old task is the current one at once, and no event of that slot tells.
fn load_overlaps(draft: &mut Draft<'_>) {
    let counted = draft.counted.clone();
    let mut stale = draft.stale_revisions();
    // Old templates stay as long as there are records of them.
    stale.retain(|version| counted.wanted_of(*version).next().is_some());
    if stale.is_empty() {
        return;
    }
    let mut current = draft.current_revisions();
    current.extend(draft.relaxed_revisions());
    // An overlap lasts until both run.
    for slot in counted.starting() {
        let wants = |version: &u64| counted.wants(*version, slot);
        if stale.iter().any(wants) && current.iter().any(wants) {
            draft.load(slot);
        }
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

/// Whether a loaded slot is served by a stale task only.
fn is_stale(draft: &Draft<'_>, slot: Slot) -> bool {
    // A replacement that its restart policy let end is not tried again; the stale task stays.
    if draft.is_finished(slot) || !may_be_replaced(draft, slot) {
        return false;
    }
    let mut wanted = draft
        .in_slot(slot)
        .filter(|index| draft.is_wanted(*index))
        .peekable();
    wanted.peek().is_some() && wanted.all(|index| !draft.is_current(index))
}

/// The first slot after this one that is served by a stale task only.
fn next_stale(draft: &mut Draft<'_>, after: Option<Slot>) -> Option<Slot> {
    let (stale, misfits) = (draft.stale_revisions(), draft.misfit_slots());
    let mut after = after;
    loop {
        let counted = draft.counted.clone();
        let of_revisions = stale
            .iter()
            .filter_map(|version| counted.wanted_after(*version, after));
        let of_nodes = misfits.iter().find(|slot| Some(**slot) > after).copied();
        let candidate = of_revisions.chain(of_nodes).min()?;
        draft.load(candidate);
        if is_stale(draft, candidate) {
            return Some(candidate);
        }
        after = Some(candidate);
    }
}

/// When the update in progress began, beginning one if there are stale tasks; `None` when there is nothing to do.
fn begin(draft: &mut Draft<'_>, stale: bool) -> Option<Timestamp> {
    if let Some(update) = &draft.update {
        match update.state {
            UpdateState::Updating | UpdateState::RollbackStarted => return Some(update.started_at),
            UpdateState::Paused | UpdateState::RollbackPaused => return None,
            UpdateState::Completed | UpdateState::RollbackCompleted => {}
        }
    }
    if !stale {
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
    if !draft.may_add(2 * stale.len() + 1) {
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

/// Another service may have taken a port of the previous spec, or a network of it is gone; then the update pauses instead.
fn may_roll_back(draft: &Draft<'_>) -> bool {
    let previous = draft.service.previous_spec.as_ref();
    previous.is_some_and(|spec| {
        draft
            .state
            .check_ports_free(draft.service.id, &spec.ports)
            .and_then(|()| draft.state.check_networks(spec))
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

fn complete(draft: &mut Draft<'_>) {
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
