//! Who may do what: the certificate names the caller, the replicated node record says what it may do now.
//!
//! Pure, so that the services and the simulation ask the same functions.

pub use muster_proto::transport::Identity;

use crate::control::ControlRequest;
use muster_state::ClusterState;
use muster_types::{Node, NodeId, NodeRole, RaftId};

/// What a caller must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// Any node of the cluster.
    Node,
    /// A controller.
    Controller,
}

/// Why a caller may not do what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The certificate is of another cluster.
    #[error("the certificate is of another cluster")]
    OtherCluster,
    /// The caller's record is gone, or never was.
    #[error("node {0} is not in the cluster")]
    NoNode(NodeId),
    /// The caller is a worker, by its certificate or by its record.
    #[error("only controllers may do this")]
    OnlyControllers,
    /// The caller speaks for another member.
    #[error("Raft id {0} belongs to another node")]
    OtherMember(RaftId),
    /// The member left the group.
    #[error("Raft id {0} is out of the Raft group")]
    OutOfGroup(RaftId),
    /// The caller has no Raft id.
    #[error("the caller is not a member of the Raft group")]
    NoMember,
    /// A worker speaks for another node.
    #[error("a request about another node")]
    OtherNode,
}

/// Whether the caller's certificate and its node record allow the call. A state that knows no node yet (a joining
/// controller's) leaves it at the certificate.
pub fn authorize(identity: Identity, state: &ClusterState, need: Authority) -> Result<(), Denied> {
    match (need, role_of(identity, state)?) {
        (Authority::Node, _) | (Authority::Controller, NodeRole::Controller) => Ok(()),
        (Authority::Controller, NodeRole::Worker) => Err(Denied::OnlyControllers),
    }
}

/// Whether a node may put a certificate of this role in the place of the one that it has. With a place in the Raft
/// group it speaks as a controller until it is out: a worker's certificate, got while it is being demoted, would take
/// its voice before the group could let it go.
pub fn may_replace(issued: NodeRole, controller_runs: bool) -> bool {
    issued == NodeRole::Controller || !controller_runs
}

/// Whether the caller may renew this node's lease: every node its own, and controllers pass on what their own agents'
/// certificates proved to them.
pub fn authorize_heartbeat(identity: Identity, node: NodeId, state: &ClusterState) -> Result<(), Denied> {
    match role_of(identity, state)? {
        NodeRole::Controller => Ok(()),
        NodeRole::Worker if node == identity.node => Ok(()),
        NodeRole::Worker => Err(Denied::OtherNode),
    }
}

/// Whether the caller may write this: controllers pass on everything, a worker only what is about itself.
pub fn authorize_write(
    identity: Identity,
    request: &ControlRequest,
    state: &ClusterState,
) -> Result<(), Denied> {
    match (role_of(identity, state)?, request.of_node()) {
        (NodeRole::Controller, _) => Ok(()),
        (NodeRole::Worker, Some(node)) if node == identity.node => Ok(()),
        (NodeRole::Worker, Some(_)) => Err(Denied::OtherNode),
        (NodeRole::Worker, None) => Err(Denied::OnlyControllers),
    }
}

/// The Raft id for which the caller may fetch a snapshot.
pub fn authorize_download(identity: Identity, state: &ClusterState) -> Result<RaftId, Denied> {
    let record = state.node(identity.node);
    let member = record.and_then(|node| node.controller.as_ref());
    let raft_id = member.map(|member| member.raft_id).ok_or(Denied::NoMember)?;
    authorize_member(identity, raft_id, state).map(|()| raft_id)
}

/// What the caller may act as now.
pub fn role_of(identity: Identity, state: &ClusterState) -> Result<NodeRole, Denied> {
    Ok(match state.cluster() {
        None => identity.role,
        Some(cluster) if cluster.id != identity.cluster => {
            return Err(Denied::OtherCluster);
        }
        Some(_) => {
            let record = state.node(identity.node).ok_or(Denied::NoNode(identity.node))?;
            // Both must say controller: a demoted node loses its rights at commit, whatever its certificate says.
            match identity.role {
                NodeRole::Controller if is_controller(identity, record) => NodeRole::Controller,
                NodeRole::Controller | NodeRole::Worker => NodeRole::Worker,
            }
        }
    })
}

