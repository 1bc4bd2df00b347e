//! Networks that this node shares with others: what the engine is told of them, and making it so.
//!
//! The engine gives out no address there and decides nothing about the others; it knows what it was last told. A
//! container on such a network has its way out through a bridge of this node that nothing else is on.

use super::definition::NetworkRecord;
use super::place::Places;
use super::ports;
use super::{Leases, NetworkError, Networking};
use crate::clock;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::record::Record;
use crate::store::Table;
use muster_network::{
    IpNet, MacAddress, MeshEntries, MeshSpec, OverlaySpec, Services, Station, VirtualService,
};
use muster_types::ContainerId;
use muster_types::network::NetworkSpec;
use muster_types::service::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The driver of networks that nodes share.
pub(crate) const OVERLAY: &str = "overlay";
/// How long a container that starts waits for its networks to be told of, which happens once after the daemon started.
const TOLD_WITHIN: Duration = Duration::from_secs(15);

/// A network that this node shares with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedNetwork {
    /// Its id: letters and digits.
    pub id: String,
    /// What it is, with subnets and gateways; its driver is `overlay`.
    pub spec: NetworkSpec,
    /// Identifier of its tunnels.
    pub vni: u32,
    /// This node's address, at which its tunnels begin.
    pub underlay: IpAddr,
    /// UDP port of the tunnels.
    pub port: u16,
    /// The largest packet; what fits the way between the nodes where it is `None`.
    pub mtu: Option<u32>,
    /// Containers elsewhere: their addresses in the network, and their node's.
    pub stations: Vec<(Vec<IpAddr>, IpAddr)>,
    /// Virtual addresses with the endpoints behind them.
    pub virtuals: BTreeMap<IpAddr, BTreeSet<IpAddr>>,
    /// Every address of the network that somebody has whose node is there.
    pub in_use: BTreeSet<IpAddr>,
    /// Names, in lower case, with what they stand for.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// The names of addresses.
    pub addresses: BTreeMap<IpAddr, String>,
    /// The ports that every node publishes, where this network carries them.
    pub mesh: Option<SharedMesh>,
}

/// Ports of every node that lead to containers of any node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedMesh {
    /// This node's own addresses in the network.
    pub own: Vec<IpAddr>,
    /// The own addresses of every node.
    pub nodes: Vec<Vec<IpAddr>>,
    /// Where the ports lead.
    pub ports: BTreeMap<(Protocol, u16), BTreeSet<SocketAddr>>,
    /// Addresses whose nodes are gone.
    pub lost: BTreeSet<IpAddr>,
}

impl SharedNetwork {
    fn overlay(&self) -> OverlaySpec {
        let gateways = self.spec.ranges.iter().filter_map(|range| {
            let subnet: IpNet = range.subnet.parse().ok()?;
            subnet.with_address(range.gateway?)
        });
        let stations = self.stations.iter().filter_map(|(addresses, node)| {
            Some(Station {
                mac: MacAddress::for_address(*addresses.first()?),
                addresses: addresses.clone(),
                node: *node,
            })
        });
        OverlaySpec {
            id: self.id.clone(),
            vni: self.vni,
            gateways: gateways.collect(),
            mtu: self.mtu,
            underlay: self.underlay,
            port: self.port,
            stations: stations.collect(),
        }
    }

    fn subnets(&self) -> impl Iterator<Item = IpNet> {
        let subnets = self.spec.ranges.iter();
        subnets.filter_map(|range| range.subnet.parse().ok())
    }

    fn mesh_on_host(&self) -> Option<MeshSpec> {
        let mesh = self.mesh.as_ref()?;
        let own = |address: &IpAddr| {
            let subnet = self.subnets().find(|subnet| subnet.contains(*address))?;
            subnet.with_address(*address)
        };
        let published = mesh.ports.iter();
        Some(MeshSpec {
            overlay: self.id.clone(),
            addresses: mesh.own.iter().filter_map(own).collect(),
            ports: published
                .map(|((protocol, port), endpoints)| ((ports::protocol(*protocol), *port), endpoints.clone()))
                .collect(),
            lost: mesh.lost.clone(),
        })
    }

    fn mesh_entries(&self) -> Option<MeshEntries> {
        let mesh = self.mesh.as_ref()?;
        Some(MeshEntries {
            subnets: self.subnets().collect(),
            nodes: Arc::new(mesh.nodes.clone()),
        })
    }

