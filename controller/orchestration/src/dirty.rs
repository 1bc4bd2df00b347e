//! Where looking may be worth it.

use muster_state::{ClusterState, Touched};
use muster_types::service::ServiceMode;
use muster_types::{NodeId, ServiceId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Where looking may be worth it, and until when the rest may wait.
///
/// A new leader begins with [`Dirty::everything`]. After a call of [`reconcile`](crate::reconcile) the leader goes on
/// with the plan's leftover and adds what every applied entry touched, its own included. When a changeset of a plan
/// was not applied (rejected, dropped, leadership lost) it begins with everything again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dirty {
    pub(crate) everything: bool,
    pub(crate) services: BTreeSet<ServiceId>,
    pub(crate) nodes: BTreeSet<NodeId>,
    /// Tasks without a node may find one.
    pub(crate) unplaced: bool,
    /// When a service is due although nothing changed.
    pub(crate) due: BTreeMap<ServiceId, Timestamp>,
    /// The service that was served last when the budget ended; the next call goes on after it.
    pub(crate) served: Option<ServiceId>,
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
        self.services.extend(&touched.services);
        self.nodes.extend(&touched.nodes);
    }

    /// Adds a service.
    pub fn service(&mut self, service: ServiceId) {
        self.services.insert(service);
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
        self.due.values().min().copied()
    }

    /// The services to look at, beginning after the one served last.
    pub(crate) fn services_in_turn(&self, state: &ClusterState, now: Timestamp) -> Vec<ServiceId> {
        let all = self.services_of(state, now);
        let Some(served) = self.served else {
            return all.into_iter().collect();
        };
        let after = all.iter().filter(|id| **id > served);
        let before = all.iter().filter(|id| **id <= served);
        after.chain(before).copied().collect()
    }

    fn services_of(&self, state: &ClusterState, now: Timestamp) -> BTreeSet<ServiceId> {
        if self.everything {
            return state.services().map(|service| service.id).collect();
        }
        let mut found = self.services.clone();
        found.extend(self.due.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id));
        for node in &self.nodes {
            found.extend(state.tasks_of_node(*node).map(|task| task.service));
        }
        if !self.nodes.is_empty() {
            let global = state
                .services()
                .filter(|service| service.spec.mode == ServiceMode::Global);
            found.extend(global.map(|service| service.id));
        }
        if self.unplaced || !self.nodes.is_empty() {
            found.extend(state.tasks_without_node().map(|task| task.service));
        }
        found.retain(|id| state.service(*id).is_some());
        found
    }
}