/// Whether the caller may speak for this Raft id. The right goes with the place in the Raft group and not with the
/// role: a demoted voter counts for quorum until it is out, and without its voice the group could not let it go. An id
/// that was not given out yet, as far as is applied here, is of a member that this controller has still to hear of; it
/// may be the leader. An id that was given out and stands in no record is out of the group for good.
pub fn authorize_member(identity: Identity, raft_id: RaftId, state: &ClusterState) -> Result<(), Denied> {
    if identity.role != NodeRole::Controller {
        return Err(Denied::OnlyControllers);
    }
    let Some(cluster) = state.cluster() else {
        return Ok(());
    };
    if cluster.id != identity.cluster {
        return Err(Denied::OtherCluster);
    }
    match state.node_by_raft_id(raft_id) {
        Some(node) if node.id == identity.node => Ok(()),
        Some(_) => Err(Denied::OtherMember(raft_id)),
        None if raft_id.0 >= cluster.next_raft_id && may_be_new(identity, state) => Ok(()),
        None => Err(Denied::OutOfGroup(raft_id)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{CLUSTER, applied, node, spec, state};
    use muster_state::Change;
    use muster_types::{ContainerId, NetworkId};

    fn caller(number: u128, role: NodeRole) -> Identity {
        Identity {
            cluster: CLUSTER,
            node: node(number),
            role,
            as_of: 0,
        }
    }

    #[test]
    fn a_worker_writes_only_what_is_about_itself() {
        let state = state();
        let network = NetworkId::from_u128(1);
        let container = ContainerId::from_bytes([1; 32]);
        let about = |number| {
            let (node, container) = (node(number), container.clone());
            let (names, addresses) = (Vec::new(), Vec::new());
            [
                ControlRequest::Attach {
                    node,
                    container,
                    network,
                    names,
                    addresses,
                },
                ControlRequest::Release {
                    node,
                    attachments: Vec::new(),
                },
                ControlRequest::FindNetwork {
                    node,
                    reference: "net".to_owned(),
                },
            ]
        };
        let (worker, controller) = (caller(3, NodeRole::Worker), caller(1, NodeRole::Controller));
        for write in about(3) {
            assert!(authorize_write(worker, &write, &state).is_ok(), "{write:?}");
            assert!(authorize_write(controller, &write, &state).is_ok(), "{write:?}");
        }
        for write in about(1) {
            let denied = authorize_write(worker, &write, &state).unwrap_err();
            assert!(matches!(denied, Denied::OtherNode), "{denied}");
        }
        let removal = ControlRequest::RemoveNetwork { id: network };
        let denied = authorize_write(worker, &removal, &state).unwrap_err();
        assert!(matches!(denied, Denied::OnlyControllers), "{denied}");
        assert!(authorize_write(controller, &removal, &state).is_ok());
        let unknown = caller(9, NodeRole::Worker);
        assert!(
            authorize_write(unknown, &about(9)[0], &state).is_err(),
            "nor a node without a record"
        );
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
    fn nodes_of_other_clusters_and_removed_ones_have_no_rights() {
        let mut state = state();
        let worker = caller(3, NodeRole::Worker);
        let foreign = Identity {
            cluster: muster_types::ClusterId::from_u128(99),
            ..worker
        };
        assert!(authorize(worker, &state, Authority::Node).is_ok());
        assert_eq!(
            authorize(worker, &state, Authority::Controller),
            Err(Denied::OnlyControllers)
        );
        assert_eq!(
            authorize(foreign, &state, Authority::Node),
            Err(Denied::OtherCluster)
        );
        assert!(authorize_heartbeat(worker, node(3), &state).is_ok());
        assert_eq!(
            authorize_heartbeat(worker, node(1), &state),
            Err(Denied::OtherNode)
        );
        applied(&mut state, vec![Change::NodeRemove { node: node(3) }]);
        assert_eq!(
            authorize(worker, &state, Authority::Node),
            Err(Denied::NoNode(node(3)))
        );
        assert_eq!(
            authorize_heartbeat(worker, node(3), &state),
            Err(Denied::NoNode(node(3)))
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
