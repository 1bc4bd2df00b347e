//! From a write to the changeset that carries it out: decided on committed state, checked again by preconditions.

use super::{cluster_requests, file_requests, network_requests, rotation, service_requests};
use crate::control::{ControlError, ControlReply, ControlRequest, RefusalKind};
use crate::membership::{Group, may_leave};
use muster_state::{Change, Changeset, ClusterState, ObjectKey, Part, Precondition, Rejection};
use muster_types::node::ControllerMember;
use muster_types::{
    FileId, IdSource, NetworkId, Node, NodeDescription, NodeId, NodeRole, NodeSpec, NodeState, Problems,
    RaftId, Reason, RequestId, ServiceId,
};
use std::sync::Arc;

/// What a write leads to.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Propose this.
    Propose(Box<Changeset>),
    /// Nothing is left to do.
    Answer(ControlReply),
}

/// Decides a write.
pub fn decide(
    state: &ClusterState,
    id: RequestId,
    request: &ControlRequest,
    group: &Group,
    ids: &mut dyn IdSource,
) -> Result<Decision, ControlError> {
    if state.request_outcome(id).is_some() {
        return Ok(Decision::Answer(reply(state, id, request)));
    }
    let changeset = match request {
        ControlRequest::CreateService { spec } => service_requests::create(state, id, spec)?,
        ControlRequest::UpdateService { id, version, change } => {
            service_requests::update(state, *id, *version, change)?
        }
        ControlRequest::RemoveService { id } => {
            service_requests::known(state, *id)?;
            Changeset::new(
                Reason::UserRequest,
                vec![Change::ServiceRemoving { service: *id }],
            )
        }
        ControlRequest::UpdateNode { id, version, spec } => update_node(state, *id, *version, spec, group)?,
        ControlRequest::RemoveNode { id, force } => remove_node(state, *id, *force)?,
        ControlRequest::UpdateCluster {
            version,
            spec,
            rotate_worker,
            rotate_controller,
            rotation,
        } => {
            let rotate = (*rotate_worker, *rotate_controller);
            let changeset = cluster_requests::update(state, *version, spec, rotate, ids)?;
            rotation::begin(state, changeset, rotation.as_deref())?
        }
        ControlRequest::JoinNode { role, availability } => {
            let node = NodeId::from_u128(id.as_u128());
            let spec = NodeSpec {
                role: *role,
                availability: *availability,
                ..NodeSpec::default()
            };
            let description = Arc::new(NodeDescription::default());
            Changeset::new(
                Reason::NodeJoined,
                vec![Change::NodeCreate {
                    node,
                    spec,
                    description,
                }],
            )
        }
        ControlRequest::WithdrawNode { node } => {
            withdraw_node(known_node(state, *node)?).ok_or_else(|| {
                ControlError::refused(
                    RefusalKind::Invalid,
                    format!("node {node} has joined; it leaves with \"docker swarm leave\""),
                )
            })?
        }
        ControlRequest::JoinRaft {
            node,
            address,
            replaces,
        } => match held_raft_id(state, *node)? {
            held if held == *replaces => join_raft(state, *node, address)?,
            raft_id => return Ok(Decision::Answer(ControlReply::RaftIdHeld { raft_id })),
        },
        ControlRequest::CreateNetwork { spec } => network_requests::create(state, id, spec)?,
        ControlRequest::RemoveNetwork { id } => network_requests::remove(state, *id)?,
        ControlRequest::SetNetworkPolicy { id, policy } => network_requests::set_policy(state, *id, policy)?,
        ControlRequest::CreateFile { kind, spec } => file_requests::create(state, id, *kind, spec)?,
        ControlRequest::UpdateFile {
            kind,
            id,
            version,
            spec,
        } => file_requests::update(state, (*kind, *id), *version, spec)?,
        ControlRequest::RemoveFile { kind, id } => file_requests::remove(state, *kind, *id)?,
        ControlRequest::Attach { .. }
        | ControlRequest::Release { .. }
        | ControlRequest::FindNetwork { .. } => return attachment(state, id, request),
    };
    Ok(Decision::Propose(Box::new(changeset.for_request(id))))
}

