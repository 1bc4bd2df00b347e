//! What nodes are told of networks, and what they may hold in them.

use super::tests::{Single, WORKER, assigned, report, service, session, status, updates, write};
use super::*;
use crate::control::{ControlReply, RefusalKind};
use crate::sample;
use muster_types::network::NetworkSpec;
use muster_types::overlay::{AssignedNetwork, EndpointOwner, NetworkUpdate};
use muster_types::policy::NetworkPolicy;
use muster_types::service::{NetworkAttachment, Protocol, PublishMode, PublishedPort};
use muster_types::{
    AssignmentUpdate, AttachmentId, ContainerId, NetworkId, ServiceId, ServiceSpec, TaskState,
};
use std::collections::BTreeMap;

fn make_network(single: &mut Single, number: u128, change: impl FnOnce(&mut NetworkSpec)) -> NetworkId {
    let mut spec = NetworkSpec {
        name: format!("net{number}"),
        driver: "overlay".to_owned(),
        attachable: true,
        ..NetworkSpec::default()
    };
    change(&mut spec);
    let spec = Box::new(spec);
    match write(single, number, ControlRequest::CreateNetwork { spec }) {
        Ok(ControlReply::NetworkCreated { id }) => id,
        other => panic!("{other:?}"),
    }
}

fn on_network(network: NetworkId, replicas: u64) -> Box<ServiceSpec> {
    let mut spec = service(replicas);
    spec.template.networks = vec![NetworkAttachment {
        target: network.to_string(),
        aliases: vec!["www".to_owned()],
        ..NetworkAttachment::default()
    }];
    spec
}

fn container(number: u8) -> ContainerId {
    ContainerId::from_bytes([number; 32])
}

fn attach(node: NodeId, number: u8, network: NetworkId) -> ControlRequest {
    ControlRequest::Attach {
        node,
        container: container(number),
        network,
        names: vec![format!("c{number}")],
        addresses: Vec::new(),
    }
}

fn held(single: &Single, node: NodeId) -> Vec<(ContainerId, NetworkId)> {
    let rows = single.controller.state().attachments_of_node(node);
    rows.map(|row| (row.container.clone(), row.place.network))
        .collect()
}

/// The networks that a node has after it took in these updates, begun anew by each whole set.
#[derive(Default)]
struct Told(BTreeMap<NetworkId, AssignedNetwork>);

impl Told {
    fn hear(&mut self, updates: &[AssignmentUpdate]) {
        for update in updates {
            if update.from.is_none() {
                self.0.clear();
            }
            for gone in &update.networks_gone {
                assert!(self.0.remove(gone).is_some(), "the node never had {gone}");
            }
            for update in &update.networks {
                self.hear_of(update);
            }
        }
    }

    fn hear_of(&mut self, update: &NetworkUpdate) {
        if let Some(network) = self.0.get_mut(&update.id) {
            return network.update(update);
        }
        let begun =
            AssignedNetwork::begin(update).expect("a network that is new to the node comes with its facts");
        self.0.insert(update.id, begun);
    }

    /// What was sent in pieces is what would be sent as a whole now.
    fn is_current(&self, single: &Single) {
        let whole = dispatch::assignment_set(single.controller.state(), WORKER).networks;
        let told: Vec<&AssignedNetwork> = self.0.values().collect();
        assert_eq!(told, whole.iter().collect::<Vec<_>>());
    }
}

#[test]
fn what_a_node_is_sent_of_networks_in_pieces_is_what_it_would_be_sent_as_a_whole() {
    let mut single = Single::leading();
    let mut told = Told::default();
    make_network(&mut single, 70, |spec| {
        (spec.ingress, spec.attachable) = (true, false);
    });
    let network = make_network(&mut single, 71, |_| {});
    told.hear(&updates(&single.open_session(session(1))));
    told.is_current(&single);
    assert_eq!(told.0.len(), 1, "the ingress network is on every node");

    let spec = on_network(network, 3);
    let sent = assigned(&mut single, 72, ControlRequest::CreateService { spec });
    let tasks: Vec<_> = sent.iter().flat_map(|update| &update.tasks).cloned().collect();
    told.hear(&sent);
    told.is_current(&single);
    let row = &told.0[&network];
    assert_eq!((row.endpoints.len(), row.services.len()), (3, 1));
    assert_eq!(row.services[0].aliases, ["www"]);
    assert!(row.services[0].endpoints.is_empty(), "nothing runs yet");

    for task in &tasks {
        for state in [TaskState::Starting, TaskState::Running] {
            let sent = report(&mut single, session(1), task.id, status(state, ""));
            told.hear(&updates(&sent));
        }
    }
    told.is_current(&single);
    assert_eq!(told.0[&network].services[0].endpoints.len(), 3);

    told.hear(&assigned(&mut single, 73, attach(sample::node(1), 1, network)));
    told.is_current(&single);
    let owners = told.0[&network].endpoints.iter().map(|endpoint| endpoint.owner);
    let elsewhere = owners.filter(|owner| matches!(owner, EndpointOwner::Attachment(_)));
    assert_eq!(elsewhere.count(), 1, "the node hears of places on other nodes");

    let gone = report(
        &mut single,
        session(1),
        tasks[0].id,
        status(TaskState::Failed, ""),
    );
    told.hear(&updates(&gone));
    told.is_current(&single);
    let removal = ControlRequest::RemoveService {
        id: ServiceId::from_u128(72),
    };
    told.hear(&assigned(&mut single, 74, removal));
    for task in single
        .controller
        .state()
        .tasks_of_node(WORKER)
        .map(|task| task.id)
        .collect::<Vec<_>>()
    {
        let sent = report(&mut single, session(1), task, status(TaskState::Shutdown, ""));
        told.hear(&updates(&sent));
    }
    told.is_current(&single);
    assert_eq!(told.0.len(), 1, "the node has no part in the network any more");
}

