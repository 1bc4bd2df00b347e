//! Which sessions have applied what they were sent of networks: a task that leaves a network gets its stop signal once
//! every node that can be reached leads new connections elsewhere.
//!
//! It lives in the leader's memory: a new leader knows nothing of it, and nobody waits for what an old one was asked.

/// What is known of one session. Indexes are applied indexes of the state that was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Settling {
    /// The newest that it was sent of networks.
    sent: u64,
    /// The newest that stands there; `None` for an agent that never says so.
    applied: Option<u64>,
    /// What its agent waits for.
    awaits: Option<u64>,
}

impl Settling {
    /// It was sent something of networks.
    pub fn sent(&mut self, index: u64) {
        self.sent = index;
    }

    /// Its agent says what stands.
    pub fn applied(&mut self, index: u64) {
        self.applied = self.applied.max(Some(index));
    }

    /// Its agent asks to be told when everything up to this index stands everywhere.
    pub fn awaits(&mut self, index: u64) {
        self.awaits = self.awaits.max(Some(index));
    }

    /// Whether it may still lead connections as before this index.
    fn is_behind(&self, index: u64) -> bool {
        self.applied
            .is_some_and(|applied| applied < self.sent && applied < index)
    }

    /// What its agent can be told, given all sessions; asked for once.
    pub fn answer(&mut self, all: &[Settling]) -> Option<u64> {
        let index = self.awaits?;
        if all.iter().any(|other| other.is_behind(index)) {
            return None;
        }
        self.awaits.take()
    }

    /// Whether its agent waits for anything.
    pub fn is_awaiting(&self) -> bool {
        self.awaits.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(sent: u64, applied: Option<u64>) -> Settling {
        Settling {
            sent,
            applied,
            awaits: None,
        }
    }

    fn answered(index: u64, others: &[Settling]) -> Option<u64> {
        let mut asking = session(0, None);
        asking.awaits(index);
        asking.answer(others)
    }

    #[test]
    fn a_session_that_was_sent_more_than_it_applied_is_waited_for() {
        assert_eq!(answered(7, &[session(7, Some(6))]), None);
        assert_eq!(answered(7, &[session(7, Some(7)), session(6, Some(6))]), Some(7));
    }

    #[test]
    fn a_session_without_networks_of_its_own_or_word_of_them_is_not() {
        assert_eq!(answered(7, &[session(3, Some(3))]), Some(7));
        assert_eq!(answered(7, &[session(7, None)]), Some(7));
    }

    #[test]
    fn what_comes_later_delays_nobody() {
        assert_eq!(answered(7, &[session(9, Some(7))]), Some(7));
    }

    #[test]
    fn an_agent_is_told_once() {
        let mut asking = session(0, None);
        asking.awaits(7);
        assert_eq!((asking.answer(&[]), asking.answer(&[])), (Some(7), None));
        assert!(!asking.is_awaiting());
    }
}
