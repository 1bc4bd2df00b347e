//! Leases of agents' sessions, in the leader's memory. Only the transitions that they cause are replicated.
//!
//! All times are the leader's monotonic time since its process began. A lease that passed its deadline expires only
//! after leadership was confirmed later than that deadline (architecture, decision 8).

use muster_types::{NodeId, SessionId};
use std::collections::BTreeMap;
use std::time::Duration;

/// A node is down after this many missed heartbeats.
pub const MISSED_HEARTBEATS: u32 = 3;
/// Lease of a daemon that said that it restarts.
pub const RESTART_GRACE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
struct Lease {
    /// `None` while the node has not come back to this leader yet.
    session: Option<SessionId>,
    deadline: Duration,
}

/// The leases of one leadership.
#[derive(Debug)]
pub struct Leases {
    period: Duration,
    leases: BTreeMap<NodeId, Lease>,
    last_seen: Duration,
}

impl Leases {
    /// A new leader's leases: every ready node has one full grace to come to it.
    pub fn new(ready: impl IntoIterator<Item = NodeId>, period: Duration, now: Duration) -> Self {
        let deadline = now + period * MISSED_HEARTBEATS;
        let leases = ready
            .into_iter()
            .map(|node| {
                (
                    node,
                    Lease {
                        session: None,
                        deadline,
                    },
                )
            })
            .collect();
        Self {
            period,
            leases,
            last_seen: now,
        }
    }

    /// How many nodes have one.
    pub fn count(&self) -> usize {
        self.leases.len()
    }

    /// How often agents renew.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// Uses another period from now on.
    pub fn set_period(&mut self, period: Duration) {
        self.period = period;
    }

    /// Begins a session; an earlier one of the node is over.
    pub fn open(&mut self, node: NodeId, session: SessionId, now: Duration) {
        let deadline = now + self.period * MISSED_HEARTBEATS;
        self.leases.insert(
            node,
            Lease {
                session: Some(session),
                deadline,
            },
        );
    }

    /// Renews a session's lease; false when the session is not the node's live one.
    pub fn renew(&mut self, node: NodeId, session: SessionId, now: Duration) -> bool {
        match self.leases.get_mut(&node) {
            Some(lease) if lease.session == Some(session) => {
                lease.deadline = lease.deadline.max(now + self.period * MISSED_HEARTBEATS);
                true
            }
            Some(_) | None => false,
        }
    }

    /// The daemon said that it stops for good: its lease is over at once.
    pub fn farewell(&mut self, node: NodeId, session: SessionId, now: Duration) {
        self.depart(node, session, |_| now);
    }

    /// The daemon said that it restarts: the lease lasts so much longer, unless it came back already.
    pub fn restarting(&mut self, node: NodeId, session: SessionId, left: Duration, now: Duration) {
        self.depart(node, session, |deadline| deadline.max(now + left));
    }

    /// A new leader found that the node restarts: the lease lasts so much longer.
    pub fn found_restarting(&mut self, node: NodeId, left: Duration, now: Duration) {
        if let Some(lease) = self.leases.get_mut(&node) {
            lease.deadline = lease.deadline.max(now + left.min(RESTART_GRACE));
        }
    }

    /// The end of a session by its own farewell, also when its connection ended before that was committed.
    fn depart(&mut self, node: NodeId, session: SessionId, deadline: impl FnOnce(Duration) -> Duration) {
        if let Some(lease) = self.leases.get_mut(&node)
            && lease.session.is_none_or(|live| live == session)
        {
            lease.session = None;
            lease.deadline = deadline(lease.deadline);
        }
    }

    /// The session's connection ended. The lease goes on to its deadline, and only another session renews it: a node
    /// that hears nothing of its assignments must not count as ready.
    pub fn lost(&mut self, node: NodeId, session: SessionId) {
        if let Some(lease) = self.leases.get_mut(&node)
            && lease.session == Some(session)
        {
            lease.session = None;
        }
    }

    /// The node's live session.
    pub fn session(&self, node: NodeId) -> Option<SessionId> {
        self.leases.get(&node).and_then(|lease| lease.session)
    }

    /// The node holds a lease, with or without a session.
    pub fn holds(&self, node: NodeId) -> bool {
        self.leases.contains_key(&node)
    }

