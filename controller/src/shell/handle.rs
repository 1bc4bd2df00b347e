//! A cheap handle to the core's thread, for services and the Engine API.

use super::leader_channel::LeaderChannel;
use crate::control::{ControlError, ControlReply, ControlRequest};
use crate::core::io::{Input, Members, NodeView, ReadView, Token};
use arc_swap::{ArcSwap, ArcSwapOption};
use muster_consensus::{KeyRing, SnapshotChunk, SnapshotId};
use muster_proto::control::WriteRequest;
use muster_proto::control::control_client::ControlClient;
use muster_proto::dispatcher::dispatcher_client::DispatcherClient;
use muster_proto::dispatcher::{HeartbeatReply, HeartbeatRequest};
use muster_proto::pack::{pack, unpack};
use muster_proto::transport::Dialer;
use muster_state::ClusterState;
use muster_types::{
    AssignmentUpdate, NodeDescription, NodeId, RaftId, RequestId, SessionId, TaskId, TaskStatus,
};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::{Response, Status};

/// A cluster call fails within this without a leader.
const CALL_WITHIN: Duration = Duration::from_millis(4800);
/// A successor in reach takes leadership over within this.
const HANDOVER_WITHIN: Duration = Duration::from_secs(1);
/// Wait before the next look for a leader.
const LEADER_POLL: Duration = Duration::from_millis(30);
/// Messages waiting for one agent; a session that lets them pile up is ended.
pub(super) const SESSION_QUEUE: usize = 64;

/// Something for one agent.
#[derive(Debug)]
pub enum SessionMessage {
    /// The session is live.
    Opened {
        /// How often to renew the lease.
        heartbeat_period: Duration,
    },
    /// What the node must run.
    Assign(Box<AssignmentUpdate>),
    /// Who is who.
    View(Box<NodeView>),
    /// A report is committed.
    StatusCommitted(u64),
    /// Every node has applied what it was sent of networks up to this applied index.
    Settled(u64),
    /// The session is over; the leader's address where it is known.
    Ended(Option<String>),
}

/// Who waits for an answer of the core.
#[derive(Debug)]
pub(super) enum Responder {
    Write(oneshot::Sender<Result<ControlReply, ControlError>>),
    Read(oneshot::Sender<Result<Box<ReadView>, ControlError>>),
    Chunk(oneshot::Sender<Option<SnapshotChunk>>),
    Heartbeat(oneshot::Sender<bool>),
    Keys(oneshot::Sender<()>),
}

/// State before and after a flush.
pub type StateChange = Arc<(ClusterState, ClusterState)>;

pub(super) struct Shared {
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) responders: Mutex<HashMap<Token, Responder>>,
    pub(super) sessions: Mutex<HashMap<SessionId, mpsc::Sender<SessionMessage>>>,
    pub(super) tokens: AtomicU64,
    pub(super) members: watch::Receiver<Members>,
    pub(super) removed: watch::Receiver<bool>,
    pub(super) state: ArcSwap<ClusterState>,
    pub(super) changes: broadcast::Sender<StateChange>,
    pub(super) dialer: Dialer,
    pub(super) leader_channel: LeaderChannel,
    pub(super) own: RaftId,
}

/// An answer that somebody waits for. One who no longer waits leaves nothing behind.
struct Expected<'a> {
    shared: &'a Shared,
    token: Token,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.shared
            .responders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.token);
    }
}

/// A handle to one controller. Cheap to clone.
#[derive(Clone)]
pub struct ControllerHandle(pub(super) Arc<Shared>);

/// Where a node's services find its controller: empty on workers, changed by promote and demote.
pub type ControllerSlot = Arc<ArcSwapOption<ControllerHandle>>;

