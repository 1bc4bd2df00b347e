//! Another root certificate for the cluster: made, or taken from the user, and certified by the one before.

use muster_controller::authority::{AuthorityError, check_root, cross_sign, make_root};
use muster_proto::transport::{CertificateError, issuer_of, root_digest};
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
) -> Result<Option<RootRotation>, String> {
    let now = OffsetDateTime::from(SystemTime::now());
    let rotation = || -> Result<Option<RootRotation>, RootError> {
        let root = match given {
            Some(root) => {
                check_root(&root, now)?;
                root
            }
            None if counter == cluster.spec.root_rotations => return Ok(None),
            None => make_root(now)?,
        };
        Ok(Some(RootRotation {
            issuer: issuer_of(&root.certificate_pem)?,
            cross_signed_pem: cross_sign(&cluster.root_ca, &root, now)?,
            root_digest: root_digest(&root.certificate_pem),
            root,
        }))
    };
    rotation().map_err(|error| error.to_string())
}
