//! A container's place in a network: its address, its sandbox, its published ports.

use crate::config::BridgeSettings;
use crate::error::{Error, Result};
use crate::host;
use crate::ipam::{self, AddressPool};
use crate::record::Record;
use crate::spec;
use muster_network::{
    BridgeSpec, Interface, Ipv4Net, MacAddress, Network, NetworkConfig, NetworkError, PortMapping, Protocol,
    SandboxSpec,
};
use muster_types::container::{NetworkEndpoint, NetworkMode, PortBinding};
use muster_types::{ContainerId, service};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Name of the default network.
const DEFAULT_NETWORK: &str = "bridge";
/// Name of a container's interface.
const INTERFACE: &str = "eth0";

/// Parameters of every network namespace; Docker's. Users other than root may send pings and serve low ports: inside of a
/// container neither is anybody else's.
const SYSCTLS: [(&str, &str); 2] = [
    ("net.ipv4.ping_group_range", "0 2147483647"),
    ("net.ipv4.ip_unprivileged_port_start", "0"),
];

/// The id of a built-in network: fixed, 64 hexadecimal characters.
pub(crate) fn network_id(name: &str) -> String {
    hex::encode(name.bytes().cycle().take(32).collect::<Vec<_>>())
}

/// The default bridge and the addresses on it.
pub(crate) struct Networking {
    pub network: Network,
    bridge: String,
    mtu: Option<u32>,
    pool: Mutex<AddressPool>,
}

/// What a container's mode of networking means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind<'a> {
    Bridge,
    Loopback,
    Host,
    Shared(&'a str),
}

fn kind(mode: &NetworkMode) -> Result<Kind<'_>> {
    match mode {
        NetworkMode::Bridge => Ok(Kind::Bridge),
        NetworkMode::Host => Ok(Kind::Host),
        NetworkMode::None => Ok(Kind::Loopback),
        NetworkMode::Container(reference) => Ok(Kind::Shared(reference)),
        NetworkMode::Named(name) => match name.as_str() {
            "bridge" | "default" => Ok(Kind::Bridge),
            "host" => Ok(Kind::Host),
            "none" => Ok(Kind::Loopback),
            _ => Err(Error::NoSuchNetwork { name: name.clone() }),
        },
    }
}

/// The container whose network a mode shares.
pub(crate) fn shared_with(mode: &NetworkMode) -> Result<Option<&str>> {
    match kind(mode)? {
        Kind::Shared(reference) => Ok(Some(reference)),
        Kind::Bridge | Kind::Loopback | Kind::Host => Ok(None),
    }
}

impl Networking {
    /// Opens the network and makes the default bridge.
    pub async fn open(settings: &BridgeSettings, run_dir: &Path) -> Result<Self> {
        let mut config = NetworkConfig::new(run_dir);
        config.table_prefix.clone_from(&settings.table);
        let usual = SYSCTLS.map(|(name, value)| (name.to_owned(), value.to_owned()));
        config.sysctls.extend(usual);
        let network = Network::open(config).await?;
        let taken = host::route_networks(&settings.name);
        let subnet = ipam::choose_subnet(settings.subnet, &taken).ok_or_else(|| {
            Error::invalid(format!(
                "no subnet is free for the default bridge: {} and 172.17.0.0/16 to 172.31.0.0/16 overlap routes of this \
                 host; choose another subnet",
                settings.subnet
            ))
        })?;
        let pool = AddressPool::new(DEFAULT_NETWORK, subnet)?;
        let gateway = Ipv4Net::new(pool.gateway(), pool.prefix());
        let gateway = gateway.ok_or_else(|| Error::invalid("the subnet's prefix is longer than 32"))?;
        network
            .ensure_bridge(&BridgeSpec {
                name: settings.name.clone(),
                gateway,
                mtu: settings.mtu,
                internal: false,
                masquerade: true,
                icc: true,
            })
            .await?;
        Ok(Self {
            network,
            bridge: settings.name.clone(),
            mtu: settings.mtu,
            pool: Mutex::new(pool),
        })
    }

    /// The default bridge's gateway, and its subnet in CIDR form.
    pub fn gateway(&self) -> Ipv4Addr {
        self.pool().gateway()
    }

    /// The default bridge's subnet in CIDR form.
    pub fn subnet(&self) -> String {
        self.pool().subnet().to_string()
    }

