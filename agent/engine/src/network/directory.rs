//! Which name stands for which addresses in which network, for the resolvers of containers.

use super::catalog::Joining;
use super::held::addresses;
use muster_types::ContainerId;
use muster_types::container::{EndpointSpec, NetworkEndpoint};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The names of all networks.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    zones: RwLock<HashMap<String, Zone>>,
}

/// The names of one network.
#[derive(Debug, Default)]
struct Zone {
    name: String,
    members: HashMap<ContainerId, Member>,
    by_name: HashMap<String, Vec<ContainerId>>,
    by_address: HashMap<IpAddr, ContainerId>,
    /// What is known of the whole network where nodes share it.
    shared: Option<SharedNames>,
}

/// The names of a network that nodes share.
#[derive(Debug, Default)]
struct SharedNames {
    /// Nobody has told of them since the engine was opened.
    awaited: bool,
    addresses: BTreeMap<String, Vec<IpAddr>>,
    names: BTreeMap<IpAddr, String>,
}

#[derive(Debug)]
struct Member {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
}

/// What one container may ask for: its networks, in order, with the names that only it knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Networks that resolve names.
    pub networks: Vec<ScopedNetwork>,
}

/// One network of a scope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ScopedNetwork {
    /// The network's id.
    pub id: String,
    /// Names that stand for other names, in lower case.
    pub links: Vec<(String, String)>,
}

impl Directory {
    /// Enters a container's names in a network, in place of those that it had there.
    pub fn enter(&self, network_name: &str, id: &ContainerId, endpoint: &NetworkEndpoint) {
        if endpoint.dns_names.is_empty() {
            return;
        }
        let mut zones = self.write();
        let zone = zones.entry(endpoint.network_id.clone()).or_default();
        network_name.clone_into(&mut zone.name);
        zone.remove(id);
        let member = Member {
            names: endpoint
                .dns_names
                .iter()
                .map(|name| name.to_ascii_lowercase())
                .collect(),
            addresses: addresses(endpoint).collect(),
        };
        for name in &member.names {
            zone.by_name.entry(name.clone()).or_default().push(id.clone());
        }
        for address in &member.addresses {
            zone.by_address.insert(*address, id.clone());
        }
        zone.members.insert(id.clone(), member);
    }

    /// Takes a container's names out of a network. Idempotent.
    pub fn leave(&self, network_id: &str, id: &ContainerId) {
        let mut zones = self.write();
        if let Some(zone) = zones.get_mut(network_id) {
            zone.remove(id);
            if zone.members.is_empty() && zone.shared.is_none() {
                zones.remove(network_id);
            }
        }
    }

    /// Notes the names of a network that nodes share, in place of those before.
    pub fn enter_shared(
        &self,
        network_id: &str,
        network_name: &str,
        addresses: &BTreeMap<String, Vec<IpAddr>>,
        names: &BTreeMap<IpAddr, String>,
    ) {
        let mut zones = self.write();
        let zone = zones.entry(network_id.to_owned()).or_default();
        network_name.clone_into(&mut zone.name);
        zone.shared = Some(SharedNames {
            awaited: false,
            addresses: addresses.clone(),
            names: names.clone(),
        });
    }

    /// Notes that the names of a network that nodes share are still to be told.
    pub fn await_shared(&self, network_id: &str) {
        let zone_names = SharedNames {
            awaited: true,
            ..SharedNames::default()
        };
        self.write().entry(network_id.to_owned()).or_default().shared = Some(zone_names);
    }

    /// Forgets the names of a network that is no longer shared.
    pub fn forget_shared(&self, network_id: &str) {
        let mut zones = self.write();
        if let Some(zone) = zones.get_mut(network_id) {
            zone.shared = None;
            if zone.members.is_empty() {
                zones.remove(network_id);
            }
        }
    }

    /// Whether names may be missing because nobody has told of them yet.
    pub fn is_incomplete(&self, scope: &Scope) -> bool {
        let zones = self.read();
        let awaited = |network: &ScopedNetwork| {
            let shared = zones.get(&network.id)?.shared.as_ref()?;
            Some(shared.awaited)
        };
        scope
            .networks
            .iter()
            .any(|network| awaited(network) == Some(true))
    }

    /// The addresses of a name without its final dot: `None` where nobody has the name.
    pub fn addresses_of(&self, scope: &Scope, name: &str) -> Option<Vec<IpAddr>> {
        let name = name.to_ascii_lowercase();
        let zones = self.read();
        let in_network = |network: &ScopedNetwork, name: &str| {
            let zone = zones.get(&network.id)?;
            let link = network.links.iter().find(|(alias, _)| alias == name);
            let name = link.map_or(name, |(_, target)| target);
            zone.addresses_of(name)
        };
        let found = scope
            .networks
            .iter()
            .find_map(|network| in_network(network, &name));
        found.or_else(|| {
            let (host, network_name) = name.rsplit_once('.')?;
            let named = |network: &&ScopedNetwork| {
                zones
                    .get(&network.id)
                    .is_some_and(|zone| zone.name.eq_ignore_ascii_case(network_name))
            };
            scope
                .networks
                .iter()
                .filter(named)
                .find_map(|network| in_network(network, host))
        })
    }

