//! Whom a node believes: peers whose certificates lead to the cluster's root, which can be replaced while connections live.

use super::identity::{CertificateError, NodeCertificate, SAN_CONTROLLER};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;
use std::time::SystemTime;

/// How both sides of connections are verified by one root.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    servers: Arc<WebPkiServerVerifier>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Trust {
    /// Trusts this root only.
    pub(super) fn in_root(root_pem: &str) -> Result<Self, CertificateError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(root_store(root_pem)?);
        let unusable = |error: &dyn std::error::Error| Error::General(error.to_string());
        let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| unusable(&error))?;
        // Clients without a certificate are let in; each service checks.
        let clients = WebPkiClientVerifier::builder_with_provider(roots, provider)
            .allow_unauthenticated()
            .build()
            .map_err(|error| unusable(&error))?;
        Ok(Self { servers, clients })
    }
}

/// Verifies a controller's certificate, with those between it and the root, as nodes that trust this root do: of a server
/// and of a client.
pub fn verify_controller(root_pem: &str, chain_pem: &str, now: SystemTime) -> Result<(), CertificateError> {
    let unreadable = CertificateError::Pem {
        what: "node certificate",
    };
    let certificates = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let Ok([certificate, between @ ..]) = certificates.as_deref() else {
        return Err(unreadable);
    };
    let name =
        ServerName::try_from(SAN_CONTROLLER).map_err(|_| CertificateError::Subject("it is no host name"))?;
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(since_epoch);
    let trust = Trust::in_root(root_pem)?;
    trust
        .servers
        .verify_server_cert(certificate, between, &name, &[], now)?;
    trust.clients.verify_client_cert(certificate, between, now)?;
    Ok(())
}

/// The first certificate of a PEM text.
pub(super) fn root_certificate(root_pem: &str) -> Result<CertificateDer<'static>, CertificateError> {
    CertificateDer::from_pem_slice(root_pem.as_bytes()).map_err(|_| CertificateError::Pem {
        what: "root certificate",
    })
}

/// A store that trusts the root only.
pub(super) fn root_store(root_pem: &str) -> Result<RootCertStore, CertificateError> {
    let mut roots = RootCertStore::empty();
    roots.add(root_certificate(root_pem)?)?;
    Ok(roots)
}

/// Verifies by the root that the node trusts when a connection is made.
#[derive(Debug)]
pub(super) struct CurrentRoots(pub(super) Arc<NodeCertificate>);

impl ServerCertVerifier for CurrentRoots {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let servers = self.0.current_trust().servers;
        servers.verify_server_cert(certificate, between, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let servers = self.0.current_trust().servers;
        servers.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let servers = self.0.current_trust().servers;
        servers.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.current_trust().servers.supported_verify_schemes()
    }
}

impl ClientCertVerifier for CurrentRoots {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Nodes have one certificate and need no hint which to show.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.current_trust().clients.client_auth_mandatory()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let clients = self.0.current_trust().clients;
        clients.verify_client_cert(certificate, between, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let clients = self.0.current_trust().clients;
        clients.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let clients = self.0.current_trust().clients;
        clients.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.current_trust().clients.supported_verify_schemes()
    }
}
