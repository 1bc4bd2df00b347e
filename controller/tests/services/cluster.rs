//! A cluster of one controller that serves, and the certificates of those who call it.

use muster_consensus::sim::SimDisk;
use muster_consensus::{KeyRing, NodeConfig};
use muster_controller::authority::{Subject, issue, key_and_request, make_root};
use muster_controller::control::{ControlReply, ControlRequest};
use muster_controller::core::io::Members;
use muster_controller::metrics::ControllerMetrics;
use muster_controller::shell::services::{
    CertificateService, ControlService, DispatcherService, RaftService,
};
use muster_controller::shell::{ControllerConfig, ControllerHandle, ControllerSlot, Running, Started, start};
use muster_proto::ca::certificate_authority_server::CertificateAuthorityServer;
use muster_proto::control::control_server::ControlServer;
use muster_proto::dispatcher::dispatcher_server::DispatcherServer;
use muster_proto::raft::raft_server::RaftServer;
use muster_proto::transport::{Dialer, NodeCertificate, accept_tls, root_digest};
use muster_state::{Change, Changeset, ClusterState, Entry, Outcome, SUPPORTED_FEATURE_LEVEL};
use muster_types::node::ControllerMember;
use muster_types::{
    Cluster, ClusterId, ClusterSpec, JoinToken, JoinTokens, Meta, NodeId, NodeRole, NodeSpec, RaftId, Reason,
    RequestId, RootCa, Timestamp,
};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Server};

/// Nothing takes longer.
pub const LIMIT: Duration = Duration::from_secs(60);
/// The cluster.
pub const CLUSTER: ClusterId = ClusterId::from_u128(1);
const WORKER_SECRET: u128 = 77;

/// The node of that number.
pub fn node(number: u128) -> NodeId {
    NodeId::from_u128(number)
}

/// Who calls. Every one but the first shows a certificate that the cluster's authority signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Has no certificate.
    Nobody,
    /// Node 3.
    Worker,
    /// Node 5, whose record was removed; its certificate is a controller's.
    Removed,
    /// Node 4, whose certificate is still a controller's.
    Demoted,
    /// Node 2, with Raft id 2.
    Controller,
}

/// All of them.
pub const CALLERS: [Caller; 5] = [
    Caller::Nobody,
    Caller::Worker,
    Caller::Removed,
    Caller::Demoted,
    Caller::Controller,
];

impl Caller {
    /// The node that it is.
    pub fn node(self) -> NodeId {
        node(match self {
            Self::Nobody => 9,
            Self::Worker => 3,
            Self::Removed => 5,
            Self::Demoted => 4,
            Self::Controller => 2,
        })
    }

    fn role(self) -> NodeRole {
        match self {
            Self::Nobody | Self::Worker => NodeRole::Worker,
            Self::Removed | Self::Demoted | Self::Controller => NodeRole::Controller,
        }
    }
}

/// Node 1, which leads alone and serves.
pub struct Served {
    root: RootCa,
    disk: SimDisk,
    running: Box<Running>,
    server: JoinHandle<()>,
    address: String,
}

impl Served {
    /// Starts it, demotes node 4 and removes node 5.
    pub async fn start() -> Self {
        let root = make_root(OffsetDateTime::now_utc()).unwrap();
        let own = certificate(&root, node(1), NodeRole::Controller, Duration::from_secs(3600));
        let disk = SimDisk::new(1);
        let state = first_state(&root);
        let running = start_controller(&disk, KeyRing::new([7; 32]), &own, Some(state)).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (accept, connections) = accept_tls(listener, own.server_config().unwrap());
        let slot: ControllerSlot = Arc::new(arc_swap::ArcSwapOption::empty());
        slot.store(Some(Arc::new(running.handle.clone())));
        let dispatcher = DispatcherService {
            controller: slot.clone(),
            known: Box::new(Vec::new),
        };
        let server = Server::builder()
            .add_service(RaftServer::new(RaftService(slot.clone())))
            .add_service(ControlServer::new(ControlService(slot.clone())))
            .add_service(DispatcherServer::new(dispatcher))
            .add_service(CertificateAuthorityServer::new(CertificateService(slot)));
        let server = tokio::spawn(async move {
            tokio::select! {
                served = server.serve_with_incoming(connections) => served.unwrap(),
                () = accept => {}
            }
        });
        let served = Self {
            root,
            disk,
            running,
            server,
            address,
        };
        served.demote_and_remove().await;
        served
    }

    async fn demote_and_remove(&self) {
        let mut members = self.handle().members();
        let leads = members.wait_for(|members| members.leading);
        tokio::time::timeout(LIMIT, leads).await.unwrap().unwrap();
        let record = self.handle().state().node(node(4)).cloned().unwrap();
        self.write(ControlRequest::UpdateNode {
            id: node(4),
            version: record.meta.spec_version,
            spec: NodeSpec::default(),
        })
        .await;
        self.write(ControlRequest::RemoveNode {
            id: node(5),
            force: true,
        })
        .await;
    }

