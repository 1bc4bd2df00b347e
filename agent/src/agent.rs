//! The agent's loop: one owner of the core, fed by the session, the engine and the clock.

use crate::executor::Executor;
use crate::heartbeat::{self, HeartbeatTarget};
use crate::session::{self, Session, SessionEvent};
use crate::store::{Saved, Store, StoreError};
use crate::task_engine::TaskEngine;
use futures::future::BoxFuture;
use muster_node_plan::{Action, AgentCore, Observation, Phase, Restored, Taken};
use muster_proto::transport::Dialer;
use muster_types::{NodeDescription, NodeId, TaskId, Timestamp};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, mpsc, watch};

/// Observations on their way to the core; the executor waits when it is full.
const OBSERVATIONS_QUEUE: usize = 1024;
/// The file is written at most this often: it only has to be recent, not exact (see [`Store::save`]).
const SAVE_INTERVAL: Duration = Duration::from_millis(250);

/// How an agent is set up.
#[derive(Clone)]
pub struct AgentConfig {
    /// This node.
    pub node: NodeId,
    /// Where its file lies.
    pub directory: PathBuf,
    /// Dials with the node's certificate.
    pub dialer: Dialer,
    /// Controllers to begin with; those of the last session are known from the file.
    pub controllers: Vec<String>,
    /// What the node says of itself; when it changes, the agent opens another session to say so.
    pub description: watch::Receiver<NodeDescription>,
}

/// What the agent learned of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentView {
    /// A session is open.
    pub connected: bool,
    /// Addresses of the controllers.
    pub controllers: Vec<String>,
    /// The node's record wants it to be a controller; `None` before the first session.
    pub controller: Option<bool>,
    /// Other nodes' cluster servers.
    pub peers: Vec<(NodeId, String)>,
    /// The root certificate to trust, PEM; empty before the first session.
    pub root_pem: String,
    /// Public key of who signs certificates, DER; empty where it is not known.
    pub issuer_public_key: Vec<u8>,
}

/// How the agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Go on.
    No,
    /// The daemon stops and will be back: the lease is held for a while.
    Restart,
    /// The node leaves the cluster: stop and remove its tasks' containers first.
    Leave,
}

/// The agent of a node.
pub struct Agent<E: ?Sized> {
    config: AgentConfig,
    engine: Arc<E>,
    core: AgentCore,
    store: Store,
    executor: Executor<E>,
    observations: mpsc::Receiver<Observation>,
    view: watch::Sender<AgentView>,
    heartbeats: watch::Sender<HeartbeatTarget>,
    refused: Arc<Notify>,
    /// The networks that stand, and which of them the leader was told of in this session.
    applied: watch::Receiver<u64>,
    applied_told: Option<u64>,
    /// Controllers' addresses as they were kept last.
    kept_controllers: Vec<String>,
    unsaved: bool,
    saved_at: tokio::time::Instant,
}

impl<E: TaskEngine + ?Sized> Agent<E> {
    /// Reads the agent's file, finds the containers of its tasks and watches those that run.
    pub async fn restore(
        config: AgentConfig,
        engine: Arc<E>,
    ) -> Result<(Self, watch::Receiver<AgentView>), StoreError> {
        let store = Store::new(&config.directory);
        let saved = store.load()?;
        engine.set_networks(saved.set.networks.clone(), saved.set.age.index);
        let found = engine.restored().await;
        let checked: BTreeSet<TaskId> = found
            .iter()
            .filter(|(_, found)| has_health_check(found))
            .map(|(task, _)| *task)
            .collect();
        let core = AgentCore::restore(saved.set, saved.records, found, wall_time());
        let (sender, observations) = mpsc::channel(OBSERVATIONS_QUEUE);
        let mut executor = Executor::new(engine.clone(), sender);
        for (task, record) in core.records() {
            let runs = matches!(record.phase, Phase::Running | Phase::AwaitingHealth);
            if let Some(container) = record.container().filter(|_| runs) {
                executor.watch(*task, container.clone(), checked.contains(task));
            }
        }
        let mut controllers = config.controllers.clone();
        let new = |known: &&String| !config.controllers.contains(known);
        controllers.extend(saved.controllers.iter().filter(new).cloned());
        let (view, receiver) = watch::channel(AgentView {
            controllers,
            ..AgentView::default()
        });
        let (heartbeats, _) = watch::channel(HeartbeatTarget::default());
        let applied = engine.networks_applied();
        let agent = Self {
            config,
            engine,
            core,
            store,
            executor,
            observations,
            view,
            heartbeats,
            refused: Arc::new(Notify::new()),
            applied,
            applied_told: None,
            kept_controllers: saved.controllers,
            unsaved: false,
            saved_at: tokio::time::Instant::now(),
        };
        Ok((agent, receiver))
    }