/// Decides what nodes ask about the places of their standalone containers, which may find nothing left to do.
fn attachment(
    state: &ClusterState,
    id: RequestId,
    request: &ControlRequest,
) -> Result<Decision, ControlError> {
    let decision = match request {
        ControlRequest::Attach {
            node,
            container,
            network,
            names,
            addresses,
        } => network_requests::attach(state, id, (*node, container), *network, names, addresses)?,
        ControlRequest::Release { node, attachments } => network_requests::release(state, *node, attachments),
        ControlRequest::FindNetwork { reference, .. } => {
            Decision::Answer(network_requests::found(state, reference)?)
        }
        other => unreachable!("decide sends only attachments here, not {other:?}"),
    };
    Ok(match decision {
        Decision::Propose(changeset) => Decision::Propose(Box::new(changeset.for_request(id))),
        answer @ Decision::Answer(_) => answer,
    })
}

/// The answer to a write that was applied.
pub fn reply(state: &ClusterState, id: RequestId, request: &ControlRequest) -> ControlReply {
    match request {
        ControlRequest::CreateService { .. } => ControlReply::ServiceCreated {
            id: ServiceId::from_u128(id.as_u128()),
        },
        ControlRequest::JoinNode { .. } => ControlReply::NodeJoined {
            id: NodeId::from_u128(id.as_u128()),
        },
        ControlRequest::JoinRaft { node, .. } => raft_joined(state, *node),
        ControlRequest::CreateNetwork { .. } => ControlReply::NetworkCreated {
            id: NetworkId::from_u128(id.as_u128()),
        },
        ControlRequest::CreateFile { .. } => ControlReply::FileCreated {
            id: FileId::from_u128(id.as_u128()),
        },
        ControlRequest::Attach {
            node,
            container,
            network,
            ..
        } => network_requests::attached(state, *node, container, *network),
        // The latter is answered and never applied.
        ControlRequest::RemoveNetwork { .. }
        | ControlRequest::Release { .. }
        | ControlRequest::FindNetwork { .. } => ControlReply::Done,
        ControlRequest::UpdateFile { .. }
        | ControlRequest::SetNetworkPolicy { .. }
        | ControlRequest::RemoveFile { .. }
        | ControlRequest::UpdateService { .. }
        | ControlRequest::RemoveService { .. }
        | ControlRequest::UpdateNode { .. }
        | ControlRequest::RemoveNode { .. }
        | ControlRequest::WithdrawNode { .. }
        | ControlRequest::UpdateCluster { .. } => ControlReply::Done,
    }
}

/// A rejected changeset in the words of the API.
pub fn rejected(rejection: &Rejection) -> ControlError {
    let kind = match rejection {
        Rejection::OutOfSequence { .. } => RefusalKind::OutOfSequence,
        Rejection::NotFound { .. } => RefusalKind::NotFound,
        Rejection::AlreadyExists { .. }
        | Rejection::NameConflict { .. }
        | Rejection::NetworkNameConflict { .. }
        | Rejection::FileNameConflict { .. }
        | Rejection::NetworkOverlap { .. }
        | Rejection::SecondIngress { .. }
        | Rejection::InUse { .. }
        | Rejection::Removing { .. }
        | Rejection::RaftIdReused { .. } => RefusalKind::Conflict,
        Rejection::Rename
        | Rejection::NodeRemoved { .. }
        | Rejection::PortInUse { .. }
        | Rejection::FileInUse { .. } => RefusalKind::Invalid,
        Rejection::NetworkInUse { .. } | Rejection::AddressNotFree { .. } => RefusalKind::Unavailable,
        Rejection::IllegalTransition { .. }
        | Rejection::NotTheTasksNode { .. }
        | Rejection::DesiredMovesBack { .. }
        | Rejection::NodeChange { .. }
        | Rejection::NoNode { .. }
        | Rejection::NotStopped { .. }
        | Rejection::MovesBack { .. } => RefusalKind::Internal,
    };
    ControlError::refused(kind, rejection.to_string())
}

