//! Networks, and places in them: what apply takes and what it refuses.

use super::tests::{NODE, OTHER, TASK, WEB, apply, control, rejection, spec, status, world};
use crate::*;
use muster_types::network::NetworkSpec;
use muster_types::overlay::{Attachment, EndpointOwner, NetworkAddresses, OverlaySubnet};
use muster_types::policy::NetworkPolicy;
use muster_types::service::{NetworkAttachment, PublishMode, PublishedPort};
use muster_types::*;
use proptest::prelude::*;
use std::net::IpAddr;
use std::sync::Arc;

fn net(number: u128) -> NetworkId {
    NetworkId::from_u128(number)
}

pub(super) fn row(number: u128, third: u8) -> ClusterNetwork {
    ClusterNetwork {
        id: net(number),
        meta: Meta::default(),
        spec: Arc::new(NetworkSpec {
            name: format!("net{number}"),
            driver: "overlay".into(),
            ..NetworkSpec::default()
        }),
        vni: 4096 + number as u32,
        subnets: vec![OverlaySubnet {
            subnet: format!("10.0.{third}.0/29").parse().unwrap(),
            gateway: IpAddr::from([10, 0, third, 1]),
            range: None,
            reserved: Vec::new(),
        }],
        removing: false,
        policy: None,
    }
}

fn network(number: u128) -> Change {
    Change::NetworkCreate(Box::new(row(number, number as u8)))
}

pub(super) fn places(number: u128, last: u8) -> Vec<NetworkAddresses> {
    vec![NetworkAddresses {
        network: net(number),
        addresses: vec![IpAddr::from([10, 0, number as u8, last])],
    }]
}

fn attach(id: u128, node: NodeId, number: u128, last: u8) -> Change {
    Change::AttachmentCreate(Box::new(Attachment {
        id: AttachmentId::from_u128(id),
        meta: Meta::default(),
        node,
        container: ContainerId::from_bytes([id as u8; 32]),
        names: vec!["box".into()],
        place: places(number, last).remove(0),
    }))
}

fn detach(id: u128) -> Change {
    Change::AttachmentRemove {
        attachment: AttachmentId::from_u128(id),
    }
}

fn remove(number: u128) -> Change {
    Change::NetworkRemove { network: net(number) }
}

fn give(last: u8) -> Change {
    match control(None, DesiredState::Running) {
        Change::TaskControl {
            task,
            node,
            desired,
            start_after,
            reason,
            ..
        } => Change::TaskControl {
            task,
            node,
            desired,
            start_after,
            reason,
            addresses: places(1, last),
        },
        other => other,
    }
}

fn vips(places: Vec<NetworkAddresses>) -> Change {
    Change::ServiceControl {
        service: WEB,
        update: None,
        allocated_ports: Vec::new(),
        vips: places,
    }
}

/// The world of the other tests with network 1, 10.0.1.0/29.
pub(super) fn networked() -> ClusterState {
    let mut state = world();
    assert_eq!(apply(&mut state, vec![network(1)]), Outcome::Applied);
    state
}

#[test]
fn a_networks_rules_come_with_the_level_of_policies_and_are_kept() {
    let mut state = networked();
    let policy = NetworkPolicy::read("deny", ["web -> db"]).unwrap();
    let set = |number, policy: Option<&NetworkPolicy>| Change::NetworkPolicy {
        network: net(number),
        policy: policy.map(|policy| Arc::new(policy.clone())),
    };
    let missing = rejection(&mut state, set(9, None));
    assert_eq!(
        missing,
        Rejection::NotFound {
            object: ObjectKey::Network(net(9))
        }
    );
    let bytes = state.snapshot().unwrap();
    assert!(
        !bytes.windows(6).any(|part| part == b"policy"),
        "as versions without policies write it"
    );
    assert_eq!(apply(&mut state, vec![set(1, Some(&policy))]), Outcome::Applied);
    let restored = ClusterState::restore(&state.snapshot().unwrap()).unwrap();
    assert_eq!(restored.network(net(1)).unwrap().policy.as_deref(), Some(&policy));
    let level = |change| {
        let changeset = Changeset::new(Reason::UserRequest, vec![change]);
        Entry::new(Timestamp::ZERO, changeset).feature_level
    };
    let with_policy = ClusterNetwork {
        policy: Some(Arc::new(policy)),
        ..row(2, 2)
    };
    assert_eq!(level(set(1, None)), LEVEL_OF_POLICIES);
    assert_eq!(
        level(Change::NetworkCreate(Box::new(with_policy))),
        LEVEL_OF_POLICIES
    );
    assert_eq!(level(network(2)), LEVEL_OF_NETWORKS);
}

