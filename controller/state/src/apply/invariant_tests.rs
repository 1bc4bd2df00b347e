//! Every checker of an invariant can fail: a state, or a step, that breaks it and that apply would refuse to make.

use super::network_tests::{networked, places, row};
use super::tests::{NODE, OTHER, TASK, WEB, world};
use crate::invariants::{OF_STATE, OF_STEP, Violation, equal_index_means_equal_state};
use crate::*;
use muster_types::overlay::Attachment;
use muster_types::service::{NetworkAttachment, Protocol, PublishMode, PublishedPort};
use muster_types::*;
use std::collections::BTreeSet;
use std::sync::Arc;

const SLOT: &str = "at most one task per slot is desired running outside start-first";
const PORT: &str = "no port is given out twice";
const GIVEN_TWICE: &str = "no address, tunnel identifier or subnet is given out twice";
const REFERENCE: &str = "every reference leads somewhere";
const INDEXES: &str = "indexes equal the tables";
const BACK: &str = "(attempt, state) of a task never moves back";
const CHANGES_NODE: &str = "a task never changes node";
const DESIRED: &str = "desired state only moves forward";
const RECORD: &str = "a task record goes only after its task stopped";
const CAPACITY: &str = "reservations never exceed capacity";
const COMPLETION: &str = "a job slot completes exactly once as far as the cluster can know";
const TIME: &str = "index and cluster time never go back";

/// The version of the revision that is a job.
const JOB: u64 = 8;

