//! One controller on a simulated disk, driven by hand.

use super::*;
use crate::control::{ControlReply, ServiceChange};
use crate::leases::RESTART_GRACE;
use crate::sample;
use muster_consensus::sim::SimDisk;
use muster_consensus::{KeyRing, NodeConfig};
use muster_types::task::STATUS_TEXT_BYTES_MAX;
use muster_types::{
    AssignmentUpdate, Availability, NodeDescription, NodeRole, NodeSpec, NodeState, ServiceId, ServiceMode,
    ServiceSpec, SessionId, TaskId, TaskState, TaskStatus, Timestamp,
};
use std::sync::Arc;

const TICK: Duration = Duration::from_millis(20);
pub(super) const WORKER: NodeId = NodeId::from_u128(3);

struct Ids(u128);

impl IdSource for Ids {
    fn next_u128(&mut self) -> u128 {
        self.0 += 1;
        self.0
    }
}

/// A controller and its clock; the disk outlives it.
pub(super) struct Single {
    disk: SimDisk,
    pub(super) controller: Controller,
    now: Now,
}

impl Single {
    /// A new cluster whose only controller leads. Node 3 is a worker.
    pub(super) fn leading() -> Self {
        let disk = SimDisk::new(1);
        let now = Now {
            elapsed: Duration::ZERO,
            wall: Timestamp::from_secs(1_000_000),
        };
        let controller = open(&disk, Some(sample::single()), false);
        let mut single = Self {
            disk,
            controller,
            now,
        };
        single.lead();
        single
    }

    fn lead(&mut self) {
        for _ in 0..100 {
            self.input(Input::Tick);
            if self.controller.is_leading() {
                return;
            }
            self.now.elapsed += TICK;
        }
        panic!("no leader: {:?}", self.controller.raft().status());
    }

    /// The daemon ends, and begins anew with a clock of its own.
    fn restart(&mut self, away: Duration) {
        self.now = Now {
            elapsed: Duration::ZERO,
            wall: self.now.wall.after(self.now.elapsed + away),
        };
        self.controller = open(&self.disk, None, false);
        self.lead();
    }

    /// The daemon ends, and has the cluster begin anew.
    pub(super) fn begin_anew(&mut self) {
        self.controller = open(&self.disk, None, true);
        self.controller.begin_anew("a:1".to_owned());
        self.lead();
    }

    pub(super) fn input(&mut self, input: Input) -> Vec<Output> {
        self.inputs([input])
    }

    /// What comes together, before any of it is committed.
    pub(super) fn inputs(&mut self, inputs: impl IntoIterator<Item = Input>) -> Vec<Output> {
        for input in inputs {
            self.controller.handle(input, self.now);
        }
        self.controller.flush(self.now).unwrap()
    }

    pub(super) fn wait(&mut self, time: Duration) -> Vec<Output> {
        let until = self.now.elapsed + time;
        let mut outputs = Vec::new();
        while self.now.elapsed < until {
            self.now.elapsed += TICK;
            outputs.extend(self.input(Input::Tick));
        }
        outputs
    }

    pub(super) fn open_session(&mut self, session: SessionId) -> Vec<Output> {
        let description = Box::<NodeDescription>::default();
        let (node, address) = (WORKER, "10.0.0.3".to_owned());
        self.input(Input::SessionOpen {
            node,
            session,
            description,
            address,
        })
    }

    pub(super) fn state_of_worker(&self) -> NodeState {
        self.controller.state().node(WORKER).unwrap().status.state
    }
}

fn open(disk: &SimDisk, bootstrap: Option<ClusterState>, anew: bool) -> Controller {
    let mut config = NodeConfig::new(1, sample::CLUSTER.as_u128(), 1);
    config.force_new_cluster = anew;
    config.set_tick_ms(20);
    let mut raft = RaftNode::open(config, Arc::new(disk.clone()), KeyRing::new([7; 32])).unwrap();
    if let Some(state) = bootstrap {
        raft.bootstrap(&[1], &state.snapshot().unwrap()).unwrap();
    }
    Controller::new(sample::node(1), raft, Members::default(), Box::new(Ids(1000)))
}

pub(super) fn session(number: u128) -> SessionId {
    SessionId::from_u128(number)
}