    fn services(&self) -> Services {
        let virtuals = self.virtuals.iter().map(|(vip, endpoints)| VirtualService {
            vip: *vip,
            endpoints: endpoints.clone(),
        });
        Services {
            virtuals: Arc::new(virtuals.collect()),
            in_use: Arc::new(self.in_use.clone()),
        }
    }
}

/// A shared network as it stands.
#[derive(Debug)]
pub(crate) struct Standing {
    network: SharedNetwork,
    services: Services,
    entries: Option<MeshEntries>,
    /// It is not only there because containers are still on it.
    wanted: bool,
}

/// The networks that nodes share, as the engine was told of them.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Those that stand, by id. The lock also puts changes of containers' services in order.
    standing: tokio::sync::Mutex<BTreeMap<String, Standing>>,
    /// Ids of those that were tried to be made.
    tried: watch::Sender<BTreeSet<String>>,
}

impl Engine {
    /// Makes the networks that this node shares with others those that are given. One that containers of this node are
    /// still on stays as it was until they are gone. A failure leaves the others made; calling it again tries again.
    pub async fn set_shared_networks(&self, networks: Vec<SharedNetwork>) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        self.carry("set_shared_networks", async move {
            inner.networking.set_shared(networks).await
        })
        .await
    }
}

impl Networking {
    async fn set_shared(&self, wanted: Vec<SharedNetwork>) -> Result<()> {
        let way_out = match wanted.iter().any(|network| !network.spec.internal) {
            true => self.ensure_way_out().await,
            false => Ok(()),
        };
        let mut shared = self.shared.standing.lock().await;
        let mut next: BTreeMap<String, (SharedNetwork, bool)> = wanted
            .into_iter()
            .map(|network| (network.id.clone(), (network, true)))
            .collect();
        for (id, standing) in &*shared {
            if !next.contains_key(id) && self.has_members(id) {
                next.insert(id.clone(), (standing.network.clone(), false));
            }
        }
        self.make_shared(&mut shared, next).await.and(way_out)
    }

