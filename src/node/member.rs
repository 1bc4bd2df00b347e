//! What runs because this node is a member: cluster server, agent, and a controller where the role asks for one.

use super::files::{Credentials, Membership, NodeFiles};
use super::join::{self, RaftMembership};
use super::routes;
use super::server::{self, ClusterServer};
use super::service::PeerService;
use super::tasks::EngineTasks;
use super::upkeep::Upkeep;
use anyhow::Context;
use arc_swap::ArcSwapOption;
use muster_agent::agent::{Agent, AgentConfig, AgentView, Stop};
use muster_agent::task_engine::TaskEngine;
use muster_consensus::{NodeConfig, RealDisk, SystemEntropy};
use muster_controller::core::io::Members;
use muster_controller::metrics::ControllerMetrics;
use muster_controller::shell::{ControllerConfig, ControllerHandle, ControllerSlot, Running, Started, start};
use muster_images::ImagePlatform;
use muster_proto::transport::{CertificateError, Dialer, NodeCertificate};
use muster_state::ClusterState;
use muster_types::{NodeDescription, NodeId};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::JoinHandle;

/// What a member needs of its daemon.
#[derive(Clone)]
pub struct MemberContext {
    /// The node's files.
    pub files: NodeFiles,
    /// Runs tasks.
    pub tasks: Arc<EngineTasks>,
    /// Serves blobs and logs to other nodes.
    pub peers: PeerService,
    /// What the node says of itself, apart from its address.
    pub description: NodeDescription,
    /// Figures of its controller.
    pub metrics: ControllerMetrics,
}

impl MemberContext {
    /// What the node says of itself as a member with these addresses.
    pub fn describe(&self, advertise: SocketAddr, data_path: Option<IpAddr>) -> NodeDescription {
        NodeDescription {
            advertise_address: advertise.to_string(),
            data_path_address: data_path,
            routes: routes::of_host(),
            ..self.description.clone()
        }
    }
}

/// An active membership.
pub struct Member {
    pub(super) context: MemberContext,
    pub(super) membership: Mutex<Membership>,
    pub(super) advertise: SocketAddr,
    pub(super) certificate: Arc<NodeCertificate>,
    pub(super) dialer: Dialer,
    pub(super) slot: ControllerSlot,
    pub(super) view: watch::Receiver<AgentView>,
    description: watch::Sender<NodeDescription>,
    controller: Mutex<Option<ControllerRun>>,
    /// The cluster listed this node's controller, or did when the log on its disk was written.
    listed: AtomicBool,
    stop_agent: watch::Sender<Stop>,
    agent: Mutex<Option<JoinHandle<()>>>,
    /// Sent to let the agent begin.
    begin_agent: Mutex<Option<oneshot::Sender<()>>>,
    server: Mutex<Option<ClusterServer>>,
}

/// What became of the start of a controller.
#[derive(Debug, PartialEq, Eq)]
enum Begun {
    Running,
    /// Its log is gone; it must not speak under its Raft id any more.
    LogLost,
}

struct ControllerRun {
    running: Option<Box<Running>>,
    failed: watch::Receiver<Option<String>>,
    watcher: JoinHandle<()>,
}

/// All but the controller of a member could start; its log may have been opened.
#[derive(Debug, thiserror::Error)]
#[error("the controller did not start")]
pub struct ControllerNotStarted;

