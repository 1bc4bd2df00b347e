//! The routing mesh: ports of this node that lead to containers of any node, over one network that nodes share.
//!
//! The host has a place of its own in that network, as a container has, and leads connections to its ports straight to a
//! container's address there. The client's address stays; the container sends its answers back to the node that the
//! connection came in by (`entry`), which knows whose they are. Clients on the loopback and in containers of this node
//! arrive with the address of the node's place, because theirs mean nothing elsewhere.

mod abroad;
mod entry;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::address::MacAddress;
use crate::conntrack::{self, Flow};
use crate::error::NetworkError;
use crate::firewall::{BridgePolicy, NetlinkTables, PortKey, Tables};
use crate::ip_net::IpNet;
use crate::links::Detail;
use crate::network::{Inner, lock};
use crate::nft::{Batch, Change, Family};
use crate::sandbox::duplicate;
use crate::spec::{Attachment, Interface, Protocol, check_address, check_overlay_id};
use crate::sysctl;
use entry::Entry;
use table::Ports;

/// The host's interface in the network of the mesh.
pub(crate) const LINK: &str = "muster-mesh";

/// The ports of this node that lead to containers of any node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSpec {
    /// The overlay that connections travel through.
    pub overlay: String,
    /// The node's own addresses there, with the subnets' prefixes; at most one of each family.
    pub addresses: Vec<IpNet>,
    /// Where the ports lead. One without endpoints refuses connections.
    pub ports: BTreeMap<(Protocol, u16), MeshPort>,
    /// Addresses whose nodes are gone: connections to these are forgotten, so that their clients hear of it.
    pub lost: BTreeSet<IpAddr>,
}

/// A port that every node publishes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshPort {
    /// Where it leads.
    pub endpoints: BTreeSet<SocketAddr>,
    /// It answers at the host's addresses in these networks; at all of them when there are none.
    pub at: BTreeSet<IpNet>,
}

/// Where a container's connections over the mesh come in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshEntries {
    /// The subnets of the mesh's network, by which the container's interface is found.
    pub subnets: Vec<IpNet>,
    /// The nodes' own addresses there, of each node at most one of each family.
    pub nodes: Arc<Vec<Vec<IpAddr>>>,
}

/// The mesh as it stands on this node.
#[derive(Default)]
pub(crate) struct Mesh {
    /// What the kernel holds, by family; `None` before the first change and after a failure.
    held: Option<BTreeMap<bool, Ports>>,
    reserved: BTreeSet<PortKey>,
    lost: BTreeSet<IpAddr>,
    /// Nothing of it is there, nor of an earlier run's.
    gone: bool,
}

impl Inner {
    /// Makes the mesh what it should be; nothing is left of it without a specification.
    pub(crate) fn set_mesh(&self, wanted: Option<&MeshSpec>) -> Result<(), NetworkError> {
        let mut mesh = lock(&self.mesh);
        match wanted {
            Some(spec) => {
                mesh.gone = false;
                check_overlay_id(&spec.overlay)?;
                spec.addresses.iter().try_for_each(|own| check_address(*own))?;
                self.enter_mesh(spec)?;
                self.reserve_mesh(&mut mesh, spec);
                self.lead_ports(&mut mesh, spec)
            }
            None if mesh.gone => Ok(()),
            None => self.leave_mesh(&mut mesh),
        }
    }

