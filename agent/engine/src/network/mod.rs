//! The node's networks, and each container's places in them: addresses, sandbox, names, published ports.
//!
//! Begin at [`Networking`]; `definition` says what a network is, `place` where a container stands in it, `change` what
//! users do to networks and to running containers.

mod answer;
#[cfg(test)]
mod answer_hostile;
mod catalog;
mod change;
mod definition;
mod directory;
mod held;
mod hosts;
mod ipam;
mod lease;
mod legacy_links;
mod open;
mod options;
mod place;
mod ports;
mod ranges;
mod resolver;
mod shared;
mod shared_network;
mod way_out;

pub(crate) use hosts::{HostsEntries, own_addresses};
pub use ipam::SubnetPool;
pub(crate) use lease::Leases;
pub use lease::{PlaceWish, SharedPlace, SharedPlaces};
pub(crate) use legacy_links::Linked;
pub(crate) use place::{Kind, Places, Wanted, check_mode, kind, own_network};
pub use shared::{SharedFailure, SharedFailures};
pub use shared_network::{SharedGuard, SharedMesh, SharedNetwork, SharedPort};

use crate::error::{Error, Result};
use crate::record::Record;
use crate::spec;
use crate::store::Store;
use catalog::{Catalog, Joining};
use directory::{Directory, Scope, ScopedNetwork};
use muster_network::{Network, NetworkError, SandboxSpec};
use muster_types::ContainerId;
use muster_types::container::{ContainerConfig, EndpointSpec, NetworkEndpoint, NetworkMode, PortBinding};
use muster_types::network::NetworkInfo;
use ports::Targets;
use resolver::{Resolver, ResolverSettings, Upstream};
use shared::OVERLAY;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Name of the default network.
const DEFAULT_NETWORK: &str = "bridge";
/// The bridge by which containers of shared networks reach the outside; Docker's name.
pub(crate) const WAY_OUT: &str = muster_types::overlay::GATEWAY_BRIDGE;

/// The node's networks.
pub(crate) struct Networking {
    pub network: Network,
    pools: Vec<SubnetPool>,
    catalog: Mutex<Catalog>,
    directory: Arc<Directory>,
    resolvers: Mutex<HashMap<ContainerId, Resolver>>,
    shared: shared::Shared,
    /// Who gives users' containers their places in networks that nodes share.
    places: Option<Arc<dyn SharedPlaces>>,
    /// Makes and removes networks one at a time: a subnet is chosen before its network exists.
    making: tokio::sync::Mutex<()>,
    store: Store,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// What a container's resolver is told besides the names.
pub(crate) struct ResolverChoice {
    /// Servers that the user or the engine's settings name; the host's where there are none.
    pub nameservers: Vec<String>,
    /// The user chose `ndots`.
    pub own_ndots: bool,
}

/// The container whose network a mode shares.
pub(crate) fn shared_with(mode: &NetworkMode) -> Option<&str> {
    match kind(mode) {
        Kind::Shared(reference) => Some(reference),
        Kind::Own(_) | Kind::Loopback | Kind::Host => None,
    }
}

/// Whether a container with this mode has a network namespace of its own.
pub(crate) fn has_own_namespace(mode: &NetworkMode) -> bool {
    match kind(mode) {
        Kind::Own(_) | Kind::Loopback => true,
        Kind::Host | Kind::Shared(_) => false,
    }
}

/// Whether a mode is the host's own network.
pub(crate) fn is_hosts(mode: &NetworkMode) -> bool {
    kind(mode) == Kind::Host
}

fn joining(record: &Record) -> Joining<'_> {
    Joining {
        id: &record.id,
        name: &record.name,
        host_name: &record.host_name,
    }
}

impl Networking {
    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resolvers(&self) -> MutexGuard<'_, HashMap<ContainerId, Resolver>> {
        self.resolvers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The default bridge's gateway.
    pub fn gateway(&self) -> Ipv4Addr {
        let catalog = self.catalog();
        let bridge = catalog.find(DEFAULT_NETWORK).ok();
        let gateway = bridge.and_then(|held| held.record.spec.ranges.first()?.gateway);
        match gateway {
            Some(IpAddr::V4(gateway)) => gateway,
            // Only while the engine opens.
            Some(IpAddr::V6(_)) | None => Ipv4Addr::UNSPECIFIED,
        }
    }

    /// All networks.
    pub fn list(&self) -> Vec<NetworkInfo> {
        self.catalog().all().map(|held| held.record.info()).collect()
    }

    /// The network that a user means.
    pub fn find(&self, reference: &str) -> Result<NetworkInfo> {
        Ok(self.catalog().find(reference)?.record.info())
    }

    /// The id of the network with this name.
    pub fn id_of(&self, name: &str) -> String {
        self.catalog()
            .find(name)
            .map(|held| held.record.id.clone())
            .unwrap_or_default()
    }

