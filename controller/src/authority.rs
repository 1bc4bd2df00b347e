//! The built-in certificate authority: a self-signed root, and certificates for nodes.

use muster_proto::transport::{SAN_CONTROLLER, SAN_NODE};
use muster_types::{ClusterId, NodeId, NodeRole, RootCa};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType,
};
use std::time::Duration;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::Tag;

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

/// Checks a root certificate and its key that a user gave.
pub fn check_root(root: &RootCa, now: OffsetDateTime) -> Result<(), AuthorityError> {
    let key = KeyPair::from_pem(&root.key_pem)
        .map_err(|_| AuthorityError::Given("the key cannot be read as PEM"))?;
    let unreadable = AuthorityError::Given("the certificate cannot be read as PEM");
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(root.certificate_pem.as_bytes()) else {
        return Err(unreadable);
    };
    let Ok(certificate) = pem.parse_x509() else {
        return Err(unreadable);
    };
    let at = x509_parser::time::ASN1Time::from_timestamp(now.unix_timestamp())
        .map_err(|_| AuthorityError::Given("the clock is wrong"))?;
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err(AuthorityError::Given("the key is not that of the certificate"));
    }
    if !certificate.is_ca() {
        return Err(AuthorityError::Given(
            "the certificate is not that of an authority",
        ));
    }
    if certificate.subject().as_raw() != certificate.issuer().as_raw() {
        return Err(AuthorityError::Given("the certificate is not a root"));
    }
    if !certificate.validity().is_valid_at(at) {
        return Err(AuthorityError::Given("the certificate is not valid now"));
    }
    Ok(())
}

/// Certifies a new root's key with the root before, so that nodes that trust that one accept what the new one signs.
pub fn cross_sign(before: &RootCa, new: &RootCa, now: OffsetDateTime) -> Result<String, AuthorityError> {
    let unreadable = AuthorityError::Given("the certificate cannot be read as PEM");
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(new.certificate_pem.as_bytes()) else {
        return Err(unreadable);
    };
    let Ok(certificate) = pem.parse_x509() else {
        return Err(unreadable);
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = subject_of(&certificate)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - BACKDATE;
    params.not_after = now + ROOT_VALIDITY;
    let key = KeyPair::from_pem(&new.key_pem)?;
    let issuer = Issuer::from_ca_cert_pem(&before.certificate_pem, KeyPair::from_pem(&before.key_pem)?)?;
    Ok(params.signed_by(&key, &issuer)?.pem())
}

/// The subject, in the same encoding: verifiers compare names byte by byte.
fn subject_of(certificate: &X509Certificate<'_>) -> Result<DistinguishedName, AuthorityError> {
    let strange =
        || AuthorityError::Given("the certificate's subject has a kind of text that is not supported");
    let mut name = DistinguishedName::new();
    for attribute in certificate.subject().iter_attributes() {
        let oid: Vec<u64> = attribute.attr_type().iter().ok_or_else(strange)?.collect();
        let text = attribute.as_str().map_err(|_| strange())?;
        let value = match attribute.attr_value().tag() {
            Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
            Tag::PrintableString => DnValue::PrintableString(text.try_into()?),
            Tag::Ia5String => DnValue::Ia5String(text.try_into()?),
            _ => return Err(strange()),
        };
        name.push(DnType::CustomDnType(oid), value);
    }
    Ok(name)
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
    use std::sync::Arc;

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
    fn nodes_of_two_roots_believe_each_other_while_one_takes_the_others_place() {
        let now = OffsetDateTime::now_utc();
        let (before, new) = (make_root(now).unwrap(), make_root(now).unwrap());
        let cross_signed = cross_sign(&before, &new, now).unwrap();
        let day = Duration::from_secs(86_400);
        let certified = |root: &RootCa| {
            let pair = key_and_request().unwrap();
            let subject = subject(NodeRole::Controller);
            (
                issue(root, &pair.request_pem, subject, day, now).unwrap(),
                pair.key_pem,
            )
        };
        let (old, renewed) = (certified(&before), certified(&new));
        let chain = format!("{}{cross_signed}", renewed.0);
        let old = NodeCertificate::new(&before.certificate_pem, &old.0, &old.1).unwrap();
        let renewed_only = NodeCertificate::new(&before.certificate_pem, &chain, &renewed.1).unwrap();
        let moved = NodeCertificate::new(&new.certificate_pem, &chain, &renewed.1).unwrap();
        assert_ne!(old.tls().issuer, renewed_only.tls().issuer);
        assert_eq!(
            renewed_only.tls().issuer.public_key,
            moved.tls().issuer.public_key
        );
        assert_ne!(renewed_only.tls().root_digest, moved.tls().root_digest);
        let believes = shake_hands;
        for (one, other) in [
            (&old, &renewed_only),
            (&renewed_only, &old),
            (&renewed_only, &moved),
            (&moved, &renewed_only),
        ] {
            assert!(believes(one, other));
        }
        // Nobody who trusts the new root alone believes who has not been renewed.
        assert!(!believes(&moved, &old));
        // A node that hears of the new root later believes at once.
        renewed_only.trust(&new.certificate_pem).unwrap();
        assert!(believes(&renewed_only, &moved) && !believes(&renewed_only, &old));
    }

    /// Whether a client and a server finish a handshake.
    fn shake_hands(client: &Arc<NodeCertificate>, server: &Arc<NodeCertificate>) -> bool {
        let name = rustls_pki_types::ServerName::try_from(SAN_CONTROLLER).unwrap();
        let config = Arc::new(client.client_config().unwrap());
        let mut client = rustls::ClientConnection::new(config, name).unwrap();
        let mut server = rustls::ServerConnection::new(server.server_config().unwrap()).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let (mut there, mut back) = (Vec::new(), Vec::new());
            while client.wants_write() {
                client.write_tls(&mut there).unwrap();
            }
            server.read_tls(&mut there.as_slice()).unwrap();
            if server.process_new_packets().is_err() {
                return false;
            }
            while server.wants_write() {
                server.write_tls(&mut back).unwrap();
            }
            client.read_tls(&mut back.as_slice()).unwrap();
            if client.process_new_packets().is_err() {
                return false;
            }
        }
        true
    }

    #[test]
    fn a_root_that_a_user_gives_is_checked() {
        let now = OffsetDateTime::now_utc();
        let (one, other) = (make_root(now).unwrap(), make_root(now).unwrap());
        assert!(check_root(&one, now).is_ok());
        let mixed = RootCa {
            certificate_pem: one.certificate_pem.clone(),
            key_pem: other.key_pem.clone(),
        };
        assert!(
            check_root(&mixed, now)
                .unwrap_err()
                .to_string()
                .contains("not that of the certificate")
        );
        let late = now + ROOT_VALIDITY + BACKDATE;
        assert!(check_root(&one, late).is_err());
        let pair = key_and_request().unwrap();
        let day = Duration::from_secs(86_400);
        let leaf = issue(&one, &pair.request_pem, subject(NodeRole::Worker), day, now).unwrap();
        let not_an_authority = RootCa {
            certificate_pem: leaf,
            key_pem: pair.key_pem,
        };
        assert!(check_root(&not_an_authority, now).is_err());
        let unreadable = RootCa {
            certificate_pem: "nonsense".to_owned(),
            key_pem: one.key_pem.clone(),
        };
        assert!(check_root(&unreadable, now).is_err());
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