impl Member {
    /// Starts everything but the agent. `bootstrap` is the first state of a new cluster.
    pub async fn start(
        context: MemberContext,
        membership: Membership,
        credentials: &Credentials,
        bootstrap: Option<ClusterState>,
    ) -> anyhow::Result<Arc<Self>> {
        let certificate = NodeCertificate::new(
            &credentials.root_pem,
            &credentials.certificate_pem,
            &credentials.key_pem,
        )?;
        let dialer = Dialer::new(&certificate)?;
        let slot: ControllerSlot = Arc::new(ArcSwapOption::empty());
        let description = NodeDescription {
            tls: Some(certificate.tls()),
            ..context.describe(membership.advertise, membership.data_path)
        };
        let (description, described) = watch::channel(description);
        let config = AgentConfig {
            node: membership.node,
            directory: context.files.directory().to_owned(),
            dialer: dialer.clone(),
            controllers: membership.controllers.clone(),
            description: described,
        };
        let (agent, view) = Agent::restore(config, context.tasks.clone() as Arc<dyn TaskEngine>).await?;
        let own = membership.advertise.to_string();
        let others = agent.last_controllers().iter().any(|known| *known != own);
        let (stop_agent, stopped) = watch::channel(Stop::No);
        let (begin_agent, begun) = oneshot::channel();
        let agent = tokio::spawn(async move {
            if begun.await.is_ok() {
                agent.run(stopped).await;
            }
        });
        context
            .peers
            .enter_cluster(certificate.identity(), dialer.clone(), view.clone());
        context
            .tasks
            .enter_cluster(membership.node, membership.advertise.ip(), dialer.clone());
        let server = server::serve(
            membership.listen,
            &certificate,
            slot.clone(),
            context.peers.clone(),
            view.clone(),
        )?;
        let (raft_id, advertise) = (membership.raft_id, membership.advertise);
        let member = Arc::new(Self {
            context,
            membership: Mutex::new(membership),
            advertise,
            certificate,
            dialer,
            slot,
            view,
            description,
            controller: Mutex::new(None),
            listed: AtomicBool::new(false),
            stop_agent,
            agent: Mutex::new(Some(agent)),
            begin_agent: Mutex::new(Some(begin_agent)),
            server: Mutex::new(Some(server)),
        });
        if raft_id.is_some()
            && let Err(error) = member.begin_controller(bootstrap, others).await
        {
            // The next start needs the address.
            member.stop(Stop::Restart).await;
            return Err(error.context(ControllerNotStarted));
        }
        Ok(member)
    }

    async fn begin_controller(&self, bootstrap: Option<ClusterState>, others: bool) -> anyhow::Result<()> {
        match self.start_controller(None, bootstrap).await? {
            Begun::Running => Ok(()),
            Begun::LogLost => self.give_up_raft_id(others).await,
        }
    }

    /// Starts the agent, and with it the node's tasks. It comes last: once it has had a session, the cluster keeps the
    /// node's record.
    pub async fn start_agent(&self) {
        if let Some(begin) = self.begin_agent.lock().await.take() {
            // It waits for this, unless it was stopped.
            let _ = begin.send(());
        }
    }

    /// This node's id.
    pub fn node(&self) -> NodeId {
        self.certificate.identity().node
    }

    /// The controller of this node, when there is one.
    pub fn controller(&self) -> Option<ControllerHandle> {
        self.slot.load_full().map(|handle| (*handle).clone())
    }

    /// Notes whether the cluster lists this node's controller now; whether it did so before.
    pub fn note_listed(&self, listed: bool) -> bool {
        if listed {
            self.listed.store(true, Ordering::Relaxed);
        }
        self.listed.load(Ordering::Relaxed)
    }

    /// Controllers that this node knows.
    pub fn controllers(&self) -> Vec<String> {
        self.view.borrow().controllers.clone()
    }

    /// The address that the node advertises, without its port.
    pub fn advertise_ip(&self) -> String {
        self.advertise.ip().to_string()
    }

    /// The node with its cluster server at this address, where it is known.
    pub fn node_at(&self, address: &str) -> NodeId {
        let view = self.view.borrow();
        view.peers
            .iter()
            .find(|(_, known)| known == address)
            .map(|(node, _)| *node)
            .unwrap_or_default()
    }

    /// Fetches an image from another node of the cluster.
    pub async fn fetch_image(&self, reference: &str, platform: Option<&ImagePlatform>) -> anyhow::Result<()> {
        let own = self.node();
        let peers: Vec<String> = {
            let view = self.view.borrow();
            let others = view.peers.iter().filter(|(node, _)| *node != own);
            others.map(|(_, address)| address.clone()).collect()
        };
        self.context
            .tasks
            .fetch_image(&self.dialer, &peers, reference, platform)
            .await
    }

    /// TLS with this node's certificate for clients that need not have one.
    pub fn client_facing_tls(&self) -> Result<Arc<rustls::ServerConfig>, CertificateError> {
        self.certificate.client_facing_config()
    }

    /// The cluster's root certificate, if a node of the cluster has this address.
    pub fn root_of_node_at(&self, address: IpAddr) -> Option<String> {
        let is_there = |known: &str| known.parse().is_ok_and(|known: SocketAddr| known.ip() == address);
        let view = self.view.borrow();
        let is_node = self.advertise.ip() == address || view.peers.iter().any(|(_, known)| is_there(known));
        is_node.then(|| self.certificate.root_pem())
    }

