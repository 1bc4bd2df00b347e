//! Which roots are taken, and that nodes of both believe each other.

use super::*;
use crate::authority::make_root;
use muster_proto::transport::{NodeCertificate, SAN_CONTROLLER};
use rcgen::{ExtendedKeyUsagePurpose, GeneralSubtree, NameConstraints, PKCS_ECDSA_P256_SHA256};
use std::sync::Arc;

/// Made for these tests, as rcgen makes no such names: `openssl req -x509 -new -key KEY -days 36500 -subj SUBJECT`.
const FIXTURE_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg49E4MADXhfvMVRXb
FDbVHBoRCp04Cie4fJU1tsYsbMahRANCAAQywh6XWrZejPOcj31O3MlC3YQVKoFy
QJxT9fxoDJj6g2NzfVlsTzmAL0PRhe/gUlv4V5OS59MxL7zux46cpTB3
-----END PRIVATE KEY-----
";

/// `/O=Example/OU=One/OU=Two/CN=own`.
const REPEATED_ATTRIBUTE: &str = "\
-----BEGIN CERTIFICATE-----
MIIB4DCCAYWgAwIBAgIUD5fHL+fYf1x51+aakSDVwCiiXgkwCgYIKoZIzj0EAwIw
PDEQMA4GA1UECgwHRXhhbXBsZTEMMAoGA1UECwwDT25lMQwwCgYDVQQLDANUd28x
DDAKBgNVBAMMA293bjAgFw0yNjExMjkyMTU1NTJaGA8yMTI2MTEwNTIxNTU1Mlow
PDEQMA4GA1UECgwHRXhhbXBsZTEMMAoGA1UECwwDT25lMQwwCgYDVQQLDANUd28x
DDAKBgNVBAMMA293bjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABDLCHpdatl6M
85yPfU7cyULdhBUqgXJAnFP1/GgMmPqDY3N9WWxPOYAvQ9GF7+BSW/hXk5Ln0zEv
vO7HjpylMHejYzBhMB0GA1UdDgQWBBRQ95wAnfiWNAwVihscwzXPIpAReTAfBgNV
HSMEGDAWgBRQ95wAnfiWNAwVihscwzXPIpAReTAPBgNVHRMBAf8EBTADAQH/MA4G
A1UdDwEB/wQEAwICBDAKBggqhkjOPQQDAgNJADBGAiEAwFO8SSIrdUEyKgiE6rfR
Hyv25gRMuV4mwRlLktr/9h4CIQDYC3m+upgqtXOQo7A0+JSOMMKPiBAGgB0jmurr
x0FUuw==
-----END CERTIFICATE-----
";

/// `/O=Example+OU=One/CN=own`.
const SEVERAL_IN_ONE_PART: &str = "\
-----BEGIN CERTIFICATE-----
MIIBvjCCAWWgAwIBAgIUJpxEMWoj6awutyVlVO7Qr1+frcowCgYIKoZIzj0EAwIw
LDEcMAoGA1UECwwDT25lMA4GA1UECgwHRXhhbXBsZTEMMAoGA1UEAwwDb3duMCAX
DTI2MTEyOTIxNTU1MloYDzIxMjYxMTA1MjE1NTUyWjAsMRwwCgYDVQQLDANPbmUw
DgYDVQQKDAdFeGFtcGxlMQwwCgYDVQQDDANvd24wWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQywh6XWrZejPOcj31O3MlC3YQVKoFyQJxT9fxoDJj6g2NzfVlsTzmA
L0PRhe/gUlv4V5OS59MxL7zux46cpTB3o2MwYTAdBgNVHQ4EFgQUUPecAJ34ljQM
FYobHMM1zyKQEXkwHwYDVR0jBBgwFoAUUPecAJ34ljQMFYobHMM1zyKQEXkwDwYD
VR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAgQwCgYIKoZIzj0EAwIDRwAwRAIg
T+vDOKyZQU5zyyZcgu7ok8+QPPqGPqk4TSb95aORaO0CIHELYUS4D0j0DWljUtjr
41mUkZdLpDeDXvdIoUCqTVfT
-----END CERTIFICATE-----
";

fn subject(role: NodeRole) -> Subject {
    Subject {
        cluster: ClusterId::from_u128(1),
        node: NodeId::from_u128(2),
        role,
        as_of: 77,
    }
}

/// A root that differs from a usual one.
fn root_with(now: OffsetDateTime, change: impl FnOnce(&mut CertificateParams)) -> RootCa {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "own");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = now - BACKDATE;
    params.not_after = now + ROOT_VALIDITY;
    change(&mut params);
    RootCa {
        certificate_pem: params.self_signed(&key).unwrap().pem(),
        key_pem: key.serialize_pem(),
    }
}

