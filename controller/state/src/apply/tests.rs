use crate::*;
use muster_types::node::ControllerMember;
use muster_types::service::{PublishMode, PublishedPort, ServiceSpec};
use muster_types::*;
use proptest::prelude::*;
use std::sync::Arc;

pub(crate) const NODE: NodeId = NodeId::from_u128(1);
pub(crate) const OTHER: NodeId = NodeId::from_u128(2);
pub(crate) const WEB: ServiceId = ServiceId::from_u128(10);
pub(crate) const TASK: TaskId = TaskId::from_u128(100);

fn cluster() -> Cluster {
    let token = JoinToken {
        root_digest: [0; 32],
        secret: 1,
    };
    let (worker, controller) = (token, token);
    Cluster {
        id: ClusterId::from_u128(1),
        meta: Meta::default(),
        spec: ClusterSpec::default(),
        root_ca: RootCa {
            certificate_pem: "certificate".into(),
            key_pem: "key".into(),
        },
        join_tokens: JoinTokens { worker, controller },
        incarnation: 1,
        feature_level: 1,
        next_raft_id: 1,
        issuer: None,
        root_rotation: None,
    }
}

pub(crate) fn node(node: NodeId) -> Change {
    Change::NodeCreate {
        node,
        spec: NodeSpec::default(),
        description: Arc::new(NodeDescription {
            resources: Resources {
                memory_bytes: 1000,
                ..Default::default()
            },
            ..Default::default()
        }),
    }
}

fn service(service: ServiceId, name: &str) -> Change {
    Change::ServiceCreate {
        service,
        spec: Arc::new(spec(name)),
    }
}

pub(crate) fn spec(name: &str) -> ServiceSpec {
    let mut spec = ServiceSpec {
        name: name.into(),
        ..Default::default()
    };
    spec.template.reservations.memory_bytes = 100;
    spec
}

fn task(id: TaskId, node: Option<NodeId>) -> Change {
    Change::TaskCreate(NewTask {
        id,
        service: WEB,
        slot: Slot::Replica(1),
        template_version: 2,
        node,
        desired: DesiredState::Running,
        start_after: None,
        reason: Reason::MissingReplica,
        message: String::new(),
        error: None,
        addresses: Vec::new(),
    })
}

pub(crate) fn status(reporter: Reporter, attempt: u32, state: TaskState) -> Change {
    Change::TaskStatus {
        task: TASK,
        reporter,
        status: TaskStatus {
            attempt,
            state,
            at: Timestamp::ZERO,
            message: String::new(),
            error: None,
            container: None,
        },
    }
}

pub(crate) fn control(node: Option<NodeId>, desired: DesiredState) -> Change {
    Change::TaskControl {
        task: TASK,
        node,
        desired,
        start_after: None,
        reason: Reason::UserRequest,
        addresses: Vec::new(),
    }
}

/// Applies one changeset at the next index, checking every invariant.
pub(crate) fn apply(state: &mut ClusterState, changes: Vec<Change>) -> Outcome {
    apply_set(state, Changeset::new(Reason::UserRequest, changes))
}

fn apply_set(state: &mut ClusterState, changeset: Changeset) -> Outcome {
    let before = state.clone();
    let entry = Entry::new(Timestamp::from_secs(before.index() as i64), changeset);
    let application = state.apply(before.index() + 1, &entry);
    let mut broken = invariants::check_step(&before, state);
    broken.extend(invariants::check(state));
    assert_eq!(broken, Vec::new());
    if application.outcome != Outcome::Applied {
        assert!(application.touched.is_empty());
        assert_eq!(
            state.differences(&before),
            Vec::new(),
            "a rejection changes nothing"
        );
    }
    application.outcome
}

/// A cluster (index 1), service `web` (2), two nodes (3, 4) and its task on the first (5).
pub(crate) fn world() -> ClusterState {
    let mut state = ClusterState::new();
    for change in [
        Change::ClusterCreate(Box::new(cluster())),
        service(WEB, "web"),
        node(NODE),
        node(OTHER),
        task(TASK, Some(NODE)),
    ] {
        assert_eq!(apply(&mut state, vec![change]), Outcome::Applied);
    }
    state
}

pub(crate) fn rejection(state: &mut ClusterState, change: Change) -> Rejection {
    match apply(state, vec![change]) {
        Outcome::Rejected(rejection) => rejection,
        other => panic!("{other:?}"),
    }
}