    /// Joins the Raft group under a new Raft id and starts the controller.
    pub async fn become_controller(&self) -> anyhow::Result<()> {
        // Always: a controller that lags believes only a certificate that is newer than the record that it knows.
        self.renew_certificate().await?;
        let joined = join::join_raft(&self.dialer, &self.controllers(), self.advertise).await?;
        // What an id that was given up left, also where a crash came before it was removed.
        self.context.files.remove_raft()?;
        {
            let mut membership = self.membership.lock().await;
            membership.raft_id = Some(joined.raft_id);
            self.context.files.save_membership(&membership)?;
        }
        match self.start_controller(Some(joined), None).await? {
            Begun::Running => Ok(()),
            Begun::LogLost => {
                anyhow::bail!("the cluster gave out a Raft id and named no controller to begin with")
            }
        }
    }

    /// Forgets the Raft id whose log is gone: the role supervisor asks the other controllers for a new one. The only
    /// controller has nobody to ask and keeps its id, so that a log that is put back is taken up again.
    async fn give_up_raft_id(&self, others: bool) -> anyhow::Result<()> {
        let mut membership = self.membership.lock().await;
        let raft_id = membership.raft_id.map(|id| id.0).unwrap_or_default();
        let directory = self.context.files.raft_directory();
        anyhow::ensure!(
            others,
            "the log of this cluster's only controller is gone from {}, and with it the cluster's state: stop the \
             daemon, put the directory back from a copy and start again, or give the cluster up with `docker swarm \
             leave --force`",
            directory.display()
        );
        tracing::warn!(
            raft_id,
            directory = %directory.display(),
            "the Raft log of this controller is gone: it gives up its Raft id and joins the group again under a new one"
        );
        membership.raft_id = None;
        self.context.files.save_membership(&membership)
    }

    /// Stops the controller, if one runs, and removes its log: another promotion begins with a new Raft id.
    pub async fn become_worker(&self) -> anyhow::Result<()> {
        self.stop_controller().await;
        let mut membership = self.membership.lock().await;
        (membership.raft_id, membership.begins_anew) = (None, false);
        self.context.files.save_membership(&membership)?;
        self.context.files.remove_raft()
    }

    /// Whether the cluster shall begin anew with this controller, or the controller does not know yet that it is noted.
    pub async fn begins_anew(&self) -> bool {
        self.membership.lock().await.begins_anew || self.began_anew().is_some()
    }

    /// The controller, if it waits for a note that the cluster began anew.
    fn began_anew(&self) -> Option<ControllerHandle> {
        self.controller()
            .filter(|handle| handle.members().borrow().began_anew)
    }

    /// Notes that the cluster began anew with this controller, once it has: another start would begin it again, and the
    /// controller lets nobody join before.
    pub async fn note_anew(&self) -> anyhow::Result<()> {
        let Some(handle) = self.began_anew() else {
            return Ok(());
        };
        {
            let mut membership = self.membership.lock().await;
            if membership.begins_anew {
                let noted = Membership {
                    begins_anew: false,
                    ..membership.clone()
                };
                self.context.files.save_membership(&noted)?;
                *membership = noted;
            }
        }
        // Told again where this was cut short.
        handle.anew_noted().await;
        Ok(())
    }

    /// Replaces the certificate by one with the role of the node's record.
    pub async fn renew_certificate(&self) -> anyhow::Result<()> {
        let upkeep = Upkeep {
            certificate: &self.certificate,
            dialer: &self.dialer,
            files: &self.context.files,
        };
        upkeep
            .renew(&self.controllers(), self.controller().is_some())
            .await
    }

    /// Has a certificate of who signs them now, trusts the root that the cluster names, and says so.
    pub async fn follow_root(&self, view: &AgentView) -> anyhow::Result<()> {
        let tls = self.certificate.tls();
        if !view.issuer_public_key.is_empty() && tls.issuer.public_key != view.issuer_public_key {
            self.renew_certificate().await?;
            tracing::info!("the node has a certificate of the cluster's new root");
        }
        if !view.root_pem.is_empty() && self.certificate.root_pem() != view.root_pem {
            self.certificate.trust(&view.root_pem)?;
            self.context.files.save_root(&view.root_pem)?;
            tracing::info!("the node trusts the cluster's new root");
        }
        let tls = Some(self.certificate.tls());
        self.description.send_if_modified(|described| {
            let differs = described.tls != tls;
            described.tls = tls;
            differs
        });
        Ok(())
    }

