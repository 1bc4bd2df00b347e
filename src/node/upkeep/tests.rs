//! A controller that runs, and a node whose certificate ends within seconds.

use super::*;
use crate::node::address::MemberAddresses;
use crate::node::files::Credentials;
use crate::node::join::{NewCluster, make_cluster};
use muster_consensus::{KeyRing, NodeConfig, RealDisk};
use muster_controller::authority::{Subject, issue, key_and_request};
use muster_controller::core::io::Members;
use muster_controller::metrics::ControllerMetrics;
use muster_controller::shell::services::CertificateService;
use muster_controller::shell::{ControllerConfig, ControllerSlot, Running, Started, start};
use muster_proto::ca::certificate_authority_server::CertificateAuthorityServer;
use muster_proto::transport::accept_tls;
use muster_types::{Availability, ClusterSpec, NodeDescription, NodeRole};
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Server;

const LIMIT: Duration = Duration::from_secs(60);
/// How long the first certificates are valid.
const SHORT: Duration = Duration::from_secs(4);

/// The authority of a cluster of one node.
struct Authority {
    running: Box<Running>,
    server: JoinHandle<()>,
    address: String,
}

impl Authority {
    async fn start(new: &NewCluster, directory: &Path) -> Self {
        let read = |credentials: &Credentials| {
            let (root, key) = (&credentials.root_pem, &credentials.key_pem);
            NodeCertificate::new(root, &credentials.certificate_pem, key).unwrap()
        };
        let own = read(&new.credentials);
        let config = ControllerConfig {
            node: new.membership.node,
            raft: NodeConfig::new(1, new.membership.cluster.as_u128(), 1),
            disk: Arc::new(RealDisk::open(directory).unwrap()),
            keys: KeyRing::new([7; 32]),
            bootstrap: Some(new.state.clone()),
            anew: None,
            known: Members::default(),
            dialer: Dialer::new(&own).unwrap(),
            metrics: ControllerMetrics::new().unwrap(),
        };
        let Started::Running(running) = start(config).unwrap() else {
            panic!("a new cluster begins");
        };
        let mut members = running.handle.members();
        let leads = members.wait_for(|members| members.leading);
        tokio::time::timeout(LIMIT, leads).await.unwrap().unwrap();
        let slot: ControllerSlot = Arc::default();
        slot.store(Some(Arc::new(running.handle.clone())));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (accept, connections) = accept_tls(listener, own.server_config().unwrap());
        let server = Server::builder().add_service(CertificateAuthorityServer::new(CertificateService(slot)));
        let server = tokio::spawn(async move {
            tokio::select! {
                served = server.serve_with_incoming(connections) => served.unwrap(),
                () = accept => {}
            }
        });
        Self {
            running,
            server,
            address,
        }
    }

    /// Asks for a certificate on a new connection.
    async fn answers(&self, dialer: &Dialer, root_pem: &str) -> anyhow::Result<Credentials> {
        let controllers = [self.address.clone()];
        let asked = join::renew(dialer, &controllers, root_pem);
        tokio::time::timeout(LIMIT, asked).await.expect("an answer")
    }
}

fn cluster() -> NewCluster {
    let address = "127.0.0.1:2377".parse().unwrap();
    let addresses = MemberAddresses {
        listen: address,
        advertise: address,
        data_path: None,
    };
    let (spec, description) = (ClusterSpec::default(), NodeDescription::default());
    make_cluster(addresses, spec, Availability::Active, description).unwrap()
}

/// A certificate of the cluster's first node that is valid for a few seconds.
fn short(new: &NewCluster) -> Arc<NodeCertificate> {
    let (pair, now) = (key_and_request().unwrap(), time::OffsetDateTime::now_utc());
    let subject = Subject {
        cluster: new.membership.cluster,
        node: new.membership.node,
        role: NodeRole::Controller,
        as_of: 0,
    };
    let root = &new.state.cluster().unwrap().root_ca;
    let pem = issue(root, &pair.request_pem, subject, SHORT, now).unwrap();
    NodeCertificate::new(&root.certificate_pem, &pem, &pair.key_pem).unwrap()
}

#[test]
fn certificates_are_due_before_they_expire() {
    let now = SystemTime::now();
    let hours = |count: u64| Duration::from_secs(count * 3600);
    assert!(!renewal_due((now - hours(1), now + hours(9)), 0.5));
    assert!(renewal_due((now - hours(6), now + hours(4)), 0.5));
    assert!(renewal_due((now - hours(6), now - hours(1)), 0.8));
    for _ in 0..100 {
        assert!((RENEW_FROM..RENEW_TO).contains(&renewal_share()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_renews_in_time_goes_on_when_its_first_certificate_has_expired() {
    let (new, directory) = (cluster(), tempfile::tempdir().unwrap());
    let authority = Authority::start(&new, &directory.path().join("raft")).await;
    let files = NodeFiles::new(directory.path());
    files.save_membership(&new.membership).unwrap();
    let (certificate, left) = (short(&new), short(&new));
    let (dialer, left_dialer) = (Dialer::new(&certificate).unwrap(), Dialer::new(&left).unwrap());
    let (root, expires) = (certificate.root_pem(), certificate.validity().1);

    assert!(
        renewal_due(certificate.validity(), RENEW_TO),
        "it is due at the latest"
    );
    let upkeep = Upkeep {
        certificate: &certificate,
        dialer: &dialer,
        files: &files,
    };
    let renewed = upkeep.renew(std::slice::from_ref(&authority.address), true);
    tokio::time::timeout(LIMIT, renewed).await.unwrap().unwrap();
    let day = Duration::from_secs(86_400);
    assert!(
        certificate.validity().1 > expires + day,
        "as long as the cluster's are"
    );
    assert!(!renewal_due(certificate.validity(), RENEW_FROM));
    assert!(certificate.identity().as_of > 0, "it says as of when");
    let kept = files.load().unwrap().unwrap().1;
    let kept = NodeCertificate::new(&kept.root_pem, &kept.certificate_pem, &kept.key_pem).unwrap();
    assert_eq!(kept.validity(), certificate.validity(), "it outlasts the daemon");

    // Each call is on a new connection, which shows the certificate of its time.
    let expired = async {
        while authority.answers(&left_dialer, &root).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LIMIT, expired)
        .await
        .expect("the first certificate expires");
    assert!(SystemTime::now() > expires, "not before its time");
    let answer = authority.answers(&dialer, &root).await;
    answer.expect("the renewed certificate counts");
    authority.server.abort();
    authority.running.stop().await;
}
