//! The address that a container answers datagrams from when it does not choose one.
//!
//! It is that of the way to the client as it would be without the mesh. Where a container has no way to the outside at all,
//! as is usual with IPv6, sending an answer would fail before anything asks for its mark. Such a container gets a way of
//! last resort by the mesh's network, in a table of its own behind all others; connections of its own are refused there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;

use super::entry::{
    FRA_PRIORITY, FRA_TABLE, RTA_OIF, RTA_TABLE, RTM_GETRULE, RTM_NEWROUTE, RTM_NEWRULE, route_header,
    rule_header,
};
use crate::addresses::{AF_INET, AF_INET6, address_of, with_octets};
use crate::links::{Links, ignoring};
use crate::netlink::{NetlinkError, Requests, find, flag};

const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_PREFSRC: u16 = 7;
/// Addresses outside of every network of a container (documentation networks').
const IPV4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// Behind the main table, whose rule has 32766, and the default one.
const RULE_PRIORITY: u32 = 40_000;
/// None of the kernel's own, which are the highest below 256, and no node's.
const TABLE: u32 = 200;

impl Links {
    /// The address with which this namespace talks to the outside by itself; none without a way there.
    pub(super) fn address_abroad(&mut self, is_ipv4: bool) -> Result<Option<IpAddr>, NetlinkError> {
        let (family, target, bits) = match is_ipv4 {
            true => (AF_INET, IPV4, 32),
            false => (AF_INET6, IPV6, 128),
        };
        let request = Requests::one(RTM_GETROUTE, flag::ACK, |body| {
            let mut header = [0; 12];
            (header[0], header[1]) = (family, bits);
            body.raw(&header);
            with_octets(target, |octets| body.bytes(RTA_DST, octets));
        });
        let replies = match self.socket.query(request) {
            Err(error) if matches!(error.errno(), Some(Errno::NETUNREACH | Errno::HOSTUNREACH)) => {
                return Ok(None);
            }
            other => other?,
        };
        let source = replies
            .iter()
            .find_map(|reply| address_of(find(reply.body.get(12..)?, RTA_PREFSRC)?.value));
        Ok(source)
    }

    /// Makes this link the way of last resort for IPv6. Idempotent.
    pub(super) fn answer_abroad(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.acknowledged(RTM_NEWROUTE, flag::ACK | flag::CREATE | flag::REPLACE, |body| {
            body.raw(&route_header(false));
            body.u32(RTA_OIF, index);
            body.u32(RTA_TABLE, TABLE);
        })?;
        let dump = Requests::one(RTM_GETRULE, flag::DUMP, |body| body.raw(&rule_header(false)));
        let is_there = self.socket.query(dump)?.iter().any(|reply| {
            let parts = reply.body.get(12..).unwrap_or(&[]);
            find(parts, FRA_PRIORITY).and_then(|priority| priority.u32()) == Some(RULE_PRIORITY)
        });
        if is_there {
            return Ok(());
        }
        let added = self.acknowledged(RTM_NEWRULE, flag::ACK | flag::CREATE | flag::EXCLUSIVE, |body| {
            body.raw(&rule_header(false));
            body.u32(FRA_PRIORITY, RULE_PRIORITY);
            body.u32(FRA_TABLE, TABLE);
        });
        ignoring(added, Errno::EXIST)
    }
}
