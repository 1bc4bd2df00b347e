//! Networks of the cluster: services get places in them, and so do the standalone containers of the machines. Nothing
//! is given twice, and nothing is lost: at rest a node's leases are what it holds, and what it was told is what is so.

use crate::controllers::name;
use crate::planted::PlantedBug;
use crate::random::Dice;
use crate::rpc::Purpose;
use crate::wire::{Answer, Call};
use crate::world::{Event, SECOND, World};
use muster_controller::control::{ControlError, ControlReply, ControlRequest, RefusalKind};
use muster_controller::core::dispatch::assignment_set;
use muster_controller::core::network_rows::networks_of_node;
use muster_node_plan::places_to_release;
use muster_state::{Change, ClusterState};
use muster_types::network::NetworkSpec;
use muster_types::overlay::{INGRESS_VNI, NetworkAddresses, OverlaySubnet};
use muster_types::service::{EndpointMode, NetworkAttachment, Protocol, PublishMode, PublishedPort};
use muster_types::{
    AttachmentId, ClusterNetwork, ContainerId, IdSource, Meta, NetworkId, NodeId, RequestId, Service,
    ServiceSpec, Task,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// A network with room for everybody.
const WIDE: NetworkId = NetworkId::from_u128(2 << 100);
/// A network that is soon full.
const SMALL: NetworkId = NetworkId::from_u128(3 << 100);
/// A machine that hears nothing for so long does not know.
const CHORE_WITHIN_US: u64 = 5 * SECOND;
/// Containers of one machine.
const HELD_MAX: usize = 4;

/// The places that a machine's standalone containers have, as far as it knows.
pub type Held = BTreeMap<(ContainerId, NetworkId), Lease>;

/// What a machine knows of one place.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The id under which it asked for it last: whose answer it believes.
    asked: AttachmentId,
    /// The addresses that it was given.
    given: Option<NetworkAddresses>,
}

/// What a machine asked for one of its containers.
#[derive(Debug, Clone)]
pub struct Chore {
    /// The node that it was then.
    node: NodeId,
    /// The container and the network.
    place: (ContainerId, NetworkId),
    /// The id of the request.
    asked: AttachmentId,
}

/// The networks that a cluster begins with here.
pub fn first_networks() -> Vec<Change> {
    let network = |id: u128, name: &str, vni: u32, (subnet, gateway): (&str, &str)| {
        let spec = NetworkSpec {
            name: name.to_owned(),
            driver: "overlay".to_owned(),
            ingress: vni == INGRESS_VNI,
            attachable: vni != INGRESS_VNI,
            ..NetworkSpec::default()
        };
        let network = ClusterNetwork {
            id: NetworkId::from_u128(id << 100),
            meta: Meta::default(),
            spec: Arc::new(spec),
            vni,
            subnets: vec![OverlaySubnet {
                subnet: subnet.parse().expect("a subnet"),
                gateway: gateway.parse().expect("an address"),
                range: None,
                reserved: Vec::new(),
            }],
            removing: false,
            policy: None,
        };
        Change::NetworkCreate(Box::new(network))
    };
    vec![
        network(1, "ingress", INGRESS_VNI, ("10.0.0.0/24", "10.0.0.1")),
        network(2, "wide", INGRESS_VNI + 1, ("10.0.1.0/24", "10.0.1.1")),
        network(3, "small", INGRESS_VNI + 2, ("10.0.2.0/28", "10.0.2.1")),
    ]
}

/// Draws the networks and ports of a service, as far as the client knows of networks.
pub fn draw_networks(dice: &mut Dice, spec: &mut ServiceSpec, known: &ClusterState) {
    let wanted: &[NetworkId] = match dice.below(10) {
        0..4 => &[],
        4..8 => &[WIDE],
        8 => &[SMALL],
        _ => &[WIDE, SMALL],
    };
    let attachment = |network: &NetworkId| NetworkAttachment {
        target: network.to_string(),
        ..NetworkAttachment::default()
    };
    let wanted = wanted.iter().filter(|network| known.network(**network).is_some());
    spec.template.networks = wanted.map(attachment).collect();
    let port = PublishedPort {
        name: String::new(),
        protocol: Protocol::Tcp,
        target_port: 80,
        published_port: 0,
        mode: PublishMode::Ingress,
    };
    spec.ports = dice.permille(250).then_some(port).into_iter().collect();
    spec.endpoint_mode = match spec.ports.is_empty() && dice.permille(150) {
        true => EndpointMode::DnsRoundRobin,
        false => EndpointMode::Vip,
    };
}

