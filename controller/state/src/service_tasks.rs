//! What is counted of a service's tasks, so that a decision about a few of them need not read all.

use crate::ClusterState;
use imbl::{OrdMap, OrdSet};
use muster_types::{NodeId, ServiceId, Slot, Task, TaskId, TaskState};
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

const LAST_SLOT: Slot = Slot::Node(NodeId::from_u128(u128::MAX));

/// Counts and sets over the tasks of one service, kept with every row that is written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServiceTasks {
    records: u64,
    revisions: OrdMap<u64, u64>,
    ended_counts: OrdMap<u64, u64>,
    on_node: OrdMap<NodeId, u64>,
    wanted_slots: u64,
    wanted: OrdSet<(u64, Slot)>,
    ended: OrdSet<(u64, Slot)>,
    starting: OrdSet<Slot>,
    failed: OrdSet<(u64, Slot)>,
}

impl ServiceTasks {
    /// Task records.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Template revisions of which there are records, with how many there are.
    pub fn revisions(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.revisions
            .iter()
            .map(|(version, records)| (*version, *records))
    }

    /// Tasks on a node that shall run and were not seen to stop.
    pub fn on_node(&self, node: NodeId) -> u64 {
        self.on_node.get(&node).copied().unwrap_or(0)
    }

    /// Slots with a task that shall run.
    pub fn wanted_slots(&self) -> u64 {
        self.wanted_slots
    }

    /// Slots with a task of this revision that shall run, in order.
    pub fn wanted_of(&self, version: u64) -> impl DoubleEndedIterator<Item = Slot> + '_ {
        of_version(&self.wanted, version)
    }

    /// The first such slot after this one.
    pub fn wanted_after(&self, version: u64, after: Option<Slot>) -> Option<Slot> {
        let first = after.map_or(Bound::Included((version, Slot::Replica(0))), |slot| {
            Bound::Excluded((version, slot))
        });
        let last = Bound::Included((version, LAST_SLOT));
        self.wanted.range((first, last)).next().map(|(_, slot)| *slot)
    }

    /// Whether the slot has a task of this revision that shall run.
    pub fn wants(&self, version: u64, slot: Slot) -> bool {
        self.wanted.contains(&(version, slot))
    }

    /// How many slots [`ServiceTasks::ended_of`] has.
    pub fn ended_count(&self, version: u64) -> u64 {
        self.ended_counts.get(&version).copied().unwrap_or(0)
    }

    /// Slots in which nothing follows their newest task, of this revision, in order: its restart policy let it end, or
    /// the slot of the job completed.
    pub fn ended_of(&self, version: u64) -> impl DoubleEndedIterator<Item = Slot> + '_ {
        of_version(&self.ended, version)
    }

    /// Slots with a task that shall run and does not yet, in order.
    pub fn starting(&self) -> impl Iterator<Item = Slot> + '_ {
        self.starting.iter().copied()
    }

    /// Slots with a record of this revision that failed or was rejected, in order.
    pub fn failed_of(&self, version: u64) -> impl Iterator<Item = Slot> + '_ {
        of_version(&self.failed, version)
    }

    fn count(&mut self, task: &Task) {
        self.records += 1;
        *self.revisions.entry(task.template_version).or_default() += 1;
        if let Some(node) = serving_on(task) {
            *self.on_node.entry(node).or_default() += 1;
        }
    }

    fn uncount(&mut self, task: &Task) {
        self.records = self.records.saturating_sub(1);
        less(&mut self.revisions, task.template_version);
        if let Some(node) = serving_on(task) {
            less(&mut self.on_node, node);
        }
    }

    fn replace_slot(&mut self, slot: Slot, before: &SlotSummary, after: &SlotSummary) {
        let had = u64::from(!before.wanted.is_empty());
        let has = u64::from(!after.wanted.is_empty());
        self.wanted_slots = (self.wanted_slots + has).saturating_sub(had);
        replace_versions(&mut self.wanted, slot, &before.wanted, &after.wanted);
        replace_versions(&mut self.ended, slot, &before.ended, &after.ended);
        for version in &before.ended {
            less(&mut self.ended_counts, *version);
        }
        for version in &after.ended {
            *self.ended_counts.entry(*version).or_default() += 1;
        }
        replace_versions(&mut self.failed, slot, &before.failed, &after.failed);
        match (before.starting, after.starting) {
            (false, true) => {
                self.starting.insert(slot);
            }
            (true, false) => {
                self.starting.remove(&slot);
            }
            (false, false) | (true, true) => {}
        }
    }
}

