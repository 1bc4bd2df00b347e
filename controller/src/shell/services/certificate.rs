//! The certificate authority's service, and the way into the Raft group.

use super::{controller, request_id};
use crate::authority::{self, Subject};
use crate::authorize::Authority;
use crate::control::{ControlError, ControlReply, ControlRequest, RefusalKind};
use crate::shell::authorize::{authorize, identity_of};
use crate::shell::handle::{ControllerHandle, ControllerSlot};
use muster_proto::ca::certificate_authority_server::CertificateAuthority;
use muster_proto::ca::{
    IssueReply, IssueRequest, JoinRaftReply, JoinRaftRequest, LeaveRaftReply, LeaveRaftRequest, Member,
    RenewRequest, RootReply, RootRequest, WithdrawReply, WithdrawRequest,
};
use muster_types::{Availability, Cluster, JoinToken, NodeId, NodeRole, NodeSpec, RaftId, RequestId};
use std::sync::Arc;
use time::OffsetDateTime;
use tonic::{Request, Response, Status};

/// Tries of a write that others keep getting ahead of; each round lets at least one of them through.
const STALE_TRIES_MAX: u32 = 10;

/// The certificate authority service.
pub struct CertificateService(pub ControllerSlot);

fn status(error: ControlError) -> Status {
    match error {
        ControlError::Refused { message, .. } => Status::failed_precondition(message),
        other => Status::unavailable(other.to_string()),
    }
}

/// The cluster's object as of now, and the index of that: tokens that were rotated must not work on a controller that
/// lags.
async fn current_cluster(handle: &ControllerHandle) -> Result<(Arc<Cluster>, u64), Status> {
    let view = handle.read().await.map_err(status)?;
    let cluster = view.state.cluster().cloned();
    let cluster = cluster.ok_or_else(|| Status::unavailable("the cluster is not made yet"))?;
    Ok((cluster, view.state.index()))
}

fn issue(
    cluster: &Cluster,
    (node, role, as_of): (NodeId, NodeRole, u64),
    request_pem: &str,
) -> Result<IssueReply, Status> {
    let subject = Subject {
        cluster: cluster.id,
        node,
        role,
        as_of,
    };
    let validity = cluster.spec.certificate_expiry;
    let rotation = cluster.root_rotation.as_deref();
    let root = rotation.map_or(&cluster.root_ca, |rotation| &rotation.root);
    let issued = authority::issue(root, request_pem, subject, validity, OffsetDateTime::now_utc());
    let mut certificate_pem = issued.map_err(|error| Status::invalid_argument(error.to_string()))?;
    if let Some(rotation) = rotation {
        // Whoever trusts the root before believes it by this one.
        certificate_pem.push_str(&rotation.cross_signed_pem);
    }
    Ok(IssueReply {
        node: node.to_string(),
        certificate_pem,
        controller: role == NodeRole::Controller,
    })
}

/// Carries out a write that is decided anew when another write came in between, as when several nodes join at once.
async fn write_again_when_stale<F>(
    handle: &ControllerHandle,
    id: RequestId,
    mut decide: impl FnMut() -> F,
) -> Result<ControlReply, Status>
where
    F: Future<Output = Result<ControlRequest, Status>>,
{
    let mut tries = 1;
    loop {
        match handle.write(id, decide().await?).await {
            Err(ControlError::Refused {
                kind: RefusalKind::OutOfSequence,
                ..
            }) if tries < STALE_TRIES_MAX => tries += 1,
            result => return result.map_err(status),
        }
    }
}

/// The id under which a join is carried out, and with it the node's. The key that is to be certified is part of it:
/// whoever repeats another node's request id with a key of its own gets a node of its own, never that node's identity.
fn join_id(id: RequestId, request_pem: &str) -> RequestId {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    digest.update(b"muster node id");
    digest.update(&id.as_u128().to_be_bytes());
    digest.update(request_pem.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.finish().as_ref()[..16]);
    RequestId::from_u128(u128::from_be_bytes(bytes))
}

fn availability(text: &str) -> Result<Availability, Status> {
    match text {
        "" | "active" => Ok(Availability::Active),
        "pause" => Ok(Availability::Pause),
        "drain" => Ok(Availability::Drain),
        _ => Err(Status::invalid_argument(
            "availability must be active, pause or drain",
        )),
    }
}