/// Whether a network of the service has no address left.
pub fn is_starved(state: &ClusterState, service: &Service) -> bool {
    let spec = &service.spec;
    let networks = state.networks_used_by(&spec.template, &spec.ports);
    networks.into_iter().any(|network| is_full(state, network))
}

fn is_full(state: &ClusterState, network: NetworkId) -> bool {
    state
        .address_pool(network)
        .is_none_or(|mut pool| pool.take().is_err())
}

impl World {
    /// A machine does something for a standalone container.
    pub fn do_chore(&mut self) {
        if self.healing {
            return;
        }
        let pause = self.chore_dice.between(SECOND / 2, 6 * SECOND);
        self.push(pause, Event::Chore);
        let running: Vec<usize> = (0..self.machines.len())
            .filter(|machine| self.machines[*machine].agent().is_some())
            .collect();
        let Some(machine) = self.chore_dice.pick(&running).copied() else {
            return;
        };
        let held: Vec<_> = self.machines[machine].held.keys().cloned().collect();
        match self.chore_dice.below(10) {
            0..6 if held.len() < HELD_MAX => {
                let network = if self.chore_dice.permille(500) {
                    WIDE
                } else {
                    SMALL
                };
                let bytes = [0; 4].map(|_| self.chore_dice.draw().to_le_bytes()).concat();
                let id = bytes.try_into().map(ContainerId::from_bytes);
                let place = (id.expect("four numbers are 32 bytes"), network);
                self.attach(machine, place);
            }
            0..9 => {
                if let Some(place) = self.chore_dice.pick(&held).cloned() {
                    self.machines[machine].held.remove(&place);
                    self.release(machine);
                }
            }
            _ => self.release(machine),
        }
    }

    fn attach(&mut self, machine: usize, place: (ContainerId, NetworkId)) {
        let Some(node) = self.machines[machine].files.node else {
            return;
        };
        let id = self.chore_dice.next_u128();
        let asked = AttachmentId::from_u128(id);
        let lease = Lease { asked, given: None };
        let known = &mut self.machines[machine].held.entry(place.clone()).or_insert(lease);
        known.asked = asked;
        let request = ControlRequest::Attach {
            node,
            container: place.0.clone(),
            network: place.1,
            names: Vec::new(),
            addresses: Vec::new(),
        };
        let chore = Chore { node, place, asked };
        self.ask_for_own(machine, RequestId::from_u128(id), request, Some(chore));
    }

    /// Gives back what the machine was told that it holds, and does not.
    fn release(&mut self, machine: usize) {
        let found = &self.machines[machine];
        let (Some(node), Some(agent)) = (found.files.node, found.agent()) else {
            return;
        };
        let is_held = |id: AttachmentId, network: NetworkId, addresses: &[IpAddr]| {
            let same = |given: &NetworkAddresses| given.network == network && given.addresses == addresses;
            let mut leases = found.held.values();
            leases.any(|lease| lease.asked == id || lease.given.as_ref().is_some_and(same))
        };
        let attachments = places_to_release(&agent.core.assignments().networks, node, is_held);
        if attachments.is_empty() || self.planted == Some(PlantedBug::LostReturns) {
            return;
        }
        let id = RequestId::from_u128(self.chore_dice.next_u128());
        self.ask_for_own(machine, id, ControlRequest::Release { node, attachments }, None);
    }

    /// Asks one controller, and only once: whoever asks again does so with another request.
    fn ask_for_own(&mut self, machine: usize, id: RequestId, request: ControlRequest, chore: Option<Chore>) {
        let contacts = match self.leader().filter(|_| self.chore_dice.permille(700)) {
            Some(leader) => vec![leader],
            None => self.machines_with_controllers(),
        };
        if let Some(contact) = self.chore_dice.pick(&contacts).copied() {
            let call = Call::Write { id, request };
            self.call(machine, contact, call, CHORE_WITHIN_US, Purpose::Own(chore));
        }
    }

