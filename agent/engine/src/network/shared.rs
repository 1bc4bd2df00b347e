//! Networks that this node shares with others: what the engine is told of them, and making it so.
//!
//! The engine gives out no address there and decides nothing about the others; it knows what it was last told. A
//! container on such a network has its way out through a bridge of this node that nothing else is on.

use super::definition::NetworkRecord;
use super::place::Places;
use super::shared_network::SharedNetwork;
use super::{Leases, NetworkError, Networking};
use crate::clock;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::record::Record;
use crate::store::Table;
use muster_network::{MeshEntries, Services};
use muster_types::ContainerId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The driver of networks that nodes share.
pub(crate) const OVERLAY: &str = "overlay";
/// How long a container that starts waits for its networks to be told of, which happens once after the daemon started.
const TOLD_WITHIN: Duration = Duration::from_secs(15);

/// What is not as it should be of shared networks.
#[derive(Debug, Clone, Default)]
pub struct SharedFailures {
    /// By the network's id.
    pub networks: BTreeMap<String, SharedFailure>,
    /// Of what no network has for itself.
    pub host: Option<Arc<Error>>,
}

/// Why a network is not as it should be.
#[derive(Debug, Clone)]
pub struct SharedFailure {
    /// The first reason.
    pub error: Arc<Error>,
    /// Containers of this node are on it, or ports of the host lead into it: their connections go as it was before.
    pub is_used: bool,
}

impl SharedFailures {
    /// Whether everything is as it should be.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.host.is_none()
    }

    /// The first failure of a network is the one that is kept.
    fn add(&mut self, id: &str, error: Arc<Error>) {
        let failure = SharedFailure {
            error,
            is_used: false,
        };
        self.networks.entry(id.to_owned()).or_insert(failure);
    }
}

/// A shared network as it stands.
#[derive(Debug)]
pub(crate) struct Standing {
    network: SharedNetwork,
    services: Services,
    entries: Option<MeshEntries>,
    /// The containers on it are led to its services as these are.
    led: bool,
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
    /// still on stays as it was until they are gone. A network that fails leaves the others made; calling it again tries
    /// again.
    pub async fn set_shared_networks(&self, networks: Vec<SharedNetwork>) -> Result<SharedFailures> {
        let inner = Arc::clone(&self.inner);
        self.carry("set_shared_networks", async move {
            Ok(inner.networking.set_shared(networks).await)
        })
        .await
    }
}

impl Networking {
    async fn set_shared(&self, wanted: Vec<SharedNetwork>) -> SharedFailures {
        let mut failures = SharedFailures::default();
        let outward = wanted.iter().filter(|network| !network.spec.internal);
        let outward: Vec<String> = outward.map(|network| network.id.clone()).collect();
        if !outward.is_empty()
            && let Err(error) = self.ensure_way_out().await
        {
            let error = Arc::new(error);
            outward.iter().for_each(|id| failures.add(id, Arc::clone(&error)));
        }
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
        self.make_shared(&mut shared, next, &mut failures).await;
        for (id, failure) in &mut failures.networks {
            let leads_ports = shared
                .get(id)
                .is_some_and(|standing| standing.network.mesh.is_some());
            failure.is_used = leads_ports || self.has_members(id);
        }
        failures
    }

    /// The ids of the shared networks that a container is to join, with their names.
    fn shared_among(&self, record: &Record, leases: &Leases) -> BTreeMap<String, String> {
        let catalog = self.catalog();
        let names = record.wanted_networks();
        let held = names.keys().filter_map(|name| catalog.find(name).ok());
        let shared = held.filter(|held| held.record.is_shared());
        let mut wanted: BTreeMap<String, String> = shared
            .map(|held| (held.record.id.clone(), held.record.spec.name.clone()))
            .collect();
        wanted.extend(leases.networks().map(|(id, name)| (id.clone(), name.clone())));
        wanted
    }

    /// Lets a container join while every shared network that it means stands. None of them is taken down meanwhile, nor
    /// later, as it is on them then: what the engine is told may be older than the container's leases.
    pub async fn join_standing<T>(
        &self,
        record: &Record,
        leases: &Leases,
        join: impl Fn() -> Result<T>,
    ) -> Result<T> {
        loop {
            let wanted = self.shared_among(record, leases);
            if wanted.is_empty() {
                return join();
            }
            let standing = self.shared.standing.lock().await;
            if wanted.keys().all(|id| standing.contains_key(id)) {
                return join();
            }
            drop(standing);
            self.await_shared(record, leases).await?;
        }
    }

