//! What the engine is told of a network that this node shares with others, and what that means for the kernel.

use super::ports;
use muster_network::{
    Guard, IpNet, MacAddress, MeshEntries, MeshPort, MeshSpec, OverlaySpec, Services, Station, VirtualService,
};
use muster_types::network::NetworkSpec;
use muster_types::service::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

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
    /// What containers of this node accept, by their addresses; those that accept everything are left out.
    pub guards: BTreeMap<IpAddr, Arc<SharedGuard>>,
}

/// The new connections that a container accepts; it refuses all others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedGuard {
    /// Addresses that may open any.
    pub from: BTreeSet<IpAddr>,
    /// Addresses that may open some, with the ports.
    pub ports: BTreeSet<(IpAddr, Protocol, u16)>,
    /// Ports that are open to everybody.
    pub open: BTreeSet<(Protocol, u16)>,
}

impl SharedGuard {
    fn in_container(&self) -> Guard {
        let port = |(protocol, port): &(Protocol, u16)| (ports::protocol(*protocol), *port);
        let of_source =
            |(source, protocol, port): &(IpAddr, Protocol, u16)| (*source, ports::protocol(*protocol), *port);
        Guard {
            from: self.from.clone(),
            ports: self.ports.iter().map(of_source).collect(),
            open: self.open.iter().map(port).collect(),
        }
    }
}

/// Ports of every node that lead to containers of any node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedMesh {
    /// This node's own addresses in the network.
    pub own: Vec<IpAddr>,
    /// The own addresses of every node.
    pub nodes: Vec<Vec<IpAddr>>,
    /// Where the ports lead.
    pub ports: BTreeMap<(Protocol, u16), SharedPort>,
    /// Addresses whose nodes are gone.
    pub lost: BTreeSet<IpAddr>,
}

/// A port that every node publishes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedPort {
    /// Where it leads.
    pub endpoints: BTreeSet<SocketAddr>,
    /// It answers at this node's addresses in these networks; at all of them when there are none.
    pub at: BTreeSet<IpNet>,
}

impl SharedPort {
    fn on_host(&self) -> MeshPort {
        MeshPort {
            endpoints: self.endpoints.clone(),
            at: self.at.clone(),
        }
    }
}

impl SharedNetwork {
    pub(super) fn overlay(&self) -> OverlaySpec {
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

    pub(super) fn mesh_on_host(&self) -> Option<MeshSpec> {
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
                .map(|((protocol, port), led)| ((ports::protocol(*protocol), *port), led.on_host()))
                .collect(),
            lost: mesh.lost.clone(),
        })
    }

    pub(super) fn mesh_entries(&self) -> Option<MeshEntries> {
        let mesh = self.mesh.as_ref()?;
        Some(MeshEntries {
            subnets: self.subnets().collect(),
            nodes: Arc::new(mesh.nodes.clone()),
        })
    }

    pub(super) fn services(&self) -> Services {
        let virtuals = self.virtuals.iter().map(|(vip, endpoints)| VirtualService {
            vip: *vip,
            endpoints: endpoints.clone(),
        });
        let guards = self.guards.iter();
        let guards = guards.map(|(address, guard)| (*address, Arc::new(guard.in_container())));
        Services {
            virtuals: Arc::new(virtuals.collect()),
            in_use: Arc::new(self.in_use.clone()),
            guards: Arc::new(guards.collect()),
        }
    }
}
