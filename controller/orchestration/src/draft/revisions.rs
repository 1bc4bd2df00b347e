//! The revisions of a service's template, and what is counted of their tasks.

use super::Draft;
use muster_state::TemplateRevision;
use muster_types::{Slot, Task};
use std::collections::{BTreeMap, BTreeSet};

/// How an older template revision compares with the current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Same,
    /// Up to date on nodes that satisfy the current constraints.
    OnlyConstraints,
    /// Another one, or of another run of a job.
    Different,
}

impl Draft<'_> {
    /// Records of each revision as they shall be.
    pub(crate) fn revisions_left(&self) -> BTreeMap<u64, u64> {
        let mut left: BTreeMap<u64, u64> = self.counted.revisions().collect();
        for task in &self.tasks {
            let count = left.entry(task.row.template_version).or_default();
            match (&task.stored, task.removed) {
                (None, false) => *count += 1,
                (Some(_), true) => *count = count.saturating_sub(1),
                (None, true) | (Some(_), false) => {}
            }
        }
        left.retain(|_, count| *count > 0);
        left
    }

    /// Revisions that say the same as the current one, which is among them.
    pub(crate) fn current_revisions(&self) -> Vec<u64> {
        self.revisions_that(|relation| relation == Relation::Same)
    }

    /// Revisions that say something else than the current one.
    pub(crate) fn stale_revisions(&self) -> Vec<u64> {
        self.revisions_that(|relation| relation == Relation::Different)
    }

    /// Revisions that are current on some nodes only.
    pub(crate) fn relaxed_revisions(&self) -> Vec<u64> {
        self.revisions_that(|relation| relation == Relation::OnlyConstraints)
    }

    fn revisions_that(&self, is: impl Fn(Relation) -> bool) -> Vec<u64> {
        let found = self.relations.iter().filter(|(_, relation)| is(**relation));
        found.map(|(version, _)| *version).collect()
    }

    /// Whether the counts of all tasks have this loaded slot among the replicas.
    pub(crate) fn was_counted(&self, slot: Slot, current: &[u64]) -> bool {
        let indexes = self.slots.get(&slot).map_or(&[][..], Vec::as_slice);
        let stored = || {
            indexes
                .iter()
                .filter_map(|index| self.tasks[*index].stored.as_deref())
        };
        let newest = || stored().max_by_key(|task| (task.meta.created_at, task.id));
        stored().any(Task::wants_to_run)
            || newest()
                .is_some_and(|task| task.reason.ends_slot() && current.contains(&task.template_version))
    }

    /// Whether the counts of all tasks have this loaded slot among those in which nothing follows a task of this revision.
    pub(crate) fn was_ended(&self, slot: Slot, version: u64) -> bool {
        let indexes = self.slots.get(&slot).map_or(&[][..], Vec::as_slice);
        let stored = || {
            indexes
                .iter()
                .filter_map(|index| self.tasks[*index].stored.as_deref())
        };
        let newest = stored().max_by_key(|task| (task.meta.created_at, task.id));
        !stored().any(Task::wants_to_run)
            && newest.is_some_and(|task| task.reason.ends_slot() && task.template_version == version)
    }

    /// Slots whose tasks of a revision that is current on some nodes only lie on one where it is not.
    pub(crate) fn misfit_slots(&self) -> BTreeSet<Slot> {
        let mut found = BTreeSet::new();
        let relaxed = self.relaxed_revisions();
        if relaxed.is_empty() {
            return found;
        }
        for version in &relaxed {
            // Those that have no node are current nowhere.
            let unplaced = self.state.unplaced_tasks_of(self.service.id);
            let stale = unplaced.filter(|task| task.template_version == *version);
            found.extend(stale.map(|task| task.slot));
        }
        for node in self.state.nodes() {
            if muster_scheduler::filter::misfit(&self.constraints, node).is_some() {
                let tasks = self.state.tasks_of_node_and_service(node.id, self.service.id);
                let stale = tasks.filter(|task| relaxed.contains(&task.template_version));
                found.extend(stale.map(|task| task.slot));
            }
        }
        found
    }
}

/// Whoever pulls the image, what runs stays the same, as in Swarm; only new tasks pull.
pub(super) fn relation(older: &TemplateRevision, current: &TemplateRevision) -> Relation {
    let mut relaxed = older.template.as_ref().clone();
    relaxed
        .container
        .registry_auth
        .clone_from(&current.template.container.registry_auth);
    if older.iteration != current.iteration {
        return Relation::Different;
    }
    if relaxed == *current.template && older.ports == current.ports {
        return Relation::Same;
    }
    relaxed
        .placement
        .constraints
        .clone_from(&current.template.placement.constraints);
    match relaxed == *current.template && older.ports == current.ports {
        true => Relation::OnlyConstraints,
        false => Relation::Different,
    }
}
