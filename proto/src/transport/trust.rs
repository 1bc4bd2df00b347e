//! Whom a node believes: peers whose certificates lead to the cluster's root, which can be replaced while connections live.

use super::{CertificateError, NodeCertificate};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;

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
