//! The controller's core: one synchronous state machine around the Raft node. Inputs go in, outputs come out; the
//! shell owns the sockets and clocks, the simulator owns simulated ones.
//!
//! [`Controller::handle`] takes inputs in; [`Controller::flush`] persists, applies and acts, and returns what to do.
//! Handing in several inputs before a flush is how writes share one sync of the disk.

mod anew;
mod answers;
pub mod cluster_requests;
pub mod dispatch;
mod file_requests;
pub mod io;
mod leader;
mod network_requests;
pub mod network_rows;
pub mod observed;
pub mod proposals;
pub mod reads;
pub mod requests;
mod rotation;
mod service_requests;
mod sessions;
mod settling;
mod snapshots;
pub mod trace;
mod upgrade;
pub mod witness;

use crate::control::{ControlError, ControlReply, ControlRequest};
use crate::membership::Group;
use anew::Anew;
use bytes::Bytes;
use io::{Input, Members, Now, Output, ReadView, Token};
use leader::Leader;
use muster_consensus::{
    CommittedEntry, FatalError, KeyRing, OpenError, Payload, ProposeError, RaftNode, Ready, SnapshotChunk,
    SnapshotError, SnapshotId, StepError,
};
use muster_state::{Changeset, ClusterState, Entry, EntryError, Outcome, SnapshotError as StateError};
use muster_types::{IdSource, NodeId, RaftId, RequestId};
use observed::{Observed, Stopwatch, note};
use proposals::{Fate, Origin, Proposals};
use reads::{Reader, Reads};
use std::collections::BTreeMap;
use std::time::Duration;
use witness::{Applied, Witness};

/// Rounds of one flush. A round proposes what the last one led to; what is left waits for the next flush, so that
/// ticks are never far apart.
const ROUNDS_MAX: usize = 8;

