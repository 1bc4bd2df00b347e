//! Overlays: networks that containers of several nodes share, over VXLAN.
//!
//! Each has a network namespace of its own on this node, with a bridge for the containers and a VXLAN device whose
//! packets travel through the host's namespace. Nothing is learned and nothing flooded: where packets go is what
//! [`OverlaySpec::stations`] says.

mod admission;
mod entries;
mod kernel;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::address::MacAddress;
use crate::error::NetworkError;
use crate::firewall::NetlinkTables;
use crate::ip_net::IpNet;
use crate::links::{Detail, Links, Veth, ignoring};
use crate::namespace::{self, open_pinned};
use crate::network::{Inner, lock};
use crate::sandbox::{NAME_ATTEMPTS, Sandbox, pin_error};
use crate::spec::{InvalidSpec, check_address, check_mtu, check_overlay_id};
pub(crate) use admission::{Admission, Admitted, TunnelEnd};
use entries::{Entries, difference};
use kernel::Tunnel;

/// Names inside of an overlay's namespace.
const BRIDGE: &str = "br0";
const VXLAN: &str = "vxlan0";
/// What a tunnel puts around a packet: outer Ethernet, IP, UDP and VXLAN headers.
const OVERHEAD_IPV4: u32 = 50;
const OVERHEAD_IPV6: u32 = 70;
/// Smallest MTU that IPv6 works with.
const MTU_MIN: u32 = 1280;
const ETHERNET_MTU: u32 = 1500;
/// Largest identifier: it has 24 bits.
const VNI_MAX: u32 = (1 << 24) - 1;

/// An overlay as this node needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlaySpec {
    /// The network's id, of letters and digits.
    pub id: String,
    /// Its VXLAN identifier.
    pub vni: u32,
    /// The gateways' addresses with the subnets' prefixes, at most one of each subnet.
    pub gateways: Vec<IpNet>,
    /// Largest packet; what fits the way between the nodes where it is `None`.
    pub mtu: Option<u32>,
    /// This node's address, from which its tunnels begin.
    pub underlay: IpAddr,
    /// UDP port of the tunnels.
    pub port: u16,
    /// The containers on other nodes.
    pub stations: Vec<Station>,
}

/// A container of another node on an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Station {
    /// Its addresses in the overlay.
    pub addresses: Vec<IpAddr>,
    /// Its hardware address; [`MacAddress::for_address`] of the first one is the usual choice.
    pub mac: MacAddress,
    /// The address of its node, where the tunnel ends.
    pub node: IpAddr,
}

impl OverlaySpec {
    /// Checks names and ranges.
    pub fn check(&self) -> Result<(), InvalidSpec> {
        check_overlay_id(&self.id)?;
        if !(1..=VNI_MAX).contains(&self.vni) {
            return Err(InvalidSpec::Vni { vni: self.vni });
        }
        if self.port == 0 {
            return Err(InvalidSpec::TunnelPort);
        }
        if self.underlay.is_unspecified() || self.underlay.is_multicast() {
            return Err(InvalidSpec::Underlay {
                address: self.underlay,
            });
        }
        check_mtu(&self.id, self.mtu)?;
        self.gateways
            .iter()
            .try_for_each(|gateway| check_address(*gateway))
    }

    fn has_ipv6(&self) -> bool {
        self.gateways.iter().any(|gateway| !gateway.is_ipv4())
    }

    fn tunnel(&self) -> Tunnel {
        Tunnel {
            vni: self.vni,
            local: self.underlay,
            port: self.port,
        }
    }
}

/// What kept overlays from being made or removed, by the overlay's id.
pub type OverlayFailures = BTreeMap<String, NetworkError>;

/// An overlay that stands.
pub(crate) struct Overlay {
    netns: OwnedFd,
    links: Links,
    bridge: u32,
    mtu: u32,
    /// What the kernel was last made to be; `None` after a failure.
    done: Option<OverlaySpec>,
}

/// The overlays of this node that stand, and who may send into them.
#[derive(Default)]
pub(crate) struct Overlays {
    by_id: HashMap<String, Overlay>,
    admission: Admission,
}

