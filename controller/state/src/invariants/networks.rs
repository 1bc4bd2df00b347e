//! Invariants of networks and of the places in them.

use super::Violation;
use crate::address_pool::never_given;
use crate::networks::{held, named_networks};
use crate::{ClusterState, ObjectKey};
use muster_types::NetworkId;
use muster_types::overlay::NetworkAddresses;
use std::collections::BTreeMap;
use std::net::IpAddr;

const GIVEN_TWICE: &str = "no address, tunnel identifier or subnet is given out twice";

pub(super) fn no_address_is_given_out_twice(state: &ClusterState, found: &mut Vec<Violation>) {
    let mut holders: BTreeMap<(NetworkId, IpAddr), String> = BTreeMap::new();
    let mut note = |network: NetworkId, address: IpAddr, holder: String| {
        if let Some(other) = holders.insert((network, address), holder.clone())
            && other != holder
        {
            found.push(Violation {
                invariant: GIVEN_TWICE,
                detail: format!("{address} of network {network} to {other} and {holder}"),
            });
        }
    };
    for network in state.networks() {
        for address in network.subnets.iter().flat_map(never_given) {
            note(network.id, address, "nobody".to_owned());
        }
    }
    for (object, places) in places(state) {
        for place in places {
            for address in &place.addresses {
                note(place.network, *address, object.to_string());
            }
        }
    }
}

pub(super) fn no_subnet_is_given_out_twice(state: &ClusterState, found: &mut Vec<Violation>) {
    let mut twice = |detail: String| {
        found.push(Violation {
            invariant: GIVEN_TWICE,
            detail,
        });
    };
    let mut identifiers: BTreeMap<u32, NetworkId> = BTreeMap::new();
    let mut subnets = Vec::new();
    for network in state.networks() {
        if let Some(other) = identifiers.insert(network.vni, network.id) {
            twice(format!(
                "tunnel {} to networks {other} and {}",
                network.vni, network.id
            ));
        }
        for subnet in &network.subnets {
            subnets.push((subnet.subnet.network(), subnet.subnet.broadcast(), network.id));
        }
    }
    subnets.sort();
    for pair in subnets.windows(2) {
        if pair[0].1 >= pair[1].0 {
            twice(format!(
                "{} to networks {} and {}",
                pair[1].0, pair[0].2, pair[1].2
            ));
        }
    }
}

pub(super) fn every_network_reference_leads_somewhere(state: &ClusterState, found: &mut Vec<Violation>) {
    let mut dangling = |what: String| {
        found.push(Violation {
            invariant: "every reference leads somewhere",
            detail: what,
        });
    };
    for (object, places) in places(state) {
        for place in places {
            let Some(network) = state.network(place.network) else {
                dangling(format!("network {} of {object}", place.network));
                continue;
            };
            for address in &place.addresses {
                if !network
                    .subnets
                    .iter()
                    .any(|subnet| subnet.subnet.contains(address))
                {
                    dangling(format!("address {address} of {object} on network {}", network.id));
                }
            }
        }
    }
    for service in state.services() {
        for network in named_networks(&service.spec.template) {
            if state.network(network).is_none() {
                dangling(format!("network {network} of service {}", service.id));
            }
        }
    }
    for attachment in state.attachments() {
        if state.node(attachment.node).is_none() {
            dangling(format!(
                "node {} of attachment {}",
                attachment.node, attachment.id
            ));
        }
    }
}

/// Who holds addresses.
fn places(state: &ClusterState) -> Vec<(ObjectKey, &[NetworkAddresses])> {
    let tasks = state.tasks().map(|task| (ObjectKey::Task(task.id), held(task)));
    let services = state
        .services()
        .map(|service| (ObjectKey::Service(service.id), service.vips.as_slice()));
    let nodes = state
        .nodes()
        .map(|node| (ObjectKey::Node(node.id), node.addresses.as_slice()));
    let attachments = state.attachments().map(|attachment| {
        let place = std::slice::from_ref(&attachment.place);
        (ObjectKey::Attachment(attachment.id), place)
    });
    tasks.chain(services).chain(nodes).chain(attachments).collect()
}