    /// Takes an address for a container, if its mode has one.
    pub fn allocate(&self, mode: &NetworkMode) -> Result<Option<NetworkEndpoint>> {
        match kind(mode)? {
            Kind::Bridge => {
                let address = self.pool().allocate()?;
                Ok(Some(self.endpoint(address)))
            }
            Kind::Loopback | Kind::Host | Kind::Shared(_) => Ok(None),
        }
    }

    /// Takes the address that a running container has already.
    pub fn claim(&self, address: Ipv4Addr) -> NetworkEndpoint {
        if !self.pool().claim(address) {
            tracing::warn!(%address, "a running container's address is outside of the bridge's subnet or taken twice");
        }
        self.endpoint(address)
    }

    /// Gives an address back.
    pub fn release(&self, endpoint: Option<&NetworkEndpoint>) {
        if let Some(address) = endpoint.and_then(|endpoint| endpoint.address) {
            self.pool().release(address);
        }
    }

    /// Makes the network namespace of a container; `None` where it shares one.
    pub async fn connect(
        &self,
        record: &Record,
        endpoint: Option<&NetworkEndpoint>,
    ) -> Result<Option<OwnedFd>> {
        let interfaces = match kind(&record.config.host.network)? {
            Kind::Host | Kind::Shared(_) => return Ok(None),
            Kind::Loopback => Vec::new(),
            Kind::Bridge => endpoint
                .and_then(|endpoint| self.interface(endpoint))
                .into_iter()
                .collect(),
        };
        let sysctls = record.config.host.sysctls.iter();
        let sysctls = sysctls.map(|(name, value)| (spec::dotted_sysctl(name), value.clone()));
        let spec = SandboxSpec {
            container_id: record.id.to_string(),
            interfaces,
            sysctls: sysctls.filter(|(name, _)| name.starts_with("net.")).collect(),
        };
        Ok(Some(self.network.create_sandbox(&spec).await?.netns))
    }

