//! The built-in certificate authority: a self-signed root, and certificates for nodes.

mod replacement;

pub use replacement::{check_root, cross_sign};

use muster_proto::transport::{SAN_CONTROLLER, SAN_NODE};
use muster_types::{ClusterId, NodeId, NodeRole, RootCa};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use std::time::Duration;
use time::OffsetDateTime;

/// Validity of a root certificate: 20 years, as SwarmKit's.
const ROOT_VALIDITY: Duration = Duration::from_secs(630_720_000);
/// Certificates are valid from an hour before they are made, for nodes whose clocks are behind (SwarmKit).
const BACKDATE: Duration = Duration::from_secs(3600);
/// Largest certificate request that is read.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// A certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The request is not a valid certificate signing request.
    #[error("the certificate request cannot be read")]
    Request(#[source] rcgen::Error),
    /// The request is too large.
    #[error("the certificate request has {bytes} bytes; at most {REQUEST_BYTES_MAX} are read")]
    RequestTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A root that a user gave cannot be used.
    #[error("the signing certificate and key cannot be used: {0}")]
    Given(&'static str),
    /// A root that a user gave has the key of the one that is there: a chain of both cannot be verified.
    #[error("Cannot update to a cert with an identical key")]
    IdenticalKey,
    /// The root that is there cannot certify another one.
    #[error("the cluster's root certificate cannot certify the one that shall take its place: {0}")]
    Before(&'static str),
    /// Signing failed, or the root cannot be used.
    #[error("cannot make a certificate")]
    Sign(#[from] rcgen::Error),
}

/// What a certificate says of its holder.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Its role.
    pub role: NodeRole,
    /// Log index as of which its record has that role: a controller that has applied less knows an older one.
    pub as_of: u64,
}

/// The subject's serial number (RFC 5280, `id-at-serialNumber`) holds [`Subject::as_of`].
const SERIAL_NUMBER_OID: &[u64] = &[2, 5, 4, 5];

/// A fresh key, and the request that asks for its certificate.
pub struct KeyAndRequest {
    /// Private key, PEM.
    pub key_pem: String,
    /// Certificate signing request, PEM.
    pub request_pem: String,
}

/// Makes a key for a node and a request to send to the cluster.
pub fn key_and_request() -> Result<KeyAndRequest, AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let request = CertificateParams::default().serialize_request(&key)?;
    Ok(KeyAndRequest {
        key_pem: key.serialize_pem(),
        request_pem: request.pem()?,
    })
}

/// Makes a root certificate.
pub fn make_root(now: OffsetDateTime) -> Result<RootCa, AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "swarm-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - BACKDATE;
    params.not_after = now + ROOT_VALIDITY;
    let certificate = params.self_signed(&key)?;
    Ok(RootCa {
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    })
}

/// Signs a node's request. Of the request only the public key is used: what the certificate says comes from
/// `subject`.
pub fn issue(
    root: &RootCa,
    request_pem: &str,
    subject: Subject,
    validity: Duration,
    now: OffsetDateTime,
) -> Result<String, AuthorityError> {
    if request_pem.len() > REQUEST_BYTES_MAX {
        return Err(AuthorityError::RequestTooLarge {
            bytes: request_pem.len(),
        });
    }
    let mut request =
        CertificateSigningRequestParams::from_pem(request_pem).map_err(AuthorityError::Request)?;
    let (unit, role_name) = match subject.role {
        NodeRole::Worker => ("muster-worker", None),
        NodeRole::Controller => ("muster-controller", Some(SAN_CONTROLLER)),
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, subject.cluster.to_string());
    params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, unit);
    params
        .distinguished_name
        .push(DnType::CommonName, subject.node.to_string());
    params.distinguished_name.push(
        DnType::CustomDnType(SERIAL_NUMBER_OID.to_vec()),
        subject.as_of.to_string(),
    );
    for name in [Some(SAN_NODE), role_name].into_iter().flatten() {
        params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.not_before = now - BACKDATE;
    params.not_after = now + validity;
    request.params = params;
    let key = KeyPair::from_pem(&root.key_pem)?;
    let issuer = Issuer::from_ca_cert_pem(&root.certificate_pem, key)?;
    Ok(request.signed_by(&issuer)?.pem())
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::transport::NodeCertificate;

    fn subject(role: NodeRole) -> Subject {
        Subject {
            cluster: ClusterId::from_u128(1),
            node: NodeId::from_u128(2),
            role,
            as_of: 77,
        }
    }

    #[test]
    fn an_issued_certificate_names_cluster_node_and_role() {
        let now = OffsetDateTime::now_utc();
        let root = make_root(now).unwrap();
        for role in [NodeRole::Worker, NodeRole::Controller] {
            let pair = key_and_request().unwrap();
            let day = Duration::from_secs(86_400);
            let pem = issue(&root, &pair.request_pem, subject(role), day, now).unwrap();
            let certificate = NodeCertificate::new(&root.certificate_pem, &pem, &pair.key_pem).unwrap();
            let identity = certificate.identity();
            assert_eq!(
                (identity.cluster, identity.node),
                (ClusterId::from_u128(1), NodeId::from_u128(2))
            );
            assert_eq!((identity.role, identity.as_of), (role, 77));
            assert!(certificate.server_config().is_ok());
        }
    }

    #[test]
    fn hostile_requests_are_refused() {
        let now = OffsetDateTime::now_utc();
        let root = make_root(now).unwrap();
        for request in ["", "nonsense", &"x".repeat(REQUEST_BYTES_MAX + 1)] {
            let day = Duration::from_secs(86_400);
            assert!(issue(&root, request, subject(NodeRole::Worker), day, now).is_err());
        }
    }
}