#[test]
fn a_node_that_restarts_keeps_its_lease_when_the_leader_changes() {
    let mut single = Single::leading();
    single.open_session(session(1));
    assert_eq!(single.state_of_worker(), NodeState::Ready);
    let outputs = single.input(Input::Farewell {
        node: WORKER,
        session: session(1),
        restarting: true,
    });
    let heard = |output: &Output| matches!(output, Output::SessionEnded { session: ended, .. } if *ended == session(1));
    assert!(outputs.iter().any(heard), "{outputs:?}");
    single.restart(Duration::from_secs(5));
    single.wait(RESTART_GRACE - Duration::from_secs(10));
    assert_eq!(single.state_of_worker(), NodeState::Ready);
    single.wait(Duration::from_secs(10));
    assert_eq!(single.state_of_worker(), NodeState::Down);
}

#[test]
fn a_node_that_came_back_from_a_restart_has_an_ordinary_lease() {
    let mut single = Single::leading();
    single.open_session(session(1));
    single.input(Input::Farewell {
        node: WORKER,
        session: session(1),
        restarting: true,
    });
    single.open_session(session(2));
    single.restart(Duration::from_secs(1));
    assert_eq!(single.state_of_worker(), NodeState::Ready);
    single.wait(Duration::from_secs(5));
    assert_eq!(single.state_of_worker(), NodeState::Down);
}

#[test]
fn a_node_that_opens_sessions_without_end_writes_little_and_can_still_come_back() {
    let mut single = Single::leading();
    let before = single.controller.state().index();
    for number in 1..=1000 {
        single.open_session(session(number));
        single.now.elapsed += Duration::from_millis(1);
    }
    let written = single.controller.state().index() - before;
    assert!((10..20).contains(&written), "{written} entries");
    single.wait(Duration::from_secs(1));
    let outputs = single.open_session(session(2000));
    assert!(opened(&outputs, session(2000)), "{outputs:?}");
}

fn opened(outputs: &[Output], wanted: SessionId) -> bool {
    let is = |output: &Output| matches!(output, Output::SessionOpened { session, .. } if *session == wanted);
    outputs.iter().any(is)
}

/// What the worker is sent of its assignments.
pub(super) fn updates(outputs: &[Output]) -> Vec<AssignmentUpdate> {
    let update = |output: &Output| match output {
        Output::Assign { update, .. } => Some(AssignmentUpdate::clone(update)),
        _ => None,
    };
    outputs.iter().filter_map(update).collect()
}

pub(super) fn service(replicas: u64) -> Box<ServiceSpec> {
    let mut spec = ServiceSpec {
        name: "web".to_owned(),
        mode: ServiceMode::Replicated { replicas },
        ..Default::default()
    };
    spec.template.container.image = "image".to_owned();
    Box::new(spec)
}

/// Writes, and returns what the worker is sent in consequence.
pub(super) fn assigned(single: &mut Single, number: u128, request: ControlRequest) -> Vec<AssignmentUpdate> {
    let id = RequestId::from_u128(number);
    updates(&single.input(Input::Write {
        token: 1,
        id,
        request,
    }))
}

pub(super) fn report(
    single: &mut Single,
    session: SessionId,
    task: TaskId,
    status: TaskStatus,
) -> Vec<Output> {
    single.input(Input::Status {
        node: WORKER,
        session,
        sequence: 1,
        statuses: vec![(task, status)],
    })
}

pub(super) fn status(state: TaskState, text: &str) -> TaskStatus {
    TaskStatus {
        attempt: 0,
        state,
        at: Timestamp::ZERO,
        message: text.to_owned(),
        error: Some(text.to_owned()),
        container: None,
    }
}

#[test]
fn a_session_is_sent_the_whole_set_once_and_then_what_changes() {
    let mut single = Single::leading();
    let whole = updates(&single.open_session(session(1)));
    assert_eq!((whole.len(), whole[0].from), (1, None));
    let created = assigned(
        &mut single,
        7,
        ControlRequest::CreateService { spec: service(50) },
    );
    assert_eq!(created.len(), 1);
    assert_eq!(
        (created[0].from, created[0].tasks.len()),
        (Some(whole[0].age), 50)
    );
    let id = ServiceId::from_u128(7);
    let version = single.controller.state().service(id).unwrap().meta.spec_version;
    let change = ServiceChange::Spec(service(49));
    let scaled = assigned(
        &mut single,
        8,
        ControlRequest::UpdateService { id, version, change },
    );
    assert_eq!(scaled.len(), 1);
    assert_eq!((scaled[0].from, scaled[0].tasks.len()), (Some(created[0].age), 1));
    let surplus = scaled[0].tasks[0].id;
    let again = updates(&single.open_session(session(2)));
    assert_eq!((again.len(), again[0].from, again[0].tasks.len()), (1, None, 50));
    let gone = updates(&report(
        &mut single,
        session(2),
        surplus,
        status(TaskState::Shutdown, ""),
    ));
    assert_eq!(gone.len(), 1);
    assert_eq!((gone[0].from, gone[0].tasks.len()), (Some(again[0].age), 0));
    assert_eq!(gone[0].gone, [surplus]);
}