    /// Publishes a container's ports; returns them with the host ports that were chosen.
    pub async fn publish(
        &self,
        record: &Record,
        endpoint: Option<&NetworkEndpoint>,
    ) -> Result<Vec<PortBinding>> {
        let Some(address) = endpoint.and_then(|endpoint| endpoint.address) else {
            return Ok(Vec::new());
        };
        let mut wanted = wanted_ports(record)?;
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        loop {
            match self
                .network
                .publish(record.id.as_str(), &mappings(&wanted, address))
                .await
            {
                Ok(published) => return Ok(published.iter().map(binding).collect()),
                Err(NetworkError::PortInUse { port, protocol, .. })
                    if try_next(&mut wanted, (port, protocol)) => {}
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
    pub async fn publish_again(
        &self,
        record: &Record,
        endpoint: Option<&NetworkEndpoint>,
        ports: &[PortBinding],
    ) -> Result<()> {
        let Some(address) = endpoint.and_then(|endpoint| endpoint.address) else {
            return Ok(());
        };
        self.network
            .publish(record.id.as_str(), &mappings(ports, address))
            .await?;
        Ok(())
    }

    /// Takes everything of a container's network away. Idempotent; collects errors and goes on.
    pub async fn disconnect(&self, id: &ContainerId, published: bool, endpoint: Option<&NetworkEndpoint>) {
        if published && let Err(error) = self.network.unpublish(id.as_str()).await {
            tracing::error!(container = id.short(), %error, "ports stay published");
        }
        if let Err(error) = self.network.remove_sandbox(id.as_str()).await {
            tracing::error!(container = id.short(), %error, "a network namespace is left over");
        }
        self.release(endpoint);
    }

    fn endpoint(&self, address: Ipv4Addr) -> NetworkEndpoint {
        let pool = self.pool();
        NetworkEndpoint {
            network_id: network_id(DEFAULT_NETWORK),
            address: Some(address),
            prefix_len: pool.prefix(),
            gateway: Some(pool.gateway()),
            mac: MacAddress::for_ipv4(address).to_string(),
            aliases: Vec::new(),
        }
    }

    fn interface(&self, endpoint: &NetworkEndpoint) -> Option<Interface> {
        let address = endpoint.address?;
        Some(Interface {
            bridge: self.bridge.clone(),
            name: INTERFACE.to_owned(),
            address: Ipv4Net::new(address, endpoint.prefix_len)?,
            mac: MacAddress::for_ipv4(address),
            gateway: endpoint.gateway,
            mtu: self.mtu,
        })
    }

    fn pool(&self) -> MutexGuard<'_, AddressPool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ports to publish: those asked for, and with `publish_all` every exposed one.
fn wanted_ports(record: &Record) -> Result<Vec<PortBinding>> {
    let mut wanted = record.config.host.ports.clone();
    if record.config.host.publish_all {
        for exposed in &record.exposed_ports {
            let (container_port, protocol) = parse_exposed(exposed)?;
            let bound =
                |known: &PortBinding| (known.container_port, known.protocol) == (container_port, protocol);
            if !wanted.iter().any(bound) {
                wanted.push(PortBinding {
                    container_port,
                    protocol,
                    host_ip: None,
                    host_port: 0,
                    host_port_last: 0,
                });
            }
        }
    }
    Ok(wanted)
}

/// Reads `80`, `80/tcp`, …
pub(crate) fn parse_exposed(text: &str) -> Result<(u16, service::Protocol)> {
    let refused = || Error::invalid(format!("invalid containerPort: {text}"));
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => service::Protocol::Tcp,
        "udp" => service::Protocol::Udp,
        "sctp" => service::Protocol::Sctp,
        _ => return Err(refused()),
    };
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(refused)?;
    Ok((port, protocol))
}

/// The mappings of ports. Clients that ask for every address of both families ask for the same IPv4 mapping twice.
fn mappings(ports: &[PortBinding], container_ip: Ipv4Addr) -> Vec<PortMapping> {
    let mut mappings: Vec<PortMapping> = Vec::with_capacity(ports.len());
    let mut fixed = HashSet::new();
    for mapping in ports.iter().map(|binding| mapping(binding, container_ip)) {
        let key = (
            mapping.host_ip,
            mapping.host_port,
            mapping.protocol,
            mapping.container_port,
        );
        if mapping.host_port == 0 || fixed.insert(key) {
            mappings.push(mapping);
        }
    }
    mappings
}

fn mapping(binding: &PortBinding, container_ip: Ipv4Addr) -> PortMapping {
    // The unspecified IPv6 address stands for every address; IPv4 ones are what can be published.
    let host_ip = match binding.host_ip {
        Some(ip) if !ip.is_unspecified() => ip,
        Some(_) | None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    PortMapping {
        host_ip,
        host_port: binding.host_port,
        protocol: protocol(binding.protocol),
        container_ip,
        container_port: binding.container_port,
    }
}

fn protocol(protocol: service::Protocol) -> Protocol {
    match protocol {
        service::Protocol::Tcp => Protocol::Tcp,
        service::Protocol::Udp => Protocol::Udp,
        service::Protocol::Sctp => Protocol::Sctp,
    }
}

fn binding(mapping: &PortMapping) -> PortBinding {
    PortBinding {
        container_port: mapping.container_port,
        protocol: match mapping.protocol {
            Protocol::Tcp => service::Protocol::Tcp,
            Protocol::Udp => service::Protocol::Udp,
            Protocol::Sctp => service::Protocol::Sctp,
        },
        host_ip: Some(mapping.host_ip),
        host_port: mapping.host_port,
        host_port_last: 0,
    }
}

/// Gives the binding whose port is taken the next one of its range; false when there is none.
fn try_next(wanted: &mut [PortBinding], taken: (u16, Protocol)) -> bool {
    let is_it = |binding: &&mut PortBinding| {
        binding.host_port < binding.host_port_last && (binding.host_port, protocol(binding.protocol)) == taken
    };
    // Of two that want it, the earlier one got it.
    match wanted.iter_mut().rev().find(is_it) {
        Some(binding) => {
            binding.host_port += 1;
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposed_ports_are_read() {
        assert_eq!(parse_exposed("80").unwrap(), (80, service::Protocol::Tcp));
        assert_eq!(parse_exposed("53/udp").unwrap(), (53, service::Protocol::Udp));
        for bad in ["", "0", "80/icmp", "70000", "a/tcp"] {
            assert!(parse_exposed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_that_do_not_exist_are_told() {
        assert!(matches!(
            shared_with(&NetworkMode::Named("lan".into())),
            Err(Error::NoSuchNetwork { .. })
        ));
        assert_eq!(
            shared_with(&NetworkMode::Container("x".into())).unwrap(),
            Some("x")
        );
    }

    #[test]
    fn ids_of_built_in_networks_are_ids() {
        assert_eq!(network_id("bridge").len(), 64);
        assert_ne!(network_id("bridge"), network_id("host"));
    }
}