#[test]
fn nothing_of_two_networks_is_the_same() {
    let mut state = networked();
    let same_name = ClusterNetwork {
        id: net(2),
        ..row(1, 2)
    };
    let refused = rejection(&mut state, Change::NetworkCreate(Box::new(same_name)));
    assert_eq!(refused.to_string(), "network with name net1 already exists");
    let mut same_tunnel = row(2, 2);
    same_tunnel.vni = row(1, 1).vni;
    let refused = rejection(&mut state, Change::NetworkCreate(Box::new(same_tunnel)));
    assert_eq!(refused, Rejection::NetworkOverlap { network: net(1) });
    for overlapping in ["10.0.0.0/16", "10.0.1.0/30", "10.0.1.4/30", "10.0.1.0/29"] {
        let mut other = row(2, 2);
        other.subnets[0].subnet = overlapping.parse().unwrap();
        let refused = rejection(&mut state, Change::NetworkCreate(Box::new(other)));
        assert_eq!(
            refused,
            Rejection::NetworkOverlap { network: net(1) },
            "{overlapping}"
        );
    }
    assert_eq!(apply(&mut state, vec![network(2)]), Outcome::Applied);
}

#[test]
fn one_network_carries_published_ports() {
    let mut state = networked();
    let ingress = |number: u128| {
        let mut row = row(number, number as u8);
        Arc::make_mut(&mut row.spec).ingress = true;
        Change::NetworkCreate(Box::new(row))
    };
    assert_eq!(apply(&mut state, vec![ingress(2)]), Outcome::Applied);
    let refused = rejection(&mut state, ingress(3));
    assert_eq!(refused, Rejection::SecondIngress { network: net(2) });
    let node = Change::NodeAddresses {
        node: NODE,
        addresses: places(2, 2),
    };
    assert_eq!(apply(&mut state, vec![node]), Outcome::Applied);
    let mut published = spec("published");
    published.ports = vec![PublishedPort {
        name: String::new(),
        protocol: Default::default(),
        target_port: 80,
        published_port: 8080,
        mode: PublishMode::Ingress,
    }];
    let create = Change::ServiceCreate {
        service: ServiceId::from_u128(20),
        spec: Arc::new(published),
    };
    assert_eq!(apply(&mut state, vec![create]), Outcome::Applied);
    assert!(matches!(
        rejection(&mut state, remove(2)),
        Rejection::NetworkInUse { .. }
    ));
    let removing = Change::ServiceRemove {
        service: ServiceId::from_u128(20),
    };
    assert_eq!(apply(&mut state, vec![removing, remove(2)]), Outcome::Applied);
    assert_eq!(state.network(net(2)), None);
    assert_eq!(state.node(NODE).unwrap().addresses, Vec::new());
}

