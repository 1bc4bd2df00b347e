//! Messages of other controllers: checked before Raft sees them, because raft-rs trusts its peers and panics.

use super::RaftNode;
use super::proposals::{READ_CONTEXT_BYTES, READS_WAITING_MAX};
use super::wire::is_free_of_groups;
use crate::config::MESSAGE_BYTES_MAX;
use crate::error::{FatalError, StepError};
use protobuf::Message as _;
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

/// No cluster holds so many elections; beyond it arithmetic on terms could overflow.
const TERM_MAX: u64 = 1 << 62;
/// No log is so long; beyond it arithmetic on indexes could overflow.
const INDEX_MAX: u64 = 1 << 62;

impl RaftNode {
    /// Takes a message that came over an authenticated connection of controller `from`.
    pub fn step(&mut self, from: u64, bytes: &[u8]) -> Result<(), StepError> {
        self.check_running()?;
        let message = match self.check_message(from, bytes) {
            Ok(message) => message,
            Err(CheckError::Refused(problem)) => {
                self.counters.messages_refused += 1;
                return Err(StepError::Refused { from, problem });
            }
            Err(CheckError::Fatal(error)) => return Ok(self.stop(Err(error))?),
        };
        self.counters.messages_received += 1;
        self.heard.insert(from, self.ticks);
        if message.get_msg_type() == MessageType::MsgSnapshot {
            return Ok(self.take_announcement(message)?);
        }
        #[cfg(any(test, feature = "sim"))]
        if self.config.planted_bug == crate::sim::PlantedBug::DoubleVote
            && message.get_msg_type() == MessageType::MsgRequestVote
            && message.term == self.raw.raft.term
        {
            self.raw.raft.vote = raft::INVALID_ID;
            self.raw.raft.set_priority(0);
        }
        if message.get_msg_type() == MessageType::MsgTimeoutNow {
            // The leader's choice outranks everyone; the rank is restored with the step.
            self.raw.raft.set_priority(i64::MAX);
        }
        let stepped = self.with_raft(|raw| raw.step(message))?;
        // What raft-rs refuses now (an answer from a controller that has left) harms nobody.
        stepped.map_err(|_| {
            self.counters.messages_refused += 1;
            StepError::Refused {
                from,
                problem: "Raft did not expect it",
            }
        })
    }

