//! Who may call what: the certificate names the caller, the replicated node record says what it may do now.

use muster_proto::transport::{Identity, PeerIdentity};
use muster_state::ClusterState;
use muster_types::{Node, NodeRole, RaftId};
use std::net::SocketAddr;
use tonic::{Request, Status};

/// What a caller must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// Any node of the cluster.
    Node,
    /// A controller.
    Controller,
}

/// The caller of a request, if its certificate and its node record allow the call. A state that knows no node yet (a
/// joining controller's) leaves it at the certificate.
pub fn authorize<T>(request: &Request<T>, state: &ClusterState, need: Authority) -> Result<Identity, Status> {
    let identity = identity_of(request)?;
    let role = role_of(identity, state)?;
    match (need, role) {
        (Authority::Node, _) | (Authority::Controller, NodeRole::Controller) => Ok(identity),
        (Authority::Controller, NodeRole::Worker) => Err(only_controllers()),
    }
}

/// What the caller may act as now.
pub(super) fn role_of(identity: Identity, state: &ClusterState) -> Result<NodeRole, Status> {
    Ok(match state.cluster() {
        None => identity.role,
        Some(cluster) if cluster.id != identity.cluster => {
            return Err(other_cluster());
        }
        Some(_) => {
            let record = state.node(identity.node);
            let record = record.ok_or_else(|| {
                Status::permission_denied(format!("node {} is not in the cluster", identity.node))
            })?;
            // Both must say controller: a demoted node loses its rights at commit, whatever its certificate says.
            match identity.role {
                NodeRole::Controller if is_controller(identity, record) => NodeRole::Controller,
                NodeRole::Controller | NodeRole::Worker => NodeRole::Worker,
            }
        }
    })
}

/// The caller by its certificate.
pub(super) fn identity_of<T>(request: &Request<T>) -> Result<Identity, Status> {
    let info = request.extensions().get::<(PeerIdentity, Option<SocketAddr>)>();
    let identity = info.and_then(|(peer, _)| peer.0);
    identity.ok_or_else(|| Status::unauthenticated("a node certificate is required"))
}

/// Whether the caller may speak for this Raft id. The right goes with the place in the Raft group and not with the
/// role: a demoted voter counts for quorum until it is out, and without its voice the group could not let it go. An id
/// that was not given out yet, as far as is applied here, is of a member that this controller has still to hear of; it
/// may be the leader. An id that was given out and stands in no record is out of the group for good.
pub(super) fn authorize_member(
    identity: Identity,
    raft_id: RaftId,
    state: &ClusterState,
) -> Result<(), Status> {
    if identity.role != NodeRole::Controller {
        return Err(only_controllers());
    }
    let Some(cluster) = state.cluster() else {
        return Ok(());
    };
    if cluster.id != identity.cluster {
        return Err(other_cluster());
    }
    match state.node_by_raft_id(raft_id) {
        Some(node) if node.id == identity.node => Ok(()),
        Some(_) => Err(Status::permission_denied(format!(
            "Raft id {raft_id} belongs to another node"
        ))),
        None if raft_id.0 >= cluster.next_raft_id && may_be_new(identity, state) => Ok(()),
        None => Err(Status::permission_denied(format!(
            "Raft id {raft_id} is out of the Raft group"
        ))),
    }
}

/// The node may have joined the Raft group after what is applied here: it is not known to be a worker, or removed. A
/// node without a record needs a certificate from after what is applied here, so that one of a node that was removed
/// long ago is worth nothing.
fn may_be_new(identity: Identity, state: &ClusterState) -> bool {
    match state.node(identity.node) {
        Some(node) => is_controller(identity, node),
        None => identity.as_of > state.index() && !state.is_removed_node(identity.node),
    }
}

/// Whether the node with this controller's certificate is to be one. The record decides, unless the certificate was
/// issued from a later one: then the node was promoted after what is applied here.
fn is_controller(identity: Identity, node: &Node) -> bool {
    node.spec.role == NodeRole::Controller || identity.as_of > node.meta.spec_version
}