impl ControllerHandle {
    /// Carries out a write: here if this controller leads, else through the one that does. Fails within 5 s.
    /// Cancelling leaves the outcome unknown.
    pub async fn write(&self, id: RequestId, request: ControlRequest) -> Result<ControlReply, ControlError> {
        let deadline = Instant::now() + CALL_WITHIN;
        let mut last = ControlError::NoLeader;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(last);
            }
            let result = match tokio::time::timeout(left, self.write_once(id, request.clone())).await {
                Ok(result) => result,
                Err(_) => return Err(ControlError::OutcomeUnknown),
            };
            match result {
                Err(
                    error @ (ControlError::NotLeader { .. } | ControlError::NoLeader | ControlError::Busy),
                ) => {
                    // What may have been committed stays so, whatever a later try met.
                    if last != ControlError::OutcomeUnknown {
                        last = match error {
                            ControlError::NotLeader { .. } => ControlError::NoLeader,
                            other => other,
                        };
                    }
                }
                // The request's id makes a second try safe: it applies once.
                Err(ControlError::OutcomeUnknown) => last = ControlError::OutcomeUnknown,
                other => return other,
            }
            tokio::time::sleep(LEADER_POLL).await;
        }
    }

    async fn write_once(&self, id: RequestId, request: ControlRequest) -> Result<ControlReply, ControlError> {
        match self.write_here(id, request.clone()).await {
            Err(ControlError::NotLeader {
                leader: Some(address),
            }) => self.forward(&address, id, &request).await,
            other => other,
        }
    }

    /// Carries out a write if this controller leads.
    pub async fn write_here(
        &self,
        id: RequestId,
        request: ControlRequest,
    ) -> Result<ControlReply, ControlError> {
        let (sender, receiver) = oneshot::channel();
        let expected = self.expect(Responder::Write(sender));
        let token = expected.token;
        self.send(Input::Write { token, id, request }).await;
        receiver.await.unwrap_or(Err(ControlError::OutcomeUnknown))
    }

    async fn forward(
        &self,
        address: &str,
        id: RequestId,
        request: &ControlRequest,
    ) -> Result<ControlReply, ControlError> {
        let unknown = |_| ControlError::OutcomeUnknown;
        let request = WriteRequest {
            request_id: id.as_u128().to_be_bytes().to_vec().into(),
            request: pack(request).map_err(unknown)?,
        };
        let mut client = ControlClient::new(self.0.leader_channel.to(address));
        let reply = client.write(request).await.map_err(|status| {
            self.drop_broken_channel(&status);
            match status.code() {
                tonic::Code::Unavailable if !may_have_arrived(&status) => ControlError::NoLeader,
                _ => ControlError::OutcomeUnknown,
            }
        })?;
        unpack::<Result<ControlReply, ControlError>>(&reply.into_inner().result)
            .map_err(|_| ControlError::OutcomeUnknown)?
    }

    /// The state as of now or later, confirmed by a quorum. Fails within 5 s. Cancel-safe.
    pub async fn read(&self) -> Result<Box<ReadView>, ControlError> {
        let (sender, receiver) = oneshot::channel();
        let expected = self.expect(Responder::Read(sender));
        let token = expected.token;
        let answer = async {
            self.send(Input::Read { token }).await;
            receiver.await.unwrap_or(Err(ControlError::NoLeader))
        };
        let answer = tokio::time::timeout(CALL_WITHIN, answer).await;
        answer.unwrap_or(Err(ControlError::NoLeader))
    }

    /// Wraps the data keys of the log on disk under the ring's current key; false when the controller ended first. Once
    /// it is done no other key of the ring is needed.
    pub async fn rotate_keys(&self, keys: KeyRing) -> bool {
        let (sender, receiver) = oneshot::channel();
        let expected = self.expect(Responder::Keys(sender));
        let (token, keys) = (expected.token, Box::new(keys));
        self.send(Input::RotateKeys { token, keys }).await;
        receiver.await.is_ok()
    }

    /// The state as far as it is applied here; may be old.
    pub fn state(&self) -> Arc<ClusterState> {
        self.0.state.load_full()
    }

    /// The controllers and the leader as known here.
    pub fn members(&self) -> watch::Receiver<Members> {
        self.0.members.clone()
    }

    /// Becomes true when this controller is out of the Raft group for good.
    pub fn removed(&self) -> watch::Receiver<bool> {
        self.0.removed.clone()
    }

    /// Every change of the state from now on. A slow reader loses the oldest.
    pub fn changes(&self) -> broadcast::Receiver<StateChange> {
        self.0.changes.subscribe()
    }

    /// This controller's Raft id.
    pub fn raft_id(&self) -> RaftId {
        self.0.own
    }

    /// Whether the address of the controller with this Raft id is known.
    pub(super) fn knows(&self, raft_id: RaftId) -> bool {
        self.address_of(raft_id).is_some()
    }

    /// Address of a controller, where it is known.
    pub(super) fn address_of(&self, raft_id: RaftId) -> Option<String> {
        let members = self.0.members.borrow();
        let found = members.members.iter().find(|(id, _, _)| *id == raft_id);
        found.map(|(_, _, address)| address.clone())
    }

    /// Address of the leader, when it is known and is not this controller.
    pub fn leader_address(&self) -> Option<String> {
        let leader = self
            .0
            .members
            .borrow()
            .leader
            .filter(|leader| *leader != self.0.own)?;
        self.address_of(leader)
    }

    /// This controller leads.
    pub fn is_leading(&self) -> bool {
        self.0.members.borrow().leading
    }

    /// Tells that the node's files say that the cluster began anew: from here on others may join.
    pub async fn anew_noted(&self) {
        self.send(Input::AnewNoted).await;
    }

    /// Hands leadership to another controller, if there is one to take it, and waits for that for a moment.
    pub async fn step_down(&self) {
        let mut members = self.members();
        {
            let members = members.borrow();
            if !members.leading || members.members.len() < 2 {
                return;
            }
        }
        self.send(Input::StepDown).await;
        let handed_over = members.wait_for(|members| !members.leading);
        if tokio::time::timeout(HANDOVER_WITHIN, handed_over).await.is_err() {
            tracing::debug!("no other controller took leadership over");
        }
    }

    pub(super) async fn serve_chunk(
        &self,
        from: RaftId,
        id: SnapshotId,
        offset: u64,
    ) -> Option<SnapshotChunk> {
        let (sender, receiver) = oneshot::channel();
        let expected = self.expect(Responder::Chunk(sender));
        let token = expected.token;
        self.send(Input::ServeChunk {
            token,
            from,
            id,
            offset,
        })
        .await;
        receiver.await.ok().flatten()
    }

    /// Passes a heartbeat on to the leader.
    pub(super) async fn forward_heartbeat(
        &self,
        leader: &str,
        beat: HeartbeatRequest,
    ) -> Result<Response<HeartbeatReply>, Status> {
        let mut client = DispatcherClient::new(self.0.leader_channel.to(leader));
        let passed_on = client.heartbeat(beat).await;
        passed_on.inspect_err(|status| self.drop_broken_channel(status))
    }

    /// Forgets the connection to the leader when that is what failed: a refusal by the leader itself has no source.
    fn drop_broken_channel(&self, status: &Status) {
        if std::error::Error::source(status).is_some() {
            self.0.leader_channel.keep_only(None);
        }
    }

    pub(super) async fn heartbeat(&self, node: NodeId, session: SessionId) -> bool {
        let (sender, receiver) = oneshot::channel();
        let expected = self.expect(Responder::Heartbeat(sender));
        let token = expected.token;
        self.send(Input::Heartbeat { token, node, session }).await;
        receiver.await.unwrap_or(false)
    }

    pub(super) async fn open_session(
        &self,
        node: NodeId,
        session: SessionId,
        description: NodeDescription,
        address: String,
    ) -> mpsc::Receiver<SessionMessage> {
        let (sender, receiver) = mpsc::channel(SESSION_QUEUE);
        self.sessions().insert(session, sender);
        let description = Box::new(description);
        self.send(Input::SessionOpen {
            node,
            session,
            description,
            address,
        })
        .await;
        receiver
    }

    pub(super) async fn close_session(&self, node: NodeId, session: SessionId) {
        self.sessions().remove(&session);
        self.send(Input::SessionLost { node, session }).await;
    }

    pub(super) async fn status(
        &self,
        node: NodeId,
        session: SessionId,
        sequence: u64,
        statuses: Vec<(TaskId, TaskStatus)>,
    ) {
        self.send(Input::Status {
            node,
            session,
            sequence,
            statuses,
        })
        .await;
    }

    /// Hands an input to the core; dropped when the controller has ended, and with it whoever waits for an answer.
    pub(super) async fn send(&self, input: Input) {
        if self.0.inputs.send(input).await.is_err() {
            self.0
                .responders
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clear();
        }
    }

    fn expect(&self, responder: Responder) -> Expected<'_> {
        let token = self.0.tokens.fetch_add(1, Ordering::Relaxed);
        self.0
            .responders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(token, responder);
        Expected {
            shared: &self.0,
            token,
        }
    }

    pub(super) fn take_responder(&self, token: Token) -> Option<Responder> {
        let mut responders = self.0.responders.lock().unwrap_or_else(PoisonError::into_inner);
        responders.remove(&token)
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, mpsc::Sender<SessionMessage>>> {
        self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a call failed after it was given to a connection that stood.
fn may_have_arrived(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return !error.is_canceled();
        }
        source = error.source();
    }
    false
}
