//! Certificates of nodes, and what they say of their holder.

use super::trust::{CurrentRoots, Trust, root_certificate};
use arc_swap::ArcSwap;
use muster_types::{ClusterId, Issuer, NodeId, NodeRole, NodeTls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use std::sync::Arc;
use std::time::SystemTime;
use x509_parser::oid_registry::OID_X509_SERIALNUMBER;

/// Subject alternative name that every node's certificate carries.
pub const SAN_NODE: &str = "muster-node";
/// Subject alternative name that only controllers' certificates carry.
pub const SAN_CONTROLLER: &str = "muster-controller";
/// Organisational unit of workers.
pub const OU_WORKER: &str = "muster-worker";
/// Organisational unit of controllers.
pub const OU_CONTROLLER: &str = "muster-controller";

/// Most certificates from a node's to the root: its own, and that of a root that takes the place of another.
const CHAIN_MAX: usize = 2;

/// A certificate or key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The PEM text cannot be read.
    #[error("cannot read the {what} as PEM")]
    Pem {
        /// Which part.
        what: &'static str,
    },
    /// The certificate does not name a node of a cluster.
    #[error("the certificate does not name a cluster node: {0}")]
    Subject(&'static str),
    /// Key and certificate do not work together, or with TLS 1.3.
    #[error("cannot use the certificate for TLS")]
    Tls(#[from] rustls::Error),
}

/// Who a peer is, by its verified certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Cluster: the organisation.
    pub cluster: ClusterId,
    /// Node: the common name.
    pub node: NodeId,
    /// Role: the organisational unit.
    pub role: NodeRole,
    /// Log index as of which the node's record had that role: the serial number of the subject.
    pub as_of: u64,
}

/// Identity of the peer of a connection; `None` for one without a client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerIdentity(pub Option<Identity>);

impl Identity {
    /// Reads the subject of a certificate whose signature was verified.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|_| CertificateError::Subject("it is not an X.509 certificate"))?;
        let subject = parsed.subject();
        let organisation = subject.iter_organization().next().and_then(|a| a.as_str().ok());
        let unit = subject
            .iter_organizational_unit()
            .next()
            .and_then(|a| a.as_str().ok());
        let name = subject.iter_common_name().next().and_then(|a| a.as_str().ok());
        let role = match unit {
            Some(OU_WORKER) => NodeRole::Worker,
            Some(OU_CONTROLLER) => NodeRole::Controller,
            _ => return Err(CertificateError::Subject("unknown organisational unit")),
        };
        let serial = subject.iter_by_oid(&OID_X509_SERIALNUMBER).next();
        let as_of = serial.and_then(|number| number.as_str().ok()?.parse().ok());
        let cluster = organisation.and_then(|text| text.parse().ok());
        let node = name.and_then(|text| text.parse().ok());
        Ok(Self {
            cluster: cluster.ok_or(CertificateError::Subject("the organisation is not a cluster id"))?,
            node: node.ok_or(CertificateError::Subject("the common name is not a node id"))?,
            role,
            as_of: as_of.unwrap_or(0),
        })
    }
}

/// SHA-256 of a root certificate (PEM without surrounding blanks), as join tokens carry it.
pub fn root_digest(certificate_pem: &str) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate_pem.trim().as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

/// A node's certificate and key with the cluster's root, replaceable while connections live: new connections use the
/// new certificate.
#[derive(Debug)]
pub struct NodeCertificate {
    current: ArcSwap<Current>,
}

#[derive(Debug)]
struct Current {
    identity: Identity,
    root_pem: String,
    issuer: Issuer,
    key: Arc<CertifiedKey>,
    trust: Trust,
    validity: (SystemTime, SystemTime),
}

impl NodeCertificate {
    /// Reads the three PEM texts.
    pub fn new(root_pem: &str, certificate_pem: &str, key_pem: &str) -> Result<Arc<Self>, CertificateError> {
        let current = Current::read(root_pem, certificate_pem, key_pem)?;
        Ok(Arc::new(Self {
            current: ArcSwap::from_pointee(current),
        }))
    }

    /// Uses these from now on.
    pub fn replace(
        &self,
        root_pem: &str,
        certificate_pem: &str,
        key_pem: &str,
    ) -> Result<(), CertificateError> {
        self.current
            .store(Arc::new(Current::read(root_pem, certificate_pem, key_pem)?));
        Ok(())
    }