fn refusal(given: &RootCa, now: OffsetDateTime) -> String {
    check_root(given, now).unwrap_err().to_string()
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
fn usual_roots_of_a_user_are_taken() {
    let now = OffsetDateTime::now_utc();
    let before = make_root(now).unwrap();
    let leaves_only = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    };
    let long_name = |params: &mut CertificateParams| {
        let name = &mut params.distinguished_name;
        name.push(
            DnType::CountryName,
            DnValue::PrintableString("CH".try_into().unwrap()),
        );
        name.push(DnType::OrganizationName, "Beispiel für Kürze");
        name.push(DnType::OrganizationalUnitName, "One");
    };
    for given in [
        root_with(now, |_| {}),
        root_with(now, leaves_only),
        root_with(now, long_name),
    ] {
        let root = check_root(&given, now).unwrap();
        assert_eq!(root, given, "it is written as OpenSSL and rcgen write it");
        cross_sign(&before, &root, now).unwrap();
    }
}

#[test]
fn names_that_cannot_be_written_again_are_refused() {
    let now = OffsetDateTime::now_utc();
    let before = make_root(now).unwrap();
    for (certificate_pem, why) in [
        (REPEATED_ATTRIBUTE, "an attribute more than once"),
        (SEVERAL_IN_ONE_PART, "several attributes in one part"),
    ] {
        let given = RootCa {
            certificate_pem: certificate_pem.to_owned(),
            key_pem: FIXTURE_KEY.to_owned(),
        };
        let refused = refusal(&given, now);
        assert!(refused.contains(why), "{refused}");
        assert!(
            cross_sign(&before, &given, now).is_err(),
            "the trial finds it too"
        );
        assert!(
            cross_sign(&given, &before, now).is_err(),
            "also when it is there already"
        );
    }
}

#[test]
fn roots_that_limit_what_they_sign_are_refused() {
    let now = OffsetDateTime::now_utc();
    let before = make_root(now).unwrap();
    let constrained = root_with(now, |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("example.com".to_owned())],
            excluded_subtrees: Vec::new(),
        });
    });
    let clients_only = root_with(now, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    for (given, why) in [
        (&constrained, "name constraints"),
        (&clients_only, "extended key usage"),
    ] {
        let refused = refusal(given, now);
        assert!(refused.contains(why), "{refused}");
    }
    // Those that no check names are found by the trial.
    let tried = cross_sign(&before, &constrained, now).unwrap_err();
    assert!(tried.to_string().contains("would not believe"), "{tried}");
    let no_signing = root_with(now, |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    assert!(refusal(&no_signing, now).contains("key usage"));
}

#[test]
fn a_root_with_the_key_of_the_one_that_is_there_is_refused() {
    let now = OffsetDateTime::now_utc();
    let before = make_root(now).unwrap();
    let key = KeyPair::from_pem(&before.key_pem).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let renamed = RootCa {
        certificate_pem: params.self_signed(&key).unwrap().pem(),
        key_pem: before.key_pem.clone(),
    };
    for new in [&before, &renamed] {
        let refused = cross_sign(&before, new, now).unwrap_err().to_string();
        assert_eq!(refused, "Cannot update to a cert with an identical key");
    }
}

#[test]
fn what_else_is_in_a_certificates_file_is_never_kept() {
    let now = OffsetDateTime::now_utc();
    let (root, other) = (make_root(now).unwrap(), make_root(now).unwrap());
    let given = |certificate_pem: String| RootCa {
        certificate_pem,
        key_pem: root.key_pem.clone(),
    };
    let (certificate, key) = (&root.certificate_pem, &root.key_pem);
    for with_key in [format!("{certificate}{key}"), format!("{key}{certificate}")] {
        let refused = refusal(&given(with_key), now);
        assert!(refused.contains("something else too"), "{refused}");
    }
    let refused = refusal(&given(format!("{certificate}{}", other.certificate_pem)), now);
    assert!(
        refused.contains("the desired CA certificate cannot contain multiple certificates"),
        "{refused}"
    );
    let noted = given(format!(
        "a note\n{}\nanother\n",
        certificate.replace('\n', "\r\n")
    ));
    assert_eq!(check_root(&noted, now).unwrap(), root);
    // A cluster that has such a root gets rid of it.
    let leaked = given(format!("{certificate}{key}"));
    assert!(cross_sign(&leaked, &other, now).is_ok());
}
