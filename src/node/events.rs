//! Events of cluster objects, from the differences between successive states.

use super::host::NodeHost;
use futures::StreamExt;
use muster_engine_api::backend::EventStream;
use muster_state::diff::Difference;
use muster_state::{ClusterState, ObjectKey};
use muster_types::event::{Event, EventKind, EventScope};
use muster_types::{ClusterNetwork, FileKind, NodeState, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::broadcast::error::RecvError;

/// Events from now on, until the time that was asked for. Nodes that are not controllers have none.
pub fn stream(host: Arc<NodeHost>, until: Option<Timestamp>) -> EventStream {
    let changes = host
        .member()
        .and_then(|member| member.controller())
        .map(|handle| handle.changes());
    let Some(changes) = changes else {
        return futures::stream::pending().take_until(reached(until)).boxed();
    };
    let events = futures::stream::unfold(changes, |mut changes| async move {
        loop {
            match changes.recv().await {
                Ok(change) => return Some((between(&change.0, &change.1), changes)),
                // A slow reader misses what it could not take; it is told of what comes.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    events
        .flat_map(futures::stream::iter)
        .take_until(reached(until))
        .map(Ok)
        .boxed()
}

/// Resolves at the wall time `until`; never without one.
pub async fn reached(until: Option<Timestamp>) {
    let Some(until) = until else {
        return std::future::pending().await;
    };
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let now = Timestamp(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
    tokio::time::sleep(until.since(now)).await;
}

/// The events that lead from one state to the next. Tasks have none, as in Swarm.
pub fn between(before: &ClusterState, after: &ClusterState) -> Vec<Event> {
    let differences = after.differences(before);
    differences
        .into_iter()
        .filter_map(|(key, difference)| event(before, after, key, difference))
        .collect()
}

fn event(
    before: &ClusterState,
    after: &ClusterState,
    key: ObjectKey,
    difference: Difference,
) -> Option<Event> {
    let (kind, id, attributes) = match key {
        ObjectKey::Service(id) => {
            let (old, new) = (before.service(id), after.service(id));
            let mut attributes = BTreeMap::new();
            let service = new.or(old)?;
            attributes.insert("name".to_owned(), service.spec.name.clone());
            if let (Some(old), Some(new)) = (old, new) {
                let removing = !old.removing && new.removing;
                let unchanged = old.spec == new.spec && old.update == new.update;
                if unchanged && !removing {
                    return None;
                }
                if removing {
                    return Some(build(
                        EventKind::Service,
                        "remove",
                        id.to_string(),
                        attributes,
                        after,
                    ));
                }
                let images = (
                    &old.spec.template.container.image,
                    &new.spec.template.container.image,
                );
                note(&mut attributes, "image", images.0, images.1);
                note(&mut attributes, "replicas", &replicas(old), &replicas(new));
            } else if old.is_some_and(|service| service.removing) {
                return None;
            }
            (EventKind::Service, id.to_string(), attributes)
        }
        ObjectKey::Node(id) => {
            let (old, new) = (before.node(id), after.node(id));
            let node = new.or(old)?;
            let mut attributes = BTreeMap::new();
            attributes.insert("name".to_owned(), node.description.hostname.clone());
            if let (Some(old), Some(new)) = (old, new) {
                if old.spec == new.spec && old.status.state == new.status.state {
                    return None;
                }
                note(
                    &mut attributes,
                    "state",
                    state_name(old.status.state),
                    state_name(new.status.state),
                );
                let availability =
                    |node: &muster_types::Node| format!("{:?}", node.spec.availability).to_lowercase();
                note(
                    &mut attributes,
                    "availability",
                    &availability(old),
                    &availability(new),
                );
                let role = |node: &muster_types::Node| match node.spec.role {
                    muster_types::NodeRole::Worker => "worker",
                    muster_types::NodeRole::Controller => "manager",
                };
                note(&mut attributes, "role", role(old), role(new));
            }
            (EventKind::Node, id.to_string(), attributes)
        }
        ObjectKey::Network(id) => {
            let (old, new) = (before.network(id), after.network(id));
            let network = new.or(old)?;
            let mut attributes = BTreeMap::new();
            attributes.insert("name".to_owned(), network.spec.name.clone());
            let removed =
                |network: Option<&Arc<ClusterNetwork>>| network.is_none_or(|network| network.removing);
            match (removed(old), removed(new)) {
                (false, true) => {
                    let id = id.to_string();
                    return Some(build(EventKind::Network, "remove", id, attributes, after));
                }
                (true, true) => return None,
                (_, false) => (EventKind::Network, id.to_string(), attributes),
            }
        }
        ObjectKey::File(id) => {
            let file = after.file(id).or_else(|| before.file(id))?;
            let attributes = BTreeMap::from([("name".to_owned(), file.spec.name.clone())]);
            let kind = match file.kind {
                FileKind::Secret => EventKind::Secret,
                FileKind::Config => EventKind::Config,
            };
            (kind, id.to_string(), attributes)
        }
        ObjectKey::Cluster | ObjectKey::Template(..) | ObjectKey::Task(_) | ObjectKey::Attachment(_) => {
            return None;
        }
    };
    let action = match difference {
        Difference::Created => "create",
        Difference::Updated => "update",
        Difference::Removed => "remove",
    };
    Some(build(kind, action, id, attributes, after))
}

fn build(
    kind: EventKind,
    action: &str,
    actor_id: String,
    attributes: BTreeMap<String, String>,
    after: &ClusterState,
) -> Event {
    Event {
        kind,
        action: action.to_owned(),
        actor_id,
        attributes,
        scope: EventScope::Swarm,
        at: after.time(),
    }
}

fn note(attributes: &mut BTreeMap<String, String>, name: &str, old: &str, new: &str) {
    if old != new {
        attributes.insert(format!("{name}.old"), old.to_owned());
        attributes.insert(format!("{name}.new"), new.to_owned());
    }
}

fn replicas(service: &muster_types::Service) -> String {
    match service.spec.mode {
        muster_types::ServiceMode::Replicated { replicas } => replicas.to_string(),
        muster_types::ServiceMode::Global
        | muster_types::ServiceMode::ReplicatedJob { .. }
        | muster_types::ServiceMode::GlobalJob => String::new(),
    }
}

fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Unknown => "unknown",
        NodeState::Down => "down",
        NodeState::Ready => "ready",
        NodeState::Disconnected => "disconnected",
    }
}
