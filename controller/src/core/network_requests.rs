//! Writes that concern networks: from the request to the changeset.

use super::requests::Decision;
use crate::control::{ControlError, ControlReply, RefusalKind};
use muster_orchestration::networks::{NetworkProblem, Surroundings, plan_attachment};
use muster_state::{Change, Changeset, ClusterState, LEVEL_OF_NETWORKS, Rejection};
use muster_types::network::NetworkSpec;
use muster_types::overlay::Attachment;
use muster_types::service::EndpointMode;
use muster_types::{
    AttachmentId, ClusterNetwork, ContainerId, NetworkId, NodeId, Reason, RequestId, ServiceSpec,
};
use std::net::IpAddr;
use std::sync::Arc;

/// Networks that every node has by itself.
const NODE_NETWORKS: [&str; 3] = ["bridge", "host", "none"];
/// Most names of one container in a network.
const NAMES_MAX: usize = 64;

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
    let change = Change::NetworkCreate(Box::new(network));
    Ok(Changeset::new(Reason::UserRequest, vec![change]))
}

pub(super) fn remove(state: &ClusterState, id: NetworkId) -> Result<Changeset, ControlError> {
    known(state, id)?;
    let change = Change::NetworkRemove { network: id };
    Ok(Changeset::new(Reason::UserRequest, vec![change]))
}

/// A container that is attached already keeps its place: a node asks again when it does not know what became of its
/// request.
pub(super) fn attach(
    state: &ClusterState,
    id: RequestId,
    (node, container): (NodeId, &ContainerId),
    network: NetworkId,
    names: &[String],
    addresses: &[IpAddr],
) -> Result<Decision, ControlError> {
    if let Some(row) = state.attachment_of(node, container, network) {
        return Ok(Decision::Answer(ControlReply::Attached {
            place: row.place.clone(),
        }));
    }
    if names.len() > NAMES_MAX {
        return Err(ControlError::refused(
            RefusalKind::Invalid,
            format!("a container has at most {NAMES_MAX} names in a network"),
        ));
    }
    let id = AttachmentId::from_u128(id.as_u128());
    let row = plan_attachment(state, id, (node, container), network, names, addresses).map_err(refused)?;
    let change = Change::AttachmentCreate(Box::new(row));
    Ok(Decision::Propose(Box::new(Changeset::new(
        Reason::AgentReport,
        vec![change],
    ))))
}

/// Gives back one place of a container, or nothing when it has none.
pub(super) fn detach(
    state: &ClusterState,
    node: NodeId,
    container: &ContainerId,
    network: NetworkId,
) -> Decision {
    give_back(state, node, |row| {
        row.container == *container && row.place.network == network
    })
}

/// Gives back the places of all containers that the node does not name, but for those that were given after `as_of`.
pub(super) fn keep_only(
    state: &ClusterState,
    node: NodeId,
    held: &[(ContainerId, NetworkId)],
    as_of: u64,
) -> Decision {
    let is_held = |row: &Attachment| {
        let mut held = held.iter();
        held.any(|(container, network)| *container == row.container && *network == row.place.network)
    };
    give_back(state, node, |row| row.meta.spec_version <= as_of && !is_held(row))
}

fn give_back(state: &ClusterState, node: NodeId, goes: impl Fn(&Attachment) -> bool) -> Decision {
    let changes: Vec<Change> = state
        .attachments_of_node(node)
        .filter(|row| goes(row))
        .map(|row| Change::AttachmentRemove { attachment: row.id })
        .collect();
    match changes.is_empty() {
        true => Decision::Answer(ControlReply::Done),
        false => Decision::Propose(Box::new(Changeset::new(Reason::AgentReport, changes))),
    }
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
    let mut seen = std::collections::BTreeSet::new();
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

/// Whether the decision may be made anew: somebody else was given what it had chosen.
pub(super) fn may_decide_anew(rejection: &Rejection) -> bool {
    matches!(
        rejection,
        Rejection::AddressNotFree { .. } | Rejection::NetworkOverlap { .. }
    )
}