impl Inner {
    /// Makes the overlays of this node what they should be, and removes all others. One that fails does not keep the
    /// others from it; the failures are returned. While tunnels cannot be kept to nodes, none is made.
    pub(crate) fn set_overlays(&self, wanted: &[OverlaySpec]) -> Result<OverlayFailures, NetworkError> {
        let mut failures = OverlayFailures::new();
        let (sound, unsound): (Vec<&OverlaySpec>, Vec<_>) =
            wanted.iter().partition(|spec| spec.check().is_ok());
        for spec in unsound {
            let checked = spec.check().err();
            failures.extend(checked.map(|error| (spec.id.clone(), error.into())));
        }
        let mut overlays = lock(&self.overlays);
        let admitted = self.admit(&mut overlays, &sound);
        for id in self.overlays()? {
            if !wanted.iter().any(|spec| spec.id == id) {
                let removed = self.remove_overlay(&mut overlays, &id).err();
                failures.extend(removed.map(|error| (id, error)));
            }
        }
        admitted?;
        for spec in sound {
            let made = self.ensure_overlay(&mut overlays, spec).err();
            failures.extend(made.map(|error| (spec.id.clone(), error)));
        }
        Ok(failures)
    }

    fn ensure_overlay(&self, overlays: &mut Overlays, spec: &OverlaySpec) -> Result<(), NetworkError> {
        if overlays
            .by_id
            .get(&spec.id)
            .is_some_and(|overlay| overlay.done.as_ref() == Some(spec))
        {
            return Ok(());
        }
        let mut overlay = match overlays.by_id.remove(&spec.id) {
            Some(overlay) => overlay,
            None => self.open_overlay(&spec.id)?,
        };
        overlay.done = None;
        let set_up = self.set_up_overlay(&mut overlay, spec);
        if set_up.is_ok() {
            overlay.done = Some(spec.clone());
        }
        overlays.by_id.insert(spec.id.clone(), overlay);
        set_up
    }

    fn remove_overlay(&self, overlays: &mut Overlays, id: &str) -> Result<(), NetworkError> {
        let path = self.overlay_path(id);
        let standing = match overlays.by_id.remove(id) {
            Some(overlay) => Some(overlay.links),
            None => match open_pinned(&path).map_err(pin_error("open", &path))? {
                Some(netns) => Some(self.links_of(&Sandbox { netns })?),
                None => None,
            },
        };
        if let Some(mut links) = standing {
            // At once, not when the kernel gets to it: another overlay may need the identifier.
            remove_link(&mut links, VXLAN)?;
        }
        namespace::unpin(&path).map_err(pin_error("remove", &path))?;
        Ok(())
    }

    /// The overlays that this node has, those of an earlier run included.
    pub(crate) fn overlays(&self) -> Result<Vec<String>, NetworkError> {
        let pinned = namespace::pins_in(&self.overlay_pins);
        pinned.map_err(pin_error("list", &self.overlay_pins))
    }

    /// Puts one end of a pair on an overlay's bridge.
    pub(crate) fn create_overlay_pair(
        &self,
        id: &str,
        container_id: &str,
        interface: &crate::spec::Interface,
        netns: BorrowedFd<'_>,
    ) -> Result<(), NetworkError> {
        let mut overlays = lock(&self.overlays);
        let overlay = require(&mut overlays, id)?;
        let mut attempts = 0;
        loop {
            let host_name = self.host_interface_name(container_id);
            let veth = Veth {
                name: &host_name,
                bridge_index: overlay.bridge,
                mtu: Some(interface.mtu.unwrap_or(overlay.mtu)),
                peer_name: &interface.name,
                peer_mac: interface.mac,
                peer_namespace: netns,
            };
            attempts += 1;
            match overlay.links.create_veth(&veth) {
                // An earlier daemon may have given the name out.
                Err(error) if error.errno() == Some(Errno::EXIST) && attempts < NAME_ATTEMPTS => {}
                created => return created.map_err(NetworkError::link("create interface", &interface.name)),
            }
        }
    }

    /// Lets packets pass the end of a pair that is on the overlay's bridge.
    pub(crate) fn settle_overlay_port(
        &self,
        id: &str,
        port: u32,
        mac: MacAddress,
    ) -> Result<(), NetworkError> {
        let mut overlays = lock(&self.overlays);
        let settled = require(&mut overlays, id)?.links.open_overlay_port(port, mac);
        settled.map_err(NetworkError::link("set up the port on overlay", id))
    }