    /// The name of an address, with its network's behind a dot.
    pub fn name_of(&self, scope: &Scope, address: IpAddr) -> Option<String> {
        let zones = self.read();
        scope.networks.iter().find_map(|network| {
            let zone = zones.get(&network.id)?;
            let shared = zone.shared.as_ref().and_then(|shared| shared.names.get(&address));
            if let Some(name) = shared {
                return Some(format!("{name}.{}", zone.name));
            }
            let member = zone.members.get(zone.by_address.get(&address)?)?;
            Some(format!("{}.{}", member.names.first()?, zone.name))
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<String, Zone>> {
        self.zones.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<String, Zone>> {
        self.zones.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Zone {
    fn remove(&mut self, id: &ContainerId) {
        let Some(member) = self.members.remove(id) else {
            return;
        };
        for name in &member.names {
            if let Some(ids) = self.by_name.get_mut(name) {
                ids.retain(|other| other != id);
                if ids.is_empty() {
                    self.by_name.remove(name);
                }
            }
        }
        for address in &member.addresses {
            self.by_address.remove(address);
        }
    }

    fn addresses_of(&self, name: &str) -> Option<Vec<IpAddr>> {
        let shared = self.shared.as_ref().and_then(|shared| shared.addresses.get(name));
        if let Some(addresses) = shared {
            return Some(addresses.clone());
        }
        let members = self
            .by_name
            .get(name)?
            .iter()
            .filter_map(|id| self.members.get(id));
        Some(
            members
                .flat_map(|member| member.addresses.iter().copied())
                .collect(),
        )
    }
}

/// The links of an endpoint, as `container[:alias]`, in lower case: what each alias stands for.
pub(crate) fn parse_links(links: &[String]) -> Vec<(String, String)> {
    let parsed = links.iter().map(|link| {
        let (target, alias) = link.split_once(':').unwrap_or((link, link));
        let bare = |name: &str| name.trim_start_matches('/').to_ascii_lowercase();
        (bare(alias), bare(target))
    });
    parsed.collect()
}

/// Every name by which a container is found in a network, each once, in Docker's order.
pub(crate) fn dns_names(joining: Joining<'_>, spec: &EndpointSpec) -> Vec<String> {
    let own = [joining.name, joining.id.short(), joining.host_name];
    let (first, others) = own.split_at(1);
    let mut names: Vec<String> = Vec::new();
    let all = first
        .iter()
        .copied()
        .chain(spec.aliases.iter().map(String::as_str))
        .chain(others.iter().copied());
    for name in all {
        if !name.is_empty() && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> ContainerId {
        ContainerId::from_bytes([n; 32])
    }

    fn endpoint(network: &str, names: &[&str], address: &str) -> NetworkEndpoint {
        NetworkEndpoint {
            network_id: network.to_owned(),
            address: Some(address.parse().unwrap()),
            dns_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..NetworkEndpoint::default()
        }
    }

    fn scope(networks: &[(&str, &[&str])]) -> Scope {
        let networks = networks.iter().map(|(id, links)| ScopedNetwork {
            id: (*id).to_owned(),
            links: parse_links(&links.iter().map(|link| (*link).to_owned()).collect::<Vec<_>>()),
        });
        Scope {
            networks: networks.collect(),
        }
    }

    fn texts(addresses: Option<Vec<IpAddr>>) -> Option<Vec<String>> {
        addresses.map(|all| all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn names_are_found_in_the_networks_of_a_scope_alone() {
        let directory = Directory::default();
        directory.enter("lan", &id(1), &endpoint("n1", &["Web", "www"], "10.0.0.2"));
        directory.enter("lan", &id(2), &endpoint("n1", &["db", "www"], "10.0.0.3"));
        directory.enter("wan", &id(1), &endpoint("n2", &["web"], "10.1.0.2"));
        let both = scope(&[("n1", &[]), ("n2", &[])]);
        let find = |scope: &Scope, name: &str| texts(directory.addresses_of(scope, name));
        assert_eq!(find(&both, "WEB").unwrap(), ["10.0.0.2"]);
        assert_eq!(find(&both, "www").unwrap(), ["10.0.0.2", "10.0.0.3"]);
        assert_eq!(find(&both, "web.wan").unwrap(), ["10.1.0.2"]);
        assert_eq!(find(&both, "web.nowhere"), None);
        assert_eq!(find(&scope(&[("n2", &[])]), "db"), None);
        assert_eq!(
            directory.name_of(&both, "10.0.0.3".parse().unwrap()).as_deref(),
            Some("db.lan")
        );
        assert_eq!(
            directory.name_of(&scope(&[("n2", &[])]), "10.0.0.3".parse().unwrap()),
            None
        );
    }

    #[test]
    fn a_container_that_leaves_or_is_renamed_takes_its_names_along() {
        let directory = Directory::default();
        let lan = scope(&[("n1", &[])]);
        directory.enter("lan", &id(1), &endpoint("n1", &["web", "www"], "10.0.0.2"));
        directory.enter("lan", &id(1), &endpoint("n1", &["front"], "10.0.0.2"));
        assert_eq!(directory.addresses_of(&lan, "web"), None);
        assert!(directory.addresses_of(&lan, "front").is_some());
        directory.leave("n1", &id(1));
        directory.leave("n1", &id(1));
        assert_eq!(directory.addresses_of(&lan, "front"), None);
        assert!(directory.read().is_empty());
    }

    #[test]
    fn links_are_names_for_one_container() {
        let directory = Directory::default();
        directory.enter("lan", &id(1), &endpoint("n1", &["database"], "10.0.0.2"));
        let linked = scope(&[("n1", &["/database:DB", "other"])]);
        assert_eq!(
            texts(directory.addresses_of(&linked, "db")).unwrap(),
            ["10.0.0.2"]
        );
        assert_eq!(
            texts(directory.addresses_of(&linked, "db.lan")).unwrap(),
            ["10.0.0.2"]
        );
        assert_eq!(directory.addresses_of(&linked, "other"), None);
        assert_eq!(directory.addresses_of(&scope(&[("n1", &[])]), "db"), None);
    }
}