#[test]
fn versions_name_the_part_that_changed() {
    let mut state = world();
    apply(
        &mut state,
        vec![status(Reporter::Agent(NODE), 0, TaskState::Running)],
    );
    let meta = state.task(TASK).unwrap().meta;
    assert_eq!(
        (meta.spec_version, meta.control_version, meta.status_version),
        (2, 5, 6)
    );
    assert_eq!(meta.observed_at, Timestamp::from_secs(5));
    apply(&mut state, vec![control(None, DesiredState::Shutdown)]);
    let meta = state.task(TASK).unwrap().meta;
    assert_eq!((meta.control_version, meta.status_version), (7, 6));
}

#[test]
fn a_failed_precondition_rejects_the_whole_changeset() {
    let mut state = world();
    let stale = Precondition::Version {
        object: ObjectKey::Service(WEB),
        part: Part::Spec,
        version: 1,
    };
    let rename = Changeset::new(Reason::UserRequest, vec![control(None, DesiredState::Shutdown)]).when(stale);
    let outcome = apply_set(&mut state, rename);
    let Outcome::Rejected(rejection) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(rejection.to_string(), "update out of sequence");
    assert_eq!(state.task(TASK).unwrap().desired, DesiredState::Running);
    assert_eq!((state.rejections(), state.index()), (1, 6));
}

#[test]
fn a_later_change_that_fails_undoes_the_earlier_ones() {
    let mut state = world();
    let changes = vec![
        control(None, DesiredState::Shutdown),
        Change::NodeRemove {
            node: NodeId::from_u128(9),
        },
    ];
    assert!(matches!(
        apply(&mut state, changes),
        Outcome::Rejected(Rejection::NotFound { .. })
    ));
    assert_eq!(state.task(TASK).unwrap().desired, DesiredState::Running);
}

#[test]
fn a_request_applies_once_and_a_rejected_one_may_be_retried() {
    let mut state = world();
    let request = RequestId::from_u128(7);
    let set = |name: &str, id| {
        Changeset::new(Reason::UserRequest, vec![service(ServiceId::from_u128(id), name)])
            .for_request(request)
    };
    assert!(matches!(
        apply_set(&mut state, set("web", 11)),
        Outcome::Rejected(Rejection::NameConflict { .. })
    ));
    assert_eq!(apply_set(&mut state, set("db", 12)), Outcome::Applied);
    let outcome = state.request_outcome(request).unwrap();
    assert_eq!(outcome.object, Some(ObjectKey::Service(ServiceId::from_u128(12))));
    assert_eq!(
        apply_set(&mut state, set("cache", 13)),
        Outcome::Duplicate(outcome)
    );
    assert!(state.service_by_name("cache").is_none());
}

#[test]
fn remembered_requests_are_bounded() {
    let mut requests = crate::request::Requests::default();
    for number in 0..crate::request::REQUESTS_MAX as u64 + 5 {
        let outcome = RequestOutcome {
            index: number,
            object: None,
        };
        requests.record(RequestId::from_u128(number.into()), outcome);
    }
    assert_eq!(requests.iter().count(), crate::request::REQUESTS_MAX);
    assert!(requests.get(RequestId::from_u128(4)).is_none());
    assert!(requests.get(RequestId::from_u128(5)).is_some());
}

#[test]
fn a_task_never_leaves_its_node_nor_goes_back() {
    let mut state = world();
    assert_eq!(
        rejection(&mut state, control(Some(OTHER), DesiredState::Running)),
        Rejection::NodeChange { task: TASK }
    );
    apply(&mut state, vec![control(None, DesiredState::Remove)]);
    assert!(matches!(
        rejection(&mut state, control(None, DesiredState::Running)),
        Rejection::DesiredMovesBack { .. }
    ));
    assert_eq!(
        rejection(&mut state, Change::TaskRemove { task: TASK }),
        Rejection::NotStopped { task: TASK }
    );
    apply(
        &mut state,
        vec![status(Reporter::Agent(NODE), 0, TaskState::Shutdown)],
    );
    assert_eq!(
        apply(&mut state, vec![Change::TaskRemove { task: TASK }]),
        Outcome::Applied
    );
}