#[tonic::async_trait]
impl CertificateAuthority for CertificateService {
    async fn root(&self, _: Request<RootRequest>) -> Result<Response<RootReply>, Status> {
        let handle = controller(&self.0)?;
        let state = handle.state();
        let cluster = state
            .cluster()
            .ok_or_else(|| Status::unavailable("the cluster is not made yet"))?;
        Ok(Response::new(RootReply {
            certificate_pem: cluster.root_ca.certificate_pem.clone(),
        }))
    }

    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueReply>, Status> {
        let handle = controller(&self.0)?;
        let request = request.into_inner();
        let id = join_id(request_id(&request.request_id)?, &request.request_pem);
        let token: JoinToken = request
            .token
            .parse()
            .map_err(|_| Status::permission_denied("A valid join token is necessary to join this cluster"))?;
        let (cluster, as_of) = current_cluster(&handle).await?;
        let role = cluster.join_tokens.role_of(token.secret).ok_or_else(|| {
            Status::permission_denied("A valid join token is necessary to join this cluster")
        })?;
        let availability = availability(&request.availability)?;
        // First what may be refused: a node that gets no certificate gets no record.
        let node = NodeId::from_u128(id.as_u128());
        let issued = issue(&cluster, (node, role, as_of), &request.request_pem)?;
        let joined = handle
            .write(id, ControlRequest::JoinNode { role, availability })
            .await
            .map_err(status)?;
        match joined {
            ControlReply::NodeJoined { id } if id == node => Ok(Response::new(issued)),
            _ => Err(Status::internal("an unexpected answer")),
        }
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<IssueReply>, Status> {
        let handle = controller(&self.0)?;
        let identity = authorize(&request, &handle.state(), Authority::Node)?;
        let view = handle.read().await.map_err(status)?;
        let node = view.state.node(identity.node);
        let node = node.ok_or_else(|| Status::permission_denied("the node was removed"))?;
        let cluster = view
            .state
            .cluster()
            .ok_or_else(|| Status::unavailable("no cluster"))?;
        let subject = (node.id, node.spec.role, view.state.index());
        issue(cluster, subject, &request.into_inner().request_pem).map(Response::new)
    }

    async fn join_raft(&self, request: Request<JoinRaftRequest>) -> Result<Response<JoinRaftReply>, Status> {
        let handle = controller(&self.0)?;
        let identity = authorize(&request, &handle.state(), Authority::Controller)?;
        let request = request.into_inner();
        let id = request_id(&request.request_id)?;
        let write = ControlRequest::JoinRaft {
            node: identity.node,
            address: request.address,
            replaces: Some(RaftId(request.replaces)).filter(|id| id.0 != 0),
        };
        let mut reply = JoinRaftReply {
            cluster: identity.cluster.to_string(),
            ..JoinRaftReply::default()
        };
        match write_again_when_stale(&handle, id, || async { Ok(write.clone()) }).await? {
            ControlReply::RaftJoined { raft_id, members } => {
                let members = members.into_iter().map(|(id, address)| Member {
                    raft_id: id.0,
                    address,
                });
                reply.raft_id = raft_id.0;
                reply.members = members.collect();
            }
            ControlReply::RaftIdHeld { raft_id } => reply.held = raft_id.map_or(0, |id| id.0),
            _ => return Err(Status::internal("an unexpected answer")),
        }
        Ok(Response::new(reply))
    }

    async fn withdraw(&self, request: Request<WithdrawRequest>) -> Result<Response<WithdrawReply>, Status> {
        let handle = controller(&self.0)?;
        let identity = identity_of(&request)?;
        let id = RequestId::from_u128(rand::random());
        let write = ControlRequest::WithdrawNode { node: identity.node };
        handle.write(id, write).await.map_err(status)?;
        Ok(Response::new(WithdrawReply {}))
    }

    async fn leave_raft(
        &self,
        request: Request<LeaveRaftRequest>,
    ) -> Result<Response<LeaveRaftReply>, Status> {
        let handle = controller(&self.0)?;
        let identity = authorize(&request, &handle.state(), Authority::Controller)?;
        let demotion = || async {
            let view = handle.read().await.map_err(status)?;
            let node = view.state.node(identity.node);
            let node = node.ok_or_else(|| Status::not_found("the node has no record"))?;
            let spec = NodeSpec {
                role: NodeRole::Worker,
                ..node.spec.clone()
            };
            Ok(ControlRequest::UpdateNode {
                id: node.id,
                version: node.meta.spec_version,
                spec,
            })
        };
        write_again_when_stale(&handle, RequestId::from_u128(rand::random()), demotion).await?;
        Ok(Response::new(LeaveRaftReply {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_join_is_the_same_node_only_with_the_same_key() {
        let id = RequestId::from_u128(7);
        assert_eq!(join_id(id, "request of a"), join_id(id, "request of a"));
        let (own, foreign) = (join_id(id, "request of a"), join_id(id, "request of b"));
        assert_ne!(own, foreign);
        // A node's id is no request id that leads to it.
        assert_ne!(join_id(own, "request of b"), own);
    }
}