#[test]
fn the_rules_of_a_network_reach_its_nodes_with_the_services_of_tasks() {
    let mut single = Single::leading();
    let mut told = Told::default();
    let network = make_network(&mut single, 71, |_| {});
    told.hear(&updates(&single.open_session(session(1))));
    let spec = on_network(network, 1);
    told.hear(&assigned(&mut single, 72, ControlRequest::CreateService { spec }));
    let service = ServiceId::from_u128(72);
    assert_eq!(told.0[&network].endpoints[0].service, Some(service));
    let set = |rules: &[&str]| ControlRequest::SetNetworkPolicy {
        id: network,
        policy: NetworkPolicy::read("", rules.iter().copied()).unwrap(),
    };
    told.hear(&assigned(&mut single, 73, set(&["web -> db:5432"])));
    told.is_current(&single);
    let rules = told.0[&network]
        .facts
        .policy
        .as_ref()
        .map(|policy| policy.rules.len());
    assert_eq!(rules, Some(1));
    told.hear(&assigned(&mut single, 74, set(&[])));
    told.is_current(&single);
    assert_eq!(
        told.0[&network].facts.policy, None,
        "no rules are as if there never were any"
    );

    let older = muster_types::NodeDescription {
        feature_level: muster_state::LEVEL_OF_POLICIES - 1,
        ..muster_types::NodeDescription::default()
    };
    let mut state = single.controller.state().clone();
    let tells = muster_state::Change::NodeDescription {
        node: WORKER,
        description: std::sync::Arc::new(older),
    };
    sample::applied(&mut state, vec![tells]);
    let policy = NetworkPolicy::read("deny", []).unwrap();
    let refused = network_requests::set_policy(&state, network, &policy).unwrap_err();
    assert!(refused.to_string().contains("update them first"), "{refused}");
}

#[test]
fn the_way_of_a_connection_is_told_as_far_as_it_goes() {
    let mut single = Single::leading();
    let network = make_network(&mut single, 71, |_| {});
    let apart = make_network(&mut single, 72, |_| {});
    single.open_session(session(1));
    let mut tasks = Vec::new();
    for (number, name, on) in [(81, "web", network), (82, "db", network), (83, "far", apart)] {
        let mut spec = on_network(on, 1);
        spec.name = name.to_owned();
        let sent = assigned(&mut single, number, ControlRequest::CreateService { spec });
        tasks.extend(sent.iter().flat_map(|update| &update.tasks).map(|task| task.id));
    }
    let steps = |single: &Single, from: u128, to: u128, port| {
        let state = single.controller.state();
        let service = |number| state.service(ServiceId::from_u128(number)).unwrap();
        let steps = trace::trace(state, service(from), service(to), Some((Protocol::Tcp, port)));
        let steps: Vec<_> = steps.into_iter().map(|step| (step.step, step.passes)).collect();
        steps
    };
    assert_eq!(steps(&single, 81, 83, 80), [("network", false)]);
    let begins = [("network", true), ("name", true), ("policy", true)];
    let ends = |single: &Single, from, port| steps(single, from, 82, port)[2..].to_vec();
    assert_eq!(steps(&single, 81, 82, 80)[..3], begins);
    assert_eq!(
        ends(&single, 81, 80)[1..],
        [("endpoint", false)],
        "nothing runs yet"
    );
    for task in tasks {
        for state in [TaskState::Starting, TaskState::Running] {
            report(&mut single, session(1), task, status(state, ""));
        }
    }
    assert_eq!(ends(&single, 81, 80)[1..], [("endpoint", true), ("way", true)]);
    let policy = NetworkPolicy::read("", ["web -> db:80"]).unwrap();
    write(
        &mut single,
        91,
        ControlRequest::SetNetworkPolicy { id: network, policy },
    )
    .unwrap();
    assert_eq!(ends(&single, 81, 80)[0], ("policy", true));
    assert_eq!(ends(&single, 81, 81)[0], ("policy", false));
}