pub(super) fn invalid(problems: &Problems) -> ControlError {
    let texts: Vec<&str> = problems
        .0
        .iter()
        .map(|problem| problem.message.as_str())
        .collect();
    ControlError::refused(RefusalKind::Invalid, texts.join("; "))
}

fn known_node(state: &ClusterState, id: NodeId) -> Result<&Arc<Node>, ControlError> {
    state.node(id).ok_or_else(|| ControlError::not_found("node", id))
}

fn update_node(
    state: &ClusterState,
    id: NodeId,
    version: u64,
    spec: &NodeSpec,
    group: &Group,
) -> Result<Changeset, ControlError> {
    let node = known_node(state, id)?;
    let mut others = Vec::new();
    if node.spec.role == NodeRole::Controller && spec.role == NodeRole::Worker {
        let last = crate::membership::QuorumError::LastController;
        let controllers = state
            .nodes()
            .filter(|other| other.id != id && other.spec.role == NodeRole::Controller);
        // They must still be what they are when this applies: another demotion may be on its way.
        others.extend(controllers.map(|other| spec_unchanged(other.id, other.meta.spec_version)));
        if others.is_empty() {
            return Err(ControlError::refused(RefusalKind::Invalid, last.to_string()));
        }
        if let Some(member) = &node.controller {
            may_leave(group, member.raft_id)
                .map_err(|error| ControlError::refused(RefusalKind::Unavailable, error.to_string()))?;
        }
    }
    let change = Change::NodeSpec {
        node: id,
        spec: spec.clone(),
    };
    let changeset = Changeset::new(Reason::UserRequest, vec![change]).when(spec_unchanged(id, version));
    Ok(others.into_iter().fold(changeset, Changeset::when))
}

/// The user has not changed the node since.
pub(super) fn spec_unchanged(node: NodeId, version: u64) -> Precondition {
    Precondition::Version {
        object: ObjectKey::Node(node),
        part: Part::Spec,
        version,
    }
}

fn remove_node(state: &ClusterState, id: NodeId, force: bool) -> Result<Changeset, ControlError> {
    let node = known_node(state, id)?;
    // As in Swarm, one that is only to become a controller goes like a worker: it may be gone for good, and then a
    // demotion first would be empty ceremony.
    if node.controller.is_some() {
        return Err(ControlError::refused(
            RefusalKind::Invalid,
            format!(
                "node {id} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal"
            ),
        ));
    }
    if !force && node.status.state == NodeState::Ready {
        return Err(ControlError::refused(
            RefusalKind::Invalid,
            format!("node {id} is not down and can't be removed"),
        ));
    }
    // A promotion, or its place in the group, may be on its way.
    let still_outside = Precondition::Version {
        object: ObjectKey::Node(id),
        part: Part::Control,
        version: node.meta.control_version,
    };
    let change = Change::NodeRemove { node: id };
    Ok(Changeset::new(Reason::UserRequest, vec![change])
        .when(spec_unchanged(id, node.meta.spec_version))
        .when(still_outside))
}

/// The removal of a node that never had a session or a place in the Raft group, while that is so; `None` for others.
pub fn withdraw_node(node: &Node) -> Option<Changeset> {
    if node.status.state != NodeState::Unknown || node.controller.is_some() {
        return None;
    }
    let object = ObjectKey::Node(node.id);
    let part = |part, version| Precondition::Version {
        object,
        part,
        version,
    };
    let changeset = Changeset::new(
        Reason::NodeRemoved { node: node.id },
        vec![Change::NodeRemove { node: node.id }],
    );
    let status = part(Part::Status, node.meta.status_version);
    Some(
        changeset
            .when(status)
            .when(part(Part::Control, node.meta.control_version)),
    )
}

fn held_raft_id(state: &ClusterState, node: NodeId) -> Result<Option<RaftId>, ControlError> {
    let record = known_node(state, node)?;
    Ok(record.controller.as_ref().map(|member| member.raft_id))
}

