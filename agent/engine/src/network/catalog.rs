//! The networks of the node, in memory: who is on them, and which addresses are given out.

use super::definition::NetworkRecord;
use super::held::Held;
use crate::error::{Error, Result};
use muster_network::IpNet;
use muster_types::ContainerId;
use muster_types::container::{EndpointSpec, NetworkEndpoint};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Every network.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    networks: BTreeMap<String, Held>,
}

/// A container that joins a network.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Joining<'a> {
    pub id: &'a ContainerId,
    pub name: &'a str,
    pub host_name: &'a str,
}

impl Catalog {
    /// Adds a network.
    pub fn insert(&mut self, record: NetworkRecord) -> Result<()> {
        let held = Held::new(record)?;
        self.networks.insert(held.record.id.clone(), held);
        Ok(())
    }

    /// Adds a network, or changes one and leaves who is on it.
    pub fn put(&mut self, record: NetworkRecord) -> Result<()> {
        match self.networks.get_mut(&record.id) {
            Some(held) => held.change(record),
            None => self.insert(record),
        }
    }

    /// The networks shared with other nodes that a container is on.
    pub fn networks_of(&self, id: &ContainerId) -> Vec<String> {
        let shared = self.all().filter(|held| held.record.is_shared());
        let own = shared.filter(|held| held.has(id));
        own.map(|held| held.record.id.clone()).collect()
    }

    /// Takes a network out.
    pub fn remove(&mut self, id: &str) -> Option<Held> {
        self.networks.remove(id)
    }

    /// All networks.
    pub fn all(&self) -> impl Iterator<Item = &Held> {
        self.networks.values()
    }

    /// The network with this id.
    pub fn get(&self, id: &str) -> Option<&Held> {
        self.networks.get(id)
    }

    /// The network that a user means: by its name, its id or the only id that begins so.
    pub fn find(&self, reference: &str) -> Result<&Held> {
        let missing = || Error::NoSuchNetwork {
            name: reference.to_owned(),
        };
        if reference.is_empty() {
            return Err(missing());
        }
        let reference = if reference == "default" {
            "bridge"
        } else {
            reference
        };
        if let Some(held) = self.networks.get(reference) {
            return Ok(held);
        }
        if let Some(held) = self.all().find(|held| held.record.spec.name == reference) {
            return Ok(held);
        }
        let mut fitting = self.all().filter(|held| held.record.id.starts_with(reference));
        match (fitting.next(), fitting.count()) {
            (Some(held), 0) => Ok(held),
            (Some(_), more) => Err(Error::invalid(format!(
                "network {reference} is ambiguous ({} matches found based on ID prefix)",
                more + 1
            ))),
            (None, _) => Err(missing()),
        }
    }

    /// Subnets and links of all networks.
    pub fn occupied(&self) -> (Vec<IpNet>, Vec<String>) {
        let subnets = self.all().flat_map(|held| held.record.subnets()).collect();
        let links = self.all().map(|held| held.record.link.clone()).collect();
        (subnets, links)
    }

    /// Puts a container on a network and gives it its addresses there, or those that others gave it. Takes nothing when it
    /// fails.
    pub fn join(
        &mut self,
        network_id: &str,
        joining: Joining<'_>,
        spec: &EndpointSpec,
        given: Option<&[IpAddr]>,
    ) -> Result<NetworkEndpoint> {
        let held = self
            .networks
            .get_mut(network_id)
            .ok_or_else(|| Error::NoSuchNetwork {
                name: network_id.to_owned(),
            })?;
        held.join(joining, spec, given)
    }

    /// Puts a container back on a network where it is already, with the addresses that it has.
    pub fn rejoin(&mut self, joining: Joining<'_>, endpoint: &NetworkEndpoint) {
        let Some(held) = self.networks.get_mut(&endpoint.network_id) else {
            tracing::error!(
                container = joining.id.short(),
                network = endpoint.network_id,
                "a running container's network is gone"
            );
            return;
        };
        held.rejoin(joining, endpoint);
    }

    /// Takes a container off a network. Tells whether this place was its own there until now.
    pub fn leave(&mut self, id: &ContainerId, endpoint: &NetworkEndpoint) -> bool {
        let held = self.networks.get_mut(&endpoint.network_id);
        held.is_some_and(|held| held.leave(id, endpoint))
    }