fn only_controllers() -> Status {
    Status::permission_denied("only controllers may do this")
}

fn other_cluster() -> Status {
    Status::permission_denied("the certificate is of another cluster")
}

/// Where a request came from.
pub(super) fn remote_address<T>(request: &Request<T>) -> Option<SocketAddr> {
    request
        .extensions()
        .get::<(PeerIdentity, Option<SocketAddr>)>()
        .and_then(|(_, address)| *address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{CLUSTER, applied, node, spec, state};
    use muster_state::Change;

    fn caller(number: u128, role: NodeRole) -> Identity {
        Identity {
            cluster: CLUSTER,
            node: node(number),
            role,
            as_of: 0,
        }
    }

    #[test]
    fn a_member_speaks_only_for_its_own_raft_id() {
        let state = state();
        let own = caller(1, NodeRole::Controller);
        assert!(authorize_member(own, RaftId(1), &state).is_ok());
        assert!(authorize_member(own, RaftId(2), &state).is_err());
        assert!(authorize_member(caller(1, NodeRole::Worker), RaftId(1), &state).is_err());
    }

    #[test]
    fn a_demoted_voter_is_heard_until_it_is_out_of_the_group() {
        let mut state = state();
        let demoted = caller(2, NodeRole::Controller);
        let demote = Change::NodeSpec {
            node: node(2),
            spec: spec(NodeRole::Worker),
        };
        applied(&mut state, vec![demote]);
        assert_eq!(role_of(demoted, &state).unwrap(), NodeRole::Worker);
        assert!(authorize_member(demoted, RaftId(2), &state).is_ok());
        let gone = Change::NodeController {
            node: node(2),
            member: None,
        };
        applied(&mut state, vec![gone]);
        assert!(authorize_member(demoted, RaftId(2), &state).is_err());
        assert!(
            authorize_member(demoted, RaftId(9), &state).is_err(),
            "nor under an id that it makes up"
        );
        applied(&mut state, vec![Change::NodeRemove { node: node(2) }]);
        assert!(
            authorize_member(demoted, RaftId(9), &state).is_err(),
            "nor after it was removed"
        );
    }

    #[test]
    fn a_controller_that_lags_hears_a_leader_that_it_knows_as_a_worker() {
        let mut lagging = state();
        let promoted = Identity {
            as_of: lagging.index() + 1,
            ..caller(3, NodeRole::Controller)
        };
        assert!(authorize_member(promoted, RaftId(3), &lagging).is_ok());
        assert_eq!(role_of(promoted, &lagging).unwrap(), NodeRole::Controller);
        let older = Identity {
            as_of: lagging.node(node(3)).unwrap().meta.spec_version,
            ..promoted
        };
        assert!(authorize_member(older, RaftId(3), &lagging).is_err());
        let worker = Identity {
            role: NodeRole::Worker,
            ..promoted
        };
        assert!(authorize_member(worker, RaftId(3), &lagging).is_err());
        applied(&mut lagging, Vec::new());
        let demote = Change::NodeSpec {
            node: node(3),
            spec: spec(NodeRole::Worker),
        };
        applied(&mut lagging, vec![demote]);
        assert!(
            authorize_member(promoted, RaftId(3), &lagging).is_err(),
            "it was demoted since"
        );
        assert_eq!(role_of(promoted, &lagging).unwrap(), NodeRole::Worker);
    }

    #[test]
    fn a_controller_that_lags_hears_a_leader_that_it_does_not_know() {
        let state = state();
        let newer = |role| Identity {
            as_of: state.index() + 1,
            ..caller(7, role)
        };
        assert!(authorize_member(newer(NodeRole::Controller), RaftId(3), &state).is_ok());
        assert!(authorize_member(newer(NodeRole::Worker), RaftId(3), &state).is_err());
        let older = Identity {
            as_of: state.index(),
            ..newer(NodeRole::Controller)
        };
        assert!(authorize_member(older, RaftId(3), &state).is_err());
    }
}