    /// Waits until the engine was told of the shared networks that a container is to join.
    pub async fn await_shared(&self, record: &Record, leases: &Leases) -> Result<()> {
        let mut wanted: BTreeMap<String, String> = {
            let catalog = self.catalog();
            let names = record.wanted_networks();
            let held = names.keys().filter_map(|name| catalog.find(name).ok());
            let shared = held.filter(|held| held.record.is_shared());
            shared
                .map(|held| (held.record.id.clone(), held.record.spec.name.clone()))
                .collect()
        };
        wanted.extend(leases.networks().map(|(id, name)| (id.clone(), name.clone())));
        let mut tried = self.shared.tried.subscribe();
        let told = tried.wait_for(|tried| wanted.keys().all(|id| tried.contains(id)));
        let told = tokio::select! {
            told = tokio::time::timeout(TOLD_WITHIN, told) => told,
            () = self.stopping.cancelled() => return Err(Error::ShuttingDown),
        };
        match told {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::wrong_state(format!(
                "this node does not know yet who is on its networks {:?}: no cluster has told it",
                wanted.into_values().collect::<Vec<_>>()
            ))),
        }
    }

    /// Takes down the shared networks that nobody wants and no container is on any more.
    pub(super) async fn clear_shared(&self) {
        let mut shared = self.shared.standing.lock().await;
        let unused = |(id, standing): (&String, &Standing)| !standing.wanted && !self.has_members(id);
        if !shared.iter().any(unused) {
            return;
        }
        let kept = shared.iter().filter(|(id, standing)| !unused((id, standing)));
        let next = kept.map(|(id, standing)| (id.clone(), (standing.network.clone(), standing.wanted)));
        let next = next.collect();
        if let Err(error) = self.make_shared(&mut shared, next).await {
            tracing::error!(error = error.chain(), "a network of the cluster is left over");
        }
    }

    async fn make_shared(
        &self,
        shared: &mut BTreeMap<String, Standing>,
        next: BTreeMap<String, (SharedNetwork, bool)>,
    ) -> Result<()> {
        let overlays = next.values().map(|(network, _)| network.overlay()).collect();
        let made = self.network.set_overlays(overlays).await;
        let mesh = next.values().find_map(|(network, _)| network.mesh_on_host());
        let led_in = self.network.set_mesh(mesh).await;
        self.enter_shared(&next).await?;
        let differs = |id: &String, network: &SharedNetwork| {
            shared.get(id).is_none_or(|standing| standing.network != *network)
        };
        let changed: Vec<String> = next
            .iter()
            .filter(|(id, (network, _))| differs(id, network))
            .map(|(id, _)| id.clone())
            .collect();
        *shared = next
            .into_iter()
            .map(|(id, (network, wanted))| {
                let standing = Standing {
                    services: network.services(),
                    entries: network.mesh_entries(),
                    network,
                    wanted,
                };
                (id, standing)
            })
            .collect();
        self.shared.tried.send_replace(shared.keys().cloned().collect());
        let led = self.lead_members(shared, &changed).await;
        made?;
        led_in?;
        led
    }

    /// Makes records, names and addresses follow what is shared.
    async fn enter_shared(&self, next: &BTreeMap<String, (SharedNetwork, bool)>) -> Result<()> {
        let known: Vec<NetworkRecord> = {
            let catalog = self.catalog();
            let shared = catalog.all().filter(|held| held.record.is_shared());
            shared.map(|held| held.record.clone()).collect()
        };
        for record in known.iter().filter(|record| !next.contains_key(&record.id)) {
            if self.has_members(&record.id) {
                continue;
            }
            self.catalog().remove(&record.id);
            self.directory.forget_shared(&record.id);
            self.store.remove_behind(Table::Networks, &record.id).await?;
        }
        for (id, (network, _)) in next {
            self.directory
                .enter_shared(id, &network.spec.name, &network.names, &network.addresses);
            let same = known.iter().find(|record| record.id == *id);
            if same.is_some_and(|record| record.spec == network.spec) {
                continue;
            }
            let record = NetworkRecord {
                id: id.clone(),
                created: same.map_or_else(clock::now, |record| record.created),
                spec: network.spec.clone(),
                link: String::new(),
                owns_link: false,
            };
            self.store.put_behind(Table::Networks, id, &record).await?;
            self.catalog().put(record)?;
        }
        Ok(())
    }

    /// Leads the containers of these networks to the services that the networks have now.
    async fn lead_members(&self, shared: &BTreeMap<String, Standing>, changed: &[String]) -> Result<()> {
        let members: BTreeSet<ContainerId> = {
            let catalog = self.catalog();
            let held = changed.iter().filter_map(|id| catalog.get(id));
            held.flat_map(|held| held.members().cloned().collect::<Vec<_>>())
                .collect()
        };
        let mut failure = None;
        for id in members {
            let networks = self.catalog().networks_of(&id);
            match self.lead(shared, &id, &networks).await {
                // It is being started, and gets them then, or is gone.
                Ok(()) | Err(NetworkError::NoSandbox { .. }) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Leads a container to the services of these networks, of which others than shared ones have none.
    async fn lead(
        &self,
        shared: &BTreeMap<String, Standing>,
        id: &ContainerId,
        networks: &[String],
    ) -> std::result::Result<(), NetworkError> {
        let mut all = Services::default();
        for network in networks {
            let Some(Standing { services, .. }) = shared.get(network) else {
                continue;
            };
            if all == Services::default() {
                all = services.clone();
            } else {
                Arc::make_mut(&mut all.virtuals).extend(services.virtuals.iter().cloned());
                Arc::make_mut(&mut all.in_use).extend(&*services.in_use);
            }
        }
        self.network.set_services(id.as_str(), all).await?;
        match networks
            .iter()
            .find_map(|network| shared.get(network)?.entries.clone())
        {
            Some(entries) => self.network.set_mesh_entries(id.as_str(), entries).await,
            None => Ok(()),
        }
    }

    /// Leads a container that goes from some places to others to the services of those.
    pub(super) async fn lead_to_services(&self, id: &ContainerId, from: &Places, to: &Places) -> Result<()> {
        if !from
            .values()
            .chain(to.values())
            .any(|place| self.is_shared(place))
        {
            return Ok(());
        }
        let shared = self.shared.standing.lock().await;
        let networks: Vec<String> = to.values().map(|place| place.network_id.clone()).collect();
        Ok(self.lead(&shared, id, &networks).await?)
    }

    fn has_members(&self, id: &str) -> bool {
        let catalog = self.catalog();
        catalog
            .get(id)
            .is_some_and(|held| held.members().next().is_some())
    }
}