    /// Notes a container's new name.
    pub fn rename(&mut self, id: &ContainerId, name: &str) {
        for held in self.networks.values_mut() {
            held.rename(id, name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use muster_types::network::{AddressRange, NetworkSpec};
    use std::net::Ipv4Addr;

    fn record(name: &str, subnets: &[&str]) -> NetworkRecord {
        let ranges = subnets.iter().map(|subnet| {
            let net: IpNet = subnet.parse().unwrap();
            AddressRange {
                subnet: (*subnet).to_owned(),
                gateway: super::super::ipam::default_gateway(net, &[]),
                ..AddressRange::default()
            }
        });
        NetworkRecord {
            id: hex::encode(name.repeat(32))[..64].to_owned(),
            created: muster_types::Timestamp::ZERO,
            spec: NetworkSpec {
                name: name.to_owned(),
                ranges: ranges.collect(),
                ..NetworkSpec::default()
            },
            link: "br0".to_owned(),
            owns_link: false,
        }
    }

    fn container(n: u8) -> ContainerId {
        ContainerId::from_bytes([n; 32])
    }

    fn joining(id: &ContainerId) -> Joining<'_> {
        Joining {
            id,
            name: "web",
            host_name: "front",
        }
    }

    #[test]
    fn containers_come_go_and_keep_a_network_from_being_removed() {
        let mut catalog = Catalog::default();
        let lan = record("lan", &["10.0.0.0/29", "fd00::/64"]);
        let id = lan.id.clone();
        catalog.insert(lan).unwrap();
        let web = container(7);
        let spec = EndpointSpec {
            ipv4: Some(Ipv4Addr::new(10, 0, 0, 5)),
            aliases: vec!["www".to_owned(), "web".to_owned()],
            ..EndpointSpec::default()
        };
        let endpoint = catalog.join(&id, joining(&web), &spec, None).unwrap();
        assert_eq!(endpoint.address, spec.ipv4);
        assert_eq!(endpoint.ipv6, "fd00::2".parse().ok());
        assert_eq!(endpoint.ipv6_gateway, "fd00::1".parse().ok());
        assert_eq!(endpoint.mac, "02:42:0a:00:00:05");
        assert_eq!(endpoint.dns_names, ["web", "www", web.short(), "front"]);
        let again = catalog
            .join(&id, joining(&container(8)), &spec, None)
            .unwrap_err();
        assert_eq!(
            (again.kind(), again.to_string().as_str()),
            (ErrorKind::Forbidden, "Address already in use")
        );
        let busy = catalog.find("lan").unwrap().check_removable().unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Forbidden);
        assert!(
            busy.to_string()
                .contains("network lan has active endpoints (name:\"web\""),
            "{busy}"
        );
        let stale = NetworkEndpoint {
            endpoint_id: "other".to_owned(),
            ..endpoint.clone()
        };
        catalog.leave(&web, &stale);
        assert!(catalog.find("lan").unwrap().check_removable().is_err());
        catalog.leave(&web, &endpoint);
        catalog.find("lan").unwrap().check_removable().unwrap();
        catalog.join(&id, joining(&web), &spec, None).unwrap();
    }

    #[test]
    fn a_join_that_fails_takes_nothing() {
        let mut catalog = Catalog::default();
        let lan = record("lan", &["10.0.0.0/24", "fd00::/64"]);
        let id = lan.id.clone();
        catalog.insert(lan).unwrap();
        let spec = EndpointSpec {
            ipv6: "fd00::1".parse().ok(),
            ..EndpointSpec::default()
        };
        catalog
            .join(&id, joining(&container(1)), &spec, None)
            .unwrap_err();
        let endpoint = catalog
            .join(&id, joining(&container(1)), &EndpointSpec::default(), None)
            .unwrap();
        assert_eq!(endpoint.address, Some(Ipv4Addr::new(10, 0, 0, 2)));
    }

    #[test]
    fn networks_are_found_as_users_write_them() {
        let mut catalog = Catalog::default();
        for name in ["bridge", "lan", "lab"] {
            catalog.insert(record(name, &[])).unwrap();
        }
        let name = |reference: &str| catalog.find(reference).map(|held| held.record.spec.name.clone());
        assert_eq!(name("default").unwrap(), "bridge");
        assert_eq!(name("lan").unwrap(), "lan");
        let lan = catalog.find("lan").unwrap().record.id.clone();
        assert_eq!(name(&lan).unwrap(), "lan");
        assert_eq!(name(&lan[..12]).unwrap(), "lan");
        assert!(
            name("6c61")
                .unwrap_err()
                .to_string()
                .contains("is ambiguous (2 matches")
        );
        assert_eq!(name("nope").unwrap_err().to_string(), "network nope not found");
        assert!(
            catalog
                .find("bridge")
                .unwrap()
                .check_removable()
                .unwrap_err()
                .to_string()
                .contains("pre-defined")
        );
    }

    #[test]
    fn endpoints_are_checked_against_their_network() {
        let mut catalog = Catalog::default();
        catalog.insert(record("bridge", &["172.17.0.0/16"])).unwrap();
        catalog.insert(record("lan", &["10.0.0.0/24"])).unwrap();
        let address = EndpointSpec {
            ipv4: Some(Ipv4Addr::new(172, 17, 0, 9)),
            aliases: vec!["x".to_owned()],
            mac: "nope".to_owned(),
            ..EndpointSpec::default()
        };
        let refused = |name: &str| {
            catalog
                .find(name)
                .unwrap()
                .check_endpoint(&address)
                .unwrap_err()
                .to_string()
        };
        assert!(refused("bridge").contains("user defined networks only"));
        assert!(refused("lan").contains("no configured subnet contains IP address 172.17.0.9"));
        assert!(refused("lan").contains("invalid MAC address: nope"));
    }
}
