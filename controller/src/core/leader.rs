//! What only a leader does, in one scope that starts and stops as a whole: leases, sessions, reconcile, membership,
//! assignments.

use super::dispatch::{Dispatch, node_view};
use super::io::{Now, Output};
use super::observed::{Reconciled, note};
use super::proposals::Origin;
use super::reads::Reader;
use super::{Controller, requests, upgrade};
use crate::leases::Leases;
use crate::membership::{Member, Step, next_step};
use crate::pace::Pace;
use muster_consensus::MembershipChange;
use muster_orchestration::networks::address_nodes;
use muster_orchestration::{Dirty, PLACEMENT, reconcile_observed};
use muster_state::{Change, Changeset, ClusterState, Touched};
use muster_types::node::ControllerMember;
use muster_types::{Node, NodeId, NodeRole, NodeSpec, NodeState, RaftId, Reason, SessionId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// First wait after a reconcile's changeset was not taken; doubled up to [`RECONCILE_AGAIN_MAX`].
const RECONCILE_AGAIN_MIN: Duration = Duration::from_millis(10);
/// Longest such wait.
const RECONCILE_AGAIN_MAX: Duration = Duration::from_secs(1);

/// A node that joined and whose agent opened no session within this has failed to join. A join itself takes seconds;
/// this leaves time to repair the node's network.
const JOIN_WITHIN: Duration = Duration::from_secs(600);
/// Between two looks for failed joins.
const JOINS_LOOK_EVERY: Duration = Duration::from_secs(10);

/// One leadership.
pub(super) struct Leader {
    /// Its term; every effect of the scope carries it.
    pub(super) term: u64,
    /// All that was committed before the term is applied: the state is complete, and the scope acts.
    pub(super) ready: bool,
    pub(super) leases: Leases,
    pub(super) membership_changing: bool,
    pub(super) dispatch: Dispatch,
    pub(super) opening: BTreeMap<NodeId, SessionId>,
    /// How often each node opened a session lately.
    pub(super) opened: BTreeMap<NodeId, Pace>,
    clock: (Timestamp, Duration),
    dirty: Dirty,
    /// Reconciles whose changesets were not taken, one after the other.
    undone: u32,
    /// The next reconcile waits until then, after such a one.
    reconcile_from: Duration,
    pub(super) assignments_due: BTreeSet<NodeId>,
    pub(super) views_due: bool,
    /// When to look for failed joins again.
    joins_due: Duration,
}

impl Leader {
    pub(super) fn new(term: u64) -> Self {
        Self {
            term,
            ready: false,
            leases: Leases::new([], Duration::from_secs(1), Duration::ZERO),
            membership_changing: false,
            dispatch: Dispatch::default(),
            opening: BTreeMap::new(),
            opened: BTreeMap::new(),
            clock: (Timestamp::ZERO, Duration::ZERO),
            dirty: Dirty::everything(),
            undone: 0,
            reconcile_from: Duration::ZERO,
            assignments_due: BTreeSet::new(),
            views_due: false,
            joins_due: Duration::ZERO,
        }
    }

    /// Cluster time: from the last applied value (or the wall clock, when that is later) on by monotonic elapsed time.
    pub(super) fn cluster_time(&self, now: Now) -> Timestamp {
        self.clock.0.after(now.elapsed.saturating_sub(self.clock.1))
    }

    /// Notes which rows an applied entry changed.
    pub(super) fn touched(&mut self, state: &ClusterState, touched: Touched) {
        self.assignments_due
            .extend(self.dispatch.touched(state, &touched));
        self.assignments_due.extend(touched.assignments.iter().copied());
        self.views_due |= touched.cluster || !touched.nodes.is_empty();
        self.dirty.touch(&touched);
    }

    /// A reconcile's changeset was not taken: the next one looks at everything, after a wait that grows, so that one
    /// which can never be taken does not fill the log.
    pub(super) fn decide_anew(&mut self, now: Now) {
        self.dirty = Dirty::everything();
        let wait = RECONCILE_AGAIN_MIN * (1 << self.undone.min(16));
        self.reconcile_from = now.elapsed + wait.min(RECONCILE_AGAIN_MAX);
        self.undone = self.undone.saturating_add(1);
    }

    /// A reconcile's changeset was taken.
    pub(super) fn decided(&mut self) {
        self.undone = 0;
    }

    fn reconcile_due(&self, now: Now) -> bool {
        now.elapsed >= self.reconcile_from && self.dirty.is_due(self.cluster_time(now))
    }

    /// Until the next decision that waits for time alone.
    pub(super) fn wakes_in(&self, now: Now) -> Option<Duration> {
        let waits = self.reconcile_from.saturating_sub(now.elapsed);
        let time = self.cluster_time(now);
        if self.dirty.is_due(time) {
            // The last call left something over.
            return Some(waits);
        }
        let due = self.dirty.wake_at().map(|at| at.since(time));
        due.map(|due| due.max(waits))
    }
}

impl Controller {
    /// The scope acts from the moment that everything committed before its term is applied.
    pub(super) fn ready_to_lead(&mut self, now: Now) {
        let waiting = self.leader.as_mut().filter(|leader| !leader.ready);
        let Some(leader) = waiting.filter(|_| self.raft.status().leader_ready) else {
            return;
        };
        let period = self
            .state
            .cluster()
            .map_or(Duration::from_secs(1), |cluster| cluster.spec.heartbeat_period);
        let ready = self
            .state
            .nodes()
            .filter(|node| node.status.state == NodeState::Ready)
            .map(|node| node.id);
        leader.leases = Leases::new(ready, period, now.elapsed);
        leader.clock = (self.state.time().max(now.wall), now.elapsed);
        let time = leader.clock.0;
        for node in self.state.nodes() {
            if let Some(until) = node.status.restarting_until {
                leader
                    .leases
                    .found_restarting(node.id, until.since(time), now.elapsed);
            }
        }
        // A node that could not come while there was no leader has its time from now on.
        leader.joins_due = now.elapsed + JOIN_WITHIN;
        leader.ready = true;
        leader.views_due = true;
    }

    /// Ends the scope: every session is told to find the new leader.
    pub(super) fn stop_leading(&mut self) {
        let Some(leader) = self.leader.take() else { return };
        let address = self.raft.role().leader.and_then(|id| self.address_of(RaftId(id)));
        let opening = leader.opening.iter().map(|(node, session)| (*node, *session));
        for (node, session) in leader.leases.sessions().chain(opening) {
            self.outputs.push(Output::SessionEnded {
                node,
                session,
                leader: address.clone(),
            });
        }
    }

    /// A leader's duties of one round.
    pub(super) fn lead(&mut self, now: Now) {
        self.ready_to_lead(now);
        if !self.is_leading() {
            return;
        }
        if self.begins_anew(now) {
            return;
        }
        self.keep_leases(now);
        self.mark_down(now);
        self.change_membership(now);
        self.forget_failed_joins(now);
        self.raise_feature_level(now);
        self.end_rotation(now);
        self.address_nodes(now);
        self.reconcile(now);
    }

    fn keep_leases(&mut self, now: Now) {
        let period = self.state.cluster().map(|cluster| cluster.spec.heartbeat_period);
        let Some(leader) = &mut self.leader else { return };
        if let Some(period) = period {
            leader.leases.set_period(period);
        }
        leader.leases.awake(now.elapsed);
        if leader.leases.any_overdue(now.elapsed) && !self.reads.confirming_leases() {
            self.reads.add(Reader::Leases, now.elapsed);
        }
    }

    /// Leadership held at some time after `since`: leases that ended before are over.
    pub(super) fn expire_leases(&mut self, since: Duration, now: Now) {
        let Some(leader) = self.leader.as_mut().filter(|leader| leader.ready) else {
            return;
        };
        let sessions: BTreeMap<NodeId, SessionId> = leader.leases.sessions().collect();
        let expired = leader.leases.expire(since);
        for node in &expired {
            tracing::info!(%node, "lease expired");
            if let Some(session) = sessions.get(node) {
                self.end_session(*node, *session);
            }
        }
        if !expired.is_empty() {
            self.mark_down(now);
        }
    }

    /// A node that is recorded as ready and holds no lease is down.
    fn mark_down(&mut self, now: Now) {
        let Some(leader) = self.leader.as_ref() else {
            return;
        };
        if self.proposals.on_duty() {
            return;
        }
        let lapsed = self
            .state
            .nodes()
            .filter(|node| node.status.state == NodeState::Ready && !leader.leases.holds(node.id));
        let changes: Vec<Change> = lapsed
            .map(|node| Change::NodeStatus {
                node: node.id,
                state: NodeState::Down,
                message: "heartbeat failure".to_owned(),
                address: node.status.address.clone(),
            })
            .collect();
        if !changes.is_empty() {
            // A refusal means that leadership is over, or that the next tick tries again.
            let _ = self.propose(Changeset::new(Reason::SessionEnded, changes), Origin::Duty, now);
        }
    }

    /// A node whose agent never came goes again: its join failed, and nobody is there to take it back. One that got a
    /// Raft id by then leaves the group first.
    fn forget_failed_joins(&mut self, now: Now) {
        let Some(leader) = self.leader.as_mut() else {
            return;
        };
        if self.proposals.on_duty() || now.elapsed < leader.joins_due {
            return;
        }
        leader.joins_due = now.elapsed + JOINS_LOOK_EVERY;
        let oldest = leader.cluster_time(now).before(JOIN_WITHIN);
        let failed = self.state.nodes().filter(|node| {
            let votes = node.controller.as_ref().is_some_and(|member| member.voter);
            node.status.state == NodeState::Unknown && node.meta.created_at < oldest && !votes
        });
        let step = |node: &Node| match requests::withdraw_node(node) {
            Some(removal) => Some(removal),
            None if node.spec.role == NodeRole::Controller => {
                let spec = NodeSpec {
                    role: NodeRole::Worker,
                    ..node.spec.clone()
                };
                let change = Change::NodeSpec { node: node.id, spec };
                let unchanged = requests::spec_unchanged(node.id, node.meta.spec_version);
                let reason = Reason::NodeRemoved { node: node.id };
                Some(Changeset::new(reason, vec![change]).when(unchanged))
            }
            None => None,
        };
        for changeset in failed.filter_map(|node| step(node)).collect::<Vec<_>>() {
            tracing::info!(reason = %changeset.reason, "a node never came after its join");
            // A refusal means that leadership is over, or that the next look tries again.
            let _ = self.propose(changeset, Origin::Duty, now);
        }
    }

    fn raise_feature_level(&mut self, now: Now) {
        if self.proposals.on_duty() {
            return;
        }
        if let Some(changeset) = upgrade::raise_feature_level(&self.state, self.ids.as_mut()) {
            // A refusal means that leadership is over, or that the next round tries again.
            let _ = self.propose(changeset, Origin::Duty, now);
        }
    }

    /// Gives nodes their own places in networks.
    fn address_nodes(&mut self, now: Now) {
        if self.proposals.on_duty() {
            return;
        }
        if let Some(changeset) = address_nodes(&self.state) {
            // A refusal means that leadership is over, or that the next round tries again.
            let _ = self.propose(changeset, Origin::Duty, now);
        }
    }

    fn change_membership(&mut self, now: Now) {
        let status = self.raft.status();
        let busy = status.membership_changing || status.transferring_to.is_some() || self.proposals.on_duty();
        if busy
            || self
                .leader
                .as_ref()
                .is_none_or(|leader| leader.membership_changing)
        {
            return;
        }
        let members: Vec<Member> = self
            .state
            .nodes()
            .filter_map(|node| {
                let member = node.controller.as_ref()?;
                let (raft_id, recorded_voter) = (member.raft_id, member.voter);
                Some(Member {
                    node: node.id,
                    raft_id,
                    wanted: node.spec.role,
                    recorded_voter,
                })
            })
            .collect();
        let Some(step) = next_step(&self.group_of(&status), &members) else {
            return;
        };
        tracing::info!(?step, "changing the Raft group");
        match step {
            Step::AddLearner(id) => self.propose_membership(MembershipChange::AddLearner(id.0)),
            Step::Promote(id) => self.propose_membership(MembershipChange::Promote(id.0)),
            Step::Remove(id) => self.propose_membership(MembershipChange::Remove(id.0)),
            Step::TransferLeadership(id) => {
                if let Err(error) = self.raft.transfer_leader(id.0) {
                    tracing::debug!(error = %error, "leadership is not handed over yet");
                }
            }
            Step::RecordVoter(node) => self.record_member(node, true, now),
            Step::RecordGone(node) => self.record_member(node, false, now),
        }
    }

    fn propose_membership(&mut self, change: MembershipChange) {
        match self.raft.propose_membership(change, bytes::Bytes::new()) {
            Ok(_) => {
                if let Some(leader) = &mut self.leader {
                    leader.membership_changing = true;
                }
            }
            // It is decided anew at the next round.
            Err(error) => tracing::debug!(error = %error, ?change, "a membership change has to wait"),
        }
    }

    fn record_member(&mut self, node: NodeId, votes: bool, now: Now) {
        let Some(record) = self.state.node(node) else {
            return;
        };
        let member = record.controller.clone().filter(|_| votes);
        let member = member.map(|member| ControllerMember {
            voter: true,
            ..member
        });
        let change = Change::NodeController { node, member };
        let changeset = Changeset::new(Reason::NodeJoined, vec![change]);
        // A refusal means that leadership is over, or that the next round tries again.
        let _ = self.propose(changeset, Origin::Duty, now);
    }

    /// One reconcile at a time: the next one is decided on the state that this one leads to.
    fn reconcile(&mut self, now: Now) {
        let Some(leader) = self.leader.as_mut() else {
            return;
        };
        let time = leader.cluster_time(now);
        if self.proposals.reconciling() || !leader.reconcile_due(now) {
            return;
        }
        let dirty = std::mem::take(&mut leader.dirty);
        let stopwatch = &self.stopwatch;
        let (begun, mut lap, mut scheduling) = (stopwatch.read(), Duration::ZERO, Duration::ZERO);
        let plan = reconcile_observed(&self.state, &dirty, time, self.ids.as_mut(), &mut |pass| {
            if pass == PLACEMENT {
                scheduling += stopwatch.since(lap);
            }
            lap = stopwatch.read();
        });
        let reconciled = Reconciled {
            changes: plan.change_count(),
            placed: plan.placed,
            time: stopwatch.since(begun),
            scheduling,
        };
        note(&mut self.observed.reconciles, reconciled);
        leader.dirty = plan.leftover;
        for changeset in plan.changesets {
            if let Err(error) = self.propose(changeset, Origin::Reconcile, now) {
                tracing::debug!(error = %error, "a reconcile changeset was not proposed");
                if let Some(leader) = &mut self.leader {
                    leader.decide_anew(now);
                }
                return;
            }
        }
    }

    /// Sends to the sessions what they do not have yet.
    pub(super) fn dispatch(&mut self) {
        let Some(leader) = self.leader.as_mut().filter(|leader| leader.ready) else {
            return;
        };
        for node in std::mem::take(&mut leader.assignments_due) {
            if let Some((session, update)) = leader.dispatch.assignments(&self.state, node) {
                self.outputs.push(Output::Assign {
                    session,
                    update: Box::new(update),
                });
            }
        }
        let settled = leader.dispatch.settled().into_iter();
        self.outputs
            .extend(settled.map(|(session, index)| Output::Settled { session, index }));
        if std::mem::take(&mut leader.views_due) {
            for node in leader.dispatch.nodes() {
                if self.state.node(node).is_none() {
                    // Removed: its session ends at once.
                    let session = leader.dispatch.forget(node);
                    leader.leases.remove(node);
                    self.outputs.extend(session.map(|session| Output::SessionEnded {
                        node,
                        session,
                        leader: None,
                    }));
                    continue;
                }
                if let Some((session, view)) = leader.dispatch.view(node, &node_view(&self.state, node)) {
                    self.outputs.push(Output::View {
                        session,
                        view: Box::new(view),
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reconcile_that_is_never_taken_waits_longer_each_time() {
        let mut leader = Leader::new(1);
        let at = |elapsed| Now {
            elapsed,
            wall: Timestamp::ZERO,
        };
        let mut now = Duration::ZERO;
        assert!(leader.reconcile_due(at(now)));
        for wait in [10, 20, 40, 80, 160, 320, 640, 1000, 1000].map(Duration::from_millis) {
            leader.decide_anew(at(now));
            assert!(!leader.reconcile_due(at(now)));
            now += wait;
            assert!(leader.reconcile_due(at(now)), "after {wait:?}");
        }
        leader.decided();
        leader.decide_anew(at(now));
        assert!(leader.reconcile_due(at(now + RECONCILE_AGAIN_MIN)));
    }
}
