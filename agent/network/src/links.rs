//! Links and forwarding entries of one network namespace, over a routing netlink socket.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::address::MacAddress;
use crate::netlink::{Body, Framing, NetlinkError, Protocol, Reply, Requests, Socket, find, flag};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_SETLINK: u16 = 19;
pub(crate) const RTM_NEWNEIGH: u16 = 28;

pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MTU: u16 = 4;
pub(crate) const IFLA_LINK: u16 = 5;
pub(crate) const IFLA_MASTER: u16 = 10;
pub(crate) const IFLA_PROTINFO: u16 = 12;
pub(crate) const IFLA_LINKINFO: u16 = 18;
const IFLA_STATS64: u16 = 23;
pub(crate) const IFLA_NET_NS_FD: u16 = 28;
pub(crate) const IFLA_EXT_MASK: u16 = 29;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_HAIRPIN: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
pub(crate) const RTEXT_FILTER_SKIP_STATS: u32 = 8;

pub(crate) const NDA_LLADDR: u16 = 2;
const NUD_REACHABLE: u16 = 0x02;
pub(crate) const NTF_MASTER: u8 = 0x04;

pub(crate) const AF_BRIDGE: u8 = 7;
pub(crate) const IFF_UP: u32 = 1;
/// The loopback is the first link of every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// What is asked for when a link is looked up or listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    Identity,
    Statistics,
}

/// A link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    pub kind: Option<String>,
    /// Index of a veth's other end in its own namespace.
    pub peer_index: Option<u32>,
    /// Largest packet.
    pub mtu: u32,
    pub statistics: InterfaceStats,
}

/// Traffic of one interface since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct InterfaceStats {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
}

/// A pair of virtual interfaces: one here on a bridge, the other born inside another namespace.
pub(crate) struct Veth<'a> {
    pub name: &'a str,
    pub bridge_index: u32,
    pub mtu: Option<u32>,
    pub peer_name: &'a str,
    pub peer_mac: MacAddress,
    pub peer_namespace: BorrowedFd<'a>,
}

/// The links of the namespace in which the socket was opened.
#[derive(Debug)]
pub(crate) struct Links {
    pub(crate) socket: Socket,
}

impl Links {
    /// Opens the namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: Socket::open(Protocol::Route)?,
        })
    }

    /// Looks a link up by its name.
    pub fn find(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let request = Requests::one(RTM_GETLINK, flag::ACK, |body| {
            body.raw(&link_header(0, 0, 0));
            body.text(IFLA_IFNAME, name);
            body.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        });
        match self.socket.query(request) {
            Ok(replies) => Ok(replies.iter().find_map(parse_link)),
            Err(error) if error.errno() == Some(Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links.
    pub fn list(&mut self, detail: Detail) -> Result<Vec<Link>, NetlinkError> {
        let request = Requests::one(RTM_GETLINK, flag::DUMP, |body| {
            body.raw(&link_header(0, 0, 0));
            if detail == Detail::Identity {
                body.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
            }
        });
        Ok(self
            .socket
            .query(request)?
            .iter()
            .filter_map(parse_link)
            .collect())
    }

    /// Makes a bridge, up; fails with `EXIST` when the name is taken.
    pub fn create_bridge(
        &mut self,
        name: &str,
        mac: MacAddress,
        mtu: Option<u32>,
    ) -> Result<(), NetlinkError> {
        self.create(|body| {
            body.raw(&link_header(0, IFF_UP, IFF_UP));
            body.text(IFLA_IFNAME, name);
            body.bytes(IFLA_ADDRESS, &mac.0);
            if let Some(mtu) = mtu {
                body.u32(IFLA_MTU, mtu);
            }
            body.nested(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, "bridge"));
        })
    }

    /// Makes a veth, this end up and on its bridge: one message, so no half-made pair is ever seen. The kernel does not
    /// let the other end be up before the pair is whole; [`Links::configure`] brings it up.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> Result<(), NetlinkError> {
        self.create(|body| {
            body.raw(&link_header(0, IFF_UP, IFF_UP));
            body.text(IFLA_IFNAME, veth.name);
            body.u32(IFLA_MASTER, veth.bridge_index);
            write_one_queue(body);
            if let Some(mtu) = veth.mtu {
                body.u32(IFLA_MTU, mtu);
            }
            body.nested(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "veth");
                info.nested(IFLA_INFO_DATA, |data| {
                    data.nested(VETH_INFO_PEER, |peer| write_peer(peer, veth))
                });
            });
        })
    }

    /// Brings the loopback up, which also gives it 127.0.0.1.
    pub fn loopback_up(&mut self) -> Result<(), NetlinkError> {
        self.acknowledged(RTM_SETLINK, flag::ACK, |body| {
            body.raw(&link_header(LOOPBACK_INDEX, IFF_UP, IFF_UP))
        })
    }

    /// Brings a link up and gives it an MTU.
    pub fn update(&mut self, index: u32, mtu: Option<u32>) -> Result<(), NetlinkError> {
        self.acknowledged(RTM_SETLINK, flag::ACK, |body| {
            body.raw(&link_header(index, IFF_UP, IFF_UP));
            if let Some(mtu) = mtu {
                body.u32(IFLA_MTU, mtu);
            }
        })
    }

    /// Deletes a link; one that is gone already is fine. Takes tens of milliseconds for a veth.
    pub fn delete(&mut self, index: u32) -> Result<(), NetlinkError> {
        let result = self.acknowledged(RTM_DELLINK, flag::ACK, |body| body.raw(&link_header(index, 0, 0)));
        ignoring(result, Errno::NODEV)
    }

    /// Lets a bridge port pass packets at once, and tells its bridge that `mac` is there now. The kernel enables a port
    /// some time after its carrier came up, unless somebody asks about it, and would lose what is sent before that. A
    /// container that takes over an address and with it the hardware address of one that just ended would be
    /// unreachable until it first sends something.
    ///
    /// The port also gets its own packets back: where bridges hand packets to the packet filter
    /// (bridge-nf-call-iptables), those of a container to its own published port are turned round inside the bridge.
    pub fn open_port(&mut self, index: u32, mac: MacAddress, isolated: bool) -> Result<(), NetlinkError> {
        let mut requests = Requests::default();
        requests.push(RTM_GETLINK, flag::ACK, |body| {
            body.raw(&link_header(index, 0, 0));
            body.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        });
        requests.push(RTM_SETLINK, flag::ACK, |body| {
            let mut header = link_header(index, 0, 0);
            header[0] = AF_BRIDGE;
            body.raw(&header);
            body.nested(IFLA_PROTINFO, |port| {
                port.u8(IFLA_BRPORT_HAIRPIN, 1);
                if isolated {
                    port.u8(IFLA_BRPORT_ISOLATED, 1);
                }
            });
        });
        requests.push(RTM_NEWNEIGH, flag::ACK | flag::CREATE | flag::REPLACE, |body| {
            let mut header = [0; 12];
            header[0] = AF_BRIDGE;
            header[4..8].copy_from_slice(&index.to_ne_bytes());
            header[8..10].copy_from_slice(&NUD_REACHABLE.to_ne_bytes());
            header[10] = NTF_MASTER;
            body.raw(&header);
            body.bytes(NDA_LLADDR, &mac.0);
        });
        // A kernel that does not enable the port when asked about it learns from the first packet.
        ignoring(self.socket.transact(requests, Framing::Separate), Errno::PERM)
    }

    pub(crate) fn create(&mut self, body: impl FnOnce(&mut Body<'_>)) -> Result<(), NetlinkError> {
        self.acknowledged(RTM_NEWLINK, flag::ACK | flag::CREATE | flag::EXCLUSIVE, body)
    }

    pub(crate) fn acknowledged(
        &mut self,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Body<'_>),
    ) -> Result<(), NetlinkError> {
        self.socket
            .transact(Requests::one(kind, flags, body), Framing::Separate)
    }
}