/// The invariant, and what breaks it in the world of the other tests with network 1.
type Case = (&'static str, fn(&mut ClusterState));

fn task(state: &ClusterState) -> Task {
    state.task(TASK).unwrap().as_ref().clone()
}

/// Changes the task in place.
fn with_task(state: &mut ClusterState, change: impl FnOnce(&mut Task)) {
    let mut task = task(state);
    change(&mut task);
    state.put_task(task);
}

/// A copy of the task under another id.
fn another(state: &mut ClusterState, id: u128, change: impl FnOnce(&mut Task)) {
    let mut task = task(state);
    task.id = TaskId::from_u128(id);
    change(&mut task);
    state.put_task(task);
}

fn with_service(state: &mut ClusterState, change: impl FnOnce(&mut Service)) {
    let mut service = state.service(WEB).unwrap().as_ref().clone();
    change(&mut service);
    state.put_service(service);
}

fn with_node(state: &mut ClusterState, change: impl FnOnce(&mut Node)) {
    let mut node = state.node(NODE).unwrap().as_ref().clone();
    change(&mut node);
    state.put_node(node);
}

fn port(mode: PublishMode) -> PublishedPort {
    PublishedPort {
        name: String::new(),
        protocol: Protocol::default(),
        target_port: 80,
        published_port: 8080,
        mode,
    }
}

/// A revision of the service with this reservation and this port.
fn revision(state: &mut ClusterState, version: u64, memory_bytes: u64, ports: Vec<PublishedPort>) {
    let old = state.template(WEB, 2).unwrap().as_ref().clone();
    let mut template = old.template.as_ref().clone();
    template.reservations.memory_bytes = memory_bytes;
    let template = Arc::new(template);
    let revision = Arc::new(TemplateRevision {
        template,
        ports,
        iteration: (version == JOB).then_some(0),
    });
    state.templates.insert((WEB, version), revision);
}

fn in_job(task: &mut Task) {
    (task.template_version, task.slot) = (JOB, Slot::Replica(3));
}

/// A revision that is a job, of which a slot completed.
fn with_completed_job(state: &mut ClusterState) {
    revision(state, JOB, 1, Vec::new());
    another(state, 102, |task| {
        in_job(task);
        (task.desired, task.status.state) = (DesiredState::Shutdown, TaskState::Complete);
    });
}

const STATES: &[Case] = &[
    (SLOT, |state| {
        another(state, 101, |_| {});
        another(state, 102, |_| {});
    }),
    (PORT, |state| {
        with_service(state, |service| {
            service.allocated_ports = vec![port(PublishMode::Ingress)]
        });
        with_service(state, |service| {
            service.id = ServiceId::from_u128(11);
            service.allocated_ports = vec![port(PublishMode::Ingress)];
            Arc::make_mut(&mut service.spec).name = "other".to_owned();
        });
    }),
    (PORT, |state| {
        revision(state, 9, 1, vec![port(PublishMode::Host)]);
        for number in [101, 102] {
            another(state, number, |task| {
                (task.template_version, task.slot) = (9, Slot::Replica(number as u64));
            });
        }
    }),
    (GIVEN_TWICE, |state| {
        with_node(state, |node| node.addresses = places(1, 3));
        with_task(state, |task| task.addresses = places(1, 3));
    }),
    (GIVEN_TWICE, |state| {
        // The network's own address is nobody's.
        with_task(state, |task| task.addresses = places(1, 0));
    }),
    (GIVEN_TWICE, |state| {
        let mut same_tunnel = row(2, 2);
        same_tunnel.vni = row(1, 1).vni;
        state.put_network(same_tunnel);
    }),
    (GIVEN_TWICE, |state| state.put_network(row(2, 1))),
    (REFERENCE, |state| {
        with_task(state, |task| task.addresses = places(7, 3))
    }),
    (REFERENCE, |state| {
        // Outside the subnet, which ends at .7.
        with_task(state, |task| task.addresses = places(1, 9));
    }),
    (REFERENCE, |state| {
        with_service(state, |service| {
            let attachment = NetworkAttachment {
                target: NetworkId::from_u128(7).to_string(),
                ..NetworkAttachment::default()
            };
            Arc::make_mut(&mut service.spec).template.networks = vec![attachment];
        });
    }),
    (REFERENCE, |state| {
        state.put_attachment(Attachment {
            id: AttachmentId::from_u128(1),
            meta: Meta::default(),
            node: NodeId::from_u128(99),
            container: ContainerId::from_bytes([1; 32]),
            names: Vec::new(),
            place: places(1, 3).remove(0),
        });
    }),
    (REFERENCE, |state| {
        another(state, 101, |task| task.service = ServiceId::from_u128(11));
    }),
    (REFERENCE, |state| {
        another(state, 101, |task| {
            (task.template_version, task.slot) = (9, Slot::Replica(2));
        });
    }),
    (INDEXES, |state| {
        state.indexes.service_by_name.remove("web");
    }),
];

const STEPS: &[Case] = &[
    (SLOT, |state| another(state, 101, |_| {})),
    (BACK, |state| {
        with_task(state, |task| task.status.state = TaskState::New)
    }),
    (CHANGES_NODE, |state| {
        with_task(state, |task| task.node = Some(OTHER))
    }),
    (CHANGES_NODE, |state| with_task(state, |task| task.node = None)),
    (DESIRED, |state| {
        with_task(state, |task| task.desired = DesiredState::Ready)
    }),
    (RECORD, |state| state.take_task(TASK)),
    (CAPACITY, |state| {
        revision(state, 9, 901, Vec::new());
        another(state, 101, |task| {
            (task.template_version, task.slot) = (9, Slot::Replica(2));
        });
    }),
    (COMPLETION, |state| another(state, 103, in_job)),
    (TIME, |state| state.index -= 1),
    (TIME, |state| state.time = Timestamp::ZERO),
];

#[track_caller]
fn assert_broken(found: &[Violation], invariant: &str, case: usize) {
    assert!(
        found.iter().any(|violation| violation.invariant == invariant),
        "case {case} breaks {invariant:?}; found {found:?}"
    );
}

#[test]
fn every_checker_of_a_state_finds_what_breaks_it() {
    let mut failed = BTreeSet::new();
    for (case, (invariant, breaks)) in STATES.iter().enumerate() {
        let mut state = networked();
        let mut found = Vec::new();
        for (number, check) in OF_STATE.iter().enumerate() {
            check(&state, &mut found);
            assert_eq!(found, [], "checker {number} complains of nothing");
        }
        breaks(&mut state);
        for (number, check) in OF_STATE.iter().enumerate() {
            let before = found.len();
            check(&state, &mut found);
            failed.extend((found.len() > before).then_some(number));
        }
        assert_broken(&found, invariant, case);
    }
    assert_eq!(
        failed.len(),
        OF_STATE.len(),
        "some checker never fails: {failed:?}"
    );
}

#[test]
fn every_checker_of_a_step_finds_what_breaks_it() {
    let mut failed = BTreeSet::new();
    for (case, (invariant, breaks)) in STEPS.iter().enumerate() {
        let mut before = networked();
        with_task(&mut before, |task| task.status.state = TaskState::Running);
        with_completed_job(&mut before);
        let mut after = before.clone();
        breaks(&mut after);
        let mut found = Vec::new();
        for (number, check) in OF_STEP.iter().enumerate() {
            check(&before, &before, &mut found);
            let calm = found.len();
            check(&before, &after, &mut found);
            failed.extend((found.len() > calm).then_some(number));
        }
        assert_broken(&found, invariant, case);
        assert!(
            found.iter().all(|violation| violation.invariant == *invariant),
            "{found:?}"
        );
    }
    assert_eq!(
        failed.len(),
        OF_STEP.len(),
        "some checker never fails: {failed:?}"
    );
}

#[test]
fn two_states_of_one_index_that_differ_are_found() {
    let (one, mut other) = (world(), world());
    assert_eq!(equal_index_means_equal_state(&one, &other), None);
    with_task(&mut other, |task| task.desired = DesiredState::Shutdown);
    assert!(equal_index_means_equal_state(&one, &other).is_some());
    other.index += 1;
    assert_eq!(equal_index_means_equal_state(&one, &other), None, "another index");
}
