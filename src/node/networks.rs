//! The cluster's networks on this node: what the agent was assigned, made so by the engine.

use muster_engine::{Engine, SharedMesh, SharedNetwork};
use muster_node_plan::network_plan;
use muster_types::container::EndpointSpec;
use muster_types::network::{AddressRange, NetworkSpec};
use muster_types::overlay::{OVERLAY_DRIVER, TaskNetwork};
use muster_types::{AssignedNetwork, AssignedTask, NetworkId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a container waits for its network to stand; making one takes milliseconds.
const STANDING_WITHIN: Duration = Duration::from_secs(15);
/// Wait before networks that could not be made are tried again, unless others are assigned meanwhile.
const RETRY_AFTER: Duration = Duration::from_secs(2);

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
    failure: Option<String>,
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
        loop {
            let newest = wanted.borrow_and_update().clone();
            let own_now = *own.borrow_and_update();
            let stand = match (&newest, own_now) {
                (Some(newest), Some((node, address))) => self.make(&newest.networks, node, address).await,
                (Some(newest), None) if newest.networks.is_empty() => {
                    self.make(&[], NodeId::default(), IpAddr::from([0; 4])).await
                }
                _ => true,
            };
            if let Some(newest) = newest.filter(|_| stand) {
                self.applied.send_replace(newest.index);
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                changed = own.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY_AFTER), if !stand => {}
            }
        }
    }

    /// Tells whether all of them stand.
    async fn make(&self, networks: &[AssignedNetwork], node: NodeId, address: IpAddr) -> bool {
        let shared = networks
            .iter()
            .map(|network| shared_network(network, node, address));
        let failure = self.engine.set_shared_networks(shared.collect()).await.err();
        let failure = failure.map(|error| error.chain());
        if let Some(error) = &failure {
            tracing::error!(error, "networks of the cluster are not as they should be");
        }
        let stands = failure.is_none();
        self.standing.send_replace(Outcome {
            tried: networks.iter().map(|network| network.facts.id).collect(),
            failure,
        });
        stands
    }

    /// Waits until the networks of a task stand, or says why they do not.
    pub async fn await_standing(&self, places: &[TaskNetwork]) -> Result<(), String> {
        if places.is_empty() {
            return Ok(());
        }
        let mut standing = self.standing.subscribe();
        let stand = |outcome: &Outcome| {
            let all = places.iter().all(|place| outcome.tried.contains(&place.network));
            all && outcome.failure.is_none()
        };
        let waited = tokio::time::timeout(STANDING_WITHIN, standing.wait_for(stand)).await;
        if waited.is_ok() {
            return Ok(());
        }
        let why = self.standing.borrow().failure.clone();
        let why = why.unwrap_or_else(|| "the node was not told of them".to_owned());
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
        mesh: plan.mesh.map(|mesh| SharedMesh {
            own: mesh.own,
            nodes: mesh.nodes,
            ports: mesh.ports,
            lost: mesh.lost,
        }),
    }
}
