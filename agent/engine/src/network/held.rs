//! One network of the node, in memory: who is on it, which addresses it has given out, and what it refuses.

use super::catalog::Joining;
use super::definition::NetworkRecord;
use super::directory::dns_names;
use super::ipam::AddressPool;
use super::options::Options;
use crate::error::{Error, Result};
use muster_network::MacAddress;
use muster_types::ContainerId;
use muster_types::container::{EndpointSpec, NetworkEndpoint};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One network.
#[derive(Debug)]
pub(crate) struct Held {
    pub record: NetworkRecord,
    pub options: Options,
    pools: Vec<AddressPool>,
    /// Containers on it, with the endpoint's id and the container's name.
    members: BTreeMap<ContainerId, (String, String)>,
}

impl Held {
    /// A network that nobody is on.
    pub fn new(record: NetworkRecord) -> Result<Self> {
        Ok(Self {
            options: record.options()?,
            pools: record.pools()?,
            members: BTreeMap::new(),
            record,
        })
    }

    /// Changes what it is, and leaves who is on it.
    pub fn change(&mut self, record: NetworkRecord) -> Result<()> {
        self.options = record.options()?;
        self.record = record;
        Ok(())
    }

    /// Whether a container is on it.
    pub fn has(&self, id: &ContainerId) -> bool {
        self.members.contains_key(id)
    }

    /// The containers on it.
    pub fn members(&self) -> impl Iterator<Item = &ContainerId> {
        self.members.keys()
    }

    /// Refuses what may not be removed.
    pub fn check_removable(&self) -> Result<()> {
        let name = &self.record.spec.name;
        if self.record.is_built_in() {
            return Err(Error::forbidden(format!(
                "{name} is a pre-defined network and cannot be removed"
            )));
        }
        if self.record.is_shared() {
            return Err(Error::forbidden(format!(
                "network {name} belongs to the cluster and is removed there"
            )));
        }
        if self.members.is_empty() {
            return Ok(());
        }
        let members: Vec<String> = self
            .members
            .values()
            .map(|(endpoint, container)| {
                format!(
                    "name:{container:?} id:{:?}",
                    endpoint.get(..12).unwrap_or(endpoint)
                )
            })
            .collect();
        Err(Error::forbidden(format!(
            "error while removing network: network {name} has active endpoints ({})",
            members.join(", ")
        )))
    }

