//! Bridges: the link, its address, and what its containers may do.

use std::collections::HashMap;

use rustix::io::Errno;

use crate::error::NetworkError;
use crate::firewall::BridgePolicy;
use crate::links::{Link, Links, ignoring};
use crate::network::{Inner, lock};
use crate::spec::{BridgeSpec, check_interface_name};
use crate::sysctl;

/// What is known about the bridges without asking the kernel.
pub(crate) type Bridges = HashMap<String, Bridge>;

/// A bridge as its containers' interfaces need to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bridge {
    pub index: u32,
    /// Whether its ports are kept from each other.
    pub isolated: bool,
}

impl Inner {
    /// Filters packets before there can be any: rules first, then the link. Tells whether the link was made.
    pub(crate) fn ensure_bridge(&self, spec: &BridgeSpec) -> Result<bool, NetworkError> {
        spec.check()?;
        let has_ipv6 = spec.gateways.iter().any(|gateway| !gateway.is_ipv4());
        sysctl::write("net.ipv4.ip_forward", "1")?;
        if has_ipv6 {
            sysctl::write("net.ipv6.conf.all.forwarding", "1")?;
        }
        let policy = |unprotected: bool, routed: bool| BridgePolicy {
            masquerade: spec.masquerade && !spec.internal && !routed,
            internal: spec.internal,
            between_containers: spec.icc,
            unprotected,
            routed: routed && !spec.internal,
            mesh: false,
        };
        let failed = || NetworkError::firewall("add a bridge");
        lock(&self.firewall)
            .v4
            .set_bridge(&spec.name, policy(spec.unprotected.ipv4, spec.routed.ipv4))
            .map_err(failed())?;
        match has_ipv6 {
            true => lock(&self.firewall)
                .v6()?
                .set_bridge(&spec.name, policy(spec.unprotected.ipv6, spec.routed.ipv6)),
            false => lock(&self.firewall).forget_ipv6_bridge(&spec.name),
        }
        .map_err(failed())?;
        let (index, made) = ensure_link(&mut lock(&self.links), spec, has_ipv6)?;
        // Lets the host reach published ports on 127.0.0.1; the packet filter keeps containers from doing the same.
        sysctl::write(&format!("net/ipv4/conf/{}/route_localnet", spec.name), "1")?;
        lock(&self.bridges).insert(
            spec.name.clone(),
            Bridge {
                index,
                isolated: !spec.icc,
            },
        );
        Ok(made)
    }

    /// The link first: what may pass is only forgotten when nothing can pass any more.
    pub(crate) fn remove_bridge(&self, name: &str) -> Result<(), NetworkError> {
        check_interface_name(name)?;
        lock(&self.bridges).remove(name);
        {
            let mut links = lock(&self.links);
            let found = links.find(name).map_err(NetworkError::link("look up", name))?;
            if let Some(link) = found {
                require_bridge(&link)?;
                links
                    .delete(link.index)
                    .map_err(NetworkError::link("remove bridge", name))?;
            }
        }
        self.release_bridge(name)
    }

    /// Forgets what may pass over a bridge that somebody else made.
    pub(crate) fn release_bridge(&self, name: &str) -> Result<(), NetworkError> {
        check_interface_name(name)?;
        lock(&self.bridges).remove(name);
        let mut firewall = lock(&self.firewall);
        firewall
            .v4
            .remove_bridge(name)
            .and_then(|()| firewall.forget_ipv6_bridge(name))
            .map_err(NetworkError::firewall("remove a bridge"))
    }

    /// A bridge by its name, also one that an earlier run made.
    pub(crate) fn bridge(&self, name: &str) -> Result<Bridge, NetworkError> {
        if let Some(bridge) = lock(&self.bridges).get(name) {
            return Ok(*bridge);
        }
        let found = lock(&self.links)
            .find(name)
            .map_err(NetworkError::link("look up", name))?;
        let link = found.ok_or_else(|| NetworkError::NoSuchBridge {
            name: name.to_owned(),
        })?;
        require_bridge(&link)?;
        let policy = lock(&self.firewall).v4.model().bridges.get(name).copied();
        let bridge = Bridge {
            index: link.index,
            isolated: policy.is_some_and(|policy| !policy.between_containers),
        };
        lock(&self.bridges).insert(name.to_owned(), bridge);
        Ok(bridge)
    }
}

fn ensure_link(links: &mut Links, spec: &BridgeSpec, has_ipv6: bool) -> Result<(u32, bool), NetworkError> {
    let name = spec.name.as_str();
    let look_up = |links: &mut Links| links.find(name).map_err(NetworkError::link("look up", name));
    let found = look_up(links)?;
    let made = found.is_none();
    let link = match found {
        Some(link) => {
            require_bridge(&link)?;
            links
                .update(link.index, spec.mtu)
                .map_err(NetworkError::link("change bridge", name))?;
            link
        }
        None => {
            let created = links.create_bridge(name, spec.mac(), spec.mtu);
            ignoring(created, Errno::EXIST).map_err(NetworkError::link("create bridge", name))?;
            look_up(links)?.ok_or_else(|| NetworkError::NoSuchBridge {
                name: name.to_owned(),
            })?
        }
    };
    // Without a network of IPv6, containers must not reach the host by the addresses that IPv6 makes by itself.
    let disabled = if has_ipv6 { "0" } else { "1" };
    sysctl::write_if_present(&format!("net/ipv6/conf/{name}/disable_ipv6"), disabled)?;
    set_addresses(links, link.index, spec)?;
    Ok((link.index, made))
}

fn set_addresses(links: &mut Links, index: u32, spec: &BridgeSpec) -> Result<(), NetworkError> {
    let name = spec.name.as_str();
    let present = links
        .addresses(Some(index))
        .map_err(NetworkError::link("read the addresses of", name))?;
    for stale in present.iter().filter(|address| !spec.gateways.contains(address)) {
        links
            .remove_address(index, *stale)
            .map_err(NetworkError::link("remove an old address of", name))?;
    }
    let missing: Vec<_> = spec
        .gateways
        .iter()
        .filter(|address| !present.contains(address))
        .copied()
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    links
        .configure(index, &missing, &[])
        .map_err(NetworkError::link("give an address to bridge", name))
}

fn require_bridge(link: &Link) -> Result<(), NetworkError> {
    match link.kind.as_deref() {
        Some("bridge") => Ok(()),
        kind => Err(NetworkError::NotABridge {
            name: link.name.clone(),
            kind: kind.unwrap_or("hardware device").to_owned(),
        }),
    }
}
