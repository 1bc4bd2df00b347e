//! Raising the replicated feature level, and making what the clusters of an older level lack.

use muster_orchestration::networks::{Surroundings, ingress_spec};
use muster_state::{Change, Changeset, ClusterState, LEVEL_OF_NETWORKS, SUPPORTED_FEATURE_LEVEL};
use muster_types::{IdSource, NetworkId, NodeRole, Reason};

/// The changes that raise the feature level as far as every controller supports it; `None` when it stands there. A
/// cluster that reaches the level of networks gets the ingress network that new clusters begin with.
pub(super) fn raise_feature_level(state: &ClusterState, ids: &mut dyn IdSource) -> Option<Changeset> {
    let cluster = state.cluster()?;
    let level = supported(state)?;
    if level <= cluster.feature_level {
        return None;
    }
    let mut changes = vec![Change::ClusterFeatureLevel(level)];
    let reaches_networks = cluster.feature_level < LEVEL_OF_NETWORKS && level >= LEVEL_OF_NETWORKS;
    if reaches_networks && state.ingress_network().is_none() {
        match Surroundings::of(state)?.plan(NetworkId::from_u128(ids.next_u128()), &ingress_spec()) {
            Ok(network) => changes.push(Change::NetworkCreate(Box::new(network))),
            Err(problem) => tracing::warn!(
                %problem,
                "the cluster has no ingress network: make one with `docker network create -d overlay --ingress`"
            ),
        }
    }
    Some(Changeset::new(Reason::Bootstrap, changes))
}

/// The highest level that every controller supports, those that are being promoted or demoted among them.
fn supported(state: &ClusterState) -> Option<u32> {
    let controllers = state
        .nodes()
        .filter(|node| node.spec.role == NodeRole::Controller || node.controller.is_some());
    let levels = controllers.map(|node| node.description.feature_level);
    levels.min().map(|level| level.min(SUPPORTED_FEATURE_LEVEL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{applied, node, single, single_of_level};
    use muster_types::{NodeDescription, NodeId};
    use std::sync::Arc;

    const INGRESS: u128 = 77;

    struct Fixed;

    impl IdSource for Fixed {
        fn next_u128(&mut self) -> u128 {
            INGRESS
        }
    }

    fn raise(state: &ClusterState) -> Option<Changeset> {
        raise_feature_level(state, &mut Fixed)
    }

    fn tells(state: &mut ClusterState, id: NodeId, feature_level: u32) {
        let description = NodeDescription {
            feature_level,
            ..NodeDescription::default()
        };
        applied(
            state,
            vec![Change::NodeDescription {
                node: id,
                description: Arc::new(description),
            }],
        );
    }

    #[test]
    fn the_level_rises_once_every_controller_supports_it_and_brings_the_ingress_network() {
        let mut state = single_of_level(1);
        assert_eq!(raise(&state), None, "nobody told of a level yet");
        tells(&mut state, node(1), 1);
        tells(&mut state, node(3), 9);
        assert_eq!(raise(&state), None, "a worker does not count");
        tells(&mut state, node(1), SUPPORTED_FEATURE_LEVEL + 1);
        let changes = raise(&state).unwrap().changes;
        applied(&mut state, changes);
        assert_eq!(state.cluster().unwrap().feature_level, SUPPORTED_FEATURE_LEVEL);
        assert_eq!(state.ingress_network().unwrap().id.as_u128(), INGRESS);
        assert_eq!(raise(&state), None);
    }

    #[test]
    fn an_ingress_network_that_the_user_removed_stays_removed() {
        let mut state = single();
        tells(&mut state, node(1), SUPPORTED_FEATURE_LEVEL);
        assert_eq!(raise(&state), None);
        assert!(state.ingress_network().is_none());
    }
}
