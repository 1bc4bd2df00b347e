//! The way that a connection between two services takes, and where it would fail, as the cluster's state has it.

use super::network_rows::facts;
use muster_state::ClusterState;
use muster_types::policy::stack_of;
use muster_types::service::Protocol;
use muster_types::{ClusterNetwork, Node, NodeId, NodeState, Service, Task};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

/// Most lines about tasks and ways; a service may have a million tasks.
const LINES_MAX: usize = 100;

/// One step of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceStep {
    /// Which step: `network`, `name`, `policy`, `endpoint` or `way`.
    pub step: &'static str,
    /// A connection gets past it.
    pub passes: bool,
    /// What happens there.
    pub text: String,
}

/// The way from the tasks of one service to another, on every network that both are on.
pub fn trace(
    state: &ClusterState,
    from: &Service,
    to: &Service,
    port: Option<(Protocol, u16)>,
) -> Vec<TraceStep> {
    let shared: Vec<&Arc<ClusterNetwork>> = state
        .networks()
        .filter(|network| !network.spec.ingress && !network.removing)
        .filter(|network| state.is_on(from.id, network.id) && state.is_on(to.id, network.id))
        .collect();
    if shared.is_empty() {
        let text = format!(
            "{} and {} are on no network together: {}; {}. Attach both to one (docker service update --network-add)",
            from.spec.name,
            to.spec.name,
            networks_of(state, from),
            networks_of(state, to)
        );
        return vec![step("network", false, text)];
    }
    let mut steps = Vec::new();
    for network in shared {
        let tracing = Tracing {
            state,
            network,
            from,
            to,
        };
        steps.extend([tracing.network(), tracing.name(), tracing.policy(port)]);
        let serving: Vec<&Arc<Task>> = state.serving_on(network.id, to.id).collect();
        steps.extend(tracing.endpoints(&serving));
        steps.extend(tracing.ways(&serving));
    }
    steps
}

fn step(step: &'static str, passes: bool, text: String) -> TraceStep {
    TraceStep { step, passes, text }
}

fn networks_of(state: &ClusterState, service: &Service) -> String {
    let networks = state
        .networks()
        .filter(|network| state.is_on(service.id, network.id));
    let names: Vec<&str> = networks.map(|network| network.spec.name.as_str()).collect();
    match names.is_empty() {
        true => format!("{} is on none of the cluster's", service.spec.name),
        false => format!("{} is on {}", service.spec.name, names.join(", ")),
    }
}

fn written(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

struct Tracing<'a> {
    state: &'a ClusterState,
    network: &'a ClusterNetwork,
    from: &'a Service,
    to: &'a Service,
}

