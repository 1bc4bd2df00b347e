//! The cluster's networks on this node: what the agent was assigned, made so by the engine.

use super::failing_networks::FailingNetworks;
use muster_engine::{Engine, SharedFailures, SharedGuard, SharedMesh, SharedNetwork, SharedPort};
use muster_network::IpNet;
use muster_node_plan::{GuardPlan, MeshPlan, network_plan};
use muster_types::container::EndpointSpec;
use muster_types::leading;
use muster_types::network::{AddressRange, NetworkSpec};
use muster_types::overlay::{OVERLAY_DRIVER, TaskNetwork};
use muster_types::{AssignedNetwork, AssignedTask, NetworkId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a container waits for its network to stand; making one takes milliseconds.
const STANDING_WITHIN: Duration = Duration::from_secs(15);

/// Makes the networks that the node was assigned, the newest ones each time.
pub struct ClusterNetworks {
    engine: Engine,
    /// `None` until it is known whether the node is in a cluster.
    wanted: watch::Sender<Option<Wanted>>,
    own: watch::Sender<Option<(NodeId, IpAddr)>>,
    standing: watch::Sender<Outcome>,
    /// Applied index of the newest that stand.
    applied: watch::Sender<u64>,
}

/// What the node was assigned.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The networks, all of them.
    pub networks: Vec<AssignedNetwork>,
    /// Applied index of the assignments that say so.
    index: u64,
}

/// What came of the last try.
#[derive(Debug, Clone, Default)]
struct Outcome {
    tried: BTreeSet<NetworkId>,
    /// Applied index of the assignments that said so.
    index: u64,
    /// Why networks are not as they should be; without a network, what concerns none in particular.
    failures: BTreeMap<Option<NetworkId>, String>,
    /// Connections on this node may go as they did before.
    lags: bool,
}

impl Outcome {
    fn new(tried: BTreeSet<NetworkId>, index: u64, failures: &SharedFailures) -> Self {
        let of_networks = failures.networks.iter();
        let of_networks = of_networks.map(|(id, failure)| (id.parse().ok(), failure.error.chain()));
        let of_host = failures.host.iter().map(|error| (None, error.chain()));
        Self {
            tried,
            index,
            failures: of_networks.chain(of_host).collect(),
            lags: failures.networks.values().any(|failure| failure.is_used),
        }
    }

    /// Whether these networks stand as they should.
    fn stand(&self, places: &[TaskNetwork]) -> bool {
        places.iter().all(|place| {
            self.tried.contains(&place.network) && !self.failures.contains_key(&Some(place.network))
        })
    }

    /// Why they do not.
    fn why(&self, places: &[TaskNetwork]) -> String {
        let failures = places
            .iter()
            .find_map(|place| self.failures.get(&Some(place.network)));
        failures.map_or_else(|| "the node was not told of them".to_owned(), Clone::clone)
    }
}

impl ClusterNetworks {
    /// Networks of this engine. Nothing happens before [`Self::follow`].
    pub fn new(engine: Engine) -> Arc<Self> {
        Arc::new(Self {
            engine,
            wanted: watch::Sender::default(),
            own: watch::Sender::default(),
            standing: watch::Sender::default(),
            applied: watch::Sender::default(),
        })
    }

    /// Notes who this node is, and where others reach it unless the cluster says otherwise.
    pub fn enter_cluster(&self, node: NodeId, address: IpAddr) {
        self.own.send_replace(Some((node, address)));
    }

    /// Has the networks be these and no others, as assignments of this applied index say.
    pub fn set(&self, networks: Vec<AssignedNetwork>, index: u64) {
        self.wanted.send_replace(Some(Wanted { networks, index }));
    }

    /// The index of the newest networks that stand as they should.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// The networks that the node was assigned; `None` until it is known whether the node is in a cluster.
    pub fn subscribe(&self) -> watch::Receiver<Option<Wanted>> {
        self.wanted.subscribe()
    }

    /// Makes what is wanted, whenever that changes, until it is dropped.
    pub async fn follow(self: Arc<Self>) {
        let (mut wanted, mut own) = (self.wanted.subscribe(), self.own.subscribe());
        let mut failing = FailingNetworks::default();
        loop {
            let newest = wanted.borrow_and_update().clone();
            let own_now = *own.borrow_and_update();
            let outcome = match (&newest, own_now) {
                (Some(newest), Some((node, address))) => Some(self.make(newest, node, address).await),
                (Some(newest), None) if newest.networks.is_empty() => {
                    Some(self.make(newest, NodeId::default(), IpAddr::from([0; 4])).await)
                }
                _ => None,
            };
            let lags = outcome.as_ref().is_none_or(|outcome| outcome.lags);
            let failures = outcome.map(|outcome| outcome.failures).unwrap_or_default();
            for (network, error) in failing.note(&failures, Instant::now()) {
                let network = network.map(|id| id.to_string());
                tracing::error!(network, error, "a network of the cluster is not as it should be");
            }
            if let Some(newest) = newest.filter(|_| !lags) {
                self.applied.send_replace(newest.index);
            }
            let retry = failing.retry_after(Instant::now());
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                changed = own.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(retry.unwrap_or_default()), if retry.is_some() => {}
            }
        }
    }

    /// Makes them, as far as they can be made.
    async fn make(&self, newest: &Wanted, node: NodeId, address: IpAddr) -> Outcome {
        let networks = &newest.networks;
        let shared = networks
            .iter()
            .map(|network| shared_network(network, node, address));
        let outcome = match self.engine.set_shared_networks(shared.collect()).await {
            Ok(failures) => Outcome::new(
                networks.iter().map(|network| network.facts.id).collect(),
                newest.index,
                &failures,
            ),
            // The engine stops.
            Err(error) => Outcome {
                failures: BTreeMap::from([(None, error.chain())]),
                lags: true,
                ..Outcome::default()
            },
        };
        self.standing.send_replace(outcome.clone());
        outcome
    }

    /// Waits until the networks of a task stand, or says why they do not.
    pub async fn await_standing(&self, places: &[TaskNetwork]) -> Result<(), String> {
        if places.is_empty() {
            return Ok(());
        }
        // Who may talk to the task was told with it.
        let told = self.wanted.borrow().as_ref().map_or(0, |newest| newest.index);
        let mut standing = self.standing.subscribe();
        let stand = standing.wait_for(|outcome| outcome.index >= told && outcome.stand(places));
        if tokio::time::timeout(STANDING_WITHIN, stand).await.is_ok() {
            return Ok(());
        }
        let why = self.standing.borrow().why(places);
        Err(format!("its networks are not set up on this node: {why}"))
    }
}