#[test]
fn only_the_agent_of_the_tasks_node_reports_it() {
    let mut state = world();
    assert_eq!(
        rejection(&mut state, status(Reporter::Agent(OTHER), 0, TaskState::Running)),
        Rejection::NotTheTasksNode {
            task: TASK,
            node: OTHER
        }
    );
    assert!(matches!(
        rejection(&mut state, status(Reporter::Controller, 0, TaskState::Running)),
        Rejection::IllegalTransition { .. }
    ));
    // More about the same state is no transition; once it ended, nothing is.
    for _ in 0..2 {
        let more = status(Reporter::Agent(NODE), 0, TaskState::Running);
        assert_eq!(apply(&mut state, vec![more]), Outcome::Applied);
    }
    apply(
        &mut state,
        vec![status(Reporter::Agent(NODE), 0, TaskState::Failed)],
    );
    for state_again in [TaskState::Failed, TaskState::Running] {
        assert!(matches!(
            rejection(&mut state, status(Reporter::Agent(NODE), 0, state_again)),
            Rejection::IllegalTransition { .. }
        ));
    }
    let next = status(Reporter::Agent(NODE), 1, TaskState::Running);
    assert_eq!(apply(&mut state, vec![next]), Outcome::Applied);
}

#[test]
fn a_task_without_a_node_cannot_be_assigned() {
    let mut state = world();
    let id = TaskId::from_u128(101);
    apply(
        &mut state,
        vec![control(None, DesiredState::Shutdown), task(id, None)],
    );
    let assigned = Change::TaskStatus {
        task: id,
        reporter: Reporter::Controller,
        status: TaskStatus {
            state: TaskState::Assigned,
            ..state.task(id).unwrap().status.clone()
        },
    };
    assert_eq!(rejection(&mut state, assigned), Rejection::NoNode { task: id });
}

#[test]
fn names_and_ports_are_unique_and_free_at_once() {
    let mut state = world();
    let rejected = rejection(&mut state, service(ServiceId::from_u128(11), "web"));
    assert!(
        rejected
            .to_string()
            .starts_with("name conflicts with an existing object")
    );
    let publishing = |id, name: &str| {
        let mut spec = spec(name);
        spec.ports = vec![PublishedPort {
            name: String::new(),
            protocol: Default::default(),
            target_port: 80,
            published_port: 8080,
            mode: PublishMode::Ingress,
        }];
        Change::ServiceCreate {
            service: ServiceId::from_u128(id),
            spec: Arc::new(spec),
        }
    };
    apply(&mut state, vec![publishing(12, "one")]);
    let rejected = rejection(&mut state, publishing(13, "two"));
    assert!(
        rejected
            .to_string()
            .starts_with("port '8080' is already in use by service 'one'")
    );
    let removing = |id| Change::ServiceRemoving {
        service: ServiceId::from_u128(id),
    };
    apply(&mut state, vec![removing(12)]);
    assert_eq!(apply(&mut state, vec![publishing(13, "one")]), Outcome::Applied);
    assert_eq!(state.service_by_name("one").unwrap().id, ServiceId::from_u128(13));
    let gone = Change::ServiceRemove {
        service: ServiceId::from_u128(12),
    };
    assert_eq!(apply(&mut state, vec![gone]), Outcome::Applied);
    assert_eq!(state.service_by_name("one").unwrap().id, ServiceId::from_u128(13));
}

#[test]
fn a_service_goes_after_its_tasks_and_a_revision_after_its_last_task() {
    let mut state = world();
    let row = state.service(WEB).unwrap().clone();
    let mut newer = spec("web");
    newer.template.container.image = "v2".into();
    apply(&mut state, vec![service_update::update(&row, Arc::new(newer))]);
    let old = Change::TemplateRemove {
        service: WEB,
        version: 2,
    };
    assert!(matches!(
        rejection(&mut state, old.clone()),
        Rejection::InUse { .. }
    ));
    let gone = Change::ServiceRemove { service: WEB };
    assert!(matches!(
        rejection(&mut state, gone.clone()),
        Rejection::InUse { .. }
    ));
    apply(
        &mut state,
        vec![status(Reporter::Agent(NODE), 0, TaskState::Failed)],
    );
    apply(&mut state, vec![Change::TaskRemove { task: TASK }]);
    assert_eq!(apply(&mut state, vec![old]), Outcome::Applied);
    assert_eq!(apply(&mut state, vec![gone]), Outcome::Applied);
    assert_eq!(state.templates_of(WEB).count(), 0);
}

