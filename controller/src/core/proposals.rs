//! The single proposer: what this controller put into the log and has not seen committed or lost yet.

use super::io::Token;
use crate::control::ControlRequest;
use muster_consensus::ProposalTicket;
use muster_types::{NodeId, RequestId, SessionId};
use std::collections::BTreeMap;
use std::time::Duration;

/// A write is answered within this, with or without quorum (the issue: cluster calls fail within 5 s).
pub const ANSWER_WITHIN: Duration = Duration::from_millis(4500);
/// Most proposals in flight; beyond that writes are refused as busy.
pub const PROPOSALS_MAX: usize = 4096;

/// Whose proposal it is.
#[derive(Debug)]
pub enum Origin {
    /// A user's or node's write.
    Write {
        /// Who waits.
        token: Token,
        /// Its id.
        id: RequestId,
        /// The write.
        request: ControlRequest,
    },
    /// A reconcile changeset.
    Reconcile,
    /// A report of an agent.
    Status {
        /// Its node.
        node: NodeId,
        /// The session.
        session: SessionId,
        /// Number of the report.
        sequence: u64,
    },
    /// A session's first changeset: the node is ready.
    Session {
        /// Its node.
        node: NodeId,
        /// The session.
        session: SessionId,
    },
    /// The end of a session whose daemon restarts.
    Farewell {
        /// Its node.
        node: NodeId,
        /// The session.
        session: SessionId,
    },
    /// A duty of the leader: a node is down, a member votes.
    Duty,
}

/// What became of a proposal.
#[derive(Debug)]
pub enum Fate {
    /// It is the entry that was committed at its index; the time is that of its proposal.
    Committed(Origin, Duration),
    /// Another entry was committed at its index.
    Lost(Origin),
}

#[derive(Debug)]
struct InFlight {
    term: u64,
    since: Duration,
    origin: Origin,
}

/// The proposals in flight, by log index.
#[derive(Debug, Default)]
pub struct Proposals {
    in_flight: BTreeMap<u64, InFlight>,
}

impl Proposals {
    /// Notes a proposal. One that stood at the same index is lost, and returned.
    pub fn insert(&mut self, ticket: ProposalTicket, origin: Origin, since: Duration) -> Option<Origin> {
        let entry = InFlight {
            term: ticket.term,
            since,
            origin,
        };
        self.in_flight.insert(ticket.index, entry).map(|old| old.origin)
    }

    /// No more can be taken now.
    pub fn is_full(&self) -> bool {
        self.in_flight.len() >= PROPOSALS_MAX
    }

    /// An entry was committed: what it means for the proposal at its index, if there was one.
    pub fn committed(&mut self, index: u64, term: u64) -> Option<Fate> {
        let entry = self.in_flight.remove(&index)?;
        Some(if entry.term == term {
            Fate::Committed(entry.origin, entry.since)
        } else {
            Fate::Lost(entry.origin)
        })
    }

    /// Removes and returns the proposals that somebody waited for too long; they may still be committed. What the
    /// leader of the term `leading` decided itself stays in flight until its fate is known: deciding again on a state
    /// that lacks it could do it twice.
    pub fn overdue(&mut self, now: Duration, leading: Option<u64>) -> Vec<Origin> {
        let stays = |entry: &InFlight| match entry.origin {
            Origin::Write { .. } | Origin::Session { .. } | Origin::Farewell { .. } => false,
            Origin::Reconcile | Origin::Duty | Origin::Status { .. } => Some(entry.term) == leading,
        };
        let indexes: Vec<u64> = self
            .in_flight
            .iter()
            .filter(|(_, entry)| now.saturating_sub(entry.since) >= ANSWER_WITHIN && !stays(entry))
            .map(|(index, _)| *index)
            .collect();
        indexes
            .iter()
            .filter_map(|index| self.in_flight.remove(index))
            .map(|entry| entry.origin)
            .collect()
    }

    /// Whether a reconcile changeset is in flight: the next one is decided on what it leads to.
    pub fn reconciling(&self) -> bool {
        self.in_flight
            .values()
            .any(|entry| matches!(entry.origin, Origin::Reconcile))
    }

    /// Whether a duty of the leader is in flight.
    pub fn on_duty(&self) -> bool {
        self.in_flight
            .values()
            .any(|entry| matches!(entry.origin, Origin::Duty))
    }

    /// Whether the write with this id is in flight already.
    pub fn has_write(&self, wanted: RequestId) -> bool {
        let is = |origin: &Origin| matches!(origin, Origin::Write { id, .. } if *id == wanted);
        self.in_flight.values().any(|entry| is(&entry.origin))
    }

    /// This controller installed a snapshot up to `index`: what stood below it has an unknown fate.
    pub fn skipped_to(&mut self, index: u64) -> Vec<Origin> {
        let later = self.in_flight.split_off(&(index + 1));
        std::mem::replace(&mut self.in_flight, later)
            .into_values()
            .map(|entry| entry.origin)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(index: u64, term: u64) -> ProposalTicket {
        ProposalTicket { index, term }
    }

    #[test]
    fn an_entry_of_another_term_means_that_the_proposal_is_lost() {
        let mut proposals = Proposals::default();
        proposals.insert(ticket(5, 1), Origin::Reconcile, Duration::ZERO);
        proposals.insert(ticket(6, 1), Origin::Duty, Duration::ZERO);
        assert!(proposals.reconciling());
        assert!(matches!(
            proposals.committed(5, 1),
            Some(Fate::Committed(Origin::Reconcile, _))
        ));
        assert!(matches!(
            proposals.committed(6, 2),
            Some(Fate::Lost(Origin::Duty))
        ));
        assert!(proposals.committed(7, 2).is_none());
    }

    #[test]
    fn waiting_ends() {
        let mut proposals = Proposals::default();
        proposals.insert(ticket(5, 1), Origin::Duty, Duration::from_secs(1));
        assert!(proposals.overdue(Duration::from_secs(5), None).is_empty());
        assert_eq!(proposals.overdue(Duration::from_secs(6), None).len(), 1);
        assert!(!proposals.on_duty());
    }

    #[test]
    fn a_leader_does_not_decide_again_what_is_in_flight() {
        let mut proposals = Proposals::default();
        let (node, session) = (NodeId::from_u128(1), SessionId::from_u128(1));
        proposals.insert(ticket(5, 2), Origin::Reconcile, Duration::ZERO);
        proposals.insert(ticket(6, 2), Origin::Session { node, session }, Duration::ZERO);
        assert_eq!(proposals.overdue(Duration::from_secs(60), Some(2)).len(), 1);
        assert!(proposals.reconciling());
        assert_eq!(
            proposals.overdue(Duration::from_secs(60), Some(3)).len(),
            1,
            "a later leadership does not wait for it"
        );
    }
}