    /// Whether the link with this index is on the overlay's bridge.
    pub(crate) fn has_overlay_port(&self, id: &str, port: u32) -> Result<bool, NetworkError> {
        let mut overlays = lock(&self.overlays);
        let overlay = require(&mut overlays, id)?;
        let listed = overlay.links.list(Detail::Identity);
        let listed = listed.map_err(NetworkError::link("list the links of overlay", id))?;
        Ok(listed
            .iter()
            .any(|link| link.index == port && link.kind.as_deref() == Some("veth")))
    }

    /// Opens the namespace that an earlier run made, or makes one.
    fn open_overlay(&self, id: &str) -> Result<Overlay, NetworkError> {
        let path = self.overlay_path(id);
        let opened = open_pinned(&path).map_err(pin_error("open", &path))?;
        let (netns, links) = match opened {
            Some(netns) => {
                let sandbox = Sandbox { netns };
                let links = self.links_of(&sandbox)?;
                (sandbox.netns, links)
            }
            None => {
                // Only now: a node without overlays has no mount for them.
                namespace::prepare_pin_directory(&self.overlay_pins)
                    .map_err(pin_error("prepare", &self.overlay_pins))?;
                let fresh = self.namespaces.take()?;
                self.namespaces.refill();
                namespace::pin(fresh.descriptor.as_fd(), &path)
                    .map_err(pin_error("pin the namespace at", &path))?;
                (fresh.descriptor, fresh.links)
            }
        };
        Ok(Overlay {
            netns,
            links,
            bridge: 0,
            mtu: ETHERNET_MTU,
            done: None,
        })
    }

    fn set_up_overlay(&self, overlay: &mut Overlay, spec: &OverlaySpec) -> Result<(), NetworkError> {
        let wanted = Entries::wanted(spec);
        overlay.mtu = match spec.mtu {
            Some(mtu) => mtu,
            None => self.fitting_mtu(spec.underlay)?,
        };
        overlay.bridge = self.ensure_overlay_bridge(overlay, spec)?;
        let vxlan = self.ensure_vxlan(overlay, spec)?;
        let present = overlay
            .links
            .entries(vxlan)
            .map_err(NetworkError::link("read the entries of overlay", &spec.id))?;
        overlay
            .links
            .change_entries(vxlan, &difference(&wanted, &present))
            .map_err(NetworkError::link("change the entries of overlay", &spec.id))
    }

    fn fitting_mtu(&self, underlay: IpAddr) -> Result<u32, NetworkError> {
        let failed = || NetworkError::link("find the way of tunnels from", underlay.to_string());
        let mut links = lock(&self.links);
        let owner = links.owner_of(underlay).map_err(failed())?;
        let listed = links.list(Detail::Identity).map_err(failed())?;
        let way = listed.iter().find(|link| Some(link.index) == owner);
        let overhead = if underlay.is_ipv4() {
            OVERHEAD_IPV4
        } else {
            OVERHEAD_IPV6
        };
        let outer = way.map_or(ETHERNET_MTU, |link| link.mtu).min(u32::from(u16::MAX));
        Ok(outer.saturating_sub(overhead).max(MTU_MIN))
    }

    fn ensure_overlay_bridge(&self, overlay: &mut Overlay, spec: &OverlaySpec) -> Result<u32, NetworkError> {
        let failed = |operation| NetworkError::link(operation, format!("the bridge of overlay {}", spec.id));
        let links = &mut overlay.links;
        let found = links.find(BRIDGE).map_err(failed("look up"))?;
        if found.is_none() {
            let first = spec.gateways.iter().map(IpNet::address).min();
            let mac = first.map_or(MacAddress([2, 0, 0, 0, 0, 1]), MacAddress::for_address);
            let created = links.create_bridge(BRIDGE, mac, Some(overlay.mtu));
            ignoring(created, Errno::EXIST).map_err(failed("create"))?;
        }
        if spec.has_ipv6() {
            let enabled = (format!("net/ipv6/conf/{BRIDGE}/disable_ipv6"), "0".to_owned());
            self.set_sysctls(&overlay.netns, vec![enabled])?;
        }
        let links = &mut overlay.links;
        let missing = || NetworkError::NoSuchBridge {
            name: format!("of overlay {}", spec.id),
        };
        let bridge = links
            .find(BRIDGE)
            .map_err(failed("look up"))?
            .ok_or_else(missing)?;
        links
            .update(bridge.index, Some(overlay.mtu))
            .map_err(failed("change"))?;
        let present = links
            .addresses(Some(bridge.index))
            .map_err(failed("read the addresses of"))?;
        for stale in present.iter().filter(|address| !spec.gateways.contains(address)) {
            links
                .remove_address(bridge.index, *stale)
                .map_err(failed("remove an old address of"))?;
        }
        let absent: Vec<IpNet> = spec
            .gateways
            .iter()
            .filter(|gateway| !present.contains(gateway))
            .copied()
            .collect();
        links
            .configure(bridge.index, &absent, &[])
            .map_err(failed("give an address to"))?;
        Ok(bridge.index)
    }

