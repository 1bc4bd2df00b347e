//! One round: make durable what Raft wants durable, then give out messages and committed entries.

use super::RaftNode;
use crate::error::FatalError;
use crate::log::Batch;
use crate::membership::Membership;
use crate::ready::{CommittedEntry, InstalledSnapshot, OutboundMessage, Payload, ReadState, Ready};
use protobuf::Message as _;
use raft::eraftpb::{ConfChange, Entry, EntryType, Message, MessageType};

impl RaftNode {
    /// True when `ready` has something to do.
    pub fn has_ready(&self) -> bool {
        self.raw.has_ready()
            || self.initial_snapshot.is_some()
            || self.request_due()
            || self.role() != self.last_role
    }

    /// Persists (one write, one sync) and gives out what follows from it. After an error the node is of no more use.
    pub fn ready(&mut self) -> Result<Ready, FatalError> {
        let mut early = Vec::new();
        let mut ready = self.ready_sending(&mut |message| early.push(message))?;
        if !early.is_empty() {
            early.append(&mut ready.messages);
            ready.messages = early;
        }
        Ok(ready)
    }

    /// As `ready`, but gives a leader's messages to `send` before it persists, so that followers write at the same
    /// time as the leader.
    pub fn ready_sending(&mut self, send: &mut dyn FnMut(OutboundMessage)) -> Result<Ready, FatalError> {
        self.check_running()?;
        let round = self.run_round(send);
        self.stop(round)
    }

    fn run_round(&mut self, send: &mut dyn FnMut(OutboundMessage)) -> Result<Ready, FatalError> {
        let mut out = Ready {
            snapshot: self.initial_snapshot.take(),
            ..Ready::default()
        };
        if self.raw.has_ready() {
            self.run_raft_round(&mut out, send)?;
        }
        out.snapshot_requests.extend(self.take_request());
        out.role = self.role();
        out.role_changed = out.role != self.last_role;
        self.last_role = out.role;
        Ok(out)
    }

    fn run_raft_round(
        &mut self,
        out: &mut Ready,
        send: &mut dyn FnMut(OutboundMessage),
    ) -> Result<(), FatalError> {
        let mut round = self.with_raft(raft::RawNode::ready)?;
        for message in round.take_messages() {
            self.encode(message)?.into_iter().for_each(&mut *send);
        }
        for state in round.take_read_states() {
            out.read_states
                .extend(self.own_read(&state.request_ctx, state.index));
        }
        if let Some(installed) = self.persist(&mut round)? {
            out.snapshot = Some(installed);
        }
        for message in round.take_persisted_messages() {
            out.messages.extend(self.encode(message)?);
        }
        let mut committed = round.take_committed_entries();
        let mut light = self.with_raft(|raw| raw.advance_append(round))?;
        if let Some(snapshot) = &out.snapshot
            && snapshot.index > self.raw.raft.raft_log.applied
        {
            let index = snapshot.index;
            self.with_raft(|raw| raw.advance_apply_to(index))?;
        }
        if let Some(commit) = light.commit_index() {
            self.hard_state.commit = commit;
        }
        for message in light.take_messages() {
            out.messages.extend(self.encode(message)?);
        }
        committed.append(&mut light.take_committed_entries());
        self.give_out(committed, out)
    }

    /// Writes what the round holds. A commit index alone waits for the next write: it is learned again after a crash.
    fn persist(&mut self, round: &mut raft::Ready) -> Result<Option<InstalledSnapshot>, FatalError> {
        if let Some(state) = round.hs() {
            self.hard_state = state.clone();
        }
        let announced = (!round.snapshot().is_empty()).then(|| round.snapshot().clone());
        let entries = round.take_entries();
        if announced.is_none() && entries.is_empty() && !round.must_sync() {
            return Ok(None);
        }
        let installed = announced
            .map(|announced| self.store_installed(&announced))
            .transpose()?;
        let members = installed.as_ref().and_then(|_| self.members.last().cloned());
        let hard_state = (self.hard_state != self.written_hard_state).then_some(&self.hard_state);
        self.log.append(&Batch {
            snapshot_mark: installed.as_ref().map(|snapshot| (snapshot.index, snapshot.term)),
            members: members.as_ref().map(|(index, members)| (*index, members)),
            entries: &entries,
            hard_state,
        })?;
        self.written_hard_state = self.hard_state.clone();
        if let Some(snapshot) = &installed {
            self.raw.mut_store().begin_after(snapshot.index, snapshot.term);
            self.log.drop_sealed()?;
        }
        self.raw.mut_store().append(entries);
        Ok(installed)
    }

