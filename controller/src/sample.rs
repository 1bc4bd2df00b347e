//! A small cluster for unit tests.

use muster_state::{Change, Changeset, ClusterState, Entry, Outcome, SUPPORTED_FEATURE_LEVEL};
use muster_types::node::ControllerMember;
use muster_types::{
    Availability, Cluster, ClusterId, ClusterSpec, JoinToken, JoinTokens, Meta, NodeId, NodeRole, NodeSpec,
    RaftId, Reason, RootCa, Timestamp,
};

pub const CLUSTER: ClusterId = ClusterId::from_u128(1);

pub fn node(number: u128) -> NodeId {
    NodeId::from_u128(number)
}

fn cluster(feature_level: u32) -> Cluster {
    let token = JoinToken {
        root_digest: [0; 32],
        secret: 1,
    };
    Cluster {
        id: CLUSTER,
        meta: Meta::default(),
        spec: ClusterSpec::default(),
        root_ca: RootCa {
            certificate_pem: String::new(),
            key_pem: String::new(),
        },
        join_tokens: JoinTokens {
            worker: token,
            controller: token,
        },
        incarnation: 1,
        feature_level,
        next_raft_id: 1,
        issuer: None,
        root_rotation: None,
    }
}

pub fn spec(role: NodeRole) -> NodeSpec {
    NodeSpec {
        role,
        availability: Availability::Active,
        ..NodeSpec::default()
    }
}

fn member(raft_id: u64) -> Option<ControllerMember> {
    Some(ControllerMember {
        raft_id: RaftId(raft_id),
        address: "10.0.0.1:2377".to_owned(),
        voter: true,
    })
}

fn create(number: u128, role: NodeRole) -> Change {
    Change::NodeCreate {
        node: node(number),
        spec: spec(role),
        description: Default::default(),
    }
}

pub fn applied(state: &mut ClusterState, changes: Vec<Change>) {
    let entry = Entry::new(Timestamp(1), Changeset::new(Reason::Bootstrap, changes));
    let outcome = state.apply(state.index() + 1, &entry).outcome;
    assert!(matches!(outcome, Outcome::Applied), "{outcome:?}");
}

/// Nodes 1 and 2 are controllers with those Raft ids, 3 is a worker.
pub fn state() -> ClusterState {
    let mut state = ClusterState::new();
    applied(
        &mut state,
        vec![Change::ClusterCreate(Box::new(cluster(SUPPORTED_FEATURE_LEVEL)))],
    );
    for number in [1, 2] {
        let changes = vec![
            create(number, NodeRole::Controller),
            Change::NodeController {
                node: node(number),
                member: member(number as u64),
            },
        ];
        applied(&mut state, changes);
    }
    applied(&mut state, vec![create(3, NodeRole::Worker)]);
    state
}

/// Node 1 is the only controller, 3 is a worker.
pub fn single() -> ClusterState {
    single_of_level(SUPPORTED_FEATURE_LEVEL)
}

/// The same at a feature level.
pub fn single_of_level(level: u32) -> ClusterState {
    let mut state = ClusterState::new();
    applied(&mut state, vec![Change::ClusterCreate(Box::new(cluster(level)))]);
    let changes = vec![
        create(1, NodeRole::Controller),
        Change::NodeController {
            node: node(1),
            member: member(1),
        },
        create(3, NodeRole::Worker),
    ];
    applied(&mut state, changes);
    state
}
