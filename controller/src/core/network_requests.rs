//! Writes that concern networks: from the request to the changeset.

use super::network_rows::facts;
use super::requests::Decision;
use crate::control::{ControlError, ControlReply, RefusalKind};
use muster_orchestration::networks::{NetworkProblem, Surroundings, plan_attachment};
use muster_state::{
    Change, Changeset, ClusterState, LEVEL_OF_NETWORKS, LEVEL_OF_POLICIES, ObjectKey, Rejection,
};
use muster_types::network::NetworkSpec;
use muster_types::overlay::Attachment;
use muster_types::policy::NetworkPolicy;
use muster_types::service::EndpointMode;
use muster_types::{
    AttachmentId, ClusterNetwork, ContainerId, NetworkId, Node, NodeId, Reason, RequestId, ServiceSpec,
};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Networks that every node has by itself.
const NODE_NETWORKS: [&str; 3] = ["bridge", "host", "none"];
/// Most names of one container in a network.
const NAMES_MAX: usize = 64;
/// The longest name; no longer one can be asked for (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 253;

pub(super) fn create(
    state: &ClusterState,
    id: RequestId,
    spec: &NetworkSpec,
) -> Result<Changeset, ControlError> {
    let surroundings =
        Surroundings::of(state).ok_or_else(|| ControlError::refused(RefusalKind::NotFound, "no cluster"))?;
    let level = state.cluster().map_or(0, |cluster| cluster.feature_level);
    if level < LEVEL_OF_NETWORKS {
        return Err(ControlError::refused(
            RefusalKind::Unavailable,
            "some controllers run a version of Muster without networks of the cluster: update them first",
        ));
    }
    let network = surroundings
        .plan(NetworkId::from_u128(id.as_u128()), spec)
        .map_err(refused)?;
    if network.policy.is_some() {
        check_level_of_policies(state)?;
    }
    let change = Change::NetworkCreate(Box::new(network));
    Ok(Changeset::new(Reason::UserRequest, vec![change]))
}

pub(super) fn remove(state: &ClusterState, id: NetworkId) -> Result<Changeset, ControlError> {
    known(state, id)?;
    let change = Change::NetworkRemove { network: id };
    Ok(Changeset::new(Reason::UserRequest, vec![change]))
}

pub(super) fn set_policy(
    state: &ClusterState,
    id: NetworkId,
    policy: &NetworkPolicy,
) -> Result<Changeset, ControlError> {
    if known(state, id)?.spec.ingress {
        return Err(ControlError::refused(
            RefusalKind::Invalid,
            "the ingress network carries published ports and has no policy",
        ));
    }
    check_level_of_policies(state)?;
    let policy = (!policy.is_empty()).then(|| Arc::new(policy.clone()));
    let change = Change::NetworkPolicy { network: id, policy };
    Ok(Changeset::new(Reason::UserRequest, vec![change]))
}

/// An older node would let everything through. One that has not told yet is new.
fn check_level_of_policies(state: &ClusterState) -> Result<(), ControlError> {
    let level = state.cluster().map_or(0, |cluster| cluster.feature_level);
    let is_older = |node: &Arc<Node>| (1..LEVEL_OF_POLICIES).contains(&node.description.feature_level);
    if level >= LEVEL_OF_POLICIES && !state.nodes().any(is_older) {
        return Ok(());
    }
    Err(ControlError::refused(
        RefusalKind::Unavailable,
        "some nodes run a version of Muster without policies of networks: update them first, or remove them",
    ))
}

/// A container that is attached already keeps its addresses. Its place is a new one all the same, so that a release of
/// the old one which is still on its way takes nothing from it.
pub(super) fn attach(
    state: &ClusterState,
    id: RequestId,
    (node, container): (NodeId, &ContainerId),
    network: NetworkId,
    names: &[String],
    addresses: &[IpAddr],
) -> Result<Decision, ControlError> {
    check_names(names)?;
    let id = AttachmentId::from_u128(id.as_u128());
    let before = state.attachment_of(node, container, network);
    if let Some(row) = before.filter(|row| row.id == id) {
        return Ok(Decision::Answer(ControlReply::Attached {
            place: row.place.clone(),
        }));
    }
    if state.attachment(id).is_some() {
        return Err(ControlError::refused(
            RefusalKind::Conflict,
            format!("place {id} is of another container"),
        ));
    }
    let kept = before.filter(|row| {
        addresses
            .iter()
            .all(|address| row.place.addresses.contains(address))
    });
    let row = match kept {
        Some(row) => Attachment {
            id,
            names: names.to_vec(),
            ..Attachment::clone(row)
        },
        None => plan_attachment(state, id, (node, container), network, names, addresses).map_err(refused)?,
    };
    let gone = before.map(|row| Change::AttachmentRemove { attachment: row.id });
    let changes = gone.into_iter().chain([Change::AttachmentCreate(Box::new(row))]);
    Ok(Decision::Propose(Box::new(Changeset::new(
        Reason::AgentReport,
        changes.collect(),
    ))))
}

