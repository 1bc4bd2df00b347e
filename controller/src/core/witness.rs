//! A look at every entry as it is applied, for checkers. A witness sees and never decides.

use muster_state::{ClusterState, Entry, Outcome};

/// One entry, and the states that it lies between.
#[derive(Debug)]
pub struct Applied<'a> {
    /// Log index.
    pub index: u64,
    /// Term in which it was proposed.
    pub term: u64,
    /// What it said and what became of it; `None` for Raft's own entries.
    pub entry: Option<(&'a Entry, &'a Outcome)>,
    /// Before it.
    pub before: &'a ClusterState,
    /// After it.
    pub after: &'a ClusterState,
}

/// Sees every entry that a controller applies, in order.
pub trait Witness: Send {
    /// An entry was applied.
    fn applied(&mut self, applied: &Applied<'_>);
    /// The state was replaced by a snapshot.
    fn restored(&mut self, state: &ClusterState);
}