    /// All live sessions.
    pub fn sessions(&self) -> impl Iterator<Item = (NodeId, SessionId)> + '_ {
        self.leases
            .iter()
            .filter_map(|(node, lease)| lease.session.map(|session| (*node, session)))
    }

    /// A node left the cluster.
    pub fn remove(&mut self, node: NodeId) {
        self.leases.remove(&node);
    }

    /// Notes that the leader is awake. One that stalled for longer than a period restarts all leases, because the
    /// heartbeats of that time may still be on their way to it.
    pub fn awake(&mut self, now: Duration) {
        if now.saturating_sub(self.last_seen) > self.period {
            let deadline = now + self.period * MISSED_HEARTBEATS;
            for lease in self.leases.values_mut() {
                lease.deadline = lease.deadline.max(deadline);
            }
        }
        self.last_seen = now;
    }

    /// Some lease has passed its deadline: leadership has to be confirmed.
    pub fn any_overdue(&self, now: Duration) -> bool {
        self.leases.values().any(|lease| lease.deadline <= now)
    }

    /// Leadership was confirmed by a round that began at `confirmed_from`: ends and returns the leases whose deadline
    /// lies before that.
    pub fn expire(&mut self, confirmed_from: Duration) -> Vec<NodeId> {
        let expired: Vec<NodeId> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.deadline <= confirmed_from)
            .map(|(node, _)| *node)
            .collect();
        for node in &expired {
            self.leases.remove(node);
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(1);

    fn node(number: u128) -> NodeId {
        NodeId::from_u128(number)
    }

    fn session(number: u128) -> SessionId {
        SessionId::from_u128(number)
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_lease_ends_after_three_missed_heartbeats_and_a_confirmation() {
        let mut leases = Leases::new([], PERIOD, seconds(0));
        leases.open(node(1), session(1), seconds(0));
        assert!(leases.renew(node(1), session(1), seconds(1)));
        assert!(!leases.any_overdue(seconds(3)));
        assert!(leases.any_overdue(seconds(4)));
        assert!(
            leases.expire(seconds(3)).is_empty(),
            "confirmed before the deadline"
        );
        assert_eq!(leases.expire(seconds(4)), [node(1)]);
        assert!(!leases.renew(node(1), session(1), seconds(4)));
    }

    #[test]
    fn only_the_live_session_renews() {
        let mut leases = Leases::new([], PERIOD, seconds(0));
        leases.open(node(1), session(1), seconds(0));
        leases.open(node(1), session(2), seconds(1));
        assert!(!leases.renew(node(1), session(1), seconds(1)));
        assert!(leases.renew(node(1), session(2), seconds(1)));
    }

    #[test]
    fn a_lost_session_keeps_its_lease_and_renews_it_no_more() {
        let mut leases = Leases::new([], PERIOD, seconds(0));
        leases.open(node(1), session(1), seconds(0));
        leases.lost(node(1), session(2));
        assert!(
            leases.renew(node(1), session(1), seconds(1)),
            "another session was lost"
        );
        leases.lost(node(1), session(1));
        assert!(leases.holds(node(1)));
        assert!(!leases.renew(node(1), session(1), seconds(2)));
        assert_eq!(leases.expire(seconds(4)), [node(1)]);
    }

    #[test]
    fn a_new_leader_grants_a_full_grace() {
        let mut leases = Leases::new([node(1)], PERIOD, seconds(100));
        assert!(!leases.any_overdue(seconds(102)));
        assert_eq!(leases.expire(seconds(103)), [node(1)]);
    }

    #[test]
    fn a_leader_that_stalled_restarts_all_leases() {
        let mut leases = Leases::new([node(1)], PERIOD, seconds(0));
        leases.awake(seconds(1));
        leases.awake(seconds(9));
        assert!(!leases.any_overdue(seconds(11)));
        assert!(leases.any_overdue(seconds(12)));
    }

    #[test]
    fn a_restarting_daemon_has_a_minute() {
        let mut leases = Leases::new([], PERIOD, seconds(0));
        leases.open(node(1), session(1), seconds(0));
        leases.restarting(node(1), session(1), RESTART_GRACE, seconds(1));
        leases.awake(seconds(1));
        assert!(!leases.any_overdue(seconds(60)));
        assert!(leases.any_overdue(seconds(61)));
        leases.open(node(2), session(2), seconds(1));
        leases.farewell(node(2), session(2), seconds(2));
        assert_eq!(leases.expire(seconds(2)), [node(2)]);
        leases.open(node(1), session(3), seconds(2));
        leases.restarting(node(1), session(1), RESTART_GRACE, seconds(2));
        assert_eq!(leases.expire(seconds(5)), [node(1)], "it came back before");
    }
}