    /// The controllers as the last session named them, or else those to begin with.
    pub fn last_controllers(&self) -> &[String] {
        match self.kept_controllers.as_slice() {
            [] => &self.config.controllers,
            kept => kept,
        }
    }

    /// Runs until told to stop. Containers are left running, except when the node leaves its cluster.
    pub async fn run(mut self, mut stop: watch::Receiver<Stop>) {
        let heartbeat = heartbeat::spawn(
            self.config.node,
            self.config.dialer.clone(),
            self.heartbeats.subscribe(),
            self.refused.clone(),
        );
        if let Err(error) = &heartbeat {
            tracing::error!(error = %error, "cannot start the heartbeat thread");
        }
        let mut session: Option<Session> = None;
        let mut opening: Option<BoxFuture<'static, Session>> = None;
        let reason = loop {
            match *stop.borrow() {
                Stop::No => {}
                reason => break reason,
            }
            // The sender is gone without a word: the daemon gave this membership up.
            if stop.has_changed().is_err() {
                break Stop::Restart;
            }
            self.act(&mut session);
            if session.is_none() && opening.is_none() {
                opening = Some(self.open_session());
            }
            self.step(&mut session, &mut opening, &mut stop).await;
        };
        if let Some(session) = &mut session {
            session.farewell(reason == Stop::Restart).await;
        }
        self.finish(reason).await;
        drop(session);
    }