    /// Gives the host its place in the network: filtered before there is anything to filter.
    fn enter_mesh(&self, spec: &MeshSpec) -> Result<(), NetworkError> {
        let has = |is_ipv4: bool| spec.addresses.iter().any(|own| own.is_ipv4() == is_ipv4);
        sysctl::write("net.ipv4.ip_forward", "1")?;
        let policy = BridgePolicy {
            masquerade: false,
            internal: true,
            between_containers: false,
            unprotected: false,
            routed: false,
            mesh: true,
        };
        let failed = || NetworkError::firewall("add the mesh");
        {
            let mut firewall = lock(&self.firewall);
            firewall.v4.set_bridge(LINK, policy).map_err(failed())?;
            if has(false) {
                sysctl::write("net.ipv6.conf.all.forwarding", "1")?;
                firewall.v6()?.set_bridge(LINK, policy).map_err(failed())?;
            }
        }
        let found = {
            let mut links = lock(&self.links);
            let found = links.find(LINK).map_err(NetworkError::link("look up", LINK))?;
            let present = match &found {
                Some(link) => links
                    .addresses(Some(link.index))
                    .map_err(NetworkError::link("read the addresses of", LINK))?,
                None => Vec::new(),
            };
            // With other addresses it had another hardware address, too.
            found.filter(|_| spec.addresses.iter().all(|own| present.contains(own)))
        };
        if found.is_none() || !self.is_on_overlay(&spec.overlay)? {
            self.remove_mesh_link()?;
            self.make_mesh_link(spec)?;
        }
        // Lets loopback clients in; the packet filter keeps everybody else from the loopback.
        sysctl::write(&format!("net/ipv4/conf/{LINK}/route_localnet"), "1")?;
        Ok(())
    }

    /// Whether the other end of the host's interface is on this overlay's bridge.
    fn is_on_overlay(&self, id: &str) -> Result<bool, NetworkError> {
        let port = {
            let mut links = lock(&self.links);
            let found = links.find(LINK).map_err(NetworkError::link("look up", LINK))?;
            found.and_then(|link| link.peer_index)
        };
        port.map_or(Ok(false), |port| self.has_overlay_port(id, port))
    }

    fn make_mesh_link(&self, spec: &MeshSpec) -> Result<(), NetworkError> {
        let Some(first) = spec.addresses.first() else {
            return Ok(());
        };
        let mac = MacAddress::for_address(first.address());
        let interface = Interface {
            attachment: Attachment::Overlay(spec.overlay.clone()),
            name: LINK.to_owned(),
            addresses: spec.addresses.clone(),
            mac,
            gateways: Vec::new(),
            mtu: None,
        };
        let host = own_namespace()?;
        self.create_overlay_pair(&spec.overlay, "mesh", &interface, host.as_fd())?;
        if spec.addresses.iter().any(|own| !own.is_ipv4()) {
            sysctl::write(&format!("net/ipv6/conf/{LINK}/disable_ipv6"), "0")?;
            sysctl::write(&format!("net/ipv6/conf/{LINK}/accept_dad"), "0")?;
        }
        let mut links = lock(&self.links);
        let found = links.find(LINK).map_err(NetworkError::link("look up", LINK))?;
        let link = found.ok_or_else(|| NetworkError::NoSuchInterface {
            name: LINK.to_owned(),
        })?;
        links
            .configure(link.index, &spec.addresses, &[])
            .map_err(NetworkError::link("give an address to", LINK))?;
        drop(links);
        match link.peer_index {
            Some(port) => self.settle_overlay_port(&spec.overlay, port, mac),
            None => Ok(()),
        }
    }

    fn remove_mesh_link(&self) -> Result<(), NetworkError> {
        let mut links = lock(&self.links);
        match links.find(LINK).map_err(NetworkError::link("look up", LINK))? {
            Some(link) => links
                .delete(link.index)
                .map_err(NetworkError::link("remove", LINK)),
            None => Ok(()),
        }
    }

