//! Who takes part.

use raft::eraftpb::ConfState;

/// The members, sorted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Membership {
    /// Controllers that vote.
    pub voters: Vec<u64>,
    /// Controllers that only receive the log.
    pub learners: Vec<u64>,
}

impl Membership {
    /// True for voters and learners.
    pub fn contains(&self, raft_id: u64) -> bool {
        self.voters.contains(&raft_id) || self.learners.contains(&raft_id)
    }

    /// Voters needed for a decision.
    pub fn quorum(&self) -> usize {
        self.voters.len() / 2 + 1
    }
}

impl From<&ConfState> for Membership {
    fn from(state: &ConfState) -> Membership {
        let mut voters = state.voters.clone();
        let mut learners = state.learners.clone();
        voters.sort_unstable();
        learners.sort_unstable();
        Membership { voters, learners }
    }
}