    /// Refuses an endpoint that the network cannot have, in Docker's words.
    pub fn check_endpoint(&self, spec: &EndpointSpec) -> Result<()> {
        let mut problems = Vec::new();
        if self.record.is_built_in() {
            if spec.ipv4.is_some() || spec.ipv6.is_some() {
                problems
                    .push("user specified IP address is supported on user defined networks only".to_owned());
            }
            if !spec.aliases.is_empty() {
                problems.push(
                    "network-scoped alias is supported only for containers in user defined networks"
                        .to_owned(),
                );
            }
        } else {
            for address in wanted(spec).into_iter().flatten() {
                if !self.record.subnets().any(|subnet| subnet.contains(address)) {
                    problems.push(format!("no configured subnet contains IP address {address}"));
                }
            }
        }
        if !spec.mac.is_empty() && spec.mac.parse::<MacAddress>().is_err() {
            problems.push(format!("invalid MAC address: {}", spec.mac));
        }
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "invalid endpoint settings:\n{}",
                problems.join("\n")
            ))),
        }
    }

    /// Puts a container on it, with addresses; with those that were given to it elsewhere, where there are any. Takes
    /// nothing when it fails.
    pub fn join(
        &mut self,
        joining: Joining<'_>,
        spec: &EndpointSpec,
        given: Option<&[IpAddr]>,
    ) -> Result<NetworkEndpoint> {
        self.check_endpoint(spec)?;
        let mut endpoint = NetworkEndpoint {
            network_id: self.record.id.clone(),
            endpoint_id: super::definition::random_id(),
            spec: spec.clone(),
            ..NetworkEndpoint::default()
        };
        if self.record.is_shared() {
            let asked: Vec<IpAddr> = wanted(spec).into_iter().flatten().collect();
            self.place_given(&mut endpoint, given.unwrap_or(&asked))?;
        }
        for (is_ipv4, wanted) in [true, false].into_iter().zip(wanted(spec)) {
            if let Err(error) = self.take_address(&mut endpoint, is_ipv4, wanted) {
                self.give_back(addresses(&endpoint));
                return Err(error);
            }
        }
        if let Some(first) = addresses(&endpoint).next() {
            endpoint.mac = match spec.mac.parse::<MacAddress>() {
                Ok(mac) => mac.to_string(),
                Err(_) => MacAddress::for_address(first).to_string(),
            };
        }
        if self.record.resolves_names() {
            endpoint.dns_names = dns_names(joining, spec);
        }
        self.enter(joining, &endpoint.endpoint_id);
        Ok(endpoint)
    }

    /// Puts a container back that is on it already, with the addresses that it has.
    pub fn rejoin(&mut self, joining: Joining<'_>, endpoint: &NetworkEndpoint) {
        let given_here = !self.record.is_shared();
        for address in addresses(endpoint).filter(|_| given_here) {
            if !self.pools.iter_mut().any(|pool| pool.claim(address)) {
                tracing::warn!(%address, "a running container's address is outside of its network's subnets or taken twice");
            }
        }
        self.enter(joining, &endpoint.endpoint_id);
    }

    /// Takes a container off it. Tells whether the place was its own until now.
    pub fn leave(&mut self, id: &ContainerId, endpoint: &NetworkEndpoint) -> bool {
        // Another run's addresses are not this one's to give back.
        let own = self.members.get(id);
        let is_own = own.is_some_and(|(own, _)| *own == endpoint.endpoint_id);
        if is_own {
            self.members.remove(id);
            self.give_back(addresses(endpoint));
        }
        is_own
    }

    /// Notes a container's new name.
    pub fn rename(&mut self, id: &ContainerId, name: &str) {
        if let Some(member) = self.members.get_mut(id) {
            name.clone_into(&mut member.1);
        }
    }

    fn enter(&mut self, joining: Joining<'_>, endpoint_id: &str) {
        let member = (endpoint_id.to_owned(), joining.name.to_owned());
        self.members.insert(joining.id.clone(), member);
    }

    /// Addresses of a shared network are given out elsewhere, so that they come with the endpoint.
    fn place_given(&self, endpoint: &mut NetworkEndpoint, given: &[IpAddr]) -> Result<()> {
        for address in given {
            let subnet = self.record.subnets().find(|subnet| subnet.contains(*address));
            if let Some(subnet) = subnet {
                place(endpoint, *address, subnet.prefix(), None);
            }
        }
        if addresses(endpoint).next().is_none() {
            return Err(Error::wrong_state(format!(
                "no address is known in network {}, which this node shares with others: it takes part in a cluster's \
                 networks only with an address that the cluster gave out",
                self.record.spec.name
            )));
        }
        Ok(())
    }

    fn take_address(
        &mut self,
        endpoint: &mut NetworkEndpoint,
        is_ipv4: bool,
        wanted: Option<IpAddr>,
    ) -> Result<()> {
        let mut pools = self
            .pools
            .iter_mut()
            .filter(|pool| pool.subnet().is_ipv4() == is_ipv4)
            .peekable();
        if pools.peek().is_none() {
            return Ok(());
        }
        let internal = self.record.spec.internal;
        let mut last = None;
        for pool in pools {
            let taken = match wanted {
                None => pool.allocate(),
                Some(address) if pool.claim(address) => Ok(address),
                Some(_) => Err(Error::forbidden("Address already in use")),
            };
            match taken {
                Ok(address) => {
                    let gateway = pool.gateway().filter(|_| !internal);
                    place(endpoint, address, pool.subnet().prefix(), gateway);
                    return Ok(());
                }
                Err(error) => last = Some(error),
            }
        }
        last.map_or(Ok(()), Err)
    }

    fn give_back(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        for address in addresses {
            for pool in &mut self.pools {
                pool.release(address);
            }
        }
    }
}

fn wanted(spec: &EndpointSpec) -> [Option<IpAddr>; 2] {
    [spec.ipv4.map(IpAddr::V4), spec.ipv6.map(IpAddr::V6)]
}

fn place(endpoint: &mut NetworkEndpoint, address: IpAddr, prefix: u8, gateway: Option<IpAddr>) {
    match address {
        IpAddr::V4(address) => {
            endpoint.address = Some(address);
            endpoint.prefix_len = prefix;
            endpoint.gateway = gateway.and_then(v4);
        }
        IpAddr::V6(address) => {
            endpoint.ipv6 = Some(address);
            endpoint.ipv6_prefix_len = prefix;
            endpoint.ipv6_gateway = gateway.and_then(v6);
        }
    }
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

/// The addresses of an endpoint.
pub(crate) fn addresses(endpoint: &NetworkEndpoint) -> impl Iterator<Item = IpAddr> + use<> {
    let v4 = endpoint.address.map(IpAddr::V4);
    v4.into_iter().chain(endpoint.ipv6.map(IpAddr::V6))
}
