//! Dialling peers.

use super::trust::root_store;
use super::{
    CONNECT_TIMEOUT, CertificateError, HANDSHAKE_TIMEOUT, NodeCertificate, SAN_CONTROLLER, SAN_NODE,
};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// An idle connection is probed after this; a peer that vanished without a reset is noticed within twice of it.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes channels to peers with this node's certificate.
#[derive(Debug, Clone)]
pub struct Dialer {
    config: Arc<ClientConfig>,
}

impl Dialer {
    /// Dials with the node's certificate, also when it is replaced later.
    pub fn new(certificate: &Arc<NodeCertificate>) -> Result<Self, CertificateError> {
        Ok(Self {
            config: Arc::new(certificate.client_config()?),
        })
    }

    /// Dials without a certificate of one's own, trusting this root: for joining.
    pub fn anonymous(root_pem: &str) -> Result<Self, CertificateError> {
        let mut config = client_builder()?
            .with_root_certificates(root_store(root_pem)?)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// A channel to a controller at `host:port`. It connects on first use and again after failures.
    pub fn controller(&self, address: &str) -> Channel {
        channel(address, SAN_CONTROLLER, self.config.clone())
    }

    /// A channel to any node at `host:port`.
    pub fn node(&self, address: &str) -> Channel {
        channel(address, SAN_NODE, self.config.clone())
    }
}

/// A channel that verifies nothing: only for fetching the root certificate, whose digest the join token proves.
pub fn dial_unverified(address: &str) -> Result<Channel, CertificateError> {
    let mut config = client_builder()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAny(rustls::crypto::ring::default_provider())))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(channel(address, SAN_CONTROLLER, Arc::new(config)))
}

fn client_builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, CertificateError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?)
}

fn channel(address: &str, name: &'static str, config: Arc<ClientConfig>) -> Channel {
    let address = address.to_owned();
    // The address is used by the connector below; the URI only has to be well-formed.
    Endpoint::from_static("http://peer")
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .connect_with_connector_lazy(tower::service_fn(move |_| {
            let (address, config) = (address.clone(), config.clone());
            async move { connect(&address, name, config).await.map(TokioIo::new) }
        }))
}

async fn connect(
    address: &str,
    name: &'static str,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, "the peer does not answer");
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(timed_out)??;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let handshake = TlsConnector::from(config).connect(name, stream);
    tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .map_err(timed_out)?
}

/// Accepts any certificate: the caller proves the root by its digest and dials again.
#[derive(Debug)]
struct AcceptAny(rustls::crypto::CryptoProvider);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
