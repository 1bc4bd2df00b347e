//! Interfaces that are a hardware address of their own on a link of the host, and the links that we make for them.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::error::NetworkError;
use crate::links::{
    IFF_UP, IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINK, IFLA_LINKINFO, IFLA_MTU,
    IFLA_NET_NS_FD, Links, link_header,
};
use crate::netlink::NetlinkError;
use crate::network::{Inner, lock};
use crate::spec::{Interface, MacvlanMode, check_interface_name};

const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_VLAN_ID: u16 = 1;
/// VLANs are numbered from 1 to here; 0 and 4095 mean something else.
const VLAN_MAX: u16 = 4094;

impl Inner {
    pub(crate) fn create_macvlan(
        &self,
        netns: BorrowedFd<'_>,
        interface: &Interface,
        (parent, mode): (&str, MacvlanMode),
    ) -> Result<(), NetworkError> {
        let mut links = lock(&self.links);
        let found = links
            .find(parent)
            .map_err(NetworkError::link("look up", parent))?;
        let missing = || NetworkError::NoSuchParent {
            name: parent.to_owned(),
        };
        let parent = found.ok_or_else(missing)?;
        links
            .create_macvlan((parent.index, mode), netns, interface)
            .map_err(NetworkError::link("create interface", &interface.name))
    }

    /// Makes sure that a parent of macvlan networks exists. `eth0.20` is made as VLAN 20 of eth0 where it does not
    /// exist; any other name must. Tells whether it made the link.
    pub(crate) fn ensure_parent(&self, name: &str) -> Result<bool, NetworkError> {
        check_interface_name(name)?;
        let mut links = lock(&self.links);
        let look_up =
            |links: &mut Links, name: &str| links.find(name).map_err(NetworkError::link("look up", name));
        if look_up(&mut links, name)?.is_some() {
            return Ok(false);
        }
        let missing = |name: &str| NetworkError::NoSuchParent {
            name: name.to_owned(),
        };
        let (trunk, vlan) = vlan_of(name).ok_or_else(|| missing(name))?;
        let trunk = look_up(&mut links, trunk)?.ok_or_else(|| missing(trunk))?;
        links
            .create_vlan(name, trunk.index, vlan)
            .map_err(NetworkError::link("create VLAN", name))?;
        Ok(true)
    }

    /// Makes a link that leads nowhere, for containers that reach each other only. Idempotent.
    pub(crate) fn ensure_isolated_parent(&self, name: &str) -> Result<(), NetworkError> {
        check_interface_name(name)?;
        let mut links = lock(&self.links);
        let created = links.create_idle_bridge(name);
        crate::links::ignoring(created, Errno::EXIST).map_err(NetworkError::link("create", name))?;
        crate::sysctl::write_if_present(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1")?;
        let found = links.find(name).map_err(NetworkError::link("look up", name))?;
        let missing = || NetworkError::NoSuchParent {
            name: name.to_owned(),
        };
        // A bridge that is up at once, or has a hardware address of ours, has no carrier until it has a port.
        links
            .update(found.ok_or_else(missing)?.index, None)
            .map_err(NetworkError::link("bring up", name))
    }

    /// Removes a parent that was made here; the interfaces on it go with it. Idempotent.
    pub(crate) fn remove_parent(&self, name: &str) -> Result<(), NetworkError> {
        check_interface_name(name)?;
        let mut links = lock(&self.links);
        match links.find(name).map_err(NetworkError::link("look up", name))? {
            Some(link) => links
                .delete(link.index)
                .map_err(NetworkError::link("remove", name)),
            None => Ok(()),
        }
    }
}

/// The kernel's number of a mode (if_link.h).
fn number_of(mode: MacvlanMode) -> u32 {
    match mode {
        MacvlanMode::Private => 1,
        MacvlanMode::Vepa => 2,
        MacvlanMode::Bridge => 4,
        MacvlanMode::Passthru => 8,
    }
}

/// The trunk and the number of a VLAN's usual name.
fn vlan_of(name: &str) -> Option<(&str, u16)> {
    let (trunk, number) = name.rsplit_once('.')?;
    let number = number
        .parse()
        .ok()
        .filter(|number| (1..=VLAN_MAX).contains(number))?;
    (!trunk.is_empty()).then_some((trunk, number))
}

impl Links {
    /// Makes an interface with its own hardware address on the link `parent`, inside another namespace.
    fn create_macvlan(
        &mut self,
        (parent, mode): (u32, MacvlanMode),
        netns: BorrowedFd<'_>,
        interface: &Interface,
    ) -> Result<(), NetlinkError> {
        self.create(|body| {
            body.raw(&link_header(0, 0, 0));
            body.text(IFLA_IFNAME, &interface.name);
            body.u32(IFLA_LINK, parent);
            body.bytes(IFLA_ADDRESS, &interface.mac.0);
            if let Some(mtu) = interface.mtu {
                body.u32(IFLA_MTU, mtu);
            }
            body.u32(IFLA_NET_NS_FD, netns.as_raw_fd() as u32);
            body.nested(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "macvlan");
                info.nested(IFLA_INFO_DATA, |data| {
                    data.u32(IFLA_MACVLAN_MODE, number_of(mode))
                });
            });
        })
    }

    fn create_idle_bridge(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.create(|body| {
            body.raw(&link_header(0, 0, 0));
            body.text(IFLA_IFNAME, name);
            body.nested(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, "bridge"));
        })
    }

    fn create_vlan(&mut self, name: &str, trunk: u32, vlan: u16) -> Result<(), NetlinkError> {
        self.create(|body| {
            body.raw(&link_header(0, IFF_UP, IFF_UP));
            body.text(IFLA_IFNAME, name);
            body.u32(IFLA_LINK, trunk);
            body.nested(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "vlan");
                info.nested(IFLA_INFO_DATA, |data| {
                    data.bytes(IFLA_VLAN_ID, &vlan.to_ne_bytes())
                });
            });
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_vlans_are_a_trunk_and_a_number() {
        assert_eq!(vlan_of("eth0.20"), Some(("eth0", 20)));
        assert_eq!(vlan_of("a.b.4094"), Some(("a.b", 4094)));
        for other in ["eth0", "eth0.", "eth0.0", "eth0.4095", ".5", "eth0.x"] {
            assert_eq!(vlan_of(other), None, "{other}");
        }
    }
}