    /// Trusts this root from now on, with the certificate that the node has.
    pub fn trust(&self, root_pem: &str) -> Result<(), CertificateError> {
        let current = self.current.load();
        let certificates = &current.key.cert;
        self.current.store(Arc::new(Current {
            identity: current.identity,
            root_pem: root_pem.to_owned(),
            issuer: issuer(certificates, root_pem)?,
            key: current.key.clone(),
            trust: Trust::in_root(root_pem)?,
            validity: current.validity,
        }));
        Ok(())
    }

    /// What the node says of its certificate.
    pub fn tls(&self) -> NodeTls {
        let current = self.current.load();
        NodeTls {
            issuer: current.issuer.clone(),
            root_digest: root_digest(&current.root_pem),
        }
    }

    /// How peers are verified now.
    pub(super) fn current_trust(&self) -> Trust {
        self.current.load().trust.clone()
    }

    /// Who this node is.
    pub fn identity(&self) -> Identity {
        self.current.load().identity
    }

    /// The cluster's root certificate.
    pub fn root_pem(&self) -> String {
        self.current.load().root_pem.clone()
    }

    /// Not before, not after.
    pub fn validity(&self) -> (SystemTime, SystemTime) {
        self.current.load().validity
    }

    /// TLS 1.3 for a listener. Clients without a certificate are let in and have no identity; each service checks.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, CertificateError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(CurrentRoots(self.clone())))
            .with_cert_resolver(Arc::new(CurrentKey(self.clone())));
        // A resumed session would carry the peer's certificate of an earlier one, also when its role has changed since.
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// TLS for HTTP to clients that are no nodes and show no certificate.
    pub fn client_facing_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, CertificateError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(CurrentKey(self.clone())));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// TLS 1.3 for a connection to a peer, with this node's certificate.
    pub fn client_config(self: &Arc<Self>) -> Result<ClientConfig, CertificateError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            // It verifies as usual, by the roots of its time.
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(CurrentRoots(self.clone())))
            .with_client_cert_resolver(Arc::new(CurrentKey(self.clone())));
        // Each connection shows the certificate of its time, and not that of the session it would resume.
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

impl Current {
    fn read(root_pem: &str, certificate_pem: &str, key_pem: &str) -> Result<Self, CertificateError> {
        let unreadable = CertificateError::Pem {
            what: "node certificate",
        };
        // The node's own first, then those between it and the root.
        let certificates = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
            .take(CHAIN_MAX)
            .collect::<Result<Vec<_>, _>>();
        let Ok([certificate, ..]) = certificates.as_deref() else {
            return Err(unreadable);
        };
        let certificates = certificates.as_deref().unwrap_or_default();
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| CertificateError::Pem { what: "node key" })?;
        let identity = Identity::of(certificate)?;
        let validity = validity(certificate)?;
        let signing = rustls::crypto::ring::sign::any_supported_type(&key)?;
        let certified = CertifiedKey::new(certificates.to_vec(), signing);
        certified.keys_match()?;
        Ok(Self {
            identity,
            root_pem: root_pem.to_owned(),
            issuer: issuer(&certified.cert, root_pem)?,
            key: Arc::new(certified),
            trust: Trust::in_root(root_pem)?,
            validity,
        })
    }
}

/// Who signed the first certificate: the second, or the root.
fn issuer(certificates: &[CertificateDer<'_>], root_pem: &str) -> Result<Issuer, CertificateError> {
    match certificates.get(1) {
        Some(between) => issuer_in(between),
        None => issuer_of(root_pem),
    }
}

/// Who signs with this certificate.
pub fn issuer_of(certificate_pem: &str) -> Result<Issuer, CertificateError> {
    issuer_in(&root_certificate(certificate_pem)?)
}

fn issuer_in(certificate: &CertificateDer<'_>) -> Result<Issuer, CertificateError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| CertificateError::Subject("its issuer is not an X.509 certificate"))?;
    Ok(Issuer {
        subject: parsed.subject().as_raw().to_vec(),
        public_key: parsed.public_key().raw.to_vec(),
    })
}

fn validity(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), CertificateError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| CertificateError::Subject("it is not an X.509 certificate"))?;
    let at = |time: x509_parser::time::ASN1Time| {
        let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)
    };
    Ok((at(parsed.validity().not_before), at(parsed.validity().not_after)))
}

#[derive(Debug)]
struct CurrentKey(Arc<NodeCertificate>);

impl ResolvesServerCert for CurrentKey {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load().key.clone())
    }
}

impl rustls::client::ResolvesClientCert for CurrentKey {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load().key.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