#[test]
fn updates_and_rollbacks_keep_one_previous_spec() {
    let mut state = world();
    let scale = |state: &ClusterState, replicas| {
        let row = state.service(WEB).unwrap();
        let mut spec = row.spec.as_ref().clone();
        spec.mode = ServiceMode::Replicated { replicas };
        service_update::update(row, Arc::new(spec))
    };
    let change = scale(&state, 5);
    apply(&mut state, vec![change]);
    assert_eq!(
        state.service(WEB).unwrap().template_version,
        2,
        "a scale keeps the template"
    );
    let back = service_update::rollback(state.service(WEB).unwrap(), Timestamp::ZERO).unwrap();
    apply(&mut state, vec![back]);
    let row = state.service(WEB).unwrap().clone();
    assert_eq!(row.spec.mode, ServiceMode::Replicated { replicas: 1 });
    assert_eq!(
        row.previous_spec.as_ref().map(|spec| spec.mode),
        Some(ServiceMode::Replicated { replicas: 5 })
    );
    let automatic = service_update::automatic_rollback(&row, Timestamp::ZERO, String::new()).unwrap();
    apply(&mut state, vec![automatic]);
    assert!(service_update::rollback(state.service(WEB).unwrap(), Timestamp::ZERO).is_none());
}

#[test]
fn removed_nodes_and_raft_ids_never_return() {
    let mut state = world();
    let member = |node, raft_id, voter| Change::NodeController {
        node,
        member: Some(ControllerMember {
            raft_id: RaftId(raft_id),
            address: "a:1".into(),
            voter,
        }),
    };
    apply(&mut state, vec![member(NODE, 1, false)]);
    assert_eq!(apply(&mut state, vec![member(NODE, 1, true)]), Outcome::Applied);
    assert_eq!(state.node_by_raft_id(RaftId(1)).unwrap().id, NODE);
    assert_eq!(
        rejection(&mut state, member(OTHER, 1, false)),
        Rejection::RaftIdReused { raft_id: RaftId(1) }
    );
    apply(&mut state, vec![Change::NodeRemove { node: NODE }]);
    assert_eq!(
        rejection(&mut state, node(NODE)),
        Rejection::NodeRemoved { node: NODE }
    );
    assert!(state.is_removed_node(NODE) && state.node_by_raft_id(RaftId(1)).is_none());
}

#[test]
fn a_nodes_load_follows_its_tasks() {
    let mut state = world();
    let load = state.load(NODE);
    assert_eq!((load.tasks, load.wanted, load.memory_bytes), (1, 1, 100));
    apply(&mut state, vec![control(None, DesiredState::Shutdown)]);
    assert_eq!((state.load(NODE).tasks, state.load(NODE).wanted), (1, 0));
    apply(
        &mut state,
        vec![status(Reporter::Agent(NODE), 0, TaskState::Shutdown)],
    );
    assert_eq!(state.load(NODE), NodeLoad::default());
}

#[test]
fn cluster_time_and_index_never_go_back() {
    let mut state = world();
    let late = Entry::new(
        Timestamp::from_secs(900),
        Changeset::new(Reason::UserRequest, vec![]),
    );
    let early = Entry::new(
        Timestamp::from_secs(800),
        Changeset::new(Reason::UserRequest, vec![]),
    );
    state.apply(6, &late);
    state.apply(7, &early);
    assert_eq!(state.time(), Timestamp::from_secs(900));
    assert!(matches!(state.apply(7, &late).outcome, Outcome::Rejected(_)));
    assert_eq!(state.index(), 7);
    let lower = Change::ClusterIncarnation(1);
    assert!(matches!(
        rejection(&mut state, lower),
        Rejection::MovesBack { .. }
    ));
}

#[test]
fn damaged_snapshots_are_refused() {
    let bytes = world().snapshot().unwrap();
    assert!(matches!(ClusterState::restore(&[]), Err(SnapshotError::Empty)));
    assert!(matches!(
        ClusterState::restore(&[7]),
        Err(SnapshotError::UnknownFormat { found: 7 })
    ));
    assert!(ClusterState::restore(&bytes[..bytes.len() / 2]).is_err());
}