    async fn write(&self, request: ControlRequest) {
        let written = self
            .handle()
            .write(RequestId::from_u128(rand::random()), request)
            .await;
        assert!(matches!(written, Ok(ControlReply::Done)), "{written:?}");
    }

    /// The controller.
    pub fn handle(&self) -> &ControllerHandle {
        &self.running.handle
    }

    /// The cluster's authority.
    pub fn root(&self) -> &RootCa {
        &self.root
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The cluster's token for workers.
    pub fn token(&self) -> JoinToken {
        token(&self.root)
    }

    /// A connection of that caller.
    pub fn channel(&self, caller: Caller) -> Channel {
        let dialer = match caller {
            Caller::Nobody => Dialer::anonymous(&self.root.certificate_pem),
            _ => {
                let hour = Duration::from_secs(3600);
                Dialer::new(&certificate(&self.root, caller.node(), caller.role(), hour))
            }
        };
        dialer.unwrap().controller(&self.address)
    }

    /// Ends it, and gives back what outlasts it.
    pub async fn stop(self) -> (SimDisk, RootCa) {
        self.server.abort();
        self.running.stop().await;
        (self.disk, self.root)
    }
}

/// A certificate of the cluster's authority that is valid for so long from now.
pub fn certificate(root: &RootCa, node: NodeId, role: NodeRole, validity: Duration) -> Arc<NodeCertificate> {
    let (pair, now) = (key_and_request().unwrap(), OffsetDateTime::now_utc());
    let subject = Subject {
        cluster: CLUSTER,
        node,
        role,
        as_of: 0,
    };
    let pem = issue(root, &pair.request_pem, subject, validity, now).unwrap();
    NodeCertificate::new(&root.certificate_pem, &pem, &pair.key_pem).unwrap()
}

/// Opens the log on the disk with these keys and runs a controller on it; `None` when it gives its Raft id up.
pub fn start_controller(
    disk: &SimDisk,
    keys: KeyRing,
    own: &Arc<NodeCertificate>,
    bootstrap: Option<ClusterState>,
) -> Option<Box<Running>> {
    let config = ControllerConfig {
        node: node(1),
        raft: NodeConfig::new(1, CLUSTER.as_u128(), 1),
        disk: Arc::new(disk.clone()),
        keys,
        bootstrap,
        anew: None,
        known: Members::default(),
        dialer: Dialer::new(own).unwrap(),
        metrics: ControllerMetrics::new().unwrap(),
    };
    match start(config).unwrap() {
        Started::Running(running) => Some(running),
        Started::LogLost => None,
    }
}

fn token(root: &RootCa) -> JoinToken {
    JoinToken {
        root_digest: root_digest(&root.certificate_pem),
        secret: WORKER_SECRET,
    }
}

/// Nodes 1, 2 and 4 are controllers, 3 and 5 are workers. Only node 1 runs.
fn first_state(root: &RootCa) -> ClusterState {
    let controller = JoinToken {
        secret: WORKER_SECRET + 1,
        ..token(root)
    };
    let cluster = Cluster {
        id: CLUSTER,
        meta: Meta::default(),
        spec: ClusterSpec::default(),
        root_ca: root.clone(),
        join_tokens: JoinTokens {
            worker: token(root),
            controller,
        },
        incarnation: 1,
        feature_level: SUPPORTED_FEATURE_LEVEL,
        next_raft_id: 1,
        issuer: None,
        root_rotation: None,
    };
    let mut changes = vec![Change::ClusterCreate(Box::new(cluster))];
    for (number, role) in [
        (1, NodeRole::Controller),
        (2, NodeRole::Controller),
        (3, NodeRole::Worker),
        (4, NodeRole::Controller),
        (5, NodeRole::Worker),
    ] {
        changes.push(Change::NodeCreate {
            node: node(number),
            spec: NodeSpec {
                role,
                ..NodeSpec::default()
            },
            description: Arc::default(),
        });
    }
    for number in [1, 2] {
        let member = Some(ControllerMember {
            raft_id: RaftId(number),
            address: format!("127.0.0.1:{number}"),
            voter: number == 1,
        });
        let node = node(u128::from(number));
        changes.push(Change::NodeController { node, member });
    }
    let mut state = ClusterState::new();
    let entry = Entry::new(Timestamp(1), Changeset::new(Reason::Bootstrap, changes));
    let outcome = state.apply(1, &entry).outcome;
    assert_eq!(outcome, Outcome::Applied);
    state
}