#[test]
fn a_network_that_becomes_the_ingress_network_reaches_every_node() {
    let mut single = Single::leading();
    let mut told = Told::default();
    told.hear(&updates(&single.open_session(session(1))));
    let mut spec = NetworkSpec {
        name: "ingress".to_owned(),
        driver: "overlay".to_owned(),
        ingress: true,
        ..NetworkSpec::default()
    };
    let request = |spec: &NetworkSpec| ControlRequest::CreateNetwork {
        spec: Box::new(spec.clone()),
    };
    told.hear(&assigned(&mut single, 70, request(&spec)));
    told.is_current(&single);
    assert_eq!(told.0.len(), 1);
    spec.name = "another".to_owned();
    let second = write(&mut single, 71, request(&spec)).unwrap_err();
    assert!(
        matches!(
            second,
            ControlError::Refused {
                kind: RefusalKind::Conflict,
                ..
            }
        ),
        "{second:?}"
    );
    let id = NetworkId::from_u128(70);
    told.hear(&assigned(&mut single, 72, ControlRequest::RemoveNetwork { id }));
    told.is_current(&single);
    assert!(told.0.is_empty());
}

#[test]
fn a_container_keeps_its_addresses_when_its_node_asks_again() {
    let mut single = Single::leading();
    let network = make_network(&mut single, 70, |_| {});
    let first = write(&mut single, 71, attach(WORKER, 1, network)).unwrap();
    assert!(matches!(first, ControlReply::Attached { .. }), "{first:?}");
    let again = write(&mut single, 72, attach(WORKER, 1, network)).unwrap();
    assert_eq!(again, first);
    assert_eq!(held(&single, WORKER).len(), 1);
    let release = |place: u128| ControlRequest::Release {
        node: WORKER,
        attachments: vec![AttachmentId::from_u128(place)],
    };
    assert_eq!(write(&mut single, 73, release(71)).unwrap(), ControlReply::Done);
    assert_eq!(
        held(&single, WORKER).len(),
        1,
        "a late release frees no newer place"
    );
    assert_eq!(write(&mut single, 74, release(72)).unwrap(), ControlReply::Done);
    assert_eq!(held(&single, WORKER), []);
    let before = single.controller.state().index();
    assert_eq!(write(&mut single, 75, release(72)).unwrap(), ControlReply::Done);
    assert_eq!(
        single.controller.state().index(),
        before,
        "and nothing is written for nothing"
    );
}

#[test]
fn a_container_that_asks_while_its_place_is_given_back_or_given_gets_one() {
    let mut single = Single::leading();
    let network = make_network(&mut single, 70, |_| {});
    write(&mut single, 71, attach(WORKER, 1, network)).unwrap();
    let release = |place: u128| ControlRequest::Release {
        node: WORKER,
        attachments: vec![AttachmentId::from_u128(place)],
    };
    let meanwhile = [
        // It starts again before the place that it left is free.
        [(72, release(71)), (73, attach(WORKER, 1, network))],
        // The place that it left is given back once it has another one.
        [(74, attach(WORKER, 1, network)), (75, release(73))],
        // It asks again, because it did not hear what became of its first request.
        [(76, attach(WORKER, 2, network)), (77, attach(WORKER, 2, network))],
    ];
    for requests in meanwhile {
        let outputs = single.inputs(requests.map(|(number, request)| Input::Write {
            token: number,
            id: RequestId::from_u128(number.into()),
            request,
        }));
        let replies = outputs.iter().filter_map(|output| match output {
            Output::Reply { result, .. } => Some(result),
            _ => None,
        });
        let replies: Vec<_> = replies.collect();
        assert!(
            replies.len() == 2 && replies.iter().all(|reply| reply.is_ok()),
            "{replies:?}"
        );
    }
    let ids: Vec<_> = single
        .controller
        .state()
        .attachments_of_node(WORKER)
        .map(|row| row.id)
        .collect();
    assert_eq!(ids, [74, 77].map(AttachmentId::from_u128));
}