impl Tracing<'_> {
    fn network(&self) -> TraceStep {
        let subnets: Vec<String> = self
            .network
            .subnets
            .iter()
            .map(|subnet| subnet.subnet.to_string())
            .collect();
        let text = format!(
            "{} and {} are on network {} ({})",
            self.from.spec.name,
            self.to.spec.name,
            self.network.spec.name,
            subnets.join(", ")
        );
        step("network", true, text)
    }

    fn name(&self) -> TraceStep {
        let own = self
            .to
            .vips
            .iter()
            .filter(|place| place.network == self.network.id);
        let vips: Vec<IpAddr> = own.flat_map(|place| place.addresses.clone()).collect();
        let name = &self.to.spec.name;
        let text = match vips.is_empty() {
            true => format!("{name} stands for the addresses of its tasks that run and are healthy"),
            false => format!("{name} stands for the virtual address {}", written(&vips)),
        };
        step("name", true, text)
    }

    fn policy(&self, port: Option<(Protocol, u16)>) -> TraceStep {
        let Some(policy) = &self.network.policy else {
            return step(
                "policy",
                true,
                "the network has no rules: everything is accepted".to_owned(),
            );
        };
        let stack = stack_of(&self.network.spec.labels);
        let (from, to) = (self.from.spec.name.as_str(), self.to.spec.name.as_str());
        let about = policy.rules.iter().filter(|rule| rule.to.is(to, stack));
        let about: Vec<String> = about.map(ToString::to_string).collect();
        let passes = policy.accepts(from, to, port, stack);
        let mut text = format!(
            "{to} {} connections of {from}",
            if passes { "accepts" } else { "refuses" }
        );
        if let Some((protocol, number)) = port {
            // Writing to a string does not fail.
            let _ = write!(text, " to {number}/{protocol}");
        }
        let why = match about.is_empty() {
            true => format!(
                "no rule leads to it, and the default is {}",
                policy.unruled.name()
            ),
            false => format!("rules that lead to it: {}", about.join("; ")),
        };
        step("policy", passes, format!("{text} ({why})"))
    }

    fn endpoints(&self, serving: &[&Arc<Task>]) -> Vec<TraceStep> {
        let name = &self.to.spec.name;
        if serving.is_empty() {
            let states: BTreeSet<String> = self
                .state
                .tasks_of_service(self.to.id)
                .filter(|task| task.wants_to_run())
                .take(LINES_MAX)
                .map(|task| {
                    format!(
                        "{:?} {}",
                        task.status.state,
                        task.status.error.clone().unwrap_or_default()
                    )
                })
                .collect();
            let states: Vec<&str> = states.iter().map(|text| text.trim()).collect();
            let text = format!(
                "no task of {name} runs and is healthy here (its tasks: {}); connections are refused",
                if states.is_empty() {
                    "none".to_owned()
                } else {
                    states.join(", ")
                }
            );
            return vec![step("endpoint", false, text)];
        }
        let endpoints = serving.iter().take(LINES_MAX).map(|task| {
            let place = task
                .addresses
                .iter()
                .find(|place| place.network == self.network.id);
            let addresses = place.map(|place| written(&place.addresses)).unwrap_or_default();
            let node = task.node.map(|node| self.node_name(node)).unwrap_or_default();
            step(
                "endpoint",
                true,
                format!("{name}.{} has {addresses} on node {node}", task.slot),
            )
        });
        endpoints.collect()
    }

    /// The ways between the nodes of both, each once.
    fn ways(&self, serving: &[&Arc<Task>]) -> Vec<TraceStep> {
        let nodes = |tasks: &mut dyn Iterator<Item = &Arc<Task>>| -> BTreeSet<NodeId> {
            tasks.filter_map(|task| task.node).collect()
        };
        let clients = nodes(
            &mut self
                .state
                .tasks_of_service(self.from.id)
                .filter(|task| task.wants_to_run()),
        );
        let servers = nodes(&mut serving.iter().copied());
        if clients.is_empty() {
            let text = format!(
                "no task of {} has a node, so nobody connects",
                self.from.spec.name
            );
            return vec![step("way", false, text)];
        }
        let pairs = clients
            .iter()
            .flat_map(|client| servers.iter().map(move |server| (*client, *server)));
        pairs
            .take(LINES_MAX)
            .map(|(client, server)| self.way(client, server))
            .collect()
    }

    fn way(&self, client: NodeId, server: NodeId) -> TraceStep {
        let ends = [client, server].map(|id| self.state.node(id));
        let names = [client, server].map(|id| self.node_name(id));
        let is_down =
            |node: &Option<&Arc<Node>>| node.is_none_or(|node| node.status.state == NodeState::Down);
        if let Some(place) = ends.iter().position(is_down) {
            let text = format!(
                "from node {} to node {}: node {} is down",
                names[0], names[1], names[place]
            );
            return step("way", false, text);
        }
        if client == server {
            return step(
                "way",
                true,
                format!("within node {}, by the network's bridge there", names[0]),
            );
        }
        let paths = ends.map(|node| node.and_then(|node| node.description.data_path()));
        let facts = facts(self.state, self.network.id);
        let (Some([from, to]), Some(facts)) = (paths[0].zip(paths[1]).map(<[IpAddr; 2]>::from), facts) else {
            let text = format!(
                "from node {} to node {}: one of them has not told at which address it takes packets",
                names[0], names[1]
            );
            return step("way", false, text);
        };
        let text = format!(
            "from node {} to node {}: VXLAN {} from {from} to {to}, UDP port {}",
            names[0], names[1], facts.vni, facts.data_path_port
        );
        step("way", true, text)
    }

    fn node_name(&self, id: NodeId) -> String {
        let node = self
            .state
            .node(id)
            .filter(|node| !node.description.hostname.is_empty());
        node.map_or_else(|| id.to_string(), |node| node.description.hostname.clone())
    }
}