    /// Waits until the engine was told of the shared networks that a container is to join.
    pub async fn await_shared(&self, record: &Record, leases: &Leases) -> Result<()> {
        let wanted = self.shared_among(record, leases);
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
        let mut failures = SharedFailures::default();
        self.make_shared(&mut shared, next, &mut failures).await;
        let of_networks = failures.networks.values().map(|failure| &failure.error);
        for error in of_networks.chain(&failures.host) {
            tracing::error!(error = error.chain(), "a network of the cluster is left over");
        }
    }

    async fn make_shared(
        &self,
        shared: &mut BTreeMap<String, Standing>,
        next: BTreeMap<String, (SharedNetwork, bool)>,
        failures: &mut SharedFailures,
    ) {
        let overlays = next.values().map(|(network, _)| network.overlay()).collect();
        match self.network.set_overlays(overlays).await {
            Ok(failed) => {
                for (id, error) in failed {
                    failures.add(&id, Arc::new(error.into()));
                }
            }
            Err(error) => {
                let error = Arc::new(error.into());
                next.keys().for_each(|id| failures.add(id, Arc::clone(&error)));
                failures.host = Some(error);
            }
        }
        self.lead_ports(&next, failures).await;
        self.enter_shared(&next, failures).await;
        let is_as_led = |id: &String, network: &SharedNetwork| {
            let standing = shared.get(id);
            standing.is_some_and(|standing| standing.led && standing.network == *network)
        };
        *shared = next
            .into_iter()
            .map(|(id, (network, wanted))| {
                let standing = Standing {
                    services: network.services(),
                    entries: network.mesh_entries(),
                    led: is_as_led(&id, &network),
                    network,
                    wanted,
                };
                (id, standing)
            })
            .collect();
        self.shared.tried.send_replace(shared.keys().cloned().collect());
        self.lead_members(shared, failures).await;
    }

    /// Makes the host's ports lead where the network that carries them says.
    async fn lead_ports(
        &self,
        next: &BTreeMap<String, (SharedNetwork, bool)>,
        failures: &mut SharedFailures,
    ) {
        let mesh = next
            .iter()
            .find_map(|(id, (network, _))| Some((id, network.mesh_on_host()?)));
        let (id, mesh) = mesh.unzip();
        if let Err(error) = self.network.set_mesh(mesh).await {
            let error = Arc::new(error.into());
            match id {
                Some(id) => failures.add(id, error),
                None => failures.host = Some(error),
            }
        }
    }

    /// Makes records, names and addresses follow what is shared.
    async fn enter_shared(
        &self,
        next: &BTreeMap<String, (SharedNetwork, bool)>,
        failures: &mut SharedFailures,
    ) {
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
            if let Err(error) = self.store.remove_behind(Table::Networks, &record.id).await {
                failures.add(&record.id, Arc::new(error));
            }
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
            let put = self.store.put_behind(Table::Networks, id, &record).await;
            if let Err(error) = put.and_then(|()| self.catalog().put(record)) {
                failures.add(id, Arc::new(error));
            }
        }
    }

    /// Leads the containers of networks that changed to the services that these have now.
    async fn lead_members(&self, shared: &mut BTreeMap<String, Standing>, failures: &mut SharedFailures) {
        let changed: Vec<String> = shared
            .iter()
            .filter(|(_, standing)| !standing.led)
            .map(|(id, _)| id.clone())
            .collect();
        let members: BTreeSet<ContainerId> = {
            let catalog = self.catalog();
            let held = changed.iter().filter_map(|id| catalog.get(id));
            held.flat_map(|held| held.members().cloned().collect::<Vec<_>>())
                .collect()
        };
        let mut astray = BTreeSet::new();
        for id in members {
            let networks = self.catalog().networks_of(&id);
            match self.lead(shared, &id, &networks).await {
                // It is being started, and gets them then, or is gone.
                Ok(()) | Err(NetworkError::NoSandbox { .. }) => {}
                Err(error) => {
                    let error = Arc::new(error.into());
                    for network in networks.into_iter().filter(|network| changed.contains(network)) {
                        failures.add(&network, Arc::clone(&error));
                        astray.insert(network);
                    }
                }
            }
        }
        for (id, standing) in shared {
            standing.led |= !astray.contains(id);
        }
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
                let guards = services.guards.iter();
                Arc::make_mut(&mut all.guards)
                    .extend(guards.map(|(address, guard)| (*address, Arc::clone(guard))));
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