    /// What a configuration wants of which network, by the networks' names; refuses what could never be.
    pub async fn wanted(&self, config: &ContainerConfig) -> Result<Wanted> {
        let unknown = self.find_unknown(config).await?;
        let name_of = |reference: &str| match unknown.get(reference) {
            Some(name) => Ok(name.clone()),
            None => Ok(self.catalog().find(reference)?.record.spec.name.clone()),
        };
        let wanted = place::wanted(config, name_of)?;
        for (name, spec) in &wanted {
            self.check_place(config, name, spec)?;
        }
        Ok(wanted)
    }

    /// Puts a container on all of its networks; on none of them when that fails.
    pub fn join(&self, record: &Record, leases: &Leases) -> Result<Places> {
        let wanted = record.wanted_networks();
        let mut places = Places::new();
        for (name, spec) in place::in_order(&wanted, &record.config.host.network) {
            match self.join_one(record, (name, spec), leases.on(name), &places) {
                Ok(endpoint) => drop(places.insert(name.clone(), endpoint)),
                Err(error) => {
                    self.leave(&record.id, &places);
                    return Err(error);
                }
            }
        }
        match self.with_way_out(record, places.clone()) {
            Ok(with) => places = with,
            Err(error) => {
                self.leave(&record.id, &places);
                return Err(error);
            }
        }
        self.enter(&record.id, &places);
        Ok(places)
    }

    fn join_one(
        &self,
        record: &Record,
        (name, spec): (&str, &EndpointSpec),
        leased: Option<&SharedPlace>,
        places: &Places,
    ) -> Result<NetworkEndpoint> {
        let mut catalog = self.catalog();
        let held = catalog.find(leased.map_or(name, |leased| &leased.network))?;
        let id = held.record.id.clone();
        let has_interface = !held.record.spec.ranges.is_empty();
        let interface = has_interface.then(|| place::interface_name(&held.options.interface_prefix, places));
        let given = leased.map(|leased| leased.addresses.as_slice());
        let mut endpoint = catalog.join(&id, joining(record), spec, given)?;
        endpoint.interface = interface.unwrap_or_default();
        Ok(endpoint)
    }

    /// Notes the places that a running container has already.
    pub fn rejoin(&self, record: &Record, places: &Places) {
        let mut catalog = self.catalog();
        for endpoint in places.values() {
            catalog.rejoin(joining(record), endpoint);
        }
        drop(catalog);
        self.enter(&record.id, places);
    }

    fn enter(&self, id: &ContainerId, places: &Places) {
        for (name, endpoint) in places {
            self.directory.enter(name, id, endpoint);
        }
    }

    /// Takes a container off networks. Idempotent.
    pub fn leave(&self, id: &ContainerId, places: &Places) {
        for endpoint in places.values() {
            self.directory.leave(&endpoint.network_id, id);
            if self.catalog().leave(id, endpoint) {
                self.give_back(id, &endpoint.network_id);
            }
        }
    }

    /// Notes a container's new name, and returns its places with it.
    pub fn rename(&self, record: &Record, places: &Places) -> Places {
        self.catalog().rename(&record.id, &record.name);
        let mut renamed = places.clone();
        for endpoint in renamed
            .values_mut()
            .filter(|endpoint| !endpoint.dns_names.is_empty())
        {
            endpoint.dns_names = directory::dns_names(joining(record), &endpoint.spec);
        }
        self.enter(&record.id, &renamed);
        renamed
    }

    /// Makes the network namespace of a container, or sets `netns` up for it; `None` where it shares one.
    pub async fn connect(
        &self,
        record: &Record,
        places: &Places,
        choice: &ResolverChoice,
        netns: Option<OwnedFd>,
    ) -> Result<Option<OwnedFd>> {
        if !has_own_namespace(&record.config.host.network) {
            return Ok(None);
        }
        let routes = place::default_routes(places);
        let mut interfaces = Vec::new();
        for endpoint in places.values().filter(|endpoint| !endpoint.interface.is_empty()) {
            interfaces.push(self.interface(endpoint, &routes)?);
        }
        let sysctls = record.config.host.sysctls.iter();
        let sysctls = sysctls.map(|(name, value)| (spec::dotted_sysctl(name), value.clone()));
        let spec = SandboxSpec {
            container_id: record.id.to_string(),
            interfaces,
            sysctls: sysctls.filter(|(name, _)| name.starts_with("net.")).collect(),
        };
        let sandbox = match netns {
            Some(netns) => self.network.create_sandbox_in(&spec, netns).await?,
            None => self.network.create_sandbox(&spec).await?,
        };
        self.lead_to_services(&record.id, &Places::new(), places).await?;
        self.serve_names(record, places, choice).await?;
        Ok(Some(sandbox.netns))
    }

    fn interface(
        &self,
        endpoint: &NetworkEndpoint,
        routes: &[muster_network::DefaultRoute],
    ) -> Result<muster_network::Interface> {
        let catalog = self.catalog();
        let held = catalog.find(&endpoint.network_id)?;
        let driver = held.record.spec.driver.as_str();
        let link = match held.record.is_shared() {
            true => &held.record.id,
            false => &held.record.link,
        };
        place::interface(endpoint, driver, link, &held.options, routes)
    }