    /// Why the controller ended by itself, if it did.
    pub async fn controller_failure(&self) -> Option<String> {
        let controller = self.controller.lock().await;
        controller.as_ref().and_then(|run| run.failed.borrow().clone())
    }

    /// Stops everything. Containers are left running, except when leaving.
    pub async fn stop(&self, reason: Stop) {
        self.stop_agent.send_replace(reason);
        drop(self.begin_agent.lock().await.take());
        if let Some(agent) = self.agent.lock().await.take()
            && agent.await.is_err()
        {
            tracing::error!("the agent panicked");
        }
        // Last, because a leader hears its own node's farewell, and its successor reads it in the log.
        if let Some(handle) = self.controller() {
            handle.step_down().await;
        }
        self.stop_controller().await;
        if let Some(server) = self.server.lock().await.take() {
            server.stop().await;
        }
        self.context.peers.leave_cluster();
    }

    async fn start_controller(
        &self,
        joined: Option<RaftMembership>,
        bootstrap: Option<ClusterState>,
    ) -> anyhow::Result<Begun> {
        let membership = self.membership.lock().await.clone();
        let raft_id = membership.raft_id.context("a controller needs a Raft id")?;
        let directory = self.context.files.raft_directory();
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        self.listed.store(joined.is_none(), Ordering::Relaxed);
        let known = joined.map(|joined| joined.members).unwrap_or_default();
        let known = known
            .into_iter()
            .map(|(id, address)| (id, NodeId::default(), address))
            .collect();
        let keys = self.context.files.raft_keys()?.load(&SystemEntropy::new())?;
        let interrupted = keys.is_rotating();
        let config = ControllerConfig {
            node: membership.node,
            raft: NodeConfig::new(raft_id.0, membership.cluster.as_u128(), rand::random()),
            disk: Arc::new(RealDisk::open(&directory)?),
            keys: keys.ring(),
            bootstrap,
            anew: membership.begins_anew.then(|| membership.advertise.to_string()),
            known: Members {
                members: known,
                ..Members::default()
            },
            dialer: self.dialer.clone(),
            metrics: self.context.metrics.clone(),
        };
        let mut running = match tokio::task::spawn_blocking(move || start(config)).await?? {
            Started::Running(running) => running,
            Started::LogLost => return Ok(Begun::LogLost),
        };
        self.slot.store(Some(Arc::new(running.handle.clone())));
        let (failure, failed) = watch::channel(None);
        let (unused, never) = oneshot::channel();
        drop(unused);
        let ended = std::mem::replace(&mut running.ended, never);
        let slot = self.slot.clone();
        let watcher = tokio::spawn(async move {
            let why = match ended.await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => describe(&error),
                Err(_) => "its thread panicked".to_owned(),
            };
            tracing::error!(error = why, "the controller ended");
            slot.store(None);
            failure.send_replace(Some(why));
        });
        *self.controller.lock().await = Some(ControllerRun {
            running: Some(running),
            failed,
            watcher,
        });
        if interrupted {
            self.rotate_raft_key().await?;
        }
        Ok(Begun::Running)
    }

    /// Puts a new key in the place of the one that wraps the Raft log's data keys, and forgets that. After a crash at
    /// any point the keys that are kept open the log, and the controller ends at its next start what was begun.
    pub async fn rotate_raft_key(&self) -> anyhow::Result<()> {
        let Some(handle) = self.controller() else {
            return Ok(());
        };
        let file = self.context.files.raft_keys()?;
        let keys = file.begin_rotation(&SystemEntropy::new())?;
        anyhow::ensure!(
            handle.rotate_keys(keys.ring()).await,
            "the controller ended before its log had another key"
        );
        file.finish_rotation(keys)?;
        Ok(())
    }

    async fn stop_controller(&self) {
        self.slot.store(None);
        if let Some(mut run) = self.controller.lock().await.take() {
            if let Some(running) = run.running.take() {
                running.stop().await;
            }
            // It ends with the thread; a panic in it was logged there.
            let _ = run.watcher.await;
        }
    }
}

/// An error with its whole chain.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
