//! Another root certificate for the cluster: made, or taken from the user, and certified by the one before.

use muster_controller::authority::{AuthorityError, check_root, cross_sign, make_root};
use muster_engine_api::backend::BackendError;
use muster_proto::transport::{CertificateError, issuer_of, root_digest};
use muster_state::LEVEL_OF_ROTATION;
use muster_types::{Cluster, RootCa, RootRotation};
use std::time::SystemTime;
use time::OffsetDateTime;

#[derive(Debug, thiserror::Error)]
enum RootError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// The rotation that an update asks for: to the root that is given, or to a new one when the counter is higher. An error
/// is told to the user.
pub(super) fn root_rotation(
    cluster: &Cluster,
    counter: u64,
    given: Option<RootCa>,
) -> Result<Option<RootRotation>, BackendError> {
    if given.is_none() && counter == cluster.spec.root_rotations {
        return Ok(None);
    }
    // A leader of an older version would leave the rotation out of the update, and answer as if it had begun.
    if cluster.feature_level < LEVEL_OF_ROTATION {
        return Err(BackendError::unavailable(
            "some controllers run a version of Muster that cannot replace the root certificate: update them first, or \
             remove them",
        ));
    }
    let rotation = rotation_to(given, &cluster.root_ca).map_err(|error| error.to_string());
    let rotation = rotation.map_err(BackendError::invalid)?;
    if let Some(under_way) = &cluster.root_rotation
        && under_way.issuer != rotation.issuer
        && under_way.issuer.public_key == rotation.issuer.public_key
    {
        // Nodes would take their certificates for those of the new one.
        return Err(BackendError::invalid(AuthorityError::IdenticalKey.to_string()));
    }
    Ok(Some(rotation))
}

/// The rotation from the root before to the one that is given, or to a new one.
fn rotation_to(given: Option<RootCa>, before: &RootCa) -> Result<RootRotation, RootError> {
    let now = OffsetDateTime::from(SystemTime::now());
    let root = match given {
        Some(root) => check_root(&root, now)?,
        None => make_root(now)?,
    };
    Ok(RootRotation {
        issuer: issuer_of(&root.certificate_pem)?,
        cross_signed_pem: cross_sign(before, &root, now)?,
        root_digest: root_digest(&root.certificate_pem),
        root,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_engine_api::backend::ErrorKind;
    use muster_types::{ClusterId, ClusterSpec, JoinToken, JoinTokens, Meta};

    fn cluster(feature_level: u32) -> Cluster {
        let token = JoinToken {
            root_digest: [0; 32],
            secret: 1,
        };
        Cluster {
            id: ClusterId::from_u128(1),
            meta: Meta::default(),
            spec: ClusterSpec::default(),
            root_ca: make_root(SystemTime::now().into()).unwrap(),
            join_tokens: JoinTokens {
                worker: token,
                controller: token,
            },
            incarnation: 1,
            feature_level,
            next_raft_id: 1,
            issuer: None,
            root_rotation: None,
        }
    }

    #[test]
    fn an_older_leader_is_not_asked() {
        let older = cluster(LEVEL_OF_ROTATION - 1);
        assert!(root_rotation(&older, 0, None).unwrap().is_none());
        let own = make_root(SystemTime::now().into()).unwrap();
        for (counter, given) in [(1, None), (0, Some(own))] {
            let refused = root_rotation(&older, counter, given).unwrap_err();
            assert_eq!(refused.kind, ErrorKind::Unavailable);
            assert!(refused.to_string().contains("update them first"));
        }
    }

    #[test]
    fn a_root_of_the_users_own_is_kept_without_what_is_beside_it() {
        let cluster = cluster(LEVEL_OF_ROTATION);
        let own = make_root(SystemTime::now().into()).unwrap();
        let with = |certificate_pem: String| RootCa {
            certificate_pem,
            key_pem: own.key_pem.clone(),
        };
        let noted = with(format!("a note\n{}", own.certificate_pem));
        let rotation = root_rotation(&cluster, 0, Some(noted)).unwrap().unwrap();
        assert_eq!(rotation.root, own);
        assert_eq!(rotation.root_digest, root_digest(&own.certificate_pem));
        let with_key = with(format!("{}{}", own.certificate_pem, own.key_pem));
        let refused = root_rotation(&cluster, 0, Some(with_key)).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Invalid);
    }
}