/// A fresh Raft id every time: a controller that asks has no log under an earlier one.
fn join_raft(state: &ClusterState, node: NodeId, address: &str) -> Result<Changeset, ControlError> {
    let record = known_node(state, node)?;
    let cluster = state
        .cluster()
        .ok_or_else(|| ControlError::refused(RefusalKind::NotFound, "no cluster"))?;
    if record.spec.role != NodeRole::Controller {
        return Err(ControlError::refused(
            RefusalKind::Invalid,
            format!("node {node} is not to be a controller"),
        ));
    }
    if address.parse::<std::net::SocketAddr>().is_err() {
        return Err(ControlError::refused(
            RefusalKind::Invalid,
            format!("{address:?} is not an IP address with port"),
        ));
    }
    let raft_id = RaftId(cluster.next_raft_id);
    let member = Some(ControllerMember {
        raft_id,
        address: address.to_owned(),
        voter: false,
    });
    let control = |object, version| Precondition::Version {
        object,
        part: Part::Control,
        version,
    };
    let changeset = Changeset::new(Reason::NodeJoined, vec![Change::NodeController { node, member }])
        .when(control(ObjectKey::Cluster, cluster.meta.control_version))
        .when(control(ObjectKey::Node(node), record.meta.control_version));
    Ok(changeset)
}

fn raft_joined(state: &ClusterState, node: NodeId) -> ControlReply {
    let members = state.nodes().filter_map(|node| node.controller.as_ref());
    let own = state
        .node(node)
        .and_then(|node| node.controller.as_ref())
        .map(|member| member.raft_id);
    ControlReply::RaftJoined {
        raft_id: own.unwrap_or(RaftId(0)),
        members: members
            .map(|member| (member.raft_id, member.address.clone()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{node, spec, state};
    use muster_state::{Entry, Outcome};
    use muster_types::Timestamp;

    struct NoIds;

    impl IdSource for NoIds {
        fn next_u128(&mut self) -> u128 {
            unreachable!("these writes draw no ids")
        }
    }

    fn group() -> Group {
        let both = [1, 2].into_iter().collect::<std::collections::BTreeSet<u64>>();
        Group {
            leader: 1,
            voters: both.clone(),
            caught_up: both.clone(),
            reachable: both,
            ..Group::default()
        }
    }

    fn decided(state: &ClusterState, request: u128, write: &ControlRequest) -> Changeset {
        let id = RequestId::from_u128(request);
        match decide(state, id, write, &group(), &mut NoIds) {
            Ok(Decision::Propose(changeset)) => *changeset,
            other => panic!("{other:?}"),
        }
    }

    fn role_update(state: &ClusterState, number: u128, role: NodeRole) -> ControlRequest {
        ControlRequest::UpdateNode {
            id: node(number),
            version: state.node(node(number)).unwrap().meta.spec_version,
            spec: spec(role),
        }
    }

    fn outcome(state: &mut ClusterState, changeset: Changeset) -> Outcome {
        let entry = Entry::new(Timestamp(2), changeset);
        state.apply(state.index() + 1, &entry).outcome
    }

    #[test]
    fn demotions_that_cross_leave_a_controller() {
        let mut state = state();
        let demotions =
            [1, 2].map(|number| decided(&state, number, &role_update(&state, number, NodeRole::Worker)));
        let [first, second] = demotions.map(|demotion| outcome(&mut state, demotion));
        assert!(matches!(first, Outcome::Applied), "{first:?}");
        assert!(matches!(second, Outcome::Rejected(_)), "{second:?}");
    }

    #[test]
    fn a_worker_that_is_being_promoted_is_not_removed() {
        let mut state = state();
        let id = node(3);
        let removal = decided(&state, 1, &ControlRequest::RemoveNode { id, force: true });
        let promotion = decided(&state, 2, &role_update(&state, 3, NodeRole::Controller));
        assert!(matches!(outcome(&mut state, promotion), Outcome::Applied));
        assert!(matches!(outcome(&mut state, removal), Outcome::Rejected(_)));
        assert!(state.node(id).is_some());
    }
}
