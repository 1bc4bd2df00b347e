//! Connections between nodes: TLS 1.3 both ways, and who a peer is comes from a certificate of the cluster's authority.

use muster_controller::authority::{Subject, issue, key_and_request, make_root};
use muster_proto::ca::RootRequest;
use muster_proto::ca::certificate_authority_client::CertificateAuthorityClient;
use muster_proto::transport::{Dialer, Identity, NodeCertificate, TlsConnection, accept_tls};
use muster_types::{ClusterId, NodeId, NodeRole, RootCa};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

const LIMIT: Duration = Duration::from_secs(30);
const CLUSTER: ClusterId = ClusterId::from_u128(1);

/// What a node shows: certificate and key, PEM.
struct Shown {
    certificate: String,
    key: String,
}

impl Shown {
    fn new(root: &RootCa, node: u128, role: NodeRole) -> Self {
        let (pair, now) = (key_and_request().unwrap(), OffsetDateTime::now_utc());
        let subject = Subject {
            cluster: CLUSTER,
            node: NodeId::from_u128(node),
            role,
            as_of: 0,
        };
        let hour = Duration::from_secs(3600);
        Self {
            certificate: issue(root, &pair.request_pem, subject, hour, now).unwrap(),
            key: pair.key_pem,
        }
    }

    fn of_node(&self, root: &RootCa) -> Arc<NodeCertificate> {
        NodeCertificate::new(&root.certificate_pem, &self.certificate, &self.key).unwrap()
    }
}

fn root() -> RootCa {
    make_root(OffsetDateTime::now_utc()).unwrap()
}

/// A node that listens.
struct Server {
    address: SocketAddr,
    accepted: ReceiverStream<io::Result<TlsConnection>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(root: &RootCa, role: NodeRole) -> Self {
        let config = Shown::new(root, 1, role).of_node(root).server_config().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accept, accepted) = accept_tls(listener, config);
        let task = tokio::spawn(accept);
        Self {
            address,
            accepted,
            task,
        }
    }

    /// Who the next peer with a whole handshake is; its connection ends.
    async fn peer(&mut self) -> Option<Identity> {
        let connection = tokio::time::timeout(LIMIT, self.accepted.next()).await;
        let connection = connection.expect("a connection comes").unwrap().unwrap();
        connection.connect_info().0.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A whole handshake, and then the end of the connection: in TLS 1.3 a client is told of a refusal only after its own
/// part.
async fn connect(
    address: SocketAddr,
    root: &RootCa,
    own: Option<&Shown>,
    version: &'static SupportedProtocolVersion,
) -> io::Result<()> {
    let mut roots = RootCertStore::empty();
    let trusted = CertificateDer::from_pem_slice(root.certificate_pem.as_bytes()).unwrap();
    roots.add(trusted).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let certificate = CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    let talk = async {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("muster-node").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await?.read_u8().await
    };
    let ended = tokio::time::timeout(LIMIT, talk).await;
    match ended.expect("the connection ends").unwrap_err() {
        error if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        error => Err(error),
    }
}

/// What serves a connection may outlive the server: a controller that stopped must not go on speaking there.
#[tokio::test]
async fn connections_break_off_with_the_server() {
    let root = root();
    let mut server = Server::start(&root, NodeRole::Controller).await;
    let own = Shown::new(&root, 7, NodeRole::Worker);
    let client = connect(server.address, &root, Some(&own), &version::TLS13);
    let serve = async {
        let mut held = server.accepted.next().await.unwrap().unwrap();
        server.task.abort();
        let read = tokio::time::timeout(LIMIT, held.read_u8()).await;
        read.expect("the read ends").unwrap_err().kind()
    };
    let (told, seen) = tokio::join!(client, serve);
    assert_eq!(seen, io::ErrorKind::ConnectionAborted);
    told.unwrap();
}

#[tokio::test]
async fn a_peer_is_who_its_certificate_says() {
    let root = root();
    let mut server = Server::start(&root, NodeRole::Controller).await;
    let address = server.address;
    for role in [NodeRole::Worker, NodeRole::Controller] {
        let own = Shown::new(&root, 7, role);
        let (connected, peer) = tokio::join!(
            connect(address, &root, Some(&own), &version::TLS13),
            server.peer()
        );
        connected.unwrap();
        let peer = peer.expect("it showed a certificate");
        assert_eq!(
            (peer.cluster, peer.node, peer.role),
            (CLUSTER, NodeId::from_u128(7), role)
        );
    }
    // Who joins has none yet, and is nobody.
    let (connected, peer) = tokio::join!(connect(address, &root, None, &version::TLS13), server.peer());
    connected.unwrap();
    assert_eq!(peer, None);
}

#[tokio::test]
async fn certificates_of_others_and_older_tls_are_refused() {
    let (root, other) = (root(), root());
    let server = Server::start(&root, NodeRole::Controller).await;
    let own = Shown::new(&root, 7, NodeRole::Controller);
    let foreign = Shown::new(&other, 7, NodeRole::Controller);
    let refused = connect(server.address, &root, Some(&foreign), &version::TLS13).await;
    assert!(refused.unwrap_err().to_string().contains("alert"));
    let older = connect(server.address, &root, Some(&own), &version::TLS12).await;
    assert!(older.unwrap_err().to_string().contains("ProtocolVersion"));
    let distrusted = connect(server.address, &other, None, &version::TLS13).await;
    assert!(distrusted.unwrap_err().to_string().contains("certificate"));
}

#[tokio::test]
async fn a_worker_does_not_pass_for_a_controller() {
    let root = root();
    let mut worker = Server::start(&root, NodeRole::Worker).await;
    let own = Shown::new(&root, 7, NodeRole::Controller).of_node(&root);
    let dialer = Dialer::new(&own).unwrap();
    let address = worker.address.to_string();
    let mut as_controller = CertificateAuthorityClient::new(dialer.controller(&address));
    let refused = tokio::time::timeout(LIMIT, as_controller.root(RootRequest {})).await;
    assert_eq!(refused.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
    let mut as_node = CertificateAuthorityClient::new(dialer.node(&address));
    let (answer, peer) = tokio::join!(as_node.root(RootRequest {}), worker.peer());
    assert!(answer.is_err(), "its connection ended");
    assert_eq!(peer.map(|peer| peer.node), Some(NodeId::from_u128(7)));
}
