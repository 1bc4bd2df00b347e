//! Connection tracking entries that outlive what they were made for.
//!
//! A translation is chosen with the first packet of a flow. UDP has no connections that end, so a client that goes on
//! sending would stay bound to the container that had the port before, or to none.

use std::net::IpAddr;

use crate::addresses::address_of;
use crate::firewall::{PortKey, Target, Way};
use crate::netlink::{Framing, NetlinkError, Protocol as Socketed, Reply, Requests, Socket, find, flag};
use crate::spec::Protocol;

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
/// The source's kind of attribute: of IPv4, then of IPv6.
const CTA_IP_SRC: [u16; 2] = [1, 3];
const CTA_IP_DST: [u16; 2] = [2, 4];
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// Families, as a message's header names them.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Bytes of a message's header: family, version and resource id.
const HEADER_BYTES: usize = 4;

fn header(family: u8) -> [u8; HEADER_BYTES] {
    [family, 0, 0, 0]
}

/// Makes the kernel forget the UDP flows that `ports` were, or now are, to redirect. `own` are the host's addresses.
/// Does nothing without UDP ports; else its cost grows with the number of flows that the kernel tracks.
pub(crate) fn forget_flows(ports: &[(PortKey, Target)], own: &[IpAddr]) -> Result<(), NetlinkError> {
    let ports: Vec<_> = ports
        .iter()
        .filter(|(key, _)| key.protocol == Protocol::Udp)
        .collect();
    if ports.is_empty() {
        return Ok(());
    }
    let mut socket = Socket::open(Socketed::Netfilter)?;
    for family in [AF_INET, AF_INET6] {
        if !ports
            .iter()
            .any(|(key, _)| key.address.is_ipv4() == (family == AF_INET))
        {
            continue;
        }
        let concerned = |flow: &Flow| ports.iter().any(|(key, target)| flow.concerns(key, target, own));
        forget_stale(&mut socket, family == AF_INET, concerned)?;
    }
    Ok(())
}

/// Makes the kernel forget the flows of a family that are `stale`. The socket says in which namespace.
pub(crate) fn forget_stale(
    socket: &mut Socket,
    is_ipv4: bool,
    stale: impl Fn(&Flow) -> bool,
) -> Result<(), NetlinkError> {
    let family = if is_ipv4 { AF_INET } else { AF_INET6 };
    let dump = Requests::one(message_kind(IPCTNL_MSG_CT_GET), flag::DUMP, |body| {
        body.raw(&header(family))
    });
    // A container may have made as many flows as the kernel has place for: only those that go are kept.
    let mut going = Vec::new();
    socket.query_each(dump, |entry| {
        if Flow::read(&entry).is_some_and(|flow| stale(&flow)) {
            going.push(deletion(family, &entry));
        }
    })?;
    for deletion in going {
        // One that ended by itself meanwhile is fine.
        let deleted = socket.transact(deletion, Framing::Separate);
        crate::links::ignoring(deleted, rustix::io::Errno::NOENT)?;
    }
    Ok(())
}

fn message_kind(kind: u16) -> u16 {
    NFNL_SUBSYS_CTNETLINK << 8 | kind
}

/// Names the entry as the kernel named it.
fn deletion(family: u8, entry: &Reply) -> Requests {
    let parts = entry.body.get(HEADER_BYTES..).unwrap_or(&[]);
    Requests::one(message_kind(IPCTNL_MSG_CT_DELETE), flag::ACK, |body| {
        body.raw(&header(family));
        for kind in [CTA_TUPLE_ORIG, CTA_ID] {
            if let Some(part) = find(parts, kind) {
                let nested = if kind == CTA_TUPLE_ORIG {
                    crate::netlink::NESTED
                } else {
                    0
                };
                body.bytes(kind | nested, part.value);
            }
        }
    })
}

/// A flow as its first packet and the answer to it are addressed.
pub(crate) struct Flow {
    /// Number in the IP header.
    pub protocol: u8,
    /// The port is 0 for a protocol without ports.
    pub destination: (IpAddr, u16),
    pub answered_by: (IpAddr, u16),
}

impl Flow {
    fn read(entry: &Reply) -> Option<Self> {
        let parts = entry.body.get(HEADER_BYTES..)?;
        let original = find(parts, CTA_TUPLE_ORIG)?.value;
        let reply = find(parts, CTA_TUPLE_REPLY)?.value;
        Some(Self {
            protocol: *find(find(original, CTA_TUPLE_PROTO)?.value, CTA_PROTO_NUM)?
                .value
                .first()?,
            destination: end_of(original, CTA_IP_DST, CTA_PROTO_DST_PORT)?,
            answered_by: end_of(reply, CTA_IP_SRC, CTA_PROTO_SRC_PORT)?,
        })
    }

    /// Whether the flow leads into the container, or to this host's own port, where it was before it was published.
    fn concerns(&self, key: &PortKey, target: &Target, own: &[IpAddr]) -> bool {
        let (address, port) = self.destination;
        let to_host = if key.address.is_unspecified() {
            own.contains(&address)
        } else {
            key.address == address
        };
        let redirected = match target.way {
            Way::Led(to) => self.answered_by == (to.ip(), to.port()),
            Way::Opened => false,
        };
        let direct = self.answered_by == self.destination && to_host;
        self.protocol == key.protocol.number() && port == key.port && (redirected || direct)
    }
}

fn end_of(tuple: &[u8], kinds: [u16; 2], port: u16) -> Option<(IpAddr, u16)> {
    let addresses = find(tuple, CTA_TUPLE_IP)?.value;
    let octets = kinds.iter().find_map(|kind| find(addresses, *kind))?;
    let number = find(find(tuple, CTA_TUPLE_PROTO)?.value, port);
    let number = number.and_then(|number| number.value.try_into().ok());
    Some((address_of(octets.value)?, number.map_or(0, u16::from_be_bytes)))
}
