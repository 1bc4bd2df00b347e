//! Replacing the root certificate: begun by a user, ended by the leader once every node has a certificate of the new root.
//!
//! Until then nodes trust the root before, and believe certificates of the new one by its key's certificate of the root
//! before (`RootRotation::cross_signed_pem`). From then on they are told to trust the new one; one that has not heard of
//! that yet still believes the others.

use super::proposals::Origin;
use super::{Controller, Now};
use crate::control::{ControlError, RefusalKind};
use muster_state::{Change, Changeset, ClusterState, LEVEL_OF_ROTATION, ObjectKey, Part, Precondition};
use muster_types::{IdSource, JoinToken, JoinTokens, Node, Reason, RootRotation};
use std::sync::Arc;

/// The changeset of an update of the cluster, with a rotation if one is asked for.
pub(super) fn begin(
    state: &ClusterState,
    mut changeset: Changeset,
    rotation: Option<&RootRotation>,
) -> Result<Changeset, ControlError> {
    let Some(rotation) = rotation else {
        return Ok(changeset);
    };
    let level = state.cluster().map_or(0, |cluster| cluster.feature_level);
    // It would show its own certificate alone, and others would not believe it. A node that has not told yet is new.
    let is_older = |node: &Arc<Node>| (1..LEVEL_OF_ROTATION).contains(&node.description.feature_level);
    if level < LEVEL_OF_ROTATION || state.nodes().any(is_older) {
        return Err(ControlError::refused(
            RefusalKind::Unavailable,
            "some nodes run a version of Muster that cannot replace the root certificate: update them first, or remove them",
        ));
    }
    let change = Change::ClusterRotationBegin(Box::new(rotation.clone()));
    changeset.changes.push(change);
    Ok(changeset)
}

/// The end of the rotation under way, once every node has a certificate of the new root: also those that are down. Join
/// tokens are new ones: who saw one may have been why the root was replaced.
fn end(state: &ClusterState, ids: &mut dyn IdSource) -> Option<Changeset> {
    let cluster = state.cluster()?;
    let rotation = cluster.root_rotation.as_ref()?;
    let is_renewed = |node: &Arc<Node>| {
        let tls = node.description.tls.as_ref();
        tls.is_some_and(|tls| tls.issuer == rotation.issuer)
    };
    if !state.nodes().all(is_renewed) {
        return None;
    }
    let unchanged = Precondition::Version {
        object: ObjectKey::Cluster,
        part: Part::Spec,
        version: cluster.meta.spec_version,
    };
    let mut token = || JoinToken {
        root_digest: rotation.root_digest,
        secret: ids.next_u128(),
    };
    let tokens = JoinTokens {
        worker: token(),
        controller: token(),
    };
    let changes = vec![Change::ClusterRotationEnd, Change::ClusterTokens(tokens)];
    Some(Changeset::new(Reason::UserRequest, changes).when(unchanged))
}

impl Controller {
    /// Ends a rotation that is through.
    pub(super) fn end_rotation(&mut self, now: Now) {
        if self.proposals.on_duty() {
            return;
        }
        if let Some(changeset) = end(&self.state, self.ids.as_mut()) {
            tracing::info!("every node has a certificate of the new root");
            // A refusal means that leadership is over, or that the next round tries again.
            let _ = self.propose(changeset, Origin::Duty, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{applied, node, single, single_of_level};
    use muster_types::{Issuer, NodeDescription, NodeTls, RootCa};

    struct Counter(u128);

    impl IdSource for Counter {
        fn next_u128(&mut self) -> u128 {
            self.0 += 1;
            1000 + self.0
        }
    }

    fn rotation(key: u8) -> RootRotation {
        RootRotation {
            root: RootCa {
                certificate_pem: format!("root {key}"),
                key_pem: String::new(),
            },
            issuer: Issuer {
                subject: vec![1],
                public_key: vec![key],
            },
            cross_signed_pem: String::new(),
            root_digest: [key; 32],
        }
    }

    fn update() -> Changeset {
        Changeset::new(Reason::UserRequest, Vec::new())
    }

    fn renewed(state: &ClusterState, id: u128, key: u8) -> Change {
        let description = NodeDescription {
            tls: Some(NodeTls {
                issuer: rotation(key).issuer,
                root_digest: [0; 32],
            }),
            ..NodeDescription::clone(&state.node(node(id)).unwrap().description)
        };
        Change::NodeDescription {
            node: node(id),
            description: Arc::new(description),
        }
    }

    #[test]
    fn it_ends_once_every_node_is_renewed_and_tokens_name_the_new_root() {
        let mut state = single();
        let changes = begin(&state, update(), Some(&rotation(7))).unwrap().changes;
        applied(&mut state, changes);
        let ids: Vec<u128> = state.nodes().map(|node| node.id.as_u128()).collect();
        for id in &ids {
            assert_eq!(
                end(&state, &mut Counter(0)),
                None,
                "node {id} has a certificate of the root before"
            );
            assert_ne!(state.cluster().unwrap().root_ca, rotation(7).root);
            let change = renewed(&state, *id, 7);
            applied(&mut state, vec![change]);
        }
        // Another one takes its place meanwhile, and all are asked again.
        let changes = begin(&state, update(), Some(&rotation(8))).unwrap().changes;
        applied(&mut state, changes);
        assert_eq!(end(&state, &mut Counter(0)), None);
        for id in ids {
            let change = renewed(&state, id, 8);
            applied(&mut state, vec![change]);
        }
        let changes = end(&state, &mut Counter(0)).unwrap().changes;
        applied(&mut state, changes);
        let cluster = state.cluster().unwrap();
        assert_eq!(
            (&cluster.root_ca, &cluster.root_rotation),
            (&rotation(8).root, &None)
        );
        let token = |secret| JoinToken {
            root_digest: [8; 32],
            secret,
        };
        let fresh = JoinTokens {
            worker: token(1001),
            controller: token(1002),
        };
        assert_eq!(cluster.join_tokens, fresh);
        assert_eq!(end(&state, &mut Counter(0)), None);
    }

    #[test]
    fn it_waits_for_certificates_in_the_new_roots_name() {
        let mut state = single();
        let mut renamed = rotation(7);
        renamed.issuer.subject = vec![2];
        let changes = begin(&state, update(), Some(&renamed)).unwrap().changes;
        applied(&mut state, changes);
        let ids: Vec<u128> = state.nodes().map(|node| node.id.as_u128()).collect();
        for id in ids {
            let change = renewed(&state, id, 7);
            applied(&mut state, vec![change]);
        }
        assert_eq!(
            end(&state, &mut Counter(0)),
            None,
            "the key alone is not the issuer"
        );
    }

    #[test]
    fn it_waits_for_versions_that_know_it() {
        let state = single_of_level(LEVEL_OF_ROTATION - 1);
        let refused = begin(&state, update(), Some(&rotation(7))).unwrap_err();
        assert!(refused.to_string().contains("update them first"), "{refused}");
        assert!(begin(&state, update(), None).is_ok());
    }
}