    /// Looks for the leader with the controllers as they are known at each try.
    fn open_session(&self) -> BoxFuture<'static, Session> {
        let dialer = self.config.dialer.clone();
        let description = self.config.description.borrow().clone();
        let view = self.view.subscribe();
        Box::pin(
            async move { session::open(&dialer, || view.borrow().controllers.clone(), &description).await },
        )
    }

    /// Waits for one event and takes it in.
    async fn step(
        &mut self,
        session: &mut Option<Session>,
        opening: &mut Option<BoxFuture<'static, Session>>,
        stop: &mut watch::Receiver<Stop>,
    ) {
        let wake = self.next_wake();
        tokio::select! {
            // Also when the sender is dropped; the next look at `stop` decides.
            _ = stop.changed() => {}
            Some(observation) = self.observations.recv() => {
                self.core.observe(observation, wall_time());
                while let Ok(more) = self.observations.try_recv() {
                    self.core.observe(more, wall_time());
                }
            }
            event = next_event(session) => self.take(event, session),
            opened = next_opened(opening) => {
                *opening = None;
                self.take(SessionEvent::Opened(opened.live().clone()), session);
                *session = Some(opened);
            }
            () = self.refused.notified() => self.take(SessionEvent::Lost, session),
            // What changed is told with what is to be done next.
            Ok(()) = self.applied.changed() => {}
            Ok(()) = self.config.description.changed() => {
                *opening = None;
                self.take(SessionEvent::Lost, session);
            }
            () = tokio::time::sleep(wake) => {}
        }
    }

    fn take(&mut self, event: SessionEvent, session: &mut Option<Session>) {
        match event {
            SessionEvent::Opened(live) => {
                tracing::info!(controller = live.controller, session = %live.id, "session opened");
                self.core.session_opened(live.settles);
                self.applied_told = None;
                let controllers = self.view.borrow().controllers.clone();
                self.heartbeats.send_replace(HeartbeatTarget {
                    session: Some(live),
                    controllers,
                });
                self.view.send_modify(|view| view.connected = true);
            }
            SessionEvent::Assigned(update) => {
                let (index, tasks) = (update.age.index, update.tasks.len());
                let of_networks =
                    update.from.is_none() || !update.networks.is_empty() || !update.networks_gone.is_empty();
                match self.core.assign(*update, wall_time()) {
                    Taken::Yes => {
                        tracing::debug!(index, tasks, "assignments taken");
                        if of_networks {
                            let networks = self.core.assignments().networks.clone();
                            self.engine.set_networks(networks, index);
                        }
                    }
                    Taken::Older => tracing::debug!(index, "older assignments are ignored"),
                    Taken::Gap => {
                        tracing::warn!(index, "assignments were missed; they are asked for anew");
                        self.take(SessionEvent::Lost, session);
                    }
                }
            }
            SessionEvent::Acknowledged(sequence) => self.core.report_acknowledged(sequence),
            SessionEvent::Settled(index) => self.core.settled(index),
            SessionEvent::View(update) => self.take_view(update),
            SessionEvent::Lost => {
                if session.take().is_some() {
                    tracing::info!("session lost");
                }
                self.core.session_lost();
                self.heartbeats.send_modify(|target| target.session = None);
                self.view.send_modify(|view| view.connected = false);
            }
        }
    }

    fn take_view(&mut self, update: muster_proto::dispatcher::ClusterView) {
        let peers = update
            .peers
            .into_iter()
            .filter_map(|peer| Some((peer.node.parse().ok()?, peer.address)));
        let peers: Vec<(NodeId, String)> = peers.collect();
        self.heartbeats
            .send_modify(|target| target.controllers.clone_from(&update.controllers));
        self.keep_controllers(&update.controllers);
        self.view.send_modify(|view| {
            if !update.controllers.is_empty() {
                view.controllers = update.controllers;
            }
            view.controller = Some(update.controller);
            view.peers = peers;
            view.root_pem = update.root_pem;
            view.issuer_public_key = update.issuer_public_key.into();
        });
        self.unsaved = true;
    }

    fn keep_controllers(&mut self, controllers: &[String]) {
        if controllers.is_empty() || controllers == self.kept_controllers {
            return;
        }
        match self.store.keep_controllers(controllers) {
            Ok(()) => self.kept_controllers = controllers.to_vec(),
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot keep the controllers' addresses"
            ),
        }
    }

    /// Performs what the core decides now.
    fn act(&mut self, session: &mut Option<Session>) {
        let applied = *self.applied.borrow_and_update();
        if let Some(session) = session
            && self.applied_told != Some(applied)
            && session.networks_applied(applied)
        {
            self.applied_told = Some(applied);
        }
        for action in self.core.tick(wall_time()) {
            match action {
                Action::Report(report) => {
                    if session.as_ref().is_some_and(|session| !session.report(&report)) {
                        self.take(SessionEvent::Lost, session);
                    }
                }
                Action::AwaitSettled { index } => {
                    if let Some(session) = session {
                        session.await_settled(index);
                    }
                }
                Action::Persist => self.unsaved = true,
                Action::Prepare(_) | Action::Start { .. } | Action::Stop { .. } | Action::Remove { .. } => {
                    let own = self.config.node;
                    let view = self.view.borrow();
                    let peers = view.peers.iter().filter(|(node, _)| *node != own);
                    let peers = peers.map(|(_, address)| address.clone()).collect();
                    self.executor.perform(action, peers);
                }
            }
        }
        if self.unsaved && self.saved_at.elapsed() >= SAVE_INTERVAL {
            self.save();
        }
    }

    fn save(&mut self) {
        let saved = Saved {
            set: self.core.assignments().clone(),
            records: self.core.records().clone(),
            controllers: self.view.borrow().controllers.clone(),
        };
        match self.store.save(saved) {
            Ok(()) => self.unsaved = false,
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot save the agent's state"
            ),
        }
        self.saved_at = tokio::time::Instant::now();
    }

    fn next_wake(&self) -> Duration {
        let now = wall_time();
        let core = self.core.wake_at().map(|at| at.since(now));
        let save = self
            .unsaved
            .then(|| SAVE_INTERVAL.saturating_sub(self.saved_at.elapsed()));
        core.into_iter()
            .chain(save)
            .min()
            .unwrap_or(Duration::from_secs(3600))
    }

    async fn finish(mut self, reason: Stop) {
        if reason == Stop::Leave {
            for record in self.core.records().values() {
                if let Some(container) = record.container() {
                    self.engine.stop(container).await;
                    if let Err(error) = self.engine.remove(container).await {
                        tracing::warn!(
                            container = container.short(),
                            error,
                            "cannot remove a task's container"
                        );
                    }
                }
            }
            self.engine.set_networks(Vec::new(), 0);
            if let Err(error) = self.store.clear() {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot clear the agent's state"
                );
            }
        } else {
            self.save();
        }
        self.executor.shutdown().await;
    }
}

fn has_health_check(found: &Restored) -> bool {
    match found {
        Restored::Running { health_checked, .. } => *health_checked,
        Restored::Prepared(_) | Restored::Ended { .. } => false,
    }
}

async fn next_event(session: &mut Option<Session>) -> SessionEvent {
    match session {
        Some(session) => session.next().await,
        None => std::future::pending().await,
    }
}

async fn next_opened(opening: &mut Option<BoxFuture<'static, Session>>) -> Session {
    match opening {
        Some(opening) => opening.await,
        None => std::future::pending().await,
    }
}

/// The wall clock, for statuses.
fn wall_time() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