fn of_version(set: &OrdSet<(u64, Slot)>, version: u64) -> impl DoubleEndedIterator<Item = Slot> + '_ {
    set.range((version, Slot::Replica(0))..=(version, LAST_SLOT))
        .map(|(_, slot)| *slot)
}

fn less<K: Ord + Clone>(counts: &mut OrdMap<K, u64>, key: K) {
    match counts.get_mut(&key) {
        Some(count) if *count > 1 => *count -= 1,
        Some(_) => {
            counts.remove(&key);
        }
        None => {}
    }
}

fn replace_versions(
    set: &mut OrdSet<(u64, Slot)>,
    slot: Slot,
    before: &BTreeSet<u64>,
    after: &BTreeSet<u64>,
) {
    for version in before.difference(after) {
        set.remove(&(*version, slot));
    }
    for version in after.difference(before) {
        set.insert((*version, slot));
    }
}

/// The node that a task serves on: it shall run there and was not seen to stop.
fn serving_on(task: &Task) -> Option<NodeId> {
    task.node.filter(|_| task.wants_to_run() && !task.is_terminal())
}

/// What one slot's records amount to.
#[derive(Debug, Default, PartialEq)]
struct SlotSummary {
    wanted: BTreeSet<u64>,
    ended: BTreeSet<u64>,
    failed: BTreeSet<u64>,
    starting: bool,
}

impl SlotSummary {
    fn of<'a>(tasks: impl Iterator<Item = &'a Task>) -> Self {
        let mut summary = Self::default();
        let mut newest: Option<&Task> = None;
        for task in tasks {
            if task.wants_to_run() {
                summary.wanted.insert(task.template_version);
                summary.starting |= task.status.state < TaskState::Running;
            }
            if matches!(task.status.state, TaskState::Failed | TaskState::Rejected) {
                summary.failed.insert(task.template_version);
            }
            let age = |task: &Task| (task.meta.created_at, task.id);
            if newest.is_none_or(|newest| age(newest) < age(task)) {
                newest = Some(task);
            }
        }
        if let Some(newest) = newest
            && newest.reason.ends_slot()
            && summary.wanted.is_empty()
        {
            summary.ended.insert(newest.template_version);
        }
        summary
    }
}

/// What of a task its slot's summary is made from.
fn projection(task: &Task) -> (bool, bool, bool, bool, Option<NodeId>) {
    (
        task.wants_to_run(),
        task.status.state < TaskState::Running,
        matches!(task.status.state, TaskState::Failed | TaskState::Rejected),
        task.reason.ends_slot(),
        serving_on(task),
    )
}

impl ClusterState {
    /// What is counted of a service's tasks; nothing while it has none.
    pub fn service_tasks(&self, service: ServiceId) -> Arc<ServiceTasks> {
        self.indexes
            .service_tasks
            .get(&service)
            .cloned()
            .unwrap_or_default()
    }

    /// Counts a row that was written, in place of the one before. The table holds the new row already.
    pub(crate) fn count_task(&mut self, before: Option<&Task>, after: &Task) {
        if before.is_some_and(|before| projection(before) == projection(after)) {
            return;
        }
        self.recount(after.service, after.slot, before, Some(after));
    }

    /// Counts a row that was taken out.
    pub(crate) fn uncount_task(&mut self, before: &Task) {
        self.recount(before.service, before.slot, Some(before), None);
        if self
            .indexes
            .service_tasks
            .get(&before.service)
            .is_some_and(|counted| counted.records == 0)
        {
            self.indexes.service_tasks.remove(&before.service);
        }
    }

    fn recount(&mut self, service: ServiceId, slot: Slot, before: Option<&Task>, after: Option<&Task>) {
        let id: Option<TaskId> = after.or(before).map(|task| task.id);
        let others: Vec<Arc<Task>> = self
            .tasks_of_slot(service, slot)
            .filter(|task| Some(task.id) != id)
            .cloned()
            .collect();
        let summary = |own: Option<&Task>| SlotSummary::of(others.iter().map(AsRef::as_ref).chain(own));
        let (was, is) = (summary(before), summary(after));
        let counted = Arc::make_mut(self.indexes.service_tasks.entry(service).or_default());
        if let Some(before) = before {
            counted.uncount(before);
        }
        if let Some(after) = after {
            counted.count(after);
        }
        if was != is {
            counted.replace_slot(slot, &was, &is);
        }
    }
}