#[test]
fn an_address_has_one_holder_until_its_task_is_seen_to_stop() {
    let mut state = networked();
    assert_eq!(apply(&mut state, vec![give(2)]), Outcome::Applied);
    let in_use = |address: [u8; 4]| Rejection::AddressNotFree {
        network: net(1),
        address: address.into(),
    };
    for (last, what) in [
        (2, "a task's"),
        (1, "the gateway"),
        (0, "the subnet"),
        (7, "everybody"),
    ] {
        let refused = rejection(&mut state, attach(1, NODE, 1, last));
        assert_eq!(refused, in_use([10, 0, 1, last]), "{what}");
    }
    let outside = rejection(&mut state, attach(1, NODE, 1, 8));
    assert_eq!(outside, in_use([10, 0, 1, 8]));
    assert_eq!(rejection(&mut state, vips(places(1, 2))), in_use([10, 0, 1, 2]));
    assert_eq!(apply(&mut state, vec![vips(places(1, 3))]), Outcome::Applied);
    assert_eq!(
        rejection(&mut state, attach(1, NODE, 1, 3)),
        in_use([10, 0, 1, 3])
    );
    let failed = status(Reporter::Agent(NODE), 0, TaskState::Failed);
    assert_eq!(apply(&mut state, vec![failed]), Outcome::Applied);
    assert_eq!(apply(&mut state, vec![attach(1, NODE, 1, 2)]), Outcome::Applied);

    // The node ran the task again before it heard that it shall not.
    let again = status(Reporter::Agent(NODE), 1, TaskState::Running);
    assert_eq!(apply(&mut state, vec![again]), Outcome::Applied);
    assert_eq!(state.task(TASK).unwrap().addresses, Vec::new());
}

#[test]
fn a_task_serves_while_it_runs_and_shall() {
    let mut state = networked();
    assert_eq!(apply(&mut state, vec![give(2)]), Outcome::Applied);
    let serving = |state: &ClusterState| state.serving_on(net(1), WEB).count();
    assert_eq!(serving(&state), 0);
    assert_eq!(
        state.endpoints_of(net(1)).collect::<Vec<_>>(),
        [EndpointOwner::Task(TASK)]
    );
    let entry = |changes| Entry::new(Timestamp::ZERO, Changeset::new(Reason::UserRequest, changes));
    let running = entry(vec![status(Reporter::Agent(NODE), 0, TaskState::Running)]);
    let touched = state.apply(state.index() + 1, &running).touched;
    assert_eq!(serving(&state), 1);
    assert_eq!(touched.network_services, [(net(1), WEB)].into());
    assert_eq!(touched.endpoints, Default::default());
    let stop = entry(vec![control(None, DesiredState::Shutdown)]);
    let touched = state.apply(state.index() + 1, &stop).touched;
    assert_eq!(serving(&state), 0);
    assert_eq!(touched.network_services, [(net(1), WEB)].into());
    let stopped = entry(vec![status(Reporter::Agent(NODE), 0, TaskState::Shutdown)]);
    let touched = state.apply(state.index() + 1, &stopped).touched;
    assert_eq!(touched.endpoints, [(net(1), EndpointOwner::Task(TASK))].into());
    assert!(touched.loads, "a waiting task may have the address");
}

#[test]
fn a_service_that_moves_to_another_network_frees_its_address() {
    let mut state = networked();
    assert_eq!(
        apply(&mut state, vec![network(2), vips(places(1, 2))]),
        Outcome::Applied
    );
    let entry = |places| {
        Entry::new(
            Timestamp::ZERO,
            Changeset::new(Reason::UserRequest, vec![vips(places)]),
        )
    };
    let moved = state.apply(state.index() + 1, &entry(places(2, 2)));
    assert_eq!(moved.outcome, Outcome::Applied);
    assert!(moved.touched.loads, "a waiting task may have the address");
    let again = state.apply(state.index() + 1, &entry(places(2, 2)));
    assert!(!again.touched.loads);
}