#[test]
fn a_container_that_asks_for_another_address_gets_it_in_place_of_the_one_that_it_had() {
    let mut single = Single::leading();
    let network = make_network(&mut single, 70, |_| {});
    write(&mut single, 71, attach(WORKER, 1, network)).unwrap();
    let used = single.controller.state().used_addresses(network).count();
    let mut other = attach(WORKER, 1, network);
    let wanted: std::net::IpAddr = [10, 0, 0, 77].into();
    if let ControlRequest::Attach { addresses, .. } = &mut other {
        addresses.push(wanted);
    }
    let moved = write(&mut single, 72, other).unwrap();
    assert!(
        matches!(&moved, ControlReply::Attached { place } if place.addresses == [wanted]),
        "{moved:?}"
    );
    assert_eq!(single.controller.state().used_addresses(network).count(), used);
}

#[test]
fn a_node_gives_back_its_own_places_only() {
    let mut single = Single::leading();
    let network = make_network(&mut single, 70, |_| {});
    let other = sample::node(1);
    write(&mut single, 71, attach(WORKER, 1, network)).unwrap();
    write(&mut single, 72, attach(other, 2, network)).unwrap();
    let release = ControlRequest::Release {
        node: WORKER,
        attachments: vec![AttachmentId::from_u128(71), AttachmentId::from_u128(72)],
    };
    write(&mut single, 73, release).unwrap();
    assert_eq!((held(&single, WORKER).len(), held(&single, other).len()), (0, 1));
}

#[test]
fn a_node_finds_a_network_by_name_and_by_id() {
    let mut single = Single::leading();
    let network = make_network(&mut single, 70, |_| {});
    let find = |reference: String| ControlRequest::FindNetwork {
        node: WORKER,
        reference,
    };
    for reference in ["net70".to_owned(), network.to_string()] {
        let found = write(&mut single, 71, find(reference)).unwrap();
        assert!(
            matches!(&found, ControlReply::NetworkFound { facts } if facts.id == network && facts.attachable),
            "{found:?}"
        );
    }
    let none = write(&mut single, 72, find("nope".to_owned())).unwrap_err();
    assert_eq!(none.to_string(), "network nope not found");
}

#[test]
fn a_node_that_is_removed_leaves_no_place_behind() {
    let mut single = Single::leading();
    let network = make_network(&mut single, 70, |_| {});
    write(&mut single, 71, attach(WORKER, 1, network)).unwrap();
    let used = single.controller.state().used_addresses(network).count();
    let removal = ControlRequest::RemoveNode {
        id: WORKER,
        force: true,
    };
    write(&mut single, 72, removal).unwrap();
    assert_eq!(single.controller.state().attachments().count(), 0);
    assert_eq!(
        single.controller.state().used_addresses(network).count(),
        used - 1
    );
}

#[test]
fn a_network_in_use_stays_and_says_by_whom() {
    let mut single = Single::leading();
    let network = make_network(&mut single, 70, |_| {});
    write(&mut single, 71, attach(WORKER, 1, network)).unwrap();
    let removal = || ControlRequest::RemoveNetwork { id: network };
    let refused = write(&mut single, 72, removal()).unwrap_err();
    assert!(refused.to_string().contains(container(1).as_str()), "{refused}");
    let release = ControlRequest::Release {
        node: WORKER,
        attachments: vec![AttachmentId::from_u128(71)],
    };
    write(&mut single, 73, release).unwrap();
    write(&mut single, 74, removal()).unwrap();
    assert!(single.controller.state().network(network).is_none());
    let gone = write(&mut single, 75, removal()).unwrap_err();
    assert!(
        matches!(
            gone,
            ControlError::Refused {
                kind: RefusalKind::NotFound,
                ..
            }
        ),
        "{gone:?}"
    );
}

#[test]
fn a_port_is_published_on_every_node_only_with_an_ingress_network() {
    let mut single = Single::leading();
    let mut spec = service(1);
    spec.ports = vec![PublishedPort {
        target_port: 80,
        published_port: 8080,
        protocol: Protocol::Tcp,
        mode: PublishMode::Ingress,
        name: String::new(),
    }];
    let create = |spec: &ServiceSpec| ControlRequest::CreateService {
        spec: Box::new(spec.clone()),
    };
    let refused = write(&mut single, 70, create(&spec)).unwrap_err();
    assert!(refused.to_string().contains("no ingress network"), "{refused}");
    let ingress = make_network(&mut single, 71, |spec| {
        (spec.ingress, spec.attachable) = (true, false);
    });
    write(&mut single, 72, create(&spec)).unwrap();
    let row = single
        .controller
        .state()
        .service(ServiceId::from_u128(72))
        .unwrap();
    assert!(row.vips.iter().any(|vip| vip.network == ingress), "{row:?}");
}
