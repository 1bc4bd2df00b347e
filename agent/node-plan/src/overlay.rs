//! What a node does for one network of the cluster: where packets go, where virtual addresses lead, which names stand
//! for what. Nothing here is kept between calls.

use crate::policy::{GuardPlan, guards};
use muster_types::leading::IpNet;
use muster_types::overlay::{EndpointOwner, OverlayService};
use muster_types::service::Protocol;
use muster_types::{AssignedNetwork, AttachmentId, NetworkId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The wanted state of a network on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkPlan {
    /// This node's address outside of the network, as the cluster knows it.
    pub underlay: Option<IpAddr>,
    /// Containers and nodes elsewhere: their addresses in the network, and where their node is.
    pub stations: Vec<(Vec<IpAddr>, IpAddr)>,
    /// Virtual addresses with the endpoints behind them; the first of a connection's packets chooses.
    pub virtuals: BTreeMap<IpAddr, BTreeSet<IpAddr>>,
    /// Every address of the network that somebody has, on nodes that are not down: established connections to these go
    /// on.
    pub in_use: BTreeSet<IpAddr>,
    /// Names, in lower case, with what they stand for. One that stands for nothing now is there all the same.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// The name of an address.
    pub addresses: BTreeMap<IpAddr, String>,
    /// The ports that every node publishes, where this network carries them.
    pub mesh: Option<MeshPlan>,
    /// What containers of this node accept, by their addresses; those that accept everything are left out.
    pub guards: BTreeMap<IpAddr, Arc<GuardPlan>>,
}

/// The routing mesh on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshPlan {
    /// This node's own addresses in the network.
    pub own: Vec<IpAddr>,
    /// The own addresses of every node, by which containers know where a connection came in.
    pub nodes: Vec<Vec<IpAddr>>,
    /// Where published ports lead.
    pub ports: BTreeMap<(Protocol, u16), PortPlan>,
    /// Addresses on nodes that are down: connections to these end nowhere.
    pub lost: BTreeSet<IpAddr>,
}

/// Where a published port leads, and from where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortPlan {
    /// Containers' addresses and ports.
    pub endpoints: BTreeSet<SocketAddr>,
    /// It answers at the host's addresses in these; at all of them when there are none.
    pub at: BTreeSet<IpNet>,
}

/// The plan of the node `own` for a network.
pub fn network_plan(network: &AssignedNetwork, own: NodeId) -> NetworkPlan {
    let mut plan = NetworkPlan::default();
    for endpoint in &network.endpoints {
        if !endpoint.down {
            plan.in_use.extend(&endpoint.addresses);
        }
        if endpoint.node == own {
            plan.underlay = plan.underlay.or(endpoint.data_path);
        } else if let Some(node) = endpoint.data_path.filter(|_| !endpoint.addresses.is_empty()) {
            plan.stations.push((endpoint.addresses.clone(), node));
        }
        if network.facts.ingress {
            continue;
        }
        if matches!(endpoint.owner, EndpointOwner::Attachment(_)) && !endpoint.down {
            for name in &endpoint.names {
                add_name(&mut plan.names, name, &endpoint.addresses);
                add_address(&mut plan.addresses, &endpoint.addresses, name);
            }
        }
    }
    if network.facts.ingress {
        // It carries published ports: nobody finds anybody by name there.
        plan.mesh = mesh_plan(network, own);
        return plan;
    }
    plan.guards = guards(network, own);
    for service in &network.services {
        plan_service(&mut plan, service, own);
    }
    for addresses in plan.names.values_mut() {
        addresses.sort_unstable();
        addresses.dedup();
    }
    plan
}

/// The places that the cluster holds for standalone containers of the node `own` which nobody there has: what is to be
/// given back. It follows from what is, so that nothing leaks whatever was forgotten or came late.
pub fn places_to_release<'a>(
    networks: impl IntoIterator<Item = &'a AssignedNetwork>,
    own: NodeId,
    is_held: impl Fn(AttachmentId, NetworkId, &[IpAddr]) -> bool,
) -> Vec<AttachmentId> {
    let mut found = Vec::new();
    for network in networks {
        for endpoint in network.endpoints.iter().filter(|endpoint| endpoint.node == own) {
            if let EndpointOwner::Attachment(id) = endpoint.owner
                && !is_held(id, network.facts.id, &endpoint.addresses)
            {
                found.push(id);
            }
        }
    }
    found
}