#[test]
fn a_network_in_use_stays_and_a_removed_one_goes_with_its_last_place() {
    let mut state = networked();
    let mut named = spec("named");
    named.template.networks = vec![NetworkAttachment {
        target: net(1).to_string(),
        ..NetworkAttachment::default()
    }];
    let id = ServiceId::from_u128(20);
    let create = Change::ServiceCreate {
        service: id,
        spec: Arc::new(named.clone()),
    };
    assert_eq!(apply(&mut state, vec![create.clone(), give(2)]), Outcome::Applied);
    assert_eq!(
        rejection(&mut state, remove(1)).to_string(),
        format!("network {} is in use by service {id}", net(1))
    );
    let gone = vec![Change::ServiceRemove { service: id }];
    assert_eq!(apply(&mut state, gone), Outcome::Applied);
    assert_eq!(
        rejection(&mut state, remove(1)).to_string(),
        format!("network {} is in use by task {TASK}", net(1))
    );
    let stop = control(None, DesiredState::Shutdown);
    assert_eq!(apply(&mut state, vec![stop, remove(1)]), Outcome::Applied);
    assert!(state.network(net(1)).unwrap().removing);
    assert_eq!(state.network_by_name("net1"), None);
    assert!(matches!(
        rejection(&mut state, create),
        Rejection::Removing { .. }
    ));
    assert!(matches!(
        rejection(&mut state, attach(1, NODE, 1, 3)),
        Rejection::Removing { .. }
    ));
    let stopped = status(Reporter::Agent(NODE), 0, TaskState::Shutdown);
    assert_eq!(apply(&mut state, vec![stopped]), Outcome::Applied);
    assert_eq!(state.network(net(1)), None);
}

#[test]
fn a_removed_node_leaves_no_lease_behind() {
    let mut state = networked();
    let leases = vec![
        attach(1, OTHER, 1, 2),
        attach(2, OTHER, 1, 3),
        attach(3, NODE, 1, 4),
    ];
    assert_eq!(apply(&mut state, leases), Outcome::Applied);
    assert_eq!(
        apply(&mut state, vec![Change::NodeRemove { node: OTHER }]),
        Outcome::Applied
    );
    let left: Vec<AttachmentId> = state.attachments().map(|row| row.id).collect();
    assert_eq!(left, [AttachmentId::from_u128(3)]);
    assert_eq!(apply(&mut state, vec![attach(1, NODE, 1, 2)]), Outcome::Applied);
}

/// Any change of networks, over few ids and addresses.
pub(super) fn change() -> impl Strategy<Value = Change> {
    let node = || (1u128..4).prop_map(NodeId::from_u128);
    prop_oneof![
        (1u128..4, 1u8..4).prop_map(|(id, third)| Change::NetworkCreate(Box::new(row(id, third)))),
        (1u128..4).prop_map(remove),
        (1u128..4, node(), 1u128..4, 1u8..6)
            .prop_map(|(id, node, network, last)| attach(id, node, network, last)),
        (1u128..4).prop_map(detach),
        (node(), 1u128..4, 1u8..6).prop_map(|(node, network, last)| Change::NodeAddresses {
            node,
            addresses: places(network, last),
        }),
        (1u128..4, prop::option::of((1u128..4, 1u8..6))).prop_map(|(service, vip)| Change::ServiceControl {
            service: ServiceId::from_u128(service),
            update: None,
            allocated_ports: Vec::new(),
            vips: vip
                .map(|(network, last)| places(network, last))
                .unwrap_or_default(),
        }),
        (1u128..8, 1u128..4, 1u8..6).prop_map(|(task, network, last)| Change::TaskControl {
            task: TaskId::from_u128(task),
            node: None,
            desired: DesiredState::Running,
            start_after: None,
            reason: Reason::UserRequest,
            addresses: places(network, last),
        }),
        (1u128..4, 1u128..4).prop_map(|(id, network)| {
            let mut spec = spec("networked");
            spec.template.networks = vec![NetworkAttachment {
                target: net(network).to_string(),
                ..NetworkAttachment::default()
            }];
            Change::ServiceCreate {
                service: ServiceId::from_u128(id),
                spec: Arc::new(spec),
            }
        }),
    ]
}
