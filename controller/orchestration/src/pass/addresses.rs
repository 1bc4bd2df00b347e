//! Virtual addresses of services. Those of tasks are taken when the task gets its node.

use crate::draft::Draft;
use muster_state::networks::{named_networks, publishes};
use muster_types::NetworkId;
use muster_types::overlay::NetworkAddresses;
use muster_types::service::EndpointMode;

/// Gives the service a virtual address on each of its networks, also on those that only tasks of an older revision are
/// on, and returns the others. No task gets a node without those on its own networks: its containers would resolve names
/// that lead nowhere.
pub(super) fn allocate_virtual_addresses(draft: &mut Draft<'_>) {
    if draft.service.removing {
        return;
    }
    let wanted = match draft.service.spec.endpoint_mode {
        EndpointMode::Vip => networks(draft),
        EndpointMode::DnsRoundRobin => Vec::new(),
    };
    let mut vips: Vec<NetworkAddresses> = draft.service.vips.clone();
    vips.retain(|vip| wanted.contains(&vip.network));
    for network in wanted {
        if vips.iter().any(|vip| vip.network == network) {
            continue;
        }
        match draft.take_addresses(&[network]) {
            Ok(taken) => vips.extend(taken),
            Err(problem) => drop(draft.without_address.insert(network, problem)),
        }
    }
    draft.vips = vips;
}

/// The networks of the current revision, then those of revisions that tasks shall still run.
fn networks(draft: &Draft<'_>) -> Vec<NetworkId> {
    let state = draft.state;
    let current = draft.service.template_version;
    let mut found = state.networks_used_by(&draft.revision.template, &draft.revision.ports);
    for (version, revision) in state.templates_of(draft.service.id) {
        let networked = named_networks(&revision.template).next().is_some() || publishes(&revision.ports);
        if version == current || !networked || draft.counted.wanted_of(version).next().is_none() {
            continue;
        }
        for network in state.networks_used_by(&revision.template, &revision.ports) {
            let there = state.network(network).is_some_and(|network| !network.removing);
            if there && !found.contains(&network) {
                found.push(network);
            }
        }
    }
    found
}
