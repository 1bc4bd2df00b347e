//! Places of users' containers in networks that nodes share: the engine asks for them where a container starts or joins,
//! and gives them back when it leaves.

use super::place::{Places, Wanted};
use super::{Networking, directory, joining};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::record::Record;
use futures::future::BoxFuture;
use muster_types::ContainerId;
use muster_types::container::{ContainerConfig, EndpointSpec, NetworkEndpoint};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Gives users' containers their places in networks that nodes share. Whatever is asked is answered within seconds, also
/// while nobody who decides is in reach.
pub trait SharedPlaces: Send + Sync + std::fmt::Debug {
    /// The name of the network that is known by this name or id and that users' containers may join.
    fn find<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<String>>;

    /// Gives a container a place in a network, in place of one that it may have there; its addresses are kept where
    /// nothing else is wished.
    fn lease<'a>(&'a self, wish: &'a PlaceWish) -> BoxFuture<'a, Result<SharedPlace>>;

    /// Takes back whatever place a container has in the network with this id, or was about to get. Idempotent, at once,
    /// and in the end also where nobody who decides is in reach now.
    fn give_back(&self, container: &ContainerId, network: &str);
}

/// A place in a network that nodes share, as a container wishes for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceWish {
    /// The container.
    pub container: ContainerId,
    /// Name or id of the network.
    pub network: String,
    /// Names by which others on the network find the container.
    pub names: Vec<String>,
    /// Addresses, at most one of each family; the others are chosen.
    pub addresses: Vec<IpAddr>,
}

/// A place in a network that nodes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedPlace {
    /// The network's id.
    pub network: String,
    /// The addresses there, one of each of the network's families.
    pub addresses: Vec<IpAddr>,
}

/// Places that were given to a container and that it does not have yet. They are given back unless they are kept.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    lender: Option<Arc<dyn SharedPlaces>>,
    container: Option<ContainerId>,
    /// By the networks' names.
    places: BTreeMap<String, SharedPlace>,
}

impl Leases {
    /// The place on the network of this name.
    pub fn on(&self, network: &str) -> Option<&SharedPlace> {
        self.places.get(network)
    }

    /// The ids of the networks, with their names.
    pub fn networks(&self) -> impl Iterator<Item = (&String, &String)> {
        self.places.iter().map(|(name, place)| (&place.network, name))
    }

    /// The container has them now, and gives them back when it leaves.
    pub fn keep(mut self) {
        self.places.clear();
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        if let (Some(lender), Some(container)) = (&self.lender, &self.container) {
            for place in self.places.values() {
                lender.give_back(container, &place.network);
            }
        }
    }
}

impl Engine {
    /// The places that users' containers have in networks that nodes share.
    pub fn shared_places(&self) -> Vec<(ContainerId, SharedPlace)> {
        let networking = &self.inner.networking;
        let containers = self.inner.containers().all();
        let mut found = Vec::new();
        for container in containers {
            let of_user = container.with(|cell| cell.record.config.task.is_none());
            let Some(run) = container.run().filter(|_| of_user) else {
                continue;
            };
            let places = run.places.into_values();
            let shared = places.filter(|place| networking.is_shared(place));
            let held = shared.filter(|place| networking.is_member(&container.id, &place.network_id));
            found.extend(held.map(|place| {
                let place = SharedPlace {
                    addresses: super::held::addresses(&place).collect(),
                    network: place.network_id,
                };
                (container.id.clone(), place)
            }));
        }
        found
    }
}

impl Networking {
    /// Who gives a container its places in networks that nodes share; a task comes with its own.
    fn lender(&self, config: &ContainerConfig) -> Option<&Arc<dyn SharedPlaces>> {
        self.places.as_ref().filter(|_| config.task.is_none())
    }

    /// The names of the networks that a configuration means and this node does not know: it has no part in them yet.
    pub async fn find_unknown(&self, config: &ContainerConfig) -> Result<BTreeMap<String, String>> {
        let mut found = BTreeMap::new();
        let Some(lender) = self.lender(config) else {
            return Ok(found);
        };
        let own = super::own_network(&config.host.network);
        let references = own
            .into_iter()
            .chain(config.host.endpoints.keys().map(String::as_str));
        for reference in references {
            let known = self.catalog().find(reference).err();
            if let Some(Error::NoSuchNetwork { .. }) = known {
                found.insert(reference.to_owned(), lender.find(reference).await?);
            }
        }
        Ok(found)
    }