#[test]
fn a_report_over_an_earlier_session_counts_for_nothing() {
    let mut single = Single::leading();
    single.open_session(session(1));
    let created = assigned(&mut single, 7, ControlRequest::CreateService { spec: service(1) });
    let task = created[0].tasks[0].id;
    let outputs = single.open_session(session(2));
    let ended = |outputs: &[Output], wanted| {
        let is =
            |output: &Output| matches!(output, Output::SessionEnded { session, .. } if *session == wanted);
        outputs.iter().any(is)
    };
    assert!(
        ended(&outputs, session(1)),
        "one live session per node: {outputs:?}"
    );
    let before = single.controller.state().clone();
    let outputs = report(&mut single, session(1), task, status(TaskState::Failed, "late"));
    assert!(ended(&outputs, session(1)), "{outputs:?}");
    let acknowledged = |output: &Output| matches!(output, Output::StatusCommitted { .. });
    assert!(!outputs.iter().any(acknowledged), "{outputs:?}");
    assert_eq!(*single.controller.state(), before);
    // The live session goes on.
    let outputs = report(&mut single, session(2), task, status(TaskState::Failed, "now"));
    assert!(outputs.iter().any(acknowledged), "{outputs:?}");
    let stored = &single.controller.state().task(task).unwrap().status;
    assert_eq!(stored.message, "now");
}

#[test]
fn texts_of_a_worker_are_replicated_only_up_to_a_bound() {
    let mut single = Single::leading();
    single.open_session(session(1));
    let created = assigned(&mut single, 7, ControlRequest::CreateService { spec: service(1) });
    let task = created[0].tasks[0].id;
    report(
        &mut single,
        session(1),
        task,
        status(TaskState::Failed, &"x".repeat(1 << 20)),
    );
    let stored = &single.controller.state().task(task).unwrap().status;
    assert_eq!(stored.state, TaskState::Failed);
    assert!(stored.message.len() <= STATUS_TEXT_BYTES_MAX);
    assert!(stored.error.as_ref().unwrap().len() <= STATUS_TEXT_BYTES_MAX);
}

pub(super) fn write(
    single: &mut Single,
    number: u128,
    request: ControlRequest,
) -> Result<ControlReply, ControlError> {
    let id = RequestId::from_u128(number);
    let outputs = single.input(Input::Write {
        token: 1,
        id,
        request,
    });
    let reply = outputs.into_iter().find_map(|output| match output {
        Output::Reply { result, .. } => Some(result),
        _ => None,
    });
    reply.expect("a single controller answers at once")
}