    /// Keeps programs and other containers of this host off the ports. One that somebody has already is led to the
    /// service all the same: it is the same port on every node. One that answers at some addresses only is free at the
    /// others.
    fn reserve_mesh(&self, mesh: &mut Mesh, spec: &MeshSpec) {
        let mut wanted = BTreeSet::new();
        let everywhere = spec.ports.iter().filter(|(_, led)| led.at.is_empty());
        for ((protocol, port), _) in everywhere {
            for own in &spec.addresses {
                let address = match own.is_ipv4() {
                    true => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    false => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                };
                wanted.insert(PortKey {
                    address,
                    protocol: *protocol,
                    port: *port,
                });
            }
        }
        let mut reservations = lock(&self.reservations);
        let gone: Vec<PortKey> = mesh.reserved.difference(&wanted).copied().collect();
        reservations.release(&gone);
        mesh.reserved.retain(|key| wanted.contains(key));
        let fresh: Vec<PortKey> = wanted.difference(&mesh.reserved).copied().collect();
        for key in fresh {
            match reservations.reserve(key, None) {
                Ok(key) => drop(mesh.reserved.insert(key)),
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a port that the cluster publishes on every node is taken on this one"
                ),
            }
        }
    }

    fn lead_ports(&self, mesh: &mut Mesh, spec: &MeshSpec) -> Result<(), NetworkError> {
        let held = mesh.held.take();
        let mut now = BTreeMap::new();
        for family in [Family::Ipv4, Family::Ipv6] {
            let is_ipv4 = family == Family::Ipv4;
            let wanted = table::of_family(&spec.ports, family);
            let stands = spec.addresses.iter().any(|own| own.is_ipv4() == is_ipv4);
            self.change_ports(
                family,
                stands,
                held.as_ref().and_then(|held| held.get(&is_ipv4)),
                &wanted,
            )?;
            if stands {
                now.insert(is_ipv4, wanted);
            }
        }
        let lost = |is_ipv4: &bool, ports: &Ports| {
            let now = now.get(is_ipv4);
            ports.iter().any(|(port, before)| {
                let now = now.and_then(|now| now.get(port));
                now.is_none_or(|now| !before.endpoints.is_subset(&now.endpoints))
            })
        };
        if !spec.lost.is_subset(&mesh.lost)
            || held.is_none_or(|held| held.iter().any(|(is_ipv4, ports)| lost(is_ipv4, ports)))
        {
            self.forget_mesh_flows(spec);
        }
        mesh.lost.clone_from(&spec.lost);
        mesh.held = Some(now);
        Ok(())
    }

    /// Makes a small change; where the table is not as expected, because somebody changed it, replaces it.
    fn change_ports(
        &self,
        family: Family,
        stands: bool,
        held: Option<&Ports>,
        wanted: &Ports,
    ) -> Result<(), NetworkError> {
        let failed = || NetworkError::firewall("lead ports to containers of the cluster");
        let mut tables = NetlinkTables::open().map_err(failed())?;
        let mut commit = |changes: Vec<Change>| {
            tables.commit(&Batch {
                family,
                table: self.mesh_table.clone(),
                changes,
            })
        };
        if let Some(held) = held.filter(|_| stands) {
            let changes = table::between(family, held, wanted);
            if changes.is_empty() {
                return Ok(());
            }
            match commit(changes) {
                Err(error) if error.errno().is_some() => {}
                other => return other.map_err(failed()),
            }
        }
        match commit(table::whole(family, stands, wanted)) {
            // A kernel without IPv6 has no such tables.
            Err(error) if family == Family::Ipv6 && !stands && error.errno().is_some() => Ok(()),
            other => other.map_err(failed()),
        }
    }

    /// Forgets flows of protocols without connections that lead where their port no longer does. Those with connections
    /// go on for as long as the container lives, and are forgotten with its node.
    fn forget_mesh_flows(&self, spec: &MeshSpec) {
        let stale = |flow: &Flow| {
            let port = (Protocol::Udp, flow.destination.1);
            let endpoints = spec.ports.get(&port);
            let at = SocketAddr::new(flow.answered_by.0, flow.answered_by.1);
            let through = spec.addresses.iter().any(|own| own.contains(at.ip()));
            let leads_on = endpoints.is_some_and(|port| port.endpoints.contains(&at));
            let ends = flow.protocol == Protocol::Udp.number() && !leads_on;
            through && (ends || spec.lost.contains(&at.ip()))
        };
        let forgotten = NetlinkTables::open().and_then(|mut tables| {
            [true, false]
                .iter()
                .filter(|is_ipv4| spec.addresses.iter().any(|own| own.is_ipv4() == **is_ipv4))
                .try_for_each(|is_ipv4| conntrack::forget_stale(tables.socket(), *is_ipv4, stale))
        });
        if let Err(error) = forgotten {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "old flows may keep their former direction"
            );
        }
    }

    fn leave_mesh(&self, mesh: &mut Mesh) -> Result<(), NetworkError> {
        let failed = || NetworkError::firewall("remove the mesh");
        for family in [Family::Ipv4, Family::Ipv6] {
            match self.change_ports(family, false, None, &Ports::new()) {
                Err(_) if family == Family::Ipv6 => {}
                other => other?,
            }
        }
        self.remove_mesh_link()?;
        let mut firewall = lock(&self.firewall);
        firewall
            .v4
            .remove_bridge(LINK)
            .and_then(|()| firewall.forget_ipv6_bridge(LINK))
            .map_err(failed())?;
        drop(firewall);
        let reserved: Vec<PortKey> = mesh.reserved.iter().copied().collect();
        lock(&self.reservations).release(&reserved);
        *mesh = Mesh {
            gone: true,
            ..Mesh::default()
        };
        Ok(())
    }

    /// Makes a container's answers over the mesh go back by the nodes that are given.
    pub(crate) fn set_mesh_entries(
        &self,
        container_id: &str,
        wanted: &MeshEntries,
    ) -> Result<(), NetworkError> {
        let sandbox = self.require_sandbox(container_id)?;
        let mut links = self.links_of(&sandbox)?;
        let failed = |operation| NetworkError::link(operation, container_id);
        let listed = links
            .list(Detail::Identity)
            .map_err(failed("list the interfaces of"))?;
        let mut place = None;
        for link in listed {
            let own = links
                .addresses(Some(link.index))
                .map_err(failed("read the addresses of"))?;
            let in_mesh = |own: &IpNet| wanted.subnets.iter().any(|subnet| subnet.contains(own.address()));
            if own.iter().any(in_mesh) {
                place = Some(link);
            }
        }
        let place = place.ok_or_else(|| NetworkError::NoSuchInterface {
            name: format!("of {container_id} in the mesh"),
        })?;
        let entries: Vec<Entry<'_>> = wanted.nodes.iter().map(|node| Entry(node)).collect();
        let sysctls = entry::SYSCTLS.map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.set_sysctls(&sandbox.netns, sysctls.into())?;
        links
            .follow_marks(place.index, &entries)
            .map_err(failed("route the answers of"))?;
        let has = |is_ipv4: bool| wanted.subnets.iter().any(|subnet| subnet.is_ipv4() == is_ipv4);
        if has(false) {
            links
                .answer_abroad(place.index)
                .map_err(failed("give a way of last resort to"))?;
        }
        let netns = duplicate(&sandbox.netns)?;
        let opened = self.namespaces.run_in(netns, NetlinkTables::open)?;
        let mut tables = opened.map_err(NetworkError::firewall("open the packet filter of a container"))?;
        for family in [Family::Ipv4, Family::Ipv6] {
            if !has(family == Family::Ipv4) {
                continue;
            }
            let is_ipv4 = family == Family::Ipv4;
            let answers_from = links
                .address_abroad(is_ipv4)
                .map_err(failed("find the way abroad of"))?;
            let mut own = wanted
                .subnets
                .iter()
                .filter(|subnet| !is_ipv4 && !subnet.is_ipv4());
            tables
                .commit(&Batch {
                    family,
                    table: self.mesh_table.clone(),
                    changes: entry::whole(&place.name, &entries, answers_from, own.next().copied()),
                })
                .map_err(NetworkError::firewall("mark the connections of a container"))?;
        }
        Ok(())
    }
}

fn own_namespace() -> Result<OwnedFd, NetworkError> {
    let path = std::path::Path::new("/proc/thread-self/ns/net");
    let opened = std::fs::File::open(path).map_err(crate::sandbox::pin_error("open", path))?;
    Ok(opened.into())
}