/// Nothing before this node has a place of its own.
fn mesh_plan(network: &AssignedNetwork, own: NodeId) -> Option<MeshPlan> {
    let places = network
        .endpoints
        .iter()
        .filter_map(|endpoint| match endpoint.owner {
            EndpointOwner::Node(node) if !endpoint.addresses.is_empty() => Some((node, &endpoint.addresses)),
            EndpointOwner::Node(_) | EndpointOwner::Task(_) | EndpointOwner::Attachment(_) => None,
        });
    let down = network.endpoints.iter().filter(|endpoint| endpoint.down);
    let mut mesh = MeshPlan {
        lost: down.flat_map(|endpoint| endpoint.addresses.clone()).collect(),
        ..MeshPlan::default()
    };
    for (node, addresses) in places {
        if node == own {
            mesh.own.clone_from(addresses);
        }
        mesh.nodes.push(addresses.clone());
    }
    for service in &network.services {
        let behind = led_to(service, own);
        for port in &service.ports {
            let endpoints = behind
                .iter()
                .map(|address| SocketAddr::new(*address, port.target_port));
            let plan = PortPlan {
                endpoints: endpoints.collect(),
                at: service.leading.addresses.clone(),
            };
            mesh.ports.insert((port.protocol, port.published_port), plan);
        }
    }
    (!mesh.own.is_empty()).then_some(mesh)
}

/// The addresses that new connections from the node `own` are led to.
fn led_to(service: &OverlayService, own: NodeId) -> Vec<IpAddr> {
    let addresses = |only_own: bool| {
        let endpoints = service.endpoints.iter();
        let endpoints = endpoints.filter(|endpoint| !only_own || endpoint.node == own);
        endpoints
            .flat_map(|endpoint| endpoint.addresses.clone())
            .collect()
    };
    let local: Vec<IpAddr> = addresses(true);
    match service.leading.prefers_local && !local.is_empty() {
        true => local,
        false => addresses(false),
    }
}

fn plan_service(plan: &mut NetworkPlan, service: &OverlayService, own: NodeId) {
    let behind = led_to(service, own);
    let everywhere: Vec<IpAddr> = service
        .endpoints
        .iter()
        .flat_map(|endpoint| endpoint.addresses.iter().copied())
        .collect();
    for vip in &service.vips {
        let behind = behind.iter().filter(|address| address.is_ipv4() == vip.is_ipv4());
        plan.virtuals.entry(*vip).or_default().extend(behind);
    }
    let answer = match service.vips.is_empty() {
        true => &everywhere,
        false => &service.vips,
    };
    for name in std::iter::once(&service.name).chain(&service.aliases) {
        add_name(&mut plan.names, name, answer);
        add_name(&mut plan.names, &format!("tasks.{name}"), &everywhere);
    }
    add_address(&mut plan.addresses, &service.vips, &service.name);
    for endpoint in &service.endpoints {
        let container = endpoint.container_name(&service.name);
        add_name(&mut plan.names, &container, &endpoint.addresses);
        add_name(
            &mut plan.names,
            &format!("{}.{}", service.name, endpoint.slot),
            &endpoint.addresses,
        );
        add_address(&mut plan.addresses, &endpoint.addresses, &container);
    }
}

fn add_name(names: &mut BTreeMap<String, Vec<IpAddr>>, name: &str, addresses: &[IpAddr]) {
    names
        .entry(name.to_ascii_lowercase())
        .or_default()
        .extend(addresses);
}

fn add_address(known: &mut BTreeMap<IpAddr, String>, addresses: &[IpAddr], name: &str) {
    for address in addresses {
        known.entry(*address).or_insert_with(|| name.to_owned());
    }
}

#[cfg(test)]
pub(crate) mod sample {
    //! Networks for tests.
    use super::*;
    use muster_types::leading::Leading;
    use muster_types::overlay::{NetworkFacts, OverlayEndpoint, ServiceEndpoint};
    use muster_types::service::Labels;
    use muster_types::{ServiceId, Slot, TaskId};

