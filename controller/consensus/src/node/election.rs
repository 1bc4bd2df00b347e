//! Election timeouts from the node's own random source.
//!
//! Raft draws them from the thread's random source, which would make two runs of one seed differ. Its draws are
//! overwritten after every step, before a tick can read them.

use crate::seeded::SeededSource;
use crate::store::LogStore;
use raft::{Raft, StateRole};

/// The timeout in force, and what it was drawn for.
pub(super) struct ElectionTimeouts {
    source: SeededSource,
    election_ticks: usize,
    drawn_for: Option<(u64, StateRole, u64)>,
    ticks: usize,
    /// Of two that ask at the same time for the first time, the one of higher rank wins at once.
    rank: i64,
    /// Own attempts since a leader was known.
    attempts: u32,
}

impl ElectionTimeouts {
    pub(super) fn new(seed: u64, raft_id: u64, election_ticks: usize) -> ElectionTimeouts {
        let mut mixed = SeededSource::new(seed ^ raft_id.rotate_left(32));
        let source = SeededSource::new(mixed.draw());
        ElectionTimeouts {
            source,
            election_ticks,
            drawn_for: None,
            ticks: election_ticks,
            rank: (SeededSource::new(raft_id).draw() >> 1) as i64,
            attempts: 0,
        }
    }

    /// Draws anew when term, role or leader changed or an attempt failed, and puts the timeout in force.
    pub(super) fn enforce(&mut self, raft: &mut Raft<LogStore>, attempt_began: bool) {
        let state = (raft.term, raft.state, raft.leader_id);
        if attempt_began || self.drawn_for != Some(state) {
            self.drawn_for = Some(state);
            // One tick more than the lease in which the others refuse to vote, or a first attempt would be wasted.
            let shortest = self.election_ticks + 1;
            self.ticks = shortest + self.source.below(self.election_ticks as u64 - 1) as usize;
        }
        raft.set_randomized_election_timeout(self.ticks);
        self.enforce_rank(raft, attempt_began);
    }

    /// A rank could keep a controller with the better log from being elected, so it ends with the second attempt.
    fn enforce_rank(&mut self, raft: &mut Raft<LogStore>, attempt_began: bool) {
        if raft.leader_id != raft::INVALID_ID {
            self.attempts = 0;
        } else if attempt_began {
            self.attempts += 1;
        }
        raft.set_priority(if self.attempts > 1 { 0 } else { self.rank });
    }
}
