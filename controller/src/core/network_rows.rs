//! What a node is told of networks: rows made from the state.

use muster_state::ClusterState;
use muster_types::leading::Leading;
use muster_types::overlay::{
    AssignedNetwork, EndpointOwner, NetworkAddresses, NetworkFacts, OverlayEndpoint, OverlayService,
    ServiceEndpoint, TaskNetwork,
};
use muster_types::service::PublishMode;
use muster_types::{
    ClusterNetwork, ClusterSpec, NetworkId, NodeId, NodeState, ServiceId, Task, TaskTemplate,
};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The networks that a node has a part in: those of its tasks and of its standalone containers, and on every node the
/// one that carries the connections to published ports.
pub fn networks_of_node(state: &ClusterState, node: NodeId) -> BTreeSet<NetworkId> {
    let tasks = state.tasks_of_node(node).filter(|task| !task.is_terminal());
    let of_tasks = tasks.flat_map(|task| task.addresses.iter().map(|place| place.network));
    let of_containers = state.attachments_of_node(node).map(|row| row.place.network);
    let ingress = state.ingress_network().map(|network| network.id);
    of_tasks.chain(of_containers).chain(ingress).collect()
}

/// A whole network.
pub fn assigned_network(state: &ClusterState, id: NetworkId) -> Option<AssignedNetwork> {
    let endpoints = state.endpoints_of(id);
    let services = state.services_on(id).into_iter();
    Some(AssignedNetwork {
        facts: facts(state, id)?,
        endpoints: endpoints.filter_map(|owner| endpoint(state, id, owner)).collect(),
        services: services
            .filter_map(|service| service_row(state, id, service))
            .collect(),
    })
}

/// What a network is.
pub fn facts(state: &ClusterState, id: NetworkId) -> Option<NetworkFacts> {
    let network: &ClusterNetwork = state.network(id)?;
    let spec = &network.spec;
    let port = state
        .cluster()
        .map_or(ClusterSpec::default().data_path_port, |cluster| {
            cluster.spec.data_path_port
        });
    Some(NetworkFacts {
        id,
        name: spec.name.clone(),
        vni: network.vni,
        data_path_port: port,
        subnets: network.subnets.clone(),
        internal: spec.internal,
        attachable: spec.attachable,
        encrypted: network.encrypted(),
        ingress: spec.ingress,
        mtu: network.mtu(),
        labels: spec.labels.clone(),
        options: spec.options.clone(),
        policy: network.policy.clone(),
    })
}

/// One place in a network; `None` when it is free.
pub fn endpoint(state: &ClusterState, network: NetworkId, owner: EndpointOwner) -> Option<OverlayEndpoint> {
    let (node, addresses, names) = match owner {
        EndpointOwner::Node(id) => {
            let node = state.node(id)?;
            (id, on(&node.addresses, network)?, Vec::new())
        }
        EndpointOwner::Task(id) => {
            let task = state.task(id).filter(|task| !task.is_terminal())?;
            (task.node?, on(&task.addresses, network)?, Vec::new())
        }
        EndpointOwner::Attachment(id) => {
            let row = state.attachment(id).filter(|row| row.place.network == network)?;
            (row.node, row.place.addresses.clone(), row.names.clone())
        }
    };
    let row = state.node(node);
    let service = match owner {
        EndpointOwner::Task(id) => state.task(id).map(|task| task.service),
        EndpointOwner::Node(_) | EndpointOwner::Attachment(_) => None,
    };
    Some(OverlayEndpoint {
        owner,
        addresses,
        node,
        data_path: row.and_then(|node| node.description.data_path()),
        names,
        service,
        down: row.is_some_and(|node| node.status.state == NodeState::Down),
    })
}

/// A service as containers of a network see it; `None` when they do not.
pub fn service_row(state: &ClusterState, network: NetworkId, id: ServiceId) -> Option<OverlayService> {
    let service = state.service(id).filter(|service| !service.removing)?;
    if !state.is_on(id, network) {
        return None;
    }
    let ingress = state.network(network).is_some_and(|network| network.spec.ingress);
    let attachments = service.spec.template.networks.iter();
    let aliases = attachments
        .filter(|attachment| attachment.target.parse() == Ok(network))
        .flat_map(|attachment| attachment.aliases.clone());
    // Labels that say something wrong were refused; where one is there all the same, the ports answer nowhere.
    let leading = Leading::read(&service.spec.labels).ok();
    let opens = ingress && leading.is_some();
    let ports = service.allocated_ports.iter();
    let ports = ports.filter(|port| opens && port.mode == PublishMode::Ingress && port.published_port != 0);
    let endpoints = state.serving_on(network, id).filter_map(|task| {
        Some(ServiceEndpoint {
            task: task.id,
            slot: task.slot,
            node: task.node?,
            addresses: on(&task.addresses, network)?,
        })
    });
    Some(OverlayService {
        id,
        name: service.spec.name.clone(),
        vips: on(&service.vips, network).unwrap_or_default(),
        aliases: aliases.collect(),
        ports: ports.cloned().collect(),
        endpoints: endpoints.collect(),
        leading: leading.unwrap_or_default(),
    })
}

/// A task's places, with what its template says of each.
pub fn task_networks(task: &Task, template: &TaskTemplate) -> Vec<TaskNetwork> {
    let place = |place: &NetworkAddresses| {
        let mut attachments = template.networks.iter();
        let attachment = attachments.find(|attachment| attachment.target.parse() == Ok(place.network));
        TaskNetwork {
            network: place.network,
            addresses: place.addresses.clone(),
            aliases: attachment
                .map(|attachment| attachment.aliases.clone())
                .unwrap_or_default(),
            driver_opts: attachment
                .map(|attachment| attachment.driver_opts.clone())
                .unwrap_or_default(),
        }
    };
    task.addresses.iter().map(place).collect()
}

fn on(places: &[NetworkAddresses], network: NetworkId) -> Option<Vec<IpAddr>> {
    let place = places.iter().find(|place| place.network == network);
    place.map(|place| place.addresses.clone())
}