    /// A controller answered a machine about its containers, or did not.
    pub fn own_answered(&mut self, machine: usize, chore: Option<Chore>, answer: &Answer) {
        let Some(Chore { node, place, asked }) = chore else {
            return;
        };
        let found = &mut self.machines[machine];
        let Some(known) = found
            .held
            .get_mut(&place)
            .filter(|known| found.files.node == Some(node) && known.asked == asked)
        else {
            return;
        };
        match answer {
            Answer::Write(Ok(ControlReply::Attached { place: given })) => {
                let before = known.given.replace(given.clone());
                if before.as_ref().is_some_and(|before| before != given) {
                    let what = format!("{} had {before:?} and has {given:?}", name(machine));
                    self.violated("a container keeps its addresses while it is attached", what);
                }
            }
            Answer::Write(Err(ControlError::Refused { kind, .. }))
                if known.given.is_none() && *kind != RefusalKind::Internal =>
            {
                found.held.remove(&place);
            }
            _ => {}
        }
    }

    /// Every machine that has other leases than it knows of asks again.
    pub fn settle_held(&mut self, state: &ClusterState) {
        for machine in 0..self.machines.len() {
            let found = &self.machines[machine];
            let (Some(node), Some(_)) = (found.files.node, found.agent()) else {
                continue;
            };
            if leases_missing(state, node, &found.held).is_none() {
                continue;
            }
            let unknown = found.held.iter().filter(|(_, lease)| lease.given.is_none());
            let unknown: Vec<_> = unknown.map(|(place, _)| place.clone()).collect();
            self.release(machine);
            for place in unknown {
                self.attach(machine, place);
            }
        }
    }

    /// What is wrong with places in networks, once everything healed; `None` when nothing is.
    pub fn places_missing(&self, state: &ClusterState) -> Option<String> {
        if state.ingress_network().is_none() {
            return Some("there is no ingress network".to_owned());
        }
        for node in state.nodes() {
            let machine = *self.owners.get(&node.id)?;
            let found = &self.machines[machine];
            if node.addresses.is_empty() {
                return Some(format!("{} has no place in the ingress network", name(machine)));
            }
            if let Some(what) = leases_missing(state, node.id, &found.held) {
                return Some(format!("{} {what}", name(machine)));
            }
            let Some(agent) = found.agent() else { continue };
            if let Some(what) = told_otherwise(state, node.id, agent.core.assignments()) {
                return Some(format!("{} {what}", name(machine)));
            }
        }
        let late = |task: &&Arc<Task>| {
            let over = task.desired > muster_types::DesiredState::Running && !task.is_terminal();
            over && !task.addresses.is_empty()
        };
        if let Some(task) = state.tasks().find(late) {
            return Some(format!("task {} holds addresses and shall not run", task.id));
        }
        let without = state.services_without_vip();
        let mut without = without
            .filter_map(|id| state.service(id))
            .filter(|service| !is_starved(state, service));
        without
            .next()
            .map(|service| format!("service {} has no virtual address", service.spec.name))
    }
}

/// How the leases of a node differ from what it holds.
fn leases_missing(state: &ClusterState, node: NodeId, held: &Held) -> Option<String> {
    let leases: BTreeMap<_, _> = state
        .attachments_of_node(node)
        .map(|row| ((&row.container, row.place.network), Some(&row.place)))
        .collect();
    let held: BTreeMap<_, _> = held
        .iter()
        .map(|((container, network), lease)| ((container, *network), lease.given.as_ref()))
        .collect();
    (leases != held).then(|| format!("holds {held:?}, and has the leases {leases:?}"))
}

/// How the networks that an agent was told of differ from those that its node has a part in.
fn told_otherwise(state: &ClusterState, node: NodeId, told: &muster_types::AssignmentSet) -> Option<String> {
    let wanted = assignment_set(state, node).networks;
    let ids: BTreeSet<NetworkId> = told.networks.iter().map(|network| network.facts.id).collect();
    if ids != networks_of_node(state, node) {
        return Some(format!("was told of the networks {ids:?}"));
    }
    let differs = |network: &&muster_types::AssignedNetwork| !told.networks.contains(network);
    let network = wanted.iter().find(differs)?;
    Some(format!(
        "was told otherwise of network {}: {network:?}",
        network.facts.name
    ))
}
