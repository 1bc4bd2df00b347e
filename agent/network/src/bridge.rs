//! Bridges: the link, its address, and what its containers may do.

use std::collections::HashMap;

use rustix::io::Errno;

use crate::address::MacAddress;
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
    /// Filters packets before there can be any: rules first, then the link.
    pub(crate) fn ensure_bridge(&self, spec: &BridgeSpec) -> Result<(), NetworkError> {
        spec.check()?;
        sysctl::write("net.ipv4.ip_forward", "1")?;
        let policy = BridgePolicy {
            masquerade: spec.masquerade && !spec.internal,
            internal: spec.internal,
            between_containers: spec.icc,
        };
        lock(&self.firewall)
            .set_bridge(&spec.name, policy)
            .map_err(NetworkError::firewall("add a bridge"))?;
        let index = ensure_link(&mut lock(&self.links), spec)?;
        // Lets the host reach published ports on 127.0.0.1; the packet filter keeps containers from doing the same.
        sysctl::write(&format!("net/ipv4/conf/{}/route_localnet", spec.name), "1")?;
        lock(&self.bridges).insert(
            spec.name.clone(),
            Bridge {
                index,
                isolated: !spec.icc,
            },
        );
        Ok(())
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
        lock(&self.firewall)
            .remove_bridge(name)
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
        let policy = lock(&self.firewall).model().bridges.get(name).copied();
        let bridge = Bridge {
            index: link.index,
            isolated: policy.is_some_and(|policy| !policy.between_containers),
        };
        lock(&self.bridges).insert(name.to_owned(), bridge);
        Ok(bridge)
    }
}

fn ensure_link(links: &mut Links, spec: &BridgeSpec) -> Result<u32, NetworkError> {
    let name = spec.name.as_str();
    // A fixed hardware address keeps the kernel from taking over the lowest one of the ports.
    let mac = MacAddress::for_ipv4(spec.gateway.address());
    let look_up = |links: &mut Links| links.find(name).map_err(NetworkError::link("look up", name));
    let link = match look_up(links)? {
        Some(link) => {
            require_bridge(&link)?;
            links
                .update(link.index, spec.mtu)
                .map_err(NetworkError::link("change bridge", name))?;
            link
        }
        None => {
            let created = links.create_bridge(name, mac, spec.mtu);
            ignoring(created, Errno::EXIST).map_err(NetworkError::link("create bridge", name))?;
            look_up(links)?.ok_or_else(|| NetworkError::NoSuchBridge {
                name: name.to_owned(),
            })?
        }
    };
    let present = links
        .addresses(Some(link.index))
        .map_err(NetworkError::link("read the addresses of", name))?;
    for stale in present.iter().filter(|address| **address != spec.gateway) {
        links
            .remove_address(link.index, *stale)
            .map_err(NetworkError::link("remove an old address of", name))?;
    }
    if !present.contains(&spec.gateway) {
        links
            .configure(link.index, spec.gateway, None)
            .map_err(NetworkError::link("give an address to bridge", name))?;
    }
    Ok(link.index)
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