fn join(single: &mut Single, number: u128, role: NodeRole) -> NodeId {
    let availability = Availability::Active;
    match write(single, number, ControlRequest::JoinNode { role, availability }) {
        Ok(ControlReply::NodeJoined { id }) => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nodes_that_never_come_after_their_join_go_again() {
    let mut single = Single::leading();
    single.open_session(session(1));
    let failed = [
        join(&mut single, 100, NodeRole::Worker),
        join(&mut single, 101, NodeRole::Controller),
        join(&mut single, 102, NodeRole::Controller),
    ];
    let address = "10.0.0.9:2377".to_owned();
    let node = failed[2];
    assert!(
        write(
            &mut single,
            103,
            ControlRequest::JoinRaft {
                node,
                address,
                replaces: None
            }
        )
        .is_ok()
    );
    single.now.elapsed += Duration::from_secs(500);
    single.wait(Duration::from_secs(20));
    let late = join(&mut single, 104, NodeRole::Worker);
    let present = |single: &Single, node: NodeId| single.controller.state().node(node).is_some();
    assert!(failed.iter().all(|node| present(&single, *node)));
    single.now.elapsed += Duration::from_secs(100);
    single.wait(Duration::from_secs(60));
    let state = single.controller.state();
    assert!(
        failed.iter().all(|node| state.node(*node).is_none()),
        "{:?}",
        state.nodes().collect::<Vec<_>>()
    );
    assert!(present(&single, late), "it may still come");
    assert!(present(&single, WORKER), "it is only down");
}

#[test]
fn a_node_that_was_promoted_is_removed_until_it_has_a_place_in_the_group() {
    let mut single = Single::leading();
    let removal = |id| ControlRequest::RemoveNode { id, force: true };
    let record = single.controller.state().node(WORKER).unwrap().clone();
    let spec = NodeSpec {
        role: NodeRole::Controller,
        ..record.spec.clone()
    };
    let version = record.meta.spec_version;
    let promotion = ControlRequest::UpdateNode {
        id: WORKER,
        version,
        spec,
    };
    assert_eq!(write(&mut single, 100, promotion), Ok(ControlReply::Done));
    assert_eq!(write(&mut single, 101, removal(WORKER)), Ok(ControlReply::Done));
    assert!(single.controller.state().node(WORKER).is_none());
    let node = join(&mut single, 102, NodeRole::Controller);
    let address = "10.0.0.9:2377".to_owned();
    let joined = write(
        &mut single,
        103,
        ControlRequest::JoinRaft {
            node,
            address,
            replaces: None,
        },
    );
    assert!(
        matches!(joined, Ok(ControlReply::RaftJoined { .. })),
        "{joined:?}"
    );
    let refused = write(&mut single, 104, removal(node));
    assert!(
        matches!(refused, Err(ControlError::Refused { .. })),
        "{refused:?}"
    );
    assert!(single.controller.state().node(node).is_some());
}

#[test]
fn a_request_for_a_raft_id_that_comes_late_replaces_none() {
    let mut single = Single::leading();
    let node = join(&mut single, 100, NodeRole::Controller);
    let mut ask = |id, replaces| {
        let address = "10.0.0.9:2377".to_owned();
        let request = ControlRequest::JoinRaft {
            node,
            address,
            replaces,
        };
        write(&mut single, id, request)
    };
    let Ok(ControlReply::RaftJoined { raft_id: first, .. }) = ask(101, None) else {
        panic!("a node without a Raft id gets one");
    };
    let held = |raft_id| Ok(ControlReply::RaftIdHeld { raft_id });
    assert_eq!(ask(102, None), held(Some(first)));
    // One whose log is gone says so.
    let Ok(ControlReply::RaftJoined { raft_id: second, .. }) = ask(103, Some(first)) else {
        panic!("it gets another one");
    };
    assert!(second > first);
    assert_eq!(ask(104, Some(first)), held(Some(second)));
    // A retry of what was done is told where it led to.
    assert!(
        matches!(ask(103, Some(first)), Ok(ControlReply::RaftJoined { raft_id, .. }) if raft_id == second)
    );
}

#[test]
fn a_join_is_taken_back_only_before_the_first_session() {
    let mut single = Single::leading();
    let node = join(&mut single, 100, NodeRole::Controller);
    assert_eq!(
        write(&mut single, 101, ControlRequest::WithdrawNode { node }),
        Ok(ControlReply::Done)
    );
    assert!(single.controller.state().node(node).is_none());
    single.open_session(session(1));
    let refused = write(&mut single, 102, ControlRequest::WithdrawNode { node: WORKER });
    assert!(
        matches!(refused, Err(ControlError::Refused { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_controller_that_lags_can_answer_one_that_it_does_not_know() {
    let mut single = Single::leading();
    let (raft_id, node) = (RaftId(2), sample::node(9));
    let address = "10.0.0.9:2377".to_owned();
    let met = Input::Met {
        raft_id,
        node,
        address: address.clone(),
    };
    let published = |outputs: &[Output]| {
        let members = outputs.iter().rev().find_map(|output| match output {
            Output::Members(members) => Some(members.members.clone()),
            _ => None,
        });
        members.unwrap_or_default()
    };
    let outputs = single.input(met);
    assert!(
        published(&outputs).contains(&(raft_id, node, address)),
        "{outputs:?}"
    );
    // The Raft id turns out to be another node's.
    let joined = join(&mut single, 100, NodeRole::Controller);
    let (id, address) = (RequestId::from_u128(101), "10.0.0.8:2377".to_owned());
    let request = ControlRequest::JoinRaft {
        node: joined,
        address: address.clone(),
        replaces: None,
    };
    let outputs = single.input(Input::Write {
        token: 1,
        id,
        request,
    });
    let members = published(&outputs);
    let second: Vec<_> = members.iter().filter(|(id, _, _)| *id == raft_id).collect();
    assert_eq!(second, [&(raft_id, joined, address)]);
}