/// The places of a task, as its container's configuration has them.
pub(super) fn places(task: &AssignedTask) -> BTreeMap<String, EndpointSpec> {
    let places = task.networks.iter().map(|place| {
        let spec = EndpointSpec {
            ipv4: place.addresses.iter().find_map(|address| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            }),
            ipv6: place.addresses.iter().find_map(|address| match address {
                IpAddr::V6(address) => Some(*address),
                IpAddr::V4(_) => None,
            }),
            driver_options: place.driver_opts.clone(),
            ..EndpointSpec::default()
        };
        (place.network.to_string(), spec)
    });
    places.collect()
}

/// A network as this node's engine has it.
fn shared_network(network: &AssignedNetwork, node: NodeId, address: IpAddr) -> SharedNetwork {
    let (plan, facts) = (network_plan(network, node), &network.facts);
    let range = |subnet: &muster_types::overlay::OverlaySubnet| AddressRange {
        subnet: subnet.subnet.to_string(),
        ip_range: subnet.range.map(|range| range.to_string()).unwrap_or_default(),
        gateway: Some(subnet.gateway),
        ..AddressRange::default()
    };
    let ranges: Vec<AddressRange> = facts.subnets.iter().map(range).collect();
    let has = |is_ipv4: bool| {
        facts
            .subnets
            .iter()
            .any(|subnet| subnet.gateway.is_ipv4() == is_ipv4)
    };
    SharedNetwork {
        id: facts.id.to_string(),
        spec: NetworkSpec {
            name: facts.name.clone(),
            driver: OVERLAY_DRIVER.to_owned(),
            internal: facts.internal,
            attachable: facts.attachable,
            ingress: facts.ingress,
            ipv4: has(true),
            ipv6: has(false),
            ranges,
            labels: facts.labels.clone(),
            options: facts.options.clone(),
        },
        vni: facts.vni,
        underlay: plan.underlay.unwrap_or(address),
        port: facts.data_path_port,
        mtu: facts.mtu,
        stations: plan.stations,
        virtuals: plan.virtuals,
        in_use: plan.in_use,
        names: plan.names,
        addresses: plan.addresses,
        mesh: plan.mesh.map(shared_mesh),
        guards: plan
            .guards
            .iter()
            .map(|(address, guard)| (*address, shared_guard(guard)))
            .collect(),
    }
}

fn shared_guard(guard: &GuardPlan) -> Arc<SharedGuard> {
    Arc::new(SharedGuard {
        from: guard.from.clone(),
        ports: guard.ports.clone(),
        open: guard.open.clone(),
    })
}

fn shared_mesh(mesh: MeshPlan) -> SharedMesh {
    let ports = mesh.ports.into_iter().filter_map(|(port, plan)| {
        let net = |net: &leading::IpNet| IpNet::new(net.addr(), net.prefix_len());
        let shared = SharedPort {
            endpoints: plan.endpoints,
            // With one network less it could answer at all addresses.
            at: plan.at.iter().map(net).collect::<Option<_>>()?,
        };
        Some((port, shared))
    });
    SharedMesh {
        own: mesh.own,
        nodes: mesh.nodes,
        ports: ports.collect(),
        lost: mesh.lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_node_plan::PortPlan;
    use muster_types::service::Protocol;

    #[test]
    fn a_port_answers_in_the_networks_that_the_plan_names() {
        let nets = ["192.0.2.7/32", "10.1.0.0/16", "fd00::/64", "0.0.0.0/0"];
        let plan = MeshPlan {
            ports: [(
                (Protocol::Tcp, 80),
                PortPlan {
                    at: nets.iter().map(|net| net.parse().unwrap()).collect(),
                    ..PortPlan::default()
                },
            )]
            .into(),
            ..MeshPlan::default()
        };
        let shared = shared_mesh(plan);
        let at = &shared.ports[&(Protocol::Tcp, 80)].at;
        assert_eq!(*at, nets.iter().map(|net| net.parse().unwrap()).collect());
    }
}