    fn give_out(&mut self, committed: Vec<Entry>, out: &mut Ready) -> Result<(), FatalError> {
        let known = self.members.last().map_or(0, |(index, _)| *index);
        let changed = committed
            .iter()
            .any(|entry| entry.index > known && entry.get_entry_type() != EntryType::EntryNormal);
        for entry in committed {
            let (index, term) = (entry.index, entry.term);
            let payload = match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => Payload::Empty,
                EntryType::EntryNormal => Payload::Data(entry.data),
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => self.change_members(&entry)?,
            };
            out.committed.push(CommittedEntry { index, term, payload });
        }
        if changed { self.write_members() } else { Ok(()) }
    }

    /// Applies a membership entry to Raft, unless the members read from the disk already contain it.
    fn change_members(&mut self, entry: &Entry) -> Result<Payload, FatalError> {
        let change = ConfChange::parse_from_bytes(&entry.data)
            .ok()
            .filter(|_| entry.get_entry_type() == EntryType::EntryConfChange)
            .ok_or_else(|| FatalError::Inconsistent {
                reason: format!(
                    "entry {} is no membership change that this version knows",
                    entry.index
                ),
            })?;
        if self.members.last().is_none_or(|(index, _)| *index < entry.index) {
            let applied = self.with_raft(|raw| raw.apply_conf_change(&change))?;
            // Every controller refuses an impossible change alike, and the members stay as they are.
            let members = applied.unwrap_or_else(|_| {
                self.members
                    .last()
                    .map(|(_, members)| members.clone())
                    .unwrap_or_default()
            });
            self.members.push((entry.index, members));
        }
        let at = self.members.partition_point(|(index, _)| *index <= entry.index);
        let membership = at.checked_sub(1).and_then(|at| self.members.get(at));
        Ok(Payload::Membership {
            change: super::changes::describe(&change),
            context: change.context.clone(),
            membership: membership
                .map(|(_, members)| Membership::from(members))
                .unwrap_or_default(),
        })
    }

    /// New members are durable before anything is sent under them.
    fn write_members(&mut self) -> Result<(), FatalError> {
        let written_from = self.log.newest_members();
        for (index, members) in self.members.iter().filter(|(index, _)| *index > written_from) {
            self.log.append(&Batch {
                members: Some((*index, members)),
                hard_state: Some(&self.hard_state),
                ..Batch::default()
            })?;
        }
        self.written_hard_state = self.hard_state.clone();
        Ok(())
    }

    /// Makes a read's answer one for the caller, if this node began the read.
    fn own_read(&self, context: &[u8], index: u64) -> Option<ReadState> {
        super::proposals::read_context(context, self.config.raft_id)
            .map(|context| ReadState { context, index })
    }

    fn encode(&mut self, message: Message) -> Result<Option<OutboundMessage>, FatalError> {
        if message.get_msg_type() == MessageType::MsgPropose {
            // Followers never forward proposals; requests are forwarded with their ids by the control API.
            return Ok(None);
        }
        if message.get_msg_type() == MessageType::MsgSnapshot {
            let index = message.get_snapshot().get_metadata().index;
            self.transfers.began(message.to, index, self.ticks);
            self.counters.snapshots_sent += 1;
        }
        self.counters.messages_sent += 1;
        let bytes = message
            .write_to_bytes()
            .map_err(|error| FatalError::Inconsistent {
                reason: error.to_string(),
            })?;
        Ok(Some(OutboundMessage {
            to: message.to,
            bytes: bytes.into(),
        }))
    }

    /// Writes a commit index that is only in memory; for a clean stop.
    pub fn flush(&mut self) -> Result<(), FatalError> {
        self.check_running()?;
        if self.hard_state == self.written_hard_state {
            return Ok(());
        }
        let written = self.log.append(&Batch {
            hard_state: Some(&self.hard_state),
            ..Batch::default()
        });
        self.written_hard_state = self.hard_state.clone();
        self.stop(written)
    }
}
