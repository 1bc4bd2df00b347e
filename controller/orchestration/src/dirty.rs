//! Where looking may be worth it.

use crate::due::{Due, FIRST_SLOT};
use imbl::OrdSet;
use muster_state::{ClusterState, Touched};
use muster_types::{NodeId, ServiceId, Slot, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Where looking may be worth it, and until when the rest may wait.
///
/// A new leader begins with [`Dirty::everything`]. After a call of [`reconcile`](crate::reconcile) the leader goes on
/// with the plan's leftover and adds what every applied entry touched, its own included. When a changeset of a plan
/// was not applied (rejected, dropped, leadership lost) it begins with everything again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dirty {
    pub(crate) everything: bool,
    pub(crate) services: BTreeMap<ServiceId, Look>,
    pub(crate) nodes: BTreeSet<NodeId>,
    /// Tasks without a node may find one.
    pub(crate) unplaced: bool,
    /// When slots are due although nothing changed.
    pub(crate) due: Due,
    /// The service that was served last when the budget ended; the next call goes on after it.
    pub(crate) served: Option<ServiceId>,
}

/// What of a service is worth a look. Its row, its counts and its tasks without a node always are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Look {
    /// Slots of which a task changed, or a node, or which are due.
    pub(crate) slots: OrdSet<Slot>,
    /// Every slot from this one on.
    from: Option<Slot>,
    /// Nodes that have no task of it may have to have one.
    pub(crate) nodes: bool,
}

impl Look {
    /// At everything of the service.
    fn whole() -> Self {
        Self {
            slots: OrdSet::new(),
            from: Some(FIRST_SLOT),
            nodes: true,
        }
    }

    fn merge(&mut self, other: Self) {
        self.slots.extend(other.slots);
        self.from = match (self.from, other.from) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        self.nodes |= other.nodes;
    }

    /// No slot is left to look at.
    pub(crate) fn has_no_slots(&self) -> bool {
        self.slots.is_empty() && self.from.is_none()
    }

    /// Takes so many slots out, in order: first those that changed, then the others of a look at all.
    pub(crate) fn take_slots(
        &mut self,
        state: &ClusterState,
        service: ServiceId,
        most: usize,
    ) -> BTreeSet<Slot> {
        let mut taken = BTreeSet::new();
        while taken.len() < most
            && let Some(slot) = self.slots.remove_min()
        {
            taken.insert(slot);
        }
        let Some(from) = self.from else {
            return taken;
        };
        self.from = None;
        for slot in state.slots_of_service(service, from) {
            if taken.len() >= most && !taken.contains(&slot) {
                self.from = Some(slot);
                break;
            }
            taken.insert(slot);
        }
        taken
    }
}

impl Dirty {
    /// Nothing is worth a look.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Everything is.
    pub fn everything() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }

    /// Adds the rows that an entry changed.
    pub fn touch(&mut self, touched: &Touched) {
        self.everything |= touched.cluster;
        self.unplaced |= touched.loads;
        for service in &touched.services {
            self.services.entry(*service).or_default().nodes = true;
        }
        for service in &touched.whole_services {
            self.services.entry(*service).or_default().merge(Look::whole());
        }
        for (service, slot) in &touched.slots {
            self.services.entry(*service).or_default().slots.insert(*slot);
        }
        self.nodes.extend(&touched.nodes);
    }

    /// Adds a service.
    pub fn service(&mut self, service: ServiceId) {
        self.services.entry(service).or_default().merge(Look::whole());
    }

    /// Whether a call at `now` would look at anything.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.everything
            || self.unplaced
            || !self.services.is_empty()
            || !self.nodes.is_empty()
            || self.wake_at().is_some_and(|at| at <= now)
    }

    /// When the first service is due although nothing changed.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.due.first()
    }

    /// What to look at, by service, also services that are gone.
    pub(crate) fn looks(&self, state: &ClusterState, now: Timestamp) -> BTreeMap<ServiceId, Look> {
        let mut found = self.services.clone();
        if self.everything {
            for service in state.services() {
                found.entry(service.id).or_default().merge(Look::whole());
            }
            return found;
        }
        for (service, slot) in self.due.until(now) {
            found.entry(service).or_default().slots.insert(slot);
        }
        for node in &self.nodes {
            for task in state.tasks_of_node(*node) {
                found.entry(task.service).or_default().slots.insert(task.slot);
            }
        }
        if !self.nodes.is_empty() {
            let global = state.services().filter(|service| service.spec.mode.is_per_node());
            for service in global {
                found.entry(service.id).or_default().nodes = true;
            }
        }
        if self.unplaced || !self.nodes.is_empty() {
            let unplaced = state.services_with_unplaced_tasks().into_iter();
            for service in unplaced.chain(state.services_without_vip()) {
                found.entry(service).or_default();
            }
        }
        found
    }

    /// The services to look at, beginning after the one served last.
    pub(crate) fn in_turn(&self, looks: &BTreeMap<ServiceId, Look>) -> Vec<ServiceId> {
        let Some(served) = self.served else {
            return looks.keys().copied().collect();
        };
        let after = looks.keys().filter(|id| **id > served);
        let before = looks.keys().filter(|id| **id <= served);
        after.chain(before).copied().collect()
    }
}