    /// The name of the network that a user means to put this container on or take it off.
    pub async fn name_for(&self, record: &Record, reference: &str) -> Result<String> {
        let missing = match self.find(reference) {
            Ok(network) => return Ok(network.spec.name),
            Err(error) => error,
        };
        if record.wanted_networks().contains_key(reference) {
            return Ok(reference.to_owned());
        }
        match (self.lender(&record.config), missing) {
            (Some(lender), Error::NoSuchNetwork { .. }) => lender.find(reference).await,
            (_, missing) => Err(missing),
        }
    }

    /// Refuses a place that a user's container cannot have, in Docker's words. What is not known here is refused by who
    /// gives it.
    pub fn check_place(&self, config: &ContainerConfig, name: &str, spec: &EndpointSpec) -> Result<()> {
        let catalog = self.catalog();
        let Ok(held) = catalog.find(name) else {
            return match self.lender(config) {
                Some(_) => Ok(()),
                None => Err(Error::NoSuchNetwork {
                    name: name.to_owned(),
                }),
            };
        };
        if held.record.is_shared() && self.lender(config).is_some() {
            if !held.record.spec.attachable {
                return Err(Error::not_attachable(name));
            }
            check_mac(name, spec)?;
        }
        held.check_endpoint(spec)
    }

    /// Asks for the places of a container that is to start.
    pub async fn lease(&self, record: &Record) -> Result<Leases> {
        self.lease_for(record, &record.wanted_networks()).await
    }

    /// Asks for places of a container in those of these networks that nodes share.
    pub async fn lease_for(&self, record: &Record, wanted: &Wanted) -> Result<Leases> {
        let Some(lender) = self.lender(&record.config) else {
            return Ok(Leases::default());
        };
        let mut leases = Leases {
            lender: Some(Arc::clone(lender)),
            container: Some(record.id.clone()),
            places: BTreeMap::new(),
        };
        for (name, spec) in wanted {
            let network = match self.catalog().find(name) {
                Ok(held) if !held.record.is_shared() => continue,
                Ok(held) => held.record.id.clone(),
                Err(_) => name.clone(),
            };
            check_mac(name, spec)?;
            let wish = wish(record, network, spec, spec_addresses(spec));
            let leased = tokio::select! {
                leased = lender.lease(&wish) => leased?,
                () = self.stopping.cancelled() => return Err(Error::ShuttingDown),
            };
            leases.places.insert(name.clone(), leased);
        }
        Ok(leases)
    }

    /// Tells others on the shared networks of a container of its new name. They know the old one until they can be told.
    pub async fn rename_shared(&self, record: &Record, places: &Places) {
        let Some(lender) = self.lender(&record.config) else {
            return;
        };
        for endpoint in places.values().filter(|endpoint| self.is_shared(endpoint)) {
            let network = endpoint.network_id.clone();
            let addresses = super::held::addresses(endpoint).collect();
            let wish = wish(record, network, &endpoint.spec, addresses);
            if let Err(error) = lender.lease(&wish).await {
                tracing::warn!(
                    container = record.id.short(),
                    error = error.chain(),
                    "other nodes know a container by its old name"
                );
            }
        }
    }

    /// Gives a place back that a container left.
    pub(super) fn give_back(&self, id: &ContainerId, network: &str) {
        if let Some(lender) = &self.places {
            lender.give_back(id, network);
        }
    }

    pub(super) fn is_shared(&self, endpoint: &NetworkEndpoint) -> bool {
        let catalog = self.catalog();
        let held = catalog.get(&endpoint.network_id);
        held.is_some_and(|held| held.record.is_shared())
    }

    fn is_member(&self, id: &ContainerId, network: &str) -> bool {
        self.catalog().get(network).is_some_and(|held| held.has(id))
    }
}

fn wish(record: &Record, network: String, spec: &EndpointSpec, addresses: Vec<IpAddr>) -> PlaceWish {
    PlaceWish {
        container: record.id.clone(),
        network,
        names: directory::dns_names(joining(record), spec),
        addresses,
    }
}

fn spec_addresses(spec: &EndpointSpec) -> Vec<IpAddr> {
    let ipv4 = spec.ipv4.map(IpAddr::V4);
    ipv4.into_iter().chain(spec.ipv6.map(IpAddr::V6)).collect()
}

/// Other nodes work out a container's hardware address from its address in the network.
fn check_mac(name: &str, spec: &EndpointSpec) -> Result<()> {
    match spec.mac.is_empty() {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "a MAC address cannot be chosen on network {name}: every node works it out from the container's IP address; \
             leave it out, or choose the IP address"
        ))),
    }
}
