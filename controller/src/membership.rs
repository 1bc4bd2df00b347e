//! Which change of the Raft group comes next: at most one at a time, decided from the node records and the group as
//! they are, so that a new leader goes on where the last one stopped.

use muster_types::{NodeId, NodeRole, RaftId};
use std::collections::BTreeSet;

/// A node record's part in the Raft group, as far as this decision reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Its Raft id.
    pub raft_id: RaftId,
    /// What the user wants of it.
    pub wanted: NodeRole,
    /// Its record says that it votes.
    pub recorded_voter: bool,
}

/// The Raft group as the leader sees it.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// The leader itself.
    pub leader: u64,
    /// Voting members.
    pub voters: BTreeSet<u64>,
    /// Members that only receive the log.
    pub learners: BTreeSet<u64>,
    /// Members that have (almost) all of the log.
    pub caught_up: BTreeSet<u64>,
    /// Members that were heard of within an election timeout; the leader is one.
    pub reachable: BTreeSet<u64>,
}

/// One step towards what the node records want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Add a learner.
    AddLearner(RaftId),
    /// Make a learner a voter.
    Promote(RaftId),
    /// Hand leadership to this voter, because the leader itself must go.
    TransferLeadership(RaftId),
    /// Remove a member.
    Remove(RaftId),
    /// Note in the node's record that it votes.
    RecordVoter(NodeId),
    /// Take the member out of the node's record: it is out of the group.
    RecordGone(NodeId),
}

/// Why a member cannot leave now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuorumError {
    /// It is the only voter.
    #[error("attempting to demote the last manager of the swarm")]
    LastController,
    /// The rest could not decide anything.
    #[error(
        "can't remove member from the raft: this would result in a loss of quorum ({reachable} of {voters} remaining \
         managers are reachable)"
    )]
    WouldLoseQuorum {
        /// Reachable voters that would be left.
        reachable: usize,
        /// Voters that would be left.
        voters: usize,
    },
}

/// Whether the group can decide without this member.
pub fn may_leave(group: &Group, raft_id: RaftId) -> Result<(), QuorumError> {
    if !group.voters.contains(&raft_id.0) {
        return Ok(());
    }
    let left: Vec<&u64> = group.voters.iter().filter(|voter| **voter != raft_id.0).collect();
    if left.is_empty() {
        return Err(QuorumError::LastController);
    }
    let reachable = left
        .iter()
        .filter(|voter| group.reachable.contains(voter))
        .count();
    if reachable < left.len() / 2 + 1 {
        return Err(QuorumError::WouldLoseQuorum {
            reachable,
            voters: left.len(),
        });
    }
    Ok(())
}

/// The next step, or `None` when the group is as the records want it, or the step has to wait.
pub fn next_step(group: &Group, members: &[Member]) -> Option<Step> {
    if !group.voters.contains(&group.leader) {
        return leave_lead(group, members);
    }
    record_step(group, members)
        .or_else(|| growth_step(group, members))
        .or_else(|| removal_step(group, members))
}

/// A controller can be elected with its own removal in its log, by members that do not know of it yet. Raft lets it lead
/// on once that is committed, but it can propose nothing any more, so it must not wait for anything.
fn leave_lead(group: &Group, members: &[Member]) -> Option<Step> {
    let wanted = wanted(members);
    let heir = successor(group, |id| wanted.contains(id)).or_else(|| successor(group, |_| true));
    heir.map(Step::TransferLeadership)
}

fn successor(group: &Group, suits: impl Fn(&u64) -> bool) -> Option<RaftId> {
    let could = |id: &&u64| group.reachable.contains(id) && group.caught_up.contains(id) && suits(id);
    group.voters.iter().find(could).map(|id| RaftId(*id))
}

/// Raft ids of members that are to be controllers.
fn wanted(members: &[Member]) -> BTreeSet<u64> {
    members
        .iter()
        .filter(|member| member.wanted == NodeRole::Controller)
        .map(|member| member.raft_id.0)
        .collect()
}

/// Records follow the group.
fn record_step(group: &Group, members: &[Member]) -> Option<Step> {
    members.iter().find_map(|member| {
        let votes = group.voters.contains(&member.raft_id.0);
        let in_group = votes || group.learners.contains(&member.raft_id.0);
        if votes && !member.recorded_voter {
            Some(Step::RecordVoter(member.node))
        } else if member.wanted == NodeRole::Worker && !in_group {
            Some(Step::RecordGone(member.node))
        } else {
            None
        }
    })
}

/// Learner first, promotion after catch-up.
fn growth_step(group: &Group, members: &[Member]) -> Option<Step> {
    let wanted = || {
        members
            .iter()
            .filter(|member| member.wanted == NodeRole::Controller)
    };
    let promote = wanted().find(|member| {
        group.learners.contains(&member.raft_id.0) && group.caught_up.contains(&member.raft_id.0)
    });
    if let Some(member) = promote {
        return Some(Step::Promote(member.raft_id));
    }
    wanted()
        .find(|member| {
            !group.learners.contains(&member.raft_id.0) && !group.voters.contains(&member.raft_id.0)
        })
        .map(|member| Step::AddLearner(member.raft_id))
}