    fn check_message(&self, from: u64, bytes: &[u8]) -> Result<Message, CheckError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(CheckError::Refused("it is too large"));
        }
        if !is_free_of_groups(bytes) {
            return Err(CheckError::Refused("it is not well-formed"));
        }
        let message =
            Message::parse_from_bytes(bytes).map_err(|_| CheckError::Refused("it does not decode"))?;
        if message.from != from || from == 0 || from == self.config.raft_id {
            return Err(CheckError::Refused(
                "it does not name the sender of this connection",
            ));
        }
        if message.to != self.config.raft_id {
            return Err(CheckError::Refused("it is for another controller"));
        }
        self.check_content(&message)?;
        Ok(message)
    }

    fn check_content(&self, message: &Message) -> Result<(), CheckError> {
        let raft = &self.raw.raft;
        let known = raft.prs().get(message.from).is_some();
        let is_read = message.get_msg_type() == MessageType::MsgReadIndex;
        // raft-rs takes a message without a term for one of its own.
        refuse_if(
            (message.term == 0) != is_read,
            "it needs a term, or none for a read",
        )?;
        refuse_if(message.term > TERM_MAX, "its term is absurd")?;
        match message.get_msg_type() {
            MessageType::MsgAppend => self
                .check_leader(message)
                .and_then(|()| self.check_append(message)),
            MessageType::MsgHeartbeat => self
                .check_leader(message)
                .and_then(|()| self.check_heartbeat(message)),
            MessageType::MsgSnapshot => self
                .check_leader(message)
                .and_then(|()| self.check_snapshot(message)),
            MessageType::MsgAppendResponse => {
                let ahead = message.index > raft.raft_log.last_index() && !message.reject;
                refuse_if(!known, "the sender is not a member")?;
                refuse_if(
                    message.request_snapshot != 0,
                    "snapshots are not asked for this way",
                )?;
                refuse_if(message.reject_hint > INDEX_MAX, "its hint is beyond any log")?;
                refuse_if(
                    ahead && message.term == raft.term && raft.state == StateRole::Leader,
                    "it acknowledges what was never sent",
                )
            }
            // A candidate may know of members that this node does not know of yet.
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => Ok(()),
            MessageType::MsgHeartbeatResponse
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVoteResponse => refuse_if(!known, "the sender is not a member"),
            MessageType::MsgTimeoutNow => {
                refuse_if(raft.leader_id != message.from, "only the leader may hand over")
            }
            MessageType::MsgReadIndex => {
                refuse_if(!known, "the sender is not a member")?;
                refuse_if(raft.state != StateRole::Leader, "only the leader confirms reads")?;
                refuse_if(
                    raft.pending_read_count() >= READS_WAITING_MAX,
                    "too many reads wait",
                )?;
                check_read(message)
            }
            MessageType::MsgReadIndexResp => {
                refuse_if(raft.leader_id != message.from, "only the leader confirms reads")?;
                check_read(message)
            }
            MessageType::MsgPropose => Err(CheckError::Refused("proposals are not forwarded")),
            MessageType::MsgTransferLeader => Err(CheckError::Refused("transfers are not forwarded")),
            MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum => Err(CheckError::Refused("it is local to a node")),
        }
    }

    /// A term has one leader.
    fn check_leader(&self, message: &Message) -> Result<(), CheckError> {
        let raft = &self.raw.raft;
        let other = raft.leader_id != raft::INVALID_ID && raft.leader_id != message.from;
        refuse_if(
            message.term == raft.term && other,
            "another controller leads this term",
        )
    }

    fn check_append(&self, message: &Message) -> Result<(), CheckError> {
        refuse_if(message.log_term > message.term, "its entries follow a later term")?;
        // raft-rs gives entries beyond the log the term 0.
        let follows_nothing = (message.log_term == 0) != (message.index == 0);
        refuse_if(follows_nothing, "its entries follow no entry")?;
        let mut previous = (message.index, message.log_term);
        for entry in message.get_entries() {
            let follows = previous.0.checked_add(1) == Some(entry.index) && entry.term >= previous.1;
            refuse_if(
                !follows || entry.term > message.term,
                "its entries are not in order",
            )?;
            previous = (entry.index, entry.term);
        }
        if message.term < self.raw.raft.term {
            return Ok(());
        }
        self.check_committed(message)
    }

    /// Entries that this node knows to be committed never change.
    fn check_committed(&self, message: &Message) -> Result<(), CheckError> {
        let committed = self.raw.raft.raft_log.committed;
        let entries = message.get_entries().iter();
        entries
            .take_while(|entry| entry.index <= committed)
            .try_for_each(|entry| self.check_agreement(entry.index, entry.term))
    }

    fn check_agreement(&self, index: u64, received_term: u64) -> Result<(), CheckError> {
        let log = &self.raw.raft.raft_log;
        // What is compacted cannot be compared.
        let committed_term = if index < log.first_index() {
            0
        } else {
            log.term(index).unwrap_or(0)
        };
        if committed_term == 0 || committed_term == received_term {
            return Ok(());
        }
        Err(CheckError::Fatal(FatalError::Diverged {
            index,
            received_term,
            committed_term,
        }))
    }

    /// A leader's snapshot holds committed entries, as this node does.
    fn check_snapshot(&self, message: &Message) -> Result<(), CheckError> {
        check_announcement(message)?;
        let metadata = message.get_snapshot().get_metadata();
        let raft = &self.raw.raft;
        if message.term < raft.term || metadata.index > raft.raft_log.committed {
            return Ok(());
        }
        self.check_agreement(metadata.index, metadata.term)
    }

    /// A heartbeat's commit index never exceeds what this node has acknowledged.
    fn check_heartbeat(&self, message: &Message) -> Result<(), CheckError> {
        let raft = &self.raw.raft;
        let last_index = raft.raft_log.last_index();
        if message.term < raft.term || message.commit <= last_index {
            return Ok(());
        }
        Err(CheckError::Fatal(FatalError::AcknowledgedLost {
            acknowledged: message.commit,
            last_index,
        }))
    }
}

fn check_read(message: &Message) -> Result<(), CheckError> {
    let entries = message.get_entries();
    refuse_if(entries.len() != 1, "a read has one context")?;
    refuse_if(
        entries.iter().any(|entry| entry.data.len() != READ_CONTEXT_BYTES),
        "a read's context has another length",
    )
}

fn check_announcement(message: &Message) -> Result<(), CheckError> {
    let metadata = message.get_snapshot().get_metadata();
    refuse_if(
        metadata.index == 0 || metadata.term == 0,
        "a snapshot needs an index and a term",
    )?;
    refuse_if(metadata.term > message.term, "its snapshot is of a later term")?;
    let members = metadata.get_conf_state();
    refuse_if(members.voters.is_empty(), "its snapshot has no voters")?;
    refuse_if(
        !members.voters_outgoing.is_empty(),
        "joint membership is not in use",
    )
}

enum CheckError {
    Refused(&'static str),
    Fatal(FatalError),
}

fn refuse_if(condition: bool, problem: &'static str) -> Result<(), CheckError> {
    if condition {
        Err(CheckError::Refused(problem))
    } else {
        Ok(())
    }
}
