//! After the quorum was lost: the cluster goes on with one controller, which forgets the others.
//!
//! The Raft node makes itself the only voter when it opens. What follows here is what the records say. Nothing else is
//! decided before: the group would take the controllers of the records in again, with logs that the new cluster's
//! contradicts.

use super::proposals::Origin;
use super::{Controller, Now};
use muster_state::{Change, Changeset, ClusterState};
use muster_types::node::ControllerMember;
use muster_types::{NodeId, NodeRole, NodeSpec, RaftId, Reason};

/// Whether the cluster begins anew with this controller.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Anew {
    /// It does not, or has.
    #[default]
    No,
    /// It shall, with this controller at this address.
    At(String),
    /// It is under way; once the incarnation is higher it is done.
    From {
        /// Where this controller listens.
        address: String,
        /// The incarnation that ends.
        incarnation: u64,
    },
    /// It has, and the node's files do not say so yet: a restart would begin it once more. Nobody may join before.
    Begun,
}

impl Controller {
    /// The cluster begins anew with this controller, at this address, as soon as it leads. Its Raft node must have been
    /// opened as the only voter.
    pub fn begin_anew(&mut self, address: String) {
        self.anew = Anew::At(address);
    }

    /// The node's files say that the cluster began anew.
    pub(super) fn anew_noted(&mut self) {
        if self.anew == Anew::Begun {
            self.anew = Anew::No;
        }
    }

    /// The other controllers are not forgotten yet, or a restart would forget them once more, so that nothing else may be
    /// decided.
    pub(super) fn begins_anew(&mut self, now: Now) -> bool {
        let Some(current) = self.state.cluster().map(|cluster| cluster.incarnation) else {
            return false;
        };
        let (address, incarnation) = match std::mem::take(&mut self.anew) {
            Anew::No => return false,
            Anew::Begun => {
                self.anew = Anew::Begun;
                return true;
            }
            Anew::At(address) => (address, current),
            Anew::From { address, incarnation } => (address, incarnation),
        };
        if current > incarnation {
            tracing::warn!("the cluster began anew with this controller alone");
            self.anew = Anew::Begun;
            return true;
        }
        if !self.proposals.on_duty() {
            let own = (self.node, self.raft_id, address.clone());
            // A refusal means that leadership is over, or that the next round tries again.
            let _ = self.propose(forget_others(&self.state, own, incarnation), Origin::Duty, now);
        }
        self.anew = Anew::From { address, incarnation };
        true
    }
}

/// The other controllers are workers from now on: should one come back, it finds that it was demoted. Agents take
/// assignments of the new incarnation whatever the lost controllers had sent them.
fn forget_others(
    state: &ClusterState,
    (own, raft_id, address): (NodeId, RaftId, String),
    incarnation: u64,
) -> Changeset {
    let mut changes = vec![
        Change::ClusterIncarnation(incarnation.saturating_add(1)),
        Change::NodeController {
            node: own,
            member: Some(ControllerMember {
                raft_id,
                address,
                voter: true,
            }),
        },
    ];
    for node in state.nodes() {
        // The one that is left may have been on its way to a worker.
        let role = match node.id == own {
            true => NodeRole::Controller,
            false => NodeRole::Worker,
        };
        if node.spec.role != role {
            let spec = NodeSpec {
                role,
                ..node.spec.clone()
            };
            changes.push(Change::NodeSpec { node: node.id, spec });
        }
        if node.id != own && node.controller.is_some() {
            changes.push(Change::NodeController {
                node: node.id,
                member: None,
            });
        }
    }
    Changeset::new(Reason::UserRequest, changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::io::Input;
    use crate::core::tests::{Single, session};
    use crate::sample::{applied, node, single};
    use muster_types::{NodeDescription, NodeState};
    use std::sync::Arc;
    use std::time::Duration;

    /// A restart whose files still say that the cluster shall begin anew would take others' votes away.
    #[test]
    fn nothing_is_decided_before_the_beginning_is_noted() {
        let mut single = Single::leading();
        single.open_session(session(1));
        let incarnation = |single: &Single| single.controller.state().cluster().unwrap().incarnation;
        let before = incarnation(&single);
        single.begin_anew();
        single.wait(Duration::from_secs(10));
        assert_eq!(incarnation(&single), before + 1);
        assert!(single.controller.published.began_anew);
        assert_eq!(single.state_of_worker(), NodeState::Ready);
        single.input(Input::AnewNoted);
        assert!(!single.controller.published.began_anew);
        single.wait(Duration::from_secs(10));
        assert_eq!(single.state_of_worker(), NodeState::Down);
        assert_eq!(incarnation(&single), before + 1);
    }

    #[test]
    fn the_other_controllers_become_workers_and_workers_stay() {
        let mut state = single();
        let spec = |role| NodeSpec {
            role,
            ..NodeSpec::default()
        };
        for (id, role) in [(21, NodeRole::Controller), (22, NodeRole::Worker)] {
            applied(
                &mut state,
                vec![Change::NodeCreate {
                    node: node(id),
                    spec: spec(role),
                    description: Arc::new(NodeDescription::default()),
                }],
            );
        }
        let member = ControllerMember {
            raft_id: RaftId(7),
            address: "b:1".to_owned(),
            voter: true,
        };
        applied(
            &mut state,
            vec![Change::NodeController {
                node: node(21),
                member: Some(member),
            }],
        );
        let before = state.cluster().unwrap().incarnation;
        let own = (node(1), RaftId(1), "a:2".to_owned());
        let changes = forget_others(&state, own, before).changes;
        applied(&mut state, changes);
        assert_eq!(state.cluster().unwrap().incarnation, before + 1);
        let lost = state.node(node(21)).unwrap();
        assert_eq!((lost.spec.role, &lost.controller), (NodeRole::Worker, &None));
        assert_eq!(state.node(node(22)).unwrap().spec.role, NodeRole::Worker);
        assert_eq!(state.node(node(1)).unwrap().spec.role, NodeRole::Controller);
        let left = state.node(node(1)).unwrap().controller.as_ref().unwrap();
        assert_eq!((left.raft_id, left.address.as_str()), (RaftId(1), "a:2"));
    }
}