/// Members that no record wants leave, unless quorum would be lost; the leader hands over first.
fn removal_step(group: &Group, members: &[Member]) -> Option<Step> {
    let wanted = wanted(members);
    let surplus = |id: &&u64| !wanted.contains(id);
    if let Some(learner) = group.learners.iter().find(surplus) {
        return Some(Step::Remove(RaftId(*learner)));
    }
    let leaving: Vec<RaftId> = group
        .voters
        .iter()
        .filter(surplus)
        .map(|id| RaftId(*id))
        .collect();
    let follower = leaving
        .iter()
        .find(|id| id.0 != group.leader && may_leave(group, **id).is_ok());
    if let Some(id) = follower {
        return Some(Step::Remove(*id));
    }
    if leaving.contains(&RaftId(group.leader)) && may_leave(group, RaftId(group.leader)).is_ok() {
        return successor(group, |id| wanted.contains(id)).map(Step::TransferLeadership);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(leader: u64, voters: &[u64], learners: &[u64]) -> Group {
        let all: BTreeSet<u64> = voters.iter().chain(learners).copied().collect();
        Group {
            leader,
            voters: voters.iter().copied().collect(),
            learners: learners.iter().copied().collect(),
            caught_up: all.clone(),
            reachable: all,
        }
    }

    fn member(id: u64, wanted: NodeRole, recorded_voter: bool) -> Member {
        Member {
            node: NodeId::from_u128(u128::from(id)),
            raft_id: RaftId(id),
            wanted,
            recorded_voter,
        }
    }

    use NodeRole::{Controller, Worker};

    #[test]
    fn a_joining_controller_learns_then_votes_then_is_recorded() {
        let members = [member(1, Controller, true), member(2, Controller, false)];
        assert_eq!(
            next_step(&group(1, &[1], &[]), &members),
            Some(Step::AddLearner(RaftId(2)))
        );
        assert_eq!(
            next_step(&group(1, &[1], &[2]), &members),
            Some(Step::Promote(RaftId(2)))
        );
        let recorded = next_step(&group(1, &[1, 2], &[]), &members);
        assert_eq!(recorded, Some(Step::RecordVoter(NodeId::from_u128(2))));
        let settled = [member(1, Controller, true), member(2, Controller, true)];
        assert_eq!(next_step(&group(1, &[1, 2], &[]), &settled), None);
    }

    #[test]
    fn a_learner_that_lags_is_not_promoted() {
        let mut lagging = group(1, &[1], &[2]);
        lagging.caught_up.remove(&2);
        let members = [member(1, Controller, true), member(2, Controller, false)];
        assert_eq!(next_step(&lagging, &members), None);
    }

    #[test]
    fn a_demoted_controller_is_removed_and_its_record_cleared() {
        let members = [
            member(1, Controller, true),
            member(2, Worker, true),
            member(3, Controller, true),
        ];
        assert_eq!(
            next_step(&group(1, &[1, 2, 3], &[]), &members),
            Some(Step::Remove(RaftId(2)))
        );
        let cleared = next_step(&group(1, &[1, 3], &[]), &members);
        assert_eq!(cleared, Some(Step::RecordGone(NodeId::from_u128(2))));
    }

    #[test]
    fn a_demoted_leader_hands_over_first() {
        let members = [
            member(1, Worker, true),
            member(2, Controller, true),
            member(3, Controller, true),
        ];
        let step = next_step(&group(1, &[1, 2, 3], &[]), &members);
        assert_eq!(step, Some(Step::TransferLeadership(RaftId(2))));
    }

    #[test]
    fn a_leader_that_is_out_of_the_group_hands_over_before_anything_else() {
        let members = [
            member(1, Worker, true),
            member(2, Worker, true),
            member(3, Controller, false),
        ];
        let mut outside = group(1, &[2, 3], &[]);
        let step = next_step(&outside, &members);
        assert_eq!(step, Some(Step::TransferLeadership(RaftId(3))));
        outside.caught_up.remove(&3);
        let step = next_step(&outside, &members);
        assert_eq!(
            step,
            Some(Step::TransferLeadership(RaftId(2))),
            "rather one that goes soon than none"
        );
        outside.reachable.clear();
        assert_eq!(next_step(&outside, &members), None);
    }

    #[test]
    fn quorum_is_kept() {
        assert_eq!(
            may_leave(&group(1, &[1], &[]), RaftId(1)),
            Err(QuorumError::LastController)
        );
        let mut partial = group(1, &[1, 2, 3], &[]);
        partial.reachable.remove(&3);
        assert!(
            may_leave(&partial, RaftId(2)).is_err(),
            "1 of {{1,3}} is reachable"
        );
        assert!(
            may_leave(&partial, RaftId(3)).is_ok(),
            "2 of {{1,2}} are reachable"
        );
        let members = [
            member(1, Controller, true),
            member(2, Worker, true),
            member(3, Controller, true),
        ];
        assert_eq!(next_step(&partial, &members), None);
    }

    #[test]
    fn a_removed_node_leaves_the_group() {
        let members = [member(1, Controller, true), member(2, Controller, true)];
        assert_eq!(
            next_step(&group(1, &[1, 2, 9], &[]), &members),
            Some(Step::Remove(RaftId(9)))
        );
        assert_eq!(
            next_step(&group(1, &[1, 2], &[9]), &members),
            Some(Step::Remove(RaftId(9)))
        );
    }
}
