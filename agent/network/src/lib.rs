//! Container networks of one node: bridges, sandboxes (network namespaces with their interfaces), published ports,
//! and the topology of a lab's nodes.
//!
//! It performs network operations and decides nothing: addresses, names and hardware addresses are chosen by its
//! callers. It must never touch links, tables or namespaces that it did not make. Everything is spoken to the kernel
//! over netlink, in the network namespace in which [`Network::open`] is called; no program is run.
//!
//! Start reading at [`network`](Network), then `sandbox`, `firewall` and `namespace`.

mod address;
mod addresses;
mod bridge;
mod conntrack;
mod error;
mod firewall;
mod ip_net;
mod links;
mod macvlan;
mod mesh;
mod namespace;
mod neighbours;
mod netlink;
mod network;
mod nft;
mod overlay;
mod port_mapping;
mod ports;
mod publish;
mod relay;
mod resolver;
mod sandbox;
mod services;
mod spec;
mod sysctl;
mod topology;

pub use address::{InvalidIpv4Net, InvalidMacAddress, Ipv4Net, MacAddress};
pub use error::NetworkError;
pub use ip_net::{InvalidIpNet, IpNet, address_from, bits_of};
pub use links::InterfaceStats;
pub use mesh::{MeshEntries, MeshPort, MeshSpec};
pub use namespace::NamespaceError;
pub use neighbours::{OtherFirewalls, WithdrawError, admit_bridges, other_firewalls, withdraw_bridges};
pub use netlink::NetlinkError;
pub use network::Network;
pub use overlay::{OverlayFailures, OverlaySpec, Station};
pub use port_mapping::{Entry, PortMapping};
pub use resolver::{RESOLVER_ADDRESS, ResolverSockets};
pub use sandbox::{DefaultRoute, Sandbox};
pub use services::{Guard, Guards, Services, VirtualService};
pub use spec::{
    Attachment, BridgeSpec, Families, Interface, InvalidSpec, MacvlanMode, NetworkConfig, Protocol,
    SandboxSpec,
};
pub use sysctl::SysctlError;
pub use topology::{Topology, TopologyError};