/// Any change, over few ids, so that legal and illegal ones mix.
fn change() -> impl Strategy<Value = Change> {
    let id = || 1u128..4;
    let desired = prop_oneof![
        Just(DesiredState::Ready),
        Just(DesiredState::Running),
        Just(DesiredState::Shutdown),
        Just(DesiredState::Remove)
    ];
    let states = prop::sample::select(TaskState::ALL.to_vec());
    let node_states = prop::sample::select(vec![NodeState::Ready, NodeState::Down]);
    prop_oneof![
        id().prop_map(|id| node(NodeId::from_u128(id))),
        (id(), node_states).prop_map(|(id, state)| Change::NodeStatus {
            node: NodeId::from_u128(id),
            state,
            message: String::new(),
            address: String::new(),
        }),
        (id(), 0i64..9).prop_map(|(id, until)| Change::NodeRestarting {
            node: NodeId::from_u128(id),
            until: Timestamp(until),
        }),
        id().prop_map(|id| Change::NodeRemove {
            node: NodeId::from_u128(id)
        }),
        (id(), 1u64..5).prop_map(|(id, raft_id)| Change::NodeController {
            node: NodeId::from_u128(id),
            member: Some(ControllerMember {
                raft_id: RaftId(raft_id),
                address: String::new(),
                voter: false
            }),
        }),
        (id(), "[ab]").prop_map(|(id, name)| service(ServiceId::from_u128(id), &name)),
        (id(), "[ab]", 0u64..3).prop_map(|(id, name, image)| {
            let mut spec = spec(&name);
            spec.template.container.image = image.to_string();
            Change::ServiceSpec {
                service: ServiceId::from_u128(id),
                spec: Arc::new(spec),
                previous: PreviousSpec::Replaced,
                revision: Revision::New,
                update: None,
            }
        }),
        id().prop_map(|id| Change::ServiceRemoving {
            service: ServiceId::from_u128(id)
        }),
        id().prop_map(|id| Change::ServiceRemove {
            service: ServiceId::from_u128(id)
        }),
        (id(), 1u64..20).prop_map(|(id, version)| Change::TemplateRemove {
            service: ServiceId::from_u128(id),
            version,
        }),
        (1u128..8, id(), 1u64..20, prop::option::of(id())).prop_map(|(task, service, version, node)| {
            Change::TaskCreate(NewTask {
                id: TaskId::from_u128(task),
                service: ServiceId::from_u128(service),
                slot: Slot::Replica(task as u64),
                template_version: version,
                node: node.map(NodeId::from_u128),
                desired: DesiredState::Ready,
                start_after: None,
                reason: Reason::MissingReplica,
                message: String::new(),
                error: None,
                addresses: Vec::new(),
            })
        }),
        (1u128..8, prop::option::of(id()), desired).prop_map(|(task, node, desired)| Change::TaskControl {
            task: TaskId::from_u128(task),
            node: node.map(NodeId::from_u128),
            desired,
            start_after: None,
            reason: Reason::UserRequest,
            addresses: Vec::new(),
        }),
        (1u128..8, prop::option::of(id()), 0u32..2, states).prop_map(|(task, node, attempt, state)| {
            Change::TaskStatus {
                task: TaskId::from_u128(task),
                reporter: node.map_or(Reporter::Controller, |node| {
                    Reporter::Agent(NodeId::from_u128(node))
                }),
                status: TaskStatus {
                    attempt,
                    state,
                    at: Timestamp::ZERO,
                    message: String::new(),
                    error: None,
                    container: None,
                },
            }
        }),
        (1u128..8).prop_map(|task| Change::TaskRemove {
            task: TaskId::from_u128(task)
        }),
        super::network_tests::change(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn apply_is_total_deterministic_and_keeps_every_invariant(
        sets in prop::collection::vec(prop::collection::vec(change(), 1..4), 1..60),
        cut in 0usize..60,
    ) {
        let mut state = ClusterState::new();
        apply(&mut state, vec![Change::ClusterCreate(Box::new(cluster()))]);
        let mut follower = state.clone();
        for (position, changes) in sets.into_iter().enumerate() {
            let outcome = apply(&mut state, changes.clone());
            if position == cut {
                follower = ClusterState::restore(&follower.snapshot().unwrap()).unwrap();
            }
            prop_assert_eq!(&outcome, &apply(&mut follower, changes));
            prop_assert_eq!(invariants::equal_index_means_equal_state(&state, &follower), None);
        }
        prop_assert_eq!(state.fingerprint().unwrap(), follower.fingerprint().unwrap());
    }
}