    /// Whether a container with these places asks the engine for names.
    pub fn resolves_names(places: &Places) -> bool {
        places.values().any(|endpoint| !endpoint.dns_names.is_empty())
    }

    /// Serves the container's resolver, or tells the one that is served of the container's places.
    pub async fn serve_names(&self, record: &Record, places: &Places, choice: &ResolverChoice) -> Result<()> {
        if !Self::resolves_names(places) {
            return Ok(());
        }
        let (scope, has_outside) = self.scope(places);
        if let Some(resolver) = self.resolvers().get(&record.id) {
            resolver.set_scope(scope, has_outside);
            return Ok(());
        }
        let sockets = self.network.open_resolver(record.id.as_str()).await?;
        let settings = ResolverSettings {
            upstreams: upstreams(&choice.nameservers),
            own_ndots: choice.own_ndots,
            scope,
            has_outside,
        };
        let (directory, network) = (Arc::clone(&self.directory), self.network.clone());
        let resolver = Resolver::serve(sockets, settings, directory, network, &self.tasks, &self.stopping)
            .map_err(|source| Error::io("serve the names of a container", source))?;
        self.resolvers().insert(record.id.clone(), resolver);
        Ok(())
    }

    fn scope(&self, places: &Places) -> (Scope, bool) {
        let catalog = self.catalog();
        let mut has_outside = false;
        let mut networks = Vec::new();
        for endpoint in places.values() {
            has_outside |= catalog
                .get(&endpoint.network_id)
                .is_some_and(|held| !held.record.spec.internal);
            if !endpoint.dns_names.is_empty() {
                networks.push(ScopedNetwork {
                    id: endpoint.network_id.clone(),
                    links: directory::parse_links(&endpoint.spec.links),
                });
            }
        }
        (Scope { networks }, has_outside)
    }

    fn targets(&self, places: &Places) -> Targets {
        let catalog = self.catalog();
        Targets::of(places, |id| {
            let held = catalog.get(id)?;
            (held.record.spec.driver == "bridge").then(|| (held.options.host_binding, held.options.routed()))
        })
    }

    /// Publishes a container's ports; returns them with the host ports that were chosen.
    pub async fn publish(&self, record: &Record, places: &Places) -> Result<Vec<PortBinding>> {
        let targets = self.targets(places);
        if !targets.exist() {
            return Ok(Vec::new());
        }
        let mut wanted = ports::wanted_ports(record)?;
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        for (address, port) in ports::unheeded(&wanted, &targets) {
            tracing::warn!(
                container = record.id.short(),
                port = port.container_port,
                "the port is not on {address} alone: the network is routed, so that everybody with a route to the container \
                 reaches it"
            );
        }
        loop {
            let mappings = ports::mappings(&wanted, &targets)?;
            match self.network.publish(record.id.as_str(), &mappings).await {
                Ok(published) => return Ok(published.iter().map(ports::binding).collect()),
                Err(NetworkError::PortInUse { port, protocol, .. })
                    if ports::try_next(&mut wanted, (port, protocol)) => {}
                Err(error) => {
                    return Err(Error::Endpoint {
                        name: record.name.clone(),
                        id: record.id.to_string(),
                        source: Box::new(error),
                    });
                }
            }
        }
    }

    /// Publishes the ports that a running container has had before, under the same host ports. Idempotent.
    pub async fn publish_again(&self, record: &Record, places: &Places, ports: &[PortBinding]) -> Result<()> {
        let targets = self.targets(places);
        if !targets.exist() {
            return Ok(());
        }
        let mappings = ports::mappings(ports, &targets)?;
        self.network.publish(record.id.as_str(), &mappings).await?;
        Ok(())
    }

    /// Takes everything of a container's network away. Idempotent; collects errors and goes on.
    pub async fn disconnect(&self, id: &ContainerId, published: bool, places: &Places) {
        drop(self.resolvers().remove(id));
        if published && let Err(error) = self.network.unpublish(id.as_str()).await {
            tracing::error!(container = id.short(), %error, "ports stay published");
        }
        if let Err(error) = self.network.remove_sandbox(id.as_str()).await {
            tracing::error!(container = id.short(), %error, "a network namespace is left over");
        }
        self.leave(id, places);
        self.clear_shared().await;
    }
}

/// The servers for names that no container has: those that were chosen, asked as the container would ask them, else
/// the host's own, of which only the host can ask those on its loopback.
fn upstreams(chosen: &[String]) -> Vec<Upstream> {
    let own = crate::files::host_nameservers();
    let (servers, are_hosts) = if chosen.is_empty() {
        (own.as_slice(), true)
    } else {
        (chosen, false)
    };
    let addresses = servers.iter().filter_map(|server| server.parse::<IpAddr>().ok());
    addresses
        .filter(|address| *address != IpAddr::V4(muster_network::RESOLVER_ADDRESS))
        .map(|address| Upstream {
            address,
            from_host: are_hosts && address.is_loopback(),
        })
        .collect()
}
