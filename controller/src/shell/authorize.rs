//! Who calls: the certificate of the connection names the node.

use crate::authorize::{self, Authority, Denied};
use muster_proto::transport::{Identity, PeerIdentity};
use muster_state::ClusterState;
use std::net::SocketAddr;
use tonic::{Request, Status};

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        Self::permission_denied(denied.to_string())
    }
}

/// The caller of a request, if its certificate and its node record allow the call.
pub fn authorize<T>(request: &Request<T>, state: &ClusterState, need: Authority) -> Result<Identity, Status> {
    let identity = identity_of(request)?;
    authorize::authorize(identity, state, need)?;
    Ok(identity)
}

/// The caller by its certificate.
pub(super) fn identity_of<T>(request: &Request<T>) -> Result<Identity, Status> {
    let info = request.extensions().get::<(PeerIdentity, Option<SocketAddr>)>();
    let identity = info.and_then(|(peer, _)| peer.0);
    identity.ok_or_else(|| Status::unauthenticated("a node certificate is required"))
}

/// Where a request came from.
pub(super) fn remote_address<T>(request: &Request<T>) -> Option<SocketAddr> {
    request
        .extensions()
        .get::<(PeerIdentity, Option<SocketAddr>)>()
        .and_then(|(_, address)| *address)
}