    /// The device whose tunnels begin where they should; one that an earlier address of this node had is replaced.
    fn ensure_vxlan(&self, overlay: &mut Overlay, spec: &OverlaySpec) -> Result<u32, NetworkError> {
        let failed =
            |operation| NetworkError::link(operation, format!("the VXLAN device of overlay {}", spec.id));
        let found = overlay.links.find_vxlan(VXLAN).map_err(failed("look up"))?;
        if found != Some(spec.tunnel()) {
            remove_link(&mut overlay.links, VXLAN)?;
            self.create_vxlan(overlay, spec)?;
        }
        let missing = || NetworkError::NoSuchInterface {
            name: VXLAN.to_owned(),
        };
        let device = overlay
            .links
            .find(VXLAN)
            .map_err(failed("look up"))?
            .ok_or_else(missing)?;
        if spec.has_ipv6() {
            // An address of its own would never be used; without the family it does not answer for others.
            let set = |parameter: &str, value: &str| {
                (format!("net/ipv6/conf/{VXLAN}/{parameter}"), value.to_owned())
            };
            let enabled = vec![set("addr_gen_mode", "1"), set("disable_ipv6", "0")];
            self.set_sysctls(&overlay.netns, enabled)?;
        }
        overlay
            .links
            .enslave(device.index, overlay.bridge, overlay.mtu)
            .map_err(failed("set up"))?;
        Ok(device.index)
    }

    /// Nothing is waited for where the identifier is still that of an overlay whose namespace the kernel is taking down:
    /// other overlays would wait as well.
    fn create_vxlan(&self, overlay: &Overlay, spec: &OverlaySpec) -> Result<(), NetworkError> {
        let netns = overlay.netns.as_fd();
        let created = lock(&self.links).create_vxlan(VXLAN, spec.tunnel(), overlay.mtu, netns);
        let subject = || format!("the VXLAN device {} of overlay {}", spec.vni, spec.id);
        created.map_err(|source| NetworkError::link("create", subject())(source))
    }

    fn admit(&self, overlays: &mut Overlays, specs: &[&OverlaySpec]) -> Result<(), NetworkError> {
        let mut wanted = Admitted::new();
        for spec in specs {
            let nodes = Entries::wanted(spec).nodes();
            let end = TunnelEnd {
                is_ipv4: spec.underlay.is_ipv4(),
                port: spec.port,
            };
            wanted.entry(end).or_default().extend(nodes);
        }
        let failed = || NetworkError::firewall("admit the tunnels of other nodes");
        let mut tables = NetlinkTables::open().map_err(failed())?;
        overlays
            .admission
            .set(&mut tables, &self.tunnel_table, wanted)
            .map_err(failed())
    }

    fn overlay_path(&self, id: &str) -> PathBuf {
        self.overlay_pins.join(id)
    }
}

fn require<'a>(overlays: &'a mut Overlays, id: &str) -> Result<&'a mut Overlay, NetworkError> {
    overlays
        .by_id
        .get_mut(id)
        .ok_or_else(|| NetworkError::NoSuchOverlay { id: id.to_owned() })
}

fn remove_link(links: &mut Links, name: &str) -> Result<(), NetworkError> {
    match links.find(name).map_err(NetworkError::link("look up", name))? {
        Some(link) => links
            .delete(link.index)
            .map_err(NetworkError::link("remove", name)),
        None => Ok(()),
    }
}
