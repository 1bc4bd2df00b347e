//! Membership: one change at a time, learner first, and never one that loses the quorum.

use super::RaftNode;
use crate::error::MembershipError;
use crate::ready::{MembershipChange, ProposalTicket};
use bytes::Bytes;
use raft::eraftpb::{ConfChange, ConfChangeType};
use raft::{Progress, ProgressState};

impl RaftNode {
    /// Proposes a change of the members; `context` comes back with the committed entry. The caller sees to it that a
    /// Raft id is never used twice.
    pub fn propose_membership(
        &mut self,
        change: MembershipChange,
        context: Bytes,
    ) -> Result<ProposalTicket, MembershipError> {
        self.check_running()?;
        if !self.is_leader() {
            return Err(MembershipError::NotLeader {
                leader: self.leader(),
            });
        }
        if self.raw.raft.lead_transferee.is_some() {
            return Err(MembershipError::Transferring);
        }
        if self.raw.raft.has_pending_conf() {
            return Err(MembershipError::InProgress);
        }
        self.check_change(change)?;
        let mut proposal = ConfChange {
            node_id: change.raft_id(),
            context,
            ..ConfChange::default()
        };
        proposal.set_change_type(match change {
            MembershipChange::AddLearner(_) => ConfChangeType::AddLearnerNode,
            MembershipChange::Promote(_) => ConfChangeType::AddNode,
            MembershipChange::Remove(_) => ConfChangeType::RemoveNode,
        });
        self.with_raft(|raw| raw.propose_conf_change(Vec::new(), proposal))?
            .map_err(|_| MembershipError::InProgress)?;
        let raft = &self.raw.raft;
        Ok(ProposalTicket {
            index: raft.raft_log.last_index(),
            term: raft.term,
        })
    }

    fn check_change(&self, change: MembershipChange) -> Result<(), MembershipError> {
        let members = self.membership();
        let id = change.raft_id();
        match change {
            MembershipChange::AddLearner(0) | MembershipChange::Promote(0) | MembershipChange::Remove(0) => {
                Err(MembershipError::InvalidId)
            }
            MembershipChange::AddLearner(_) if members.contains(id) => {
                Err(MembershipError::AlreadyMember { id })
            }
            MembershipChange::AddLearner(_) => Ok(()),
            MembershipChange::Promote(_) if members.voters.contains(&id) => {
                Err(MembershipError::AlreadyMember { id })
            }
            MembershipChange::Promote(_) => self.check_promotion(id),
            MembershipChange::Remove(_) if !members.contains(id) => Err(MembershipError::NotMember { id }),
            MembershipChange::Remove(_) if id == self.config.raft_id => {
                if members.voters.len() == 1 {
                    return Err(MembershipError::WouldLoseQuorum {
                        id,
                        reachable: 0,
                        voters: 0,
                        quorum: 1,
                    });
                }
                Err(MembershipError::IsLeader { id })
            }
            MembershipChange::Remove(_) if members.learners.contains(&id) => Ok(()),
            MembershipChange::Remove(_) => self.check_removal(id, &members.voters),
        }
    }

    fn check_promotion(&self, id: u64) -> Result<(), MembershipError> {
        let progress = self
            .raw
            .raft
            .prs()
            .get(id)
            .ok_or(MembershipError::NotMember { id })?;
        if self.has_caught_up(id, progress) {
            return Ok(());
        }
        let behind = self
            .raw
            .raft
            .raft_log
            .last_index()
            .saturating_sub(progress.matched);
        Err(MembershipError::NotCaughtUp { id, behind })
    }

    /// True on a leader for a reachable member that holds nearly the whole log.
    pub(super) fn has_caught_up(&self, id: u64, progress: &Progress) -> bool {
        let behind = self
            .raw
            .raft
            .raft_log
            .last_index()
            .saturating_sub(progress.matched);
        self.is_leader()
            && progress.state != ProgressState::Snapshot
            && progress.matched > 0
            && behind <= self.config.promotion_lag_entries
            && self.is_reachable(id)
    }

    fn check_removal(&self, id: u64, voters: &[u64]) -> Result<(), MembershipError> {
        let remaining = voters.iter().filter(|voter| **voter != id);
        let reachable = remaining.filter(|voter| self.is_reachable(**voter)).count();
        let quorum = (voters.len() - 1) / 2 + 1;
        if reachable >= quorum {
            return Ok(());
        }
        Err(MembershipError::WouldLoseQuorum {
            id,
            reachable,
            voters: voters.len() - 1,
            quorum,
        })
    }

    /// True when the controller was heard of within an election timeout.
    pub(super) fn is_reachable(&self, id: u64) -> bool {
        let recent = self.config.election_ticks as u64;
        id == self.config.raft_id || self.heard.get(&id).is_some_and(|at| self.ticks - at <= recent)
    }
}

/// Reads a committed change back.
pub(super) fn describe(change: &ConfChange) -> MembershipChange {
    match change.get_change_type() {
        ConfChangeType::AddNode => MembershipChange::Promote(change.node_id),
        ConfChangeType::AddLearnerNode => MembershipChange::AddLearner(change.node_id),
        ConfChangeType::RemoveNode => MembershipChange::Remove(change.node_id),
    }
}