/// The controller must end. Its disk holds everything that was acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The Raft node failed.
    #[error(transparent)]
    Raft(#[from] FatalError),
    /// The Raft node could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A committed entry is not understood; it is never skipped.
    #[error("cannot apply log entry {index}")]
    Entry {
        /// Its index.
        index: u64,
        /// Cause.
        #[source]
        source: EntryError,
    },
    /// A snapshot is not understood.
    #[error("cannot read the cluster's state from a snapshot")]
    State(#[source] StateError),
    /// A snapshot could not be made.
    #[error("cannot store a snapshot of the cluster's state")]
    Snapshot(#[source] SnapshotError),
}

/// Most controllers remembered that the state does not name yet.
const MET_MAX: usize = 64;
/// One controller.
pub struct Controller {
    node: NodeId,
    raft_id: RaftId,
    raft: RaftNode,
    state: ClusterState,
    proposals: Proposals,
    reads: Reads,
    /// Answers to writes that wait for the confirmation that this controller still leads, each with its term.
    answers: BTreeMap<Token, (u64, Result<ControlReply, ControlError>)>,
    leader: Option<Leader>,
    anew: Anew,
    /// Members to reach before the state names any: what a joining controller was told.
    known: Members,
    /// Controllers that came and that the state does not name yet, because it lags.
    met: BTreeMap<NodeId, (RaftId, String)>,
    ids: Box<dyn IdSource + Send>,
    outputs: Vec<Output>,
    published: Members,
    /// Everything that the published members follow from, when they were published last.
    published_at: Option<(u64, Option<RaftId>, bool, bool)>,
    events_from: Option<ClusterState>,
    was_member: bool,
    observed: Observed,
    stopwatch: Stopwatch,
    fatal: Option<FatalError>,
    witness: Option<Box<dyn Witness>>,
}

impl Controller {
    /// A controller on an opened Raft node. `known` are the members that a joining controller was told of.
    pub fn new(node: NodeId, raft: RaftNode, known: Members, mut ids: Box<dyn IdSource + Send>) -> Self {
        let first_read = (ids.next_u128() >> 64) as u64;
        let raft_id = RaftId(raft.status().raft_id);
        Self {
            node,
            raft_id,
            raft,
            state: ClusterState::new(),
            proposals: Proposals::default(),
            reads: Reads::new(first_read),
            answers: BTreeMap::new(),
            leader: None,
            anew: Anew::default(),
            known,
            met: BTreeMap::new(),
            ids,
            outputs: Vec::new(),
            published: Members::default(),
            published_at: None,
            events_from: None,
            was_member: false,
            observed: Observed::default(),
            stopwatch: Stopwatch::default(),
            fatal: None,
            witness: None,
        }
    }

    /// Shows every entry to a checker from now on.
    pub fn set_witness(&mut self, witness: Box<dyn Witness>) {
        self.witness = Some(witness);
    }

    /// Measures with this clock from now on: the time since some moment.
    pub fn set_stopwatch(&mut self, read: Box<dyn Fn() -> Duration + Send>) {
        self.stopwatch = Stopwatch(Some(read));
    }

    /// The state as far as it is applied here.
    pub fn state(&self) -> &ClusterState {
        &self.state
    }

    /// The Raft node, for its status and counters.
    pub fn raft(&self) -> &RaftNode {
        &self.raft
    }

    /// Takes what happened since the last call.
    pub fn take_observed(&mut self) -> Observed {
        std::mem::take(&mut self.observed)
    }

    /// This controller leads and has applied all that was committed before its term.
    pub fn is_leading(&self) -> bool {
        self.leader.as_ref().is_some_and(|leader| leader.ready)
    }

    /// Nodes with a live session here.
    pub fn sessions(&self) -> usize {
        self.leader
            .as_ref()
            .map_or(0, |leader| leader.leases.sessions().count())
    }

    /// Leases of nodes; none unless this controller leads.
    pub fn leases(&self) -> usize {
        self.leader.as_ref().map_or(0, |leader| leader.leases.count())
    }

    /// Takes one input in. Nothing is answered before the next [`Controller::flush`].
    pub fn handle(&mut self, input: Input, now: Now) {
        match input {
            Input::Tick => self.tick(now),
            Input::Raft { from, message } => self.step(from, &message),
            Input::Met {
                raft_id,
                node,
                address,
            } => self.meet(raft_id, node, address),
            Input::Unreachable(peer) => self.note(|raft| raft.report_unreachable(peer.0)),
            Input::Chunk { from, chunk } => self.take_chunk(from, chunk),
            Input::ChunkUnavailable(id) => self.raft.snapshot_unavailable(&id),
            Input::ServeChunk {
                token,
                from,
                id,
                offset,
            } => self.serve_chunk(token, from, id, offset),
            Input::Write { token, id, request } => self.write(token, id, request, now),
            Input::Read { token } => self.read(token, now),
            Input::AnewNoted => self.anew_noted(),
            Input::StepDown => self.step_down(),
            Input::RotateKeys { token, keys } => self.rotate_keys(token, *keys),
            Input::SessionOpen { .. }
            | Input::SessionLost { .. }
            | Input::Farewell { .. }
            | Input::NetworksApplied { .. }
            | Input::AwaitSettled { .. }
            | Input::Heartbeat { .. }
            | Input::Status { .. } => self.handle_agent(input, now),
        }
    }

    /// Persists, applies and acts, until nothing more follows. After an error the controller must not be used again.
    pub fn flush(&mut self, now: Now) -> Result<Vec<Output>, ControllerError> {
        for _ in 0..ROUNDS_MAX {
            self.ask_reads(now);
            self.lead(now);
            if let Some(error) = self.fatal.take() {
                return Err(error.into());
            }
            if !self.raft.has_ready() {
                break;
            }
            let ready = self.raft.ready()?;
            self.take_ready(ready, now)?;
        }
        self.serve_reads(now);
        self.dispatch();
        self.publish();
        self.snapshot_if_due()?;
        Ok(std::mem::take(&mut self.outputs))
    }

    /// Whether a flush would do something that does not wait for an input.
    pub fn has_work(&self) -> bool {
        self.raft.has_ready()
    }

    fn note(&mut self, call: impl FnOnce(&mut RaftNode) -> Result<(), FatalError>) {
        if let Err(error) = call(&mut self.raft) {
            self.fatal.get_or_insert(error);
        }
    }

    fn rotate_keys(&mut self, token: Token, keys: KeyRing) {
        match self.raft.rotate_keys(keys) {
            Ok(()) => self.outputs.push(Output::KeysRotated { token }),
            Err(error) => {
                // The node refuses every later call, and the next flush says so.
                tracing::error!(error = %error, "the keys of the Raft log could not be rotated");
                self.note(RaftNode::tick);
            }
        }
    }

    fn tick(&mut self, now: Now) {
        self.note(RaftNode::tick);
        if let Some(leader) = &mut self.leader {
            leader.opened.retain(|_, pace| !pace.is_rested(now.elapsed));
        }
        let leading = self.leader.as_ref().map(|leader| leader.term);
        for origin in self.proposals.overdue(now.elapsed, leading) {
            self.answer_unknown(origin);
        }
        for reader in self.reads.overdue(now.elapsed) {
            match reader {
                Reader::Query(token) => self.outputs.push(Output::Read {
                    token,
                    result: Err(ControlError::NoLeader),
                }),
                Reader::Answer(token) => {
                    self.answers.remove(&token);
                    self.reply(token, Err(ControlError::NoLeader));
                }
                Reader::Leases => {}
            }
        }
    }

    fn step(&mut self, from: RaftId, message: &Bytes) {
        match self.raft.step(from.0, message) {
            Ok(()) => {}
            Err(StepError::Fatal(error)) => {
                self.fatal.get_or_insert(error);
            }
            Err(refused) => tracing::debug!(error = %refused, "a Raft message was refused"),
        }
    }

    /// Without its address a leader that is new here could not be answered, and nothing would be learned of it.
    fn meet(&mut self, raft_id: RaftId, node: NodeId, address: String) {
        let known = self.met.contains_key(&node);
        if known || self.met.len() < MET_MAX {
            self.met.insert(node, (raft_id, address));
            self.published_at = None;
        }
    }

    fn take_chunk(&mut self, from: RaftId, chunk: SnapshotChunk) {
        match self.raft.install_chunk(from.0, chunk) {
            Ok(()) => {}
            Err(SnapshotError::Fatal(error)) => {
                self.fatal.get_or_insert(error);
            }
            Err(refused) => tracing::debug!(error = %refused, "a piece of a snapshot was refused"),
        }
    }

    fn serve_chunk(&mut self, token: Token, from: RaftId, id: SnapshotId, offset: u64) {
        let chunk = match self
            .raft
            .snapshot_chunk(from.0, &id, offset, muster_consensus::CHUNK_BYTES_MAX)
        {
            Ok(chunk) => Some(chunk),
            Err(SnapshotError::Fatal(error)) => {
                self.fatal.get_or_insert(error);
                None
            }
            Err(_) => None,
        };
        self.outputs.push(Output::ChunkServed { token, chunk });
    }

    fn write(&mut self, token: Token, id: RequestId, request: ControlRequest, now: Now) {
        let result = match self.decide_write(id, &request) {
            Ok(requests::Decision::Answer(reply)) => Ok(reply),
            Ok(requests::Decision::Propose(changeset)) => {
                match self.propose(*changeset, Origin::Write { token, id, request }, now) {
                    Ok(()) => return,
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        let term = self.leader.as_ref().map(|leader| leader.term);
        match (result, term) {
            (result @ (Ok(_) | Err(ControlError::Refused { .. })), Some(term))
                if self.reads.add(Reader::Answer(token), now.elapsed) =>
            {
                self.answers.insert(token, (term, result));
            }
            (Ok(_) | Err(ControlError::Refused { .. }), _) => self.reply(token, Err(ControlError::Busy)),
            (result, _) => self.reply(token, result),
        }
    }

    fn reply(&mut self, token: Token, result: Result<ControlReply, ControlError>) {
        self.outputs.push(Output::Reply { token, result });
    }

    /// An answer from the state holds if this controller led all the time: another leader may have changed what it
    /// says.
    fn answer_confirmed(&mut self, token: Token) {
        let Some((term, result)) = self.answers.remove(&token) else {
            return;
        };
        let leads = self.leader.as_ref().is_some_and(|leader| leader.term == term);
        let result = if leads { result } else { Err(self.not_leading()) };
        self.reply(token, result);
    }

    fn decide_write(
        &mut self,
        id: RequestId,
        request: &ControlRequest,
    ) -> Result<requests::Decision, ControlError> {
        if !self.is_leading() {
            return Err(self.not_leading());
        }
        if self.proposals.is_full() || self.proposals.has_write(id) {
            return Err(ControlError::Busy);
        }
        let group = self.group();
        requests::decide(&self.state, id, request, &group, self.ids.as_mut())
    }

    fn not_leading(&self) -> ControlError {
        match self.raft.role().leader.map(RaftId) {
            None => ControlError::NoLeader,
            Some(leader) => ControlError::NotLeader {
                leader: self.address_of(leader),
            },
        }
    }

    fn address_of(&self, raft_id: RaftId) -> Option<String> {
        let member = self.published.members.iter().find(|(id, _, _)| *id == raft_id);
        member.map(|(_, _, address)| address.clone())
    }

    fn read(&mut self, token: Token, now: Now) {
        if !self.reads.add(Reader::Query(token), now.elapsed) {
            self.outputs.push(Output::Read {
                token,
                result: Err(ControlError::Busy),
            });
        }
    }

    fn step_down(&mut self) {
        let status = self.raft.status();
        let successor = status
            .peers
            .iter()
            .find(|peer| peer.voter && peer.caught_up && peer.recent_active);
        if let (true, Some(successor)) = (self.raft.role().is_leader(), successor) {
            // A refusal means that leadership is on its way already.
            if let Err(error) = self.raft.transfer_leader(successor.raft_id) {
                tracing::debug!(error = %error, "leadership is not handed over");
            }
        }
    }

    /// Puts a changeset into the log.
    fn propose(&mut self, changeset: Changeset, origin: Origin, now: Now) -> Result<(), ControlError> {
        let Some(leader) = &mut self.leader else {
            return Err(self.not_leading());
        };
        let entry = Entry::new(leader.cluster_time(now), changeset);
        let bytes = entry.encode().map_err(|error| {
            ControlError::refused(crate::control::RefusalKind::Internal, error.to_string())
        })?;
        match self.raft.propose(bytes.into()) {
            Ok(ticket) => {
                if let Some(lost) = self.proposals.insert(ticket, origin, now.elapsed) {
                    self.answer_lost(lost);
                }
                Ok(())
            }
            Err(ProposeError::NotLeader { .. }) => Err(self.not_leading()),
            Err(ProposeError::Fatal(error)) => {
                self.fatal.get_or_insert(error);
                Err(ControlError::OutcomeUnknown)
            }
            Err(ProposeError::Busy { .. }) => Err(ControlError::Busy),
            Err(error @ (ProposeError::TooLarge { .. } | ProposeError::Empty)) => Err(ControlError::refused(
                crate::control::RefusalKind::Invalid,
                error.to_string(),
            )),
        }
    }

    fn take_ready(&mut self, ready: Ready, now: Now) -> Result<(), ControllerError> {
        for message in ready.messages {
            self.outputs.push(Output::Send {
                to: RaftId(message.to),
                message: message.bytes,
            });
        }
        if let Some(snapshot) = ready.snapshot {
            self.state = ClusterState::restore(&snapshot.data).map_err(ControllerError::State)?;
            self.state.advance(snapshot.index);
            if let Some(witness) = &mut self.witness {
                witness.restored(&self.state);
            }
            for origin in self.proposals.skipped_to(snapshot.index) {
                self.answer_unknown(origin);
            }
            self.raft.applied(snapshot.index)?;
        }
        for committed in ready.committed {
            self.apply(committed, now)?;
        }
        for read in ready.read_states {
            self.reads.confirmed(read.context, read.index);
        }
        for request in ready.snapshot_requests {
            let (from, id, offset) = (RaftId(request.to), request.id, request.offset);
            self.outputs.push(Output::FetchChunk { from, id, offset });
        }
        if ready.role_changed || self.leader.is_none() {
            self.follow_role(now);
        }
        Ok(())
    }

    fn apply(&mut self, committed: CommittedEntry, now: Now) -> Result<(), ControllerError> {
        let (index, term) = (committed.index, committed.term);
        let before = self.witness.is_some().then(|| self.state.clone());
        let mut shown = None;
        let outcome = match committed.payload {
            Payload::Data(data) => {
                let entry =
                    Entry::decode(&data).map_err(|source| ControllerError::Entry { index, source })?;
                if self.events_from.is_none() {
                    self.events_from = Some(self.state.clone());
                }
                let begun = self.stopwatch.read();
                let application = self.state.apply(index, &entry);
                note(&mut self.observed.applies, self.stopwatch.since(begun));
                shown = before.is_some().then_some(entry);
                if let Some(leader) = &mut self.leader {
                    leader.touched(&self.state, application.touched);
                }
                Some(application.outcome)
            }
            Payload::Empty => {
                self.state.advance(index);
                None
            }
            Payload::Membership { .. } => {
                self.state.advance(index);
                if let Some(leader) = &mut self.leader {
                    leader.membership_changing = false;
                }
                None
            }
        };
        if let (Some(witness), Some(before)) = (&mut self.witness, &before) {
            witness.applied(&Applied {
                index,
                term,
                entry: shown.as_ref().zip(outcome.as_ref()),
                before,
                after: &self.state,
            });
        }
        if let Some(Outcome::Rejected(rejection)) = &outcome {
            self.observed.rejections += 1;
            tracing::debug!(index, error = %rejection, "a changeset was rejected");
        }
        self.raft.applied(index)?;
        match self.proposals.committed(index, term) {
            Some(Fate::Committed(origin, since)) => {
                note(&mut self.observed.commits, now.elapsed.saturating_sub(since));
                self.answer_committed(origin, outcome, now);
            }
            Some(Fate::Lost(origin)) => self.answer_lost(origin),
            None => {}
        }
        Ok(())
    }

    /// Starts and stops the leader's scope as one.
    fn follow_role(&mut self, now: Now) {
        let role = self.raft.role();
        let leads = self
            .leader
            .as_ref()
            .is_some_and(|leader| leader.term == role.term);
        if role.is_leader() && !leads {
            self.observed.leaderships += 1;
            self.stop_leading();
            self.leader = Some(Leader::new(role.term));
            tracing::info!(term = role.term, "leading");
        } else if !role.is_leader() && self.leader.is_some() {
            self.stop_leading();
            tracing::info!(term = role.term, leader = ?role.leader, "following");
        }
        self.ready_to_lead(now);
    }

    fn ask_reads(&mut self, now: Now) {
        for context in self.reads.to_ask(now.elapsed) {
            // Without a leader, or with one that is too new, it is asked for again at a later tick.
            if self.raft.read_index(context).is_ok() {
                self.reads.asked(context, now.elapsed);
            }
        }
    }

    fn serve_reads(&mut self, now: Now) {
        for (reader, since) in self.reads.ready(self.state.index()) {
            match reader {
                Reader::Query(token) => {
                    let view = Box::new(self.read_view());
                    self.outputs.push(Output::Read {
                        token,
                        result: Ok(view),
                    });
                }
                Reader::Answer(token) => self.answer_confirmed(token),
                Reader::Leases => self.expire_leases(since, now),
            }
        }
    }

    fn read_view(&self) -> ReadView {
        let role = self.raft.role();
        let reachable = role
            .is_leader()
            .then(|| self.group().reachable.into_iter().map(RaftId).collect());
        ReadView {
            state: self.state.clone(),
            leader: role.leader.map(RaftId),
            reachable,
        }
    }

    /// The Raft group as this controller sees it.
    fn group(&self) -> Group {
        self.group_of(&self.raft.status())
    }

    fn group_of(&self, status: &muster_consensus::Status) -> Group {
        let own = self.raft_id.0;
        let active = |filter: fn(&muster_consensus::PeerStatus) -> bool| {
            let peers = status
                .peers
                .iter()
                .filter(move |peer| filter(peer))
                .map(|peer| peer.raft_id);
            peers.chain([own]).collect()
        };
        Group {
            leader: status.role.leader.unwrap_or(0),
            voters: status.membership.voters.iter().copied().collect(),
            learners: status.membership.learners.iter().copied().collect(),
            caught_up: active(|peer| peer.caught_up),
            reachable: active(|peer| peer.recent_active),
        }
    }

    /// Tells the shell where messages and requests go, and watchers what changed.
    fn publish(&mut self) {
        let leader = self.raft.role().leader.map(RaftId);
        let leading = self.is_leading();
        let began_anew = self.anew == Anew::Begun;
        let at = (self.state.index(), leader, leading, began_anew);
        if self.published_at == Some(at) {
            return;
        }
        self.published_at = Some(at);
        let mut members: Vec<(RaftId, NodeId, String)> = self
            .state
            .nodes()
            .filter_map(|node| node.controller.as_ref().map(|member| (node.id, member)))
            .map(|(node, member)| (member.raft_id, node, member.address.clone()))
            .collect();
        if members.is_empty() {
            members.clone_from(&self.known.members);
        }
        let state = &self.state;
        let next = state
            .cluster()
            .map_or(RaftId(0), |cluster| RaftId(cluster.next_raft_id));
        self.met.retain(|_, (raft_id, _)| *raft_id >= next);
        for (node, (raft_id, address)) in &self.met {
            if members.iter().all(|(known, _, _)| known != raft_id) {
                members.push((*raft_id, *node, address.clone()));
            }
        }
        let now = Members {
            leader,
            leading,
            began_anew,
            members,
        };
        if now != self.published {
            self.published = now.clone();
            self.outputs.push(Output::Members(Box::new(now)));
        }
        if let Some(before) = self.events_from.take() {
            self.outputs.push(Output::Changed {
                before: Box::new(before),
                after: Box::new(self.state.clone()),
            });
        }
        self.notice_removal();
    }

    fn notice_removal(&mut self) {
        let member = self.raft.membership().contains(self.raft_id.0);
        let recorded = self
            .state
            .node(self.node)
            .and_then(|node| node.controller.as_ref());
        let recorded = recorded.is_some_and(|record| record.raft_id == self.raft_id);
        if self.was_member && !member && !recorded {
            self.was_member = false;
            self.outputs.push(Output::Removed);
        } else if member {
            self.was_member = true;
        }
    }

    /// Waiting time of the longest tick that a leader may sleep, for the shell's timer.
    pub fn next_reconcile_in(&self, now: Now) -> Option<Duration> {
        // One under way wakes the core when it is committed.
        let may_begin = self.is_leading() && !self.proposals.reconciling();
        let leader = self.leader.as_ref().filter(|_| may_begin)?;
        leader.wakes_in(now)
    }
}

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod network_tests;
#[cfg(test)]
mod tests;
