//! The thread that owns the core: inputs in batches, one flush a batch, outputs to whoever waits for them.

use super::TICK;
use super::handle::{ControllerHandle, Responder, SessionMessage, Shared, StateChange};
use super::leader_channel::LeaderChannel;
use super::peers::Peers;
use crate::core::io::{Input, Members, Now, Output};
use crate::core::{Controller, ControllerError};
use crate::metrics::ControllerMetrics;
use crate::opening::{Opened, Opening, opening};
use arc_swap::ArcSwap;
use muster_consensus::{Disk, KeyRing, NodeConfig, OpenError, RaftNode};
use muster_proto::transport::Dialer;
use muster_state::ClusterState;
use muster_types::{IdSource, NodeId, RaftId, Timestamp};
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// Inputs waiting for the core. Senders wait when it is full.
const INPUT_QUEUE: usize = 4096;
/// Inputs taken in before a flush: enough to share a sync among many writes, few enough that ticks are not late.
const INPUT_BATCH: usize = 256;
/// State changes that a slow watcher may lag behind.
const CHANGES_LAG: usize = 256;

/// How a controller is set up.
pub struct ControllerConfig {
    /// This node.
    pub node: NodeId,
    /// The Raft node's configuration.
    pub raft: NodeConfig,
    /// Its disk.
    pub disk: Arc<dyn Disk>,
    /// Its encryption keys.
    pub keys: KeyRing,
    /// With these, a new cluster begins: the first state.
    pub bootstrap: Option<ClusterState>,
    /// With this, its own address, the cluster begins anew with this controller alone: its quorum is lost for good.
    pub anew: Option<String>,
    /// Members that a joining controller was told of.
    pub known: Members,
    /// Dials with the node's certificate.
    pub dialer: Dialer,
    /// Figures to fill in.
    pub metrics: ControllerMetrics,
}

/// A controller that runs.
pub struct Running {
    /// Handle for services.
    pub handle: ControllerHandle,
    /// Why the controller ended; `Ok` after [`Running::stop`].
    pub ended: oneshot::Receiver<Result<(), ControllerError>>,
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Running {
    /// Stops the controller and waits for its thread.
    pub async fn stop(self) {
        // The thread may have ended by itself.
        let _ = self.stop.send(());
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the controller's thread panicked");
        }
    }
}

/// What became of a start.
pub enum Started {
    /// The controller runs.
    Running(Box<Running>),
    /// The log is gone, and with it the right to speak under this Raft id; see [`crate::opening`].
    LogLost,
}

/// Opens the Raft node and starts the core's thread. Blocking: it reads the log.
pub fn start(config: ControllerConfig) -> Result<Started, ControllerError> {
    let own = RaftId(config.raft.raft_id);
    let mut config = config;
    config
        .raft
        .set_tick_ms(u64::try_from(TICK.as_millis()).unwrap_or(1));
    config.raft.force_new_cluster = config.anew.is_some();
    let mut raft = RaftNode::open(config.raft, config.disk, config.keys)?;
    let opened = Opened {
        initialized: raft.is_initialized(),
        begins_cluster: config.bootstrap.is_some(),
        joins: !config.known.members.is_empty(),
    };
    match (opening(opened), config.bootstrap) {
        (Opening::GiveUpRaftId, _) => return Ok(Started::LogLost),
        (Opening::BeginCluster, Some(state)) => {
            let data = state.snapshot().map_err(ControllerError::State)?;
            raft.bootstrap(&[own.0], &data)
                .map_err(|error| OpenError::Configuration(error.to_string()))?;
        }
        (Opening::BeginCluster, None) | (Opening::TakePart, _) => {}
    }
    let mut controller = Controller::new(config.node, raft, config.known, Box::new(SystemIds));
    if let Some(address) = config.anew {
        controller.begin_anew(address);
    }
    let origin = Instant::now();
    controller.set_stopwatch(Box::new(move || origin.elapsed()));
    let (inputs, receiver) = mpsc::channel(INPUT_QUEUE);
    let (members_sender, members) = watch::channel(Members::default());
    let (removed_sender, removed) = watch::channel(false);
    let (changes, _) = broadcast::channel::<StateChange>(CHANGES_LAG);
    let handle = ControllerHandle(Arc::new(Shared {
        inputs,
        responders: Mutex::new(HashMap::new()),
        sessions: Mutex::new(HashMap::new()),
        tokens: AtomicU64::new(1),
        members,
        removed,
        state: ArcSwap::from_pointee(controller.state().clone()),
        changes,
        leader_channel: LeaderChannel::new(config.dialer.clone()),
        dialer: config.dialer,
        own,
    }));
    let (stop, stopped) = oneshot::channel();
    let (ended_sender, ended) = oneshot::channel();
    let core = Core {
        controller,
        receiver,
        peers: Peers::new(handle.clone()),
        handle: handle.clone(),
        members: members_sender,
        removed: removed_sender,
        metrics: config.metrics,
        origin,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| OpenError::Configuration(format!("no runtime for the controller: {error}")))?;
    let thread = std::thread::Builder::new()
        .name("controller".to_owned())
        .spawn(move || {
            let result = runtime.block_on(core.run(stopped));
            // Nobody may be left to hear it.
            let _ = ended_sender.send(result);
        })
        .map_err(|error| OpenError::Configuration(format!("no thread for the controller: {error}")))?;
    Ok(Started::Running(Box::new(Running {
        handle,
        ended,
        stop,
        thread,
    })))
}