    pub fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 1, last])
    }

    pub fn node(n: u8) -> (NodeId, IpAddr) {
        (NodeId::from_u128(n.into()), IpAddr::from([192, 0, 2, n]))
    }

    pub fn endpoint(owner: EndpointOwner, last: u8, on: u8) -> OverlayEndpoint {
        OverlayEndpoint {
            owner,
            addresses: vec![ip(last)],
            node: node(on).0,
            data_path: Some(node(on).1),
            names: Vec::new(),
            down: false,
            service: None,
        }
    }

    pub fn task(n: u128) -> EndpointOwner {
        EndpointOwner::Task(TaskId::from_u128(n))
    }

    pub fn service(name: &str, vips: &[u8], tasks: &[(u128, u8, u8)]) -> OverlayService {
        let endpoint = |(task, last, on): &(u128, u8, u8)| ServiceEndpoint {
            task: TaskId::from_u128(*task),
            slot: Slot::Replica(u64::try_from(*task).unwrap()),
            node: node(*on).0,
            addresses: vec![ip(*last)],
        };
        OverlayService {
            id: ServiceId::from_u128(1),
            name: name.to_owned(),
            vips: vips.iter().map(|last| ip(*last)).collect(),
            aliases: vec!["Front".to_owned()],
            ports: Vec::new(),
            endpoints: tasks.iter().map(endpoint).collect(),
            leading: Leading::default(),
        }
    }

    pub fn network(endpoints: Vec<OverlayEndpoint>, services: Vec<OverlayService>) -> AssignedNetwork {
        AssignedNetwork {
            facts: NetworkFacts {
                id: NetworkId::from_u128(1),
                name: "net".to_owned(),
                vni: 4097,
                data_path_port: 4789,
                subnets: Vec::new(),
                internal: false,
                attachable: true,
                encrypted: false,
                ingress: false,
                mtu: None,
                labels: Labels::new(),
                options: Labels::new(),
                policy: None,
            },
            endpoints,
            services,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::sample::*;
    use super::*;
    use muster_types::TaskId;
    use muster_types::overlay::OverlayEndpoint;

    #[test]
    fn others_are_reached_over_their_nodes_and_the_own_ones_are_here() {
        let unknown = OverlayEndpoint {
            data_path: None,
            ..endpoint(task(3), 4, 3)
        };
        let plan = network_plan(
            &network(
                vec![endpoint(task(1), 2, 1), endpoint(task(2), 3, 2), unknown],
                Vec::new(),
            ),
            node(1).0,
        );
        assert_eq!(plan.underlay, Some(node(1).1));
        assert_eq!(plan.stations, [(vec![ip(3)], node(2).1)]);
        assert_eq!(plan.in_use, [ip(2), ip(3), ip(4)].into());
    }

    #[test]
    fn on_a_node_that_is_down_nothing_goes_on_and_nobody_is_found() {
        let owner = EndpointOwner::Attachment(AttachmentId::from_u128(5));
        let lost = OverlayEndpoint {
            names: vec!["box".to_owned()],
            down: true,
            ..endpoint(owner, 7, 2)
        };
        let plan = network_plan(&network(vec![lost], Vec::new()), node(1).0);
        assert!(plan.in_use.is_empty() && plan.names.is_empty(), "{plan:?}");
    }

    #[test]
    fn a_service_is_its_virtual_address_and_its_tasks_are_its_endpoints() {
        let plan = network_plan(
            &network(Vec::new(), vec![service("Web", &[9], &[(1, 2, 1), (2, 3, 2)])]),
            node(1).0,
        );
        assert_eq!(plan.virtuals, BTreeMap::from([(ip(9), [ip(2), ip(3)].into())]));
        for (name, expected) in [
            ("web", vec![ip(9)]),
            ("front", vec![ip(9)]),
            ("tasks.web", vec![ip(2), ip(3)]),
            ("tasks.front", vec![ip(2), ip(3)]),
            ("web.2", vec![ip(3)]),
        ] {
            assert_eq!(plan.names.get(name), Some(&expected), "{name}");
        }
        let first = format!("Web.1.{}", TaskId::from_u128(1));
        assert_eq!(plan.names[&first.to_ascii_lowercase()], [ip(2)]);
        assert_eq!(plan.addresses[&ip(2)], first);
        assert_eq!(plan.addresses[&ip(9)], "Web");
    }

    #[test]
    fn without_a_virtual_address_the_name_is_the_endpoints_and_nobody_is_an_answer_too() {
        let both = network(Vec::new(), vec![service("web", &[], &[(1, 2, 1), (2, 3, 2)])]);
        let plan = network_plan(&both, node(1).0);
        assert_eq!(
            (plan.names["web"].clone(), plan.virtuals.len()),
            (vec![ip(2), ip(3)], 0)
        );
        let idle = network_plan(&network(Vec::new(), vec![service("web", &[9], &[])]), node(1).0);
        assert!(idle.names["tasks.web"].is_empty());
        assert_eq!(idle.virtuals[&ip(9)], BTreeSet::new());
    }

    #[test]
    fn endpoints_of_the_node_itself_are_preferred_where_the_service_wants_it_and_there_are_some() {
        let mut web = service("web", &[9], &[(1, 2, 1), (2, 3, 2)]);
        web.leading.prefers_local = true;
        let both = network(Vec::new(), vec![web]);
        let behind = |on| network_plan(&both, node(on).0).virtuals[&ip(9)].clone();
        assert_eq!(behind(1), [ip(2)].into());
        assert_eq!(behind(2), [ip(3)].into());
        assert_eq!(behind(3), [ip(2), ip(3)].into());
        let names = network_plan(&both, node(1).0).names;
        assert_eq!(names["tasks.web"], [ip(2), ip(3)], "names are of all");
    }

    #[test]
    fn published_ports_lead_to_endpoints_and_nobody_is_found_by_name_on_the_way() {
        use muster_types::service::{PublishMode, PublishedPort};
        let mut web = service("web", &[9], &[(1, 4, 1), (2, 5, 2)]);
        web.ports = vec![PublishedPort {
            name: String::new(),
            protocol: Protocol::Udp,
            target_port: 80,
            published_port: 8080,
            mode: PublishMode::Ingress,
        }];
        let place = |on: u8, last: u8| endpoint(EndpointOwner::Node(node(on).0), last, on);
        let mut ingress = network(vec![place(1, 2), place(2, 3), endpoint(task(1), 4, 1)], vec![web]);
        ingress.facts.ingress = true;
        let plan = network_plan(&ingress, node(1).0);
        let mesh = plan.mesh.unwrap();
        assert_eq!(
            (mesh.own, mesh.nodes),
            (vec![ip(2)], vec![vec![ip(2)], vec![ip(3)]])
        );
        let expected = |lasts: &[u8]| {
            let endpoints = lasts.iter().map(|last| SocketAddr::new(ip(*last), 80));
            let plan = PortPlan {
                endpoints: endpoints.collect(),
                at: BTreeSet::new(),
            };
            BTreeMap::from([((Protocol::Udp, 8080), plan)])
        };
        assert_eq!(mesh.ports, expected(&[4, 5]));
        assert!(plan.names.is_empty() && plan.virtuals.is_empty());
        assert_eq!(plan.stations, [(vec![ip(3)], node(2).1)]);
        ingress.endpoints[1].down = true;
        let mesh = network_plan(&ingress, node(1).0).mesh.unwrap();
        assert_eq!(mesh.lost, [ip(3)].into());
        ingress.services[0].leading.prefers_local = true;
        let mesh = |on| network_plan(&ingress, node(on).0).mesh.unwrap();
        assert_eq!(mesh(1).ports, expected(&[4]));
        assert_eq!(mesh(2).ports, expected(&[5]));
        // A node without a place leads nowhere.
        assert_eq!(network_plan(&ingress, node(7).0).mesh, None);
    }

    #[test]
    fn places_that_nobody_here_has_are_given_back() {
        let place = |id: u128, last, on| {
            let owner = EndpointOwner::Attachment(AttachmentId::from_u128(id));
            endpoint(owner, last, on)
        };
        let rows = vec![
            endpoint(task(1), 2, 1),
            place(5, 3, 1),
            place(6, 4, 1),
            place(7, 5, 1),
            place(8, 6, 2),
        ];
        let networks = [network(rows, Vec::new())];
        let is_held = |id: AttachmentId, on: NetworkId, addresses: &[IpAddr]| {
            assert_eq!(on, networks[0].facts.id);
            id == AttachmentId::from_u128(5) || addresses == [ip(4)]
        };
        let released = places_to_release(&networks, node(1).0, is_held);
        assert_eq!(released, [AttachmentId::from_u128(7)]);
    }

    #[test]
    fn standalone_containers_are_found_by_their_names() {
        let owner = EndpointOwner::Attachment(AttachmentId::from_u128(5));
        let named = OverlayEndpoint {
            names: vec!["box".to_owned(), "Alias".to_owned()],
            ..endpoint(owner, 7, 2)
        };
        let plan = network_plan(&network(vec![named], Vec::new()), node(1).0);
        assert_eq!(plan.names["box"], [ip(7)]);
        assert_eq!(plan.names["alias"], [ip(7)]);
        assert_eq!(plan.addresses[&ip(7)], "box");
    }
}