fn write_peer(body: &mut Body<'_>, veth: &Veth<'_>) {
    body.raw(&link_header(0, 0, 0));
    body.text(IFLA_IFNAME, veth.peer_name);
    body.bytes(IFLA_ADDRESS, &veth.peer_mac.0);
    write_one_queue(body);
    if let Some(mtu) = veth.mtu {
        body.u32(IFLA_MTU, mtu);
    }
    body.u32(IFLA_NET_NS_FD, veth.peer_namespace.as_raw_fd() as u32);
}

/// A veth passes packets on at once and never uses its queues; by default it has one, with files of its own, for
/// each processor, which on a large machine costs more than all the rest.
fn write_one_queue(body: &mut Body<'_>) {
    body.u32(IFLA_NUM_TX_QUEUES, 1);
    body.u32(IFLA_NUM_RX_QUEUES, 1);
}

pub(crate) fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn parse_link(reply: &Reply) -> Option<Link> {
    if reply.kind != RTM_NEWLINK {
        return None;
    }
    let index = u32::from_ne_bytes(reply.body.get(4..8)?.try_into().ok()?);
    let parts = reply.body.get(16..)?;
    let kind = find(parts, IFLA_LINKINFO).and_then(|info| find(info.value, IFLA_INFO_KIND)?.text());
    Some(Link {
        index,
        name: find(parts, IFLA_IFNAME)?.text()?.to_owned(),
        kind: kind.map(str::to_owned),
        peer_index: find(parts, IFLA_LINK).and_then(|link| link.u32()),
        mtu: find(parts, IFLA_MTU)
            .and_then(|mtu| mtu.u32())
            .unwrap_or_default(),
        statistics: find(parts, IFLA_STATS64)
            .map(|stats| parse_statistics(stats.value))
            .unwrap_or_default(),
    })
}

fn parse_statistics(bytes: &[u8]) -> InterfaceStats {
    let mut fields = bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|field| u64::from_ne_bytes(*field));
    let mut next = || fields.next().unwrap_or_default();
    InterfaceStats {
        rx_packets: next(),
        tx_packets: next(),
        rx_bytes: next(),
        tx_bytes: next(),
        rx_errors: next(),
        tx_errors: next(),
        rx_dropped: next(),
        tx_dropped: next(),
    }
}

/// Turns one expected refusal into success.
pub(crate) fn ignoring(result: Result<(), NetlinkError>, expected: Errno) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.errno() == Some(expected) => Ok(()),
        other => other,
    }
}
