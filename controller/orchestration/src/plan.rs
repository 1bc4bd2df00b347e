//! What a call of reconcile returns.

use crate::Dirty;
use muster_state::Changeset;
use muster_types::{Reason, ServiceId, Timestamp};

/// Most changes of one plan: at about 400 bytes each they fit one Raft message several times over.
pub const CHANGES_MAX: usize = 1000;

/// What a call of reconcile returns.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// To be proposed in this order. They touch different services and do not depend on each other.
    pub changesets: Vec<Changeset>,
    /// What the leader goes on with; see [`Dirty`].
    pub leftover: Dirty,
    /// Call again at this time even when nothing is touched until then.
    pub wake_at: Option<Timestamp>,
    /// Services with tasks that no node takes.
    pub pending: Vec<Pending>,
    /// How many tasks got a node.
    pub placed: usize,
}

impl Plan {
    /// Number of changes in all changesets.
    pub fn change_count(&self) -> usize {
        self.changesets
            .iter()
            .map(|changeset| changeset.changes.len())
            .sum()
    }
}

/// Tasks that no node takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Their service.
    pub service: ServiceId,
    /// How many.
    pub tasks: usize,
    /// Why.
    pub reason: Reason,
}
