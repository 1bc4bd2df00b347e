//! Proposals, linearizable reads, and handing over leadership.

use super::RaftNode;
use crate::codec::Fields;
use crate::config::ENTRY_BYTES_MAX;
use crate::error::{MembershipError, ProposeError, ReadError};
use crate::ready::ProposalTicket;
use bytes::Bytes;
use raft::eraftpb::{Entry, Message, MessageType};

/// Reads that wait for a quorum's answer; beyond this they are refused.
pub(super) const READS_WAITING_MAX: usize = 4096;
/// Raft id, number and caller's context of a read.
pub(super) const READ_CONTEXT_BYTES: usize = 24;

impl RaftNode {
    /// Appends an entry to the leader's log. Nothing is forwarded; the ticket tells committed from lost.
    pub fn propose(&mut self, data: Bytes) -> Result<ProposalTicket, ProposeError> {
        self.check_running()?;
        if !self.is_leader() {
            return Err(ProposeError::NotLeader {
                leader: self.leader(),
            });
        }
        if data.is_empty() {
            return Err(ProposeError::Empty);
        }
        if data.len() > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge {
                bytes: data.len(),
                limit: ENTRY_BYTES_MAX,
            });
        }
        if self.raw.raft.lead_transferee.is_some() {
            return Err(ProposeError::Busy {
                reason: "leadership is being transferred",
            });
        }
        let mut message = Message {
            from: self.config.raft_id,
            ..Message::default()
        };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(
            vec![Entry {
                data,
                ..Entry::default()
            }]
            .into(),
        );
        self.with_raft(|raw| raw.raft.step(message))?
            .map_err(|_| ProposeError::Busy {
                reason: "too much is proposed and not committed",
            })?;
        self.counters.proposals += 1;
        let raft = &self.raw.raft;
        Ok(ProposalTicket {
            index: raft.raft_log.last_index(),
            term: raft.term,
        })
    }

    /// Begins a linearizable read; a `ReadState` with this context comes out of a later round. It can be lost (a
    /// message is dropped, the leader changes): the caller asks again after a while, with the same or another context.
    pub fn read_index(&mut self, context: u64) -> Result<(), ReadError> {
        self.check_running()?;
        let raft = &self.raw.raft;
        if self.leader().is_none() {
            return Err(ReadError::NoLeader);
        }
        if self.is_leader() && !raft.commit_to_current_term() {
            return Err(ReadError::LeaderTooNew);
        }
        if raft.pending_read_count() >= READS_WAITING_MAX {
            return Err(ReadError::Busy {
                limit: READS_WAITING_MAX,
            });
        }
        // Unique in the cluster and over restarts, or the leader would take it for an older read.
        self.reads_begun = self.reads_begun.wrapping_add(1);
        let mut bytes = Vec::with_capacity(READ_CONTEXT_BYTES);
        for field in [self.config.raft_id, self.reads_begun, context] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        #[cfg(any(test, feature = "sim"))]
        if self.config.planted_bug == crate::sim::PlantedBug::StaleReads {
            let index = self.raw.raft.raft_log.committed;
            self.raw.raft.read_states.push(raft::ReadState {
                index,
                request_ctx: bytes,
            });
            return Ok(());
        }
        self.with_raft(|raw| raw.read_index(bytes))?;
        Ok(())
    }

    /// Hands leadership to a voter. It takes up to an election timeout, in which proposals are refused, and can fail
    /// silently: watch the role.
    pub fn transfer_leader(&mut self, to: u64) -> Result<(), MembershipError> {
        self.check_running()?;
        if !self.is_leader() {
            return Err(MembershipError::NotLeader {
                leader: self.leader(),
            });
        }
        if !self.membership().voters.contains(&to) {
            return Err(MembershipError::NotMember { id: to });
        }
        self.with_raft(|raw| raw.transfer_leader(to))?;
        Ok(())
    }
}

/// The caller's part of a read's context, when the read is one of this node.
pub(super) fn read_context(bytes: &[u8], raft_id: u64) -> Option<u64> {
    let mut fields = Fields::new(bytes);
    let begun_by = fields.u64()?;
    let _number = fields.u64()?;
    let context = fields.u64()?;
    (begun_by == raft_id && fields.is_empty()).then_some(context)
}