struct Core {
    controller: Controller,
    receiver: mpsc::Receiver<Input>,
    peers: Peers,
    handle: ControllerHandle,
    members: watch::Sender<Members>,
    removed: watch::Sender<bool>,
    metrics: ControllerMetrics,
    origin: Instant,
}

impl Core {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> Result<(), ControllerError> {
        let mut ticks = tokio::time::interval(TICK);
        // Ticks that a stall swallowed are not made up for: they would only add to an election's haste.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut inputs = Vec::with_capacity(INPUT_BATCH);
        loop {
            let wake = self.controller.next_reconcile_in(self.now());
            let wake = wake.unwrap_or(TICK).max(std::time::Duration::from_micros(100));
            tokio::select! {
                biased;
                _ = &mut stopped => break,
                _ = ticks.tick() => inputs.push(Input::Tick),
                count = self.receiver.recv_many(&mut inputs, INPUT_BATCH) => if count == 0 { break },
                () = tokio::time::sleep(wake) => {}
            }
            while inputs.len() < INPUT_BATCH
                && let Ok(more) = self.receiver.try_recv()
            {
                inputs.push(more);
            }
            let now = self.now();
            let (count, ticked) = (
                inputs.len(),
                inputs.iter().any(|input| matches!(input, Input::Tick)),
            );
            for input in inputs.drain(..) {
                self.controller.handle(input, now);
            }
            let outputs = self.controller.flush(self.now());
            self.store_state();
            let round = self.origin.elapsed().saturating_sub(now.elapsed);
            self.metrics
                .observe(self.controller.take_observed(), count, round);
            if ticked {
                let (sessions, leases) = (self.controller.sessions(), self.controller.leases());
                self.metrics
                    .show(&self.controller.raft().status(), sessions, leases);
            }
            match outputs {
                Ok(outputs) => outputs.into_iter().for_each(|output| self.deliver(output)),
                Err(error) => {
                    self.finish().await;
                    return Err(error);
                }
            }
        }
        self.finish().await;
        Ok(())
    }

    fn now(&self) -> Now {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let wall = Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
        Now {
            elapsed: self.origin.elapsed(),
            wall,
        }
    }

    /// Publishes the state for reads that may be old, when it moved on.
    fn store_state(&self) {
        let state = self.controller.state();
        if self.handle.0.state.load().index() != state.index() {
            self.handle.0.state.store(Arc::new(state.clone()));
        }
    }

    fn deliver(&mut self, output: Output) {
        match output {
            Output::Send { to, message } => self.peers.send(to, message),
            Output::FetchChunk { from, id, offset } => self.peers.fetch_chunk(from, id, offset),
            Output::Members(members) => {
                self.peers.update(&members);
                self.members.send_replace(*members);
                let leader = self.handle.leader_address();
                self.handle.0.leader_channel.keep_only(leader.as_deref());
            }
            Output::Changed { before, after } => {
                // Without watchers there is nobody to tell.
                let _ = self.handle.0.changes.send(Arc::new((*before, *after)));
            }
            Output::Removed => {
                self.removed.send_replace(true);
            }
            Output::Reply { token, result } => {
                if let Some(Responder::Write(sender)) = self.handle.take_responder(token) {
                    let _ = sender.send(result);
                }
            }
            Output::Read { token, result } => {
                if let Some(Responder::Read(sender)) = self.handle.take_responder(token) {
                    let _ = sender.send(result);
                }
            }
            Output::ChunkServed { token, chunk } => {
                if let Some(Responder::Chunk(sender)) = self.handle.take_responder(token) {
                    let _ = sender.send(chunk);
                }
            }
            Output::HeartbeatTaken { token, accepted } => {
                if let Some(Responder::Heartbeat(sender)) = self.handle.take_responder(token) {
                    let _ = sender.send(accepted);
                }
            }
            Output::KeysRotated { token } => {
                if let Some(Responder::Keys(sender)) = self.handle.take_responder(token) {
                    let _ = sender.send(());
                }
            }
            Output::SessionOpened {
                session,
                heartbeat_period,
                ..
            } => {
                self.tell(session, SessionMessage::Opened { heartbeat_period });
            }
            Output::SessionEnded { session, leader, .. } => {
                self.tell(session, SessionMessage::Ended(leader));
                self.sessions().remove(&session);
            }
            Output::Assign { session, update } => self.tell(session, SessionMessage::Assign(update)),
            Output::View { session, view } => self.tell(session, SessionMessage::View(view)),
            Output::Settled { session, index } => self.tell(session, SessionMessage::Settled(index)),
            Output::StatusCommitted { session, sequence } => {
                self.tell(session, SessionMessage::StatusCommitted(sequence));
            }
        }
    }

    fn sessions(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<muster_types::SessionId, mpsc::Sender<SessionMessage>>> {
        self.handle
            .0
            .sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A session whose queue is full is ended: its agent opens another and is told everything anew.
    fn tell(&self, session: muster_types::SessionId, message: SessionMessage) {
        let mut sessions = self.sessions();
        if sessions
            .get(&session)
            .is_some_and(|sender| sender.try_send(message).is_err())
        {
            tracing::warn!(%session, "an agent does not keep up; its session is ended");
            sessions.remove(&session);
        }
    }

    /// Nobody waits for an answer after this.
    async fn finish(mut self) {
        // From here on inputs are refused, so that none can be left without its answer.
        self.receiver.close();
        self.handle
            .0
            .responders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.sessions().clear();
        self.peers.shutdown().await;
    }
}

/// Ids from the operating system's random source.
struct SystemIds;

impl IdSource for SystemIds {
    fn next_u128(&mut self) -> u128 {
        rand::random()
    }
}
