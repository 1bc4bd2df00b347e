//! An overlay's VXLAN device and its entries, over a routing socket.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::entries::{Entries, Operation};
use crate::address::MacAddress;
use crate::addresses::{AF_INET, AF_INET6, address_of, family, with_octets};
use crate::links::{
    AF_BRIDGE, IFF_UP, IFLA_EXT_MASK, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO,
    IFLA_MASTER, IFLA_MTU, IFLA_NET_NS_FD, IFLA_PROTINFO, Links, NDA_LLADDR, NTF_MASTER,
    RTEXT_FILTER_SKIP_STATS, RTM_NEWNEIGH, RTM_SETLINK, ignoring, link_header,
};
use crate::netlink::{Body, Framing, NetlinkError, Reply, Requests, find, flag};

const RTM_GETLINK: u16 = 18;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PROXY: u16 = 11;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;

const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;

const NDA_DST: u16 = 1;
const NDA_MASTER: u16 = 9;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 0x02;

/// Messages that are handed over at once: the kernel queues an answer to each, and its queue holds some hundreds.
const MESSAGES_MAX: usize = 100;

/// What makes two VXLAN devices different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tunnel {
    pub vni: u32,
    pub local: IpAddr,
    pub port: u16,
}

impl Links {
    /// Makes a VXLAN device inside of `namespace`. Its packets travel through the namespace of this socket.
    pub fn create_vxlan(
        &mut self,
        name: &str,
        tunnel: Tunnel,
        mtu: u32,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), NetlinkError> {
        self.create(|body| {
            body.raw(&link_header(0, 0, 0));
            body.text(IFLA_IFNAME, name);
            body.u32(IFLA_MTU, mtu);
            body.u32(IFLA_NET_NS_FD, namespace.as_raw_fd() as u32);
            body.nested(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "vxlan");
                info.nested(IFLA_INFO_DATA, |data| write_tunnel(data, tunnel));
            });
        })
    }

    /// What a VXLAN device is; `None` if there is none of that name.
    pub fn find_vxlan(&mut self, name: &str) -> Result<Option<Tunnel>, NetlinkError> {
        let request = Requests::one(RTM_GETLINK, flag::ACK, |body| {
            body.raw(&link_header(0, 0, 0));
            body.text(IFLA_IFNAME, name);
            body.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        });
        match self.socket.query(request) {
            Ok(replies) => Ok(replies.iter().find_map(read_tunnel)),
            Err(error) if error.errno() == Some(Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a link on a bridge, up, as a port that passes only what is known to be behind it, and learns nothing.
    pub fn enslave(&mut self, index: u32, bridge: u32, mtu: u32) -> Result<(), NetlinkError> {
        let mut requests = Requests::default();
        requests.push(RTM_SETLINK, flag::ACK, |body| {
            body.raw(&link_header(index, IFF_UP, IFF_UP));
            body.u32(IFLA_MTU, mtu);
            body.u32(IFLA_MASTER, bridge);
        });
        push_strict_port(&mut requests, index);
        self.socket.transact(requests, Framing::Separate)
    }

    /// Lets the port of a container on an overlay pass packets at once; of those for somebody in particular, only what is
    /// for its hardware address leads to it.
    pub fn open_overlay_port(&mut self, index: u32, mac: MacAddress) -> Result<(), NetlinkError> {
        let mut requests = Requests::default();
        // A kernel enables a port at once when somebody asks about it.
        requests.push(RTM_GETLINK, flag::ACK, |body| {
            body.raw(&link_header(index, 0, 0));
            body.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        });
        push_strict_port(&mut requests, index);
        push_behind(&mut requests, index, mac);
        self.socket.transact(requests, Framing::Separate)
    }

    /// The entries of a VXLAN device that are there for good.
    pub fn entries(&mut self, index: u32) -> Result<Entries, NetlinkError> {
        let mut entries = Entries::default();
        for kind in [AF_BRIDGE, AF_INET, AF_INET6] {
            let dump = Requests::one(RTM_GETNEIGH, flag::DUMP, |body| {
                body.raw(&neighbour_header(kind, 0, 0, 0))
            });
            for reply in self.socket.query(dump)? {
                note(&mut entries, index, &reply);
            }
        }
        Ok(entries)
    }

    /// Carries out changes of a VXLAN device's entries; what is gone already is fine.
    pub fn change_entries(&mut self, index: u32, operations: &[Operation]) -> Result<(), NetlinkError> {
        for part in operations.chunks(MESSAGES_MAX) {
            let mut requests = Requests::default();
            for operation in part {
                push_operation(&mut requests, index, *operation);
            }
            ignoring(self.socket.transact(requests, Framing::Separate), Errno::NOENT)?;
        }
        Ok(())
    }
}

fn write_tunnel(data: &mut Body<'_>, tunnel: Tunnel) {
    data.u32(IFLA_VXLAN_ID, tunnel.vni);
    let kind = if tunnel.local.is_ipv4() {
        IFLA_VXLAN_LOCAL
    } else {
        IFLA_VXLAN_LOCAL6
    };
    with_octets(tunnel.local, |octets| data.bytes(kind, octets));
    data.u8(IFLA_VXLAN_LEARNING, 0);
    data.u8(IFLA_VXLAN_PROXY, 1);
    data.bytes(IFLA_VXLAN_PORT, &tunnel.port.to_be_bytes());
}

fn read_tunnel(reply: &Reply) -> Option<Tunnel> {
    let info = find(reply.body.get(16..)?, IFLA_LINKINFO)?.value;
    if find(info, IFLA_INFO_KIND)?.text() != Some("vxlan") {
        return None;
    }
    let data = find(info, IFLA_INFO_DATA)?.value;
    let local = find(data, IFLA_VXLAN_LOCAL).or_else(|| find(data, IFLA_VXLAN_LOCAL6))?;
    Some(Tunnel {
        vni: find(data, IFLA_VXLAN_ID)?.u32()?,
        local: address_of(local.value)?,
        port: u16::from_be_bytes(find(data, IFLA_VXLAN_PORT)?.value.get(..2)?.try_into().ok()?),
    })
}

fn push_strict_port(requests: &mut Requests, index: u32) {
    requests.push(RTM_SETLINK, flag::ACK, |body| {
        let mut header = link_header(index, 0, 0);
        header[0] = AF_BRIDGE;
        body.raw(&header);
        body.nested(IFLA_PROTINFO, |port| {
            port.u8(IFLA_BRPORT_LEARNING, 0);
            port.u8(IFLA_BRPORT_UNICAST_FLOOD, 0);
        });
    });
}

fn neighbour_header(family: u8, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}

const SET: u16 = flag::ACK | flag::CREATE | flag::REPLACE;

fn push_behind(requests: &mut Requests, index: u32, mac: MacAddress) {
    requests.push(RTM_NEWNEIGH, SET, |body| {
        body.raw(&neighbour_header(AF_BRIDGE, index, NUD_NOARP, NTF_MASTER));
        body.bytes(NDA_LLADDR, &mac.0);
    });
}

fn push_operation(requests: &mut Requests, index: u32, operation: Operation) {
    match operation {
        Operation::SetTunnel(mac, node) => requests.push(RTM_NEWNEIGH, SET, |body| {
            body.raw(&neighbour_header(AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF));
            body.bytes(NDA_LLADDR, &mac.0);
            with_octets(node, |octets| body.bytes(NDA_DST, octets));
        }),
        Operation::RemoveTunnel(mac, node) => requests.push(RTM_DELNEIGH, flag::ACK, |body| {
            body.raw(&neighbour_header(AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF));
            body.bytes(NDA_LLADDR, &mac.0);
            with_octets(node, |octets| body.bytes(NDA_DST, octets));
        }),
        Operation::SetBehind(mac) => push_behind(requests, index, mac),
        Operation::RemoveBehind(mac) => requests.push(RTM_DELNEIGH, flag::ACK, |body| {
            body.raw(&neighbour_header(AF_BRIDGE, index, NUD_NOARP, NTF_MASTER));
            body.bytes(NDA_LLADDR, &mac.0);
        }),
        Operation::SetNeighbour(address, mac) => requests.push(RTM_NEWNEIGH, SET, |body| {
            body.raw(&neighbour_header(family(address), index, NUD_PERMANENT, 0));
            with_octets(address, |octets| body.bytes(NDA_DST, octets));
            body.bytes(NDA_LLADDR, &mac.0);
        }),
        Operation::RemoveNeighbour(address) => requests.push(RTM_DELNEIGH, flag::ACK, |body| {
            body.raw(&neighbour_header(family(address), index, 0, 0));
            with_octets(address, |octets| body.bytes(NDA_DST, octets));
        }),
    }
}

/// Notes an entry of the device, if that is what the kernel describes.
fn note(entries: &mut Entries, index: u32, reply: &Reply) -> Option<()> {
    let body = reply.body.as_slice();
    let of = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
    let state = u16::from_ne_bytes(body.get(8..10)?.try_into().ok()?);
    if reply.kind != RTM_NEWNEIGH || of != index {
        return None;
    }
    let parts = body.get(12..)?;
    let mac = MacAddress(find(parts, NDA_LLADDR)?.value.try_into().ok()?);
    let destination = find(parts, NDA_DST).and_then(|address| address_of(address.value));
    match (*body.first()?, destination, find(parts, NDA_MASTER)) {
        (AF_BRIDGE, _, Some(_)) if state == NUD_NOARP => drop(entries.behind.insert(mac)),
        (AF_BRIDGE, Some(node), None) => drop(entries.tunnels.insert(mac, node)),
        (AF_INET | AF_INET6, Some(address), None) if state == NUD_PERMANENT => {
            entries.neighbours.insert(address, mac);
        }
        _ => {}
    }
    Some(())
}