fn check_names(names: &[String]) -> Result<(), ControlError> {
    let problem = match names.iter().find(|name| name.len() > NAME_BYTES_MAX) {
        _ if names.len() > NAMES_MAX => format!("a container has at most {NAMES_MAX} names in a network"),
        Some(name) => format!("the name {name:?} is longer than {NAME_BYTES_MAX} bytes"),
        None => return Ok(()),
    };
    Err(ControlError::refused(RefusalKind::Invalid, problem))
}

/// Gives back those of the places that the node has.
pub(super) fn release(state: &ClusterState, node: NodeId, attachments: &[AttachmentId]) -> Decision {
    let wanted: BTreeSet<AttachmentId> = attachments.iter().copied().collect();
    let changes: Vec<Change> = state
        .attachments_of_node(node)
        .filter(|row| wanted.contains(&row.id))
        .map(|row| Change::AttachmentRemove { attachment: row.id })
        .collect();
    match changes.is_empty() {
        true => Decision::Answer(ControlReply::Done),
        false => Decision::Propose(Box::new(Changeset::new(Reason::AgentReport, changes))),
    }
}

/// What a network is that a node asks for by name or id.
pub(super) fn found(state: &ClusterState, reference: &str) -> Result<ControlReply, ControlError> {
    let facts = find(state, reference).and_then(|network| facts(state, network.id));
    let facts = facts.ok_or_else(|| ControlError::not_found("network", reference))?;
    Ok(ControlReply::NetworkFound {
        facts: Box::new(facts),
    })
}

pub(super) fn attached(
    state: &ClusterState,
    node: NodeId,
    container: &ContainerId,
    network: NetworkId,
) -> ControlReply {
    match state.attachment_of(node, container, network) {
        Some(row) => ControlReply::Attached {
            place: row.place.clone(),
        },
        None => ControlReply::Done,
    }
}

/// The spec with the ids of the networks that it names. A network may be named or renamed later; what was meant stays.
pub(super) fn resolved(state: &ClusterState, spec: &ServiceSpec) -> Result<Arc<ServiceSpec>, ControlError> {
    let mut spec = spec.clone();
    for attachment in &mut spec.template.networks {
        if NODE_NETWORKS.contains(&attachment.target.as_str()) {
            continue;
        }
        let network = find(state, &attachment.target)
            .ok_or_else(|| ControlError::not_found("network", &attachment.target))?;
        if network.spec.ingress {
            return Err(ControlError::refused(
                RefusalKind::Invalid,
                format!(
                    "Service cannot be explicitly attached to the ingress network {:?}",
                    network.spec.name
                ),
            ));
        }
        attachment.target = network.id.to_string();
    }
    let mut seen = BTreeSet::new();
    let mut targets = spec.template.networks.iter().map(|attachment| &attachment.target);
    if let Some(twice) = targets.find(|target| !seen.insert((*target).clone())) {
        return Err(ControlError::refused(
            RefusalKind::Invalid,
            format!("network {twice} is named twice"),
        ));
    }
    let publishes = muster_state::networks::publishes(&spec.ports);
    if publishes && spec.endpoint_mode == EndpointMode::DnsRoundRobin {
        return Err(ControlError::refused(
            RefusalKind::Invalid,
            "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
        ));
    }
    if publishes && state.ingress_network().is_none() {
        return Err(ControlError::refused(
            RefusalKind::Unavailable,
            "service needs ingress network, but no ingress network is present",
        ));
    }
    Ok(Arc::new(spec))
}

fn find<'a>(state: &'a ClusterState, reference: &str) -> Option<&'a Arc<ClusterNetwork>> {
    let by_id = reference.parse().ok().and_then(|id| state.network(id));
    let live = by_id.filter(|network| !network.removing);
    live.or_else(|| state.network_by_name(reference))
}

fn known(state: &ClusterState, id: NetworkId) -> Result<&Arc<ClusterNetwork>, ControlError> {
    let network = state.network(id).filter(|network| !network.removing);
    network.ok_or_else(|| ControlError::not_found("network", id))
}

fn refused(problem: NetworkProblem) -> ControlError {
    let (kind, message) = match problem {
        NetworkProblem::Invalid(message) => (RefusalKind::Invalid, message),
        NetworkProblem::Forbidden(message) => (RefusalKind::Forbidden, message),
        NetworkProblem::Conflict(message) => (RefusalKind::Conflict, message),
        NetworkProblem::NotFound(message) => (RefusalKind::NotFound, message),
    };
    ControlError::refused(kind, message)
}

/// Whether the decision may be made anew: somebody else was given what it had chosen, or a place was given back or given
/// meanwhile. The next decision knows of it, so that this comes to an end.
pub(super) fn may_decide_anew(rejection: &Rejection) -> bool {
    matches!(
        rejection,
        Rejection::AddressNotFree { .. }
            | Rejection::NetworkOverlap { .. }
            | Rejection::NotFound {
                object: ObjectKey::Attachment(_)
            }
            | Rejection::AlreadyExists {
                object: ObjectKey::Attachment(_)
            }
    )
}
