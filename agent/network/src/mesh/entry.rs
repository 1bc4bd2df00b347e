//! A container's part in the routing mesh: answers go back to the node that a connection came in by.
//!
//! What comes from a node's own place in the network has that node's hardware address. The connection is marked with the
//! node's number, and packets of such a connection are routed by that mark, ahead of every other route: the client may
//! have any address. What comes from elsewhere on this network is dropped: it carries published ports and nothing else.
//!
//! A server of UDP that does not say from which of its addresses it answers gets the one that the way to the client would
//! have without a mark (`abroad`). Datagrams are led to that address, so that connection tracking knows the answer as one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rustix::io::Errno;

use crate::address::MacAddress;
use crate::addresses::{AF_INET, AF_INET6, family, with_octets};
use crate::ip_net::{IpNet, bits_of};
use crate::links::{Links, ignoring};
use crate::netlink::{Framing, NetlinkError, Requests, find, flag};
use crate::nft::terms::{
    STATE_NEW, STATE_NEW_OR_INVALID, from_interface, in_state, of_protocol, to_interface, to_network,
};
use crate::nft::{
    Change, ConntrackKey, Element, ElementData, Expression, Family, Header, Hook, HookPoint, Register,
    SetSpec, Translation, ValueType, Verdict,
};
use crate::spec::Protocol;

pub(super) const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
pub(super) const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
pub(super) const RTM_GETRULE: u16 = 34;

pub(super) const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
pub(super) const FRA_TABLE: u16 = 15;
const FR_ACT_TO_TBL: u8 = 1;
pub(super) const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
pub(super) const RTA_TABLE: u16 = 15;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;

/// Of our rules: before the main table, whose rule has 32766, and behind the local one, which has 0.
const RULE_PRIORITY: u32 = 100;
/// Before anything that could ask for the mark, behind connection tracking.
const PRIORITY_MANGLE: i32 = -150;
/// Behind the marks.
const PRIORITY_DESTINATION_NAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
/// Code of ICMPv6.
const NO_ROUTE: u8 = 0;
const ENTRIES: &str = "entries";
/// Bytes of an Ethernet header before the sender's address, and of that.
const SENDER: (u32, u32) = (6, 6);
const FIRST: Register = Register(0);

/// The parameters of a container that make answers follow marks: also those that the kernel gives by itself.
pub(super) const SYSCTLS: [(&str, &str); 3] = [
    ("net.ipv4.conf.all.src_valid_mark", "1"),
    ("net.ipv4.tcp_fwmark_accept", "1"),
    ("net.ipv4.fwmark_reflect", "1"),
];

/// A node by which connections come in, by its place in the network: at most one address of each family.
pub(super) struct Entry<'a>(pub &'a [IpAddr]);

impl Entry<'_> {
    fn mac(&self) -> Option<MacAddress> {
        self.0.first().copied().map(MacAddress::for_address)
    }

    /// The number of a node: its address, or the end of it. It is also the number of the table of routes to it.
    fn mark(&self) -> Option<u32> {
        let mark = bits_of(*self.0.first()?) as u32;
        // Small numbers are the kernel's own tables.
        (mark > 255).then_some(mark)
    }

    fn gateway(&self, of_ipv4: bool) -> Option<IpAddr> {
        self.0
            .iter()
            .find(|address| address.is_ipv4() == of_ipv4)
            .copied()
    }
}

/// Makes the table that marks connections by where they came in, or replaces it. `answers_from` is the address that
/// servers of UDP answer with.
pub(super) fn whole(
    interface: &str,
    entries: &[Entry<'_>],
    answers_from: Option<IpAddr>,
    own: Option<IpNet>,
) -> Vec<Change> {
    let chain = |name: &'static str, kind, point, priority| Change::AddChain {
        name: name.into(),
        hook: Some(Hook {
            kind,
            point,
            priority,
        }),
    };
    let rule = |chain: &'static str, parts: Vec<Vec<Expression>>| Change::AddRule {
        chain: chain.into(),
        expressions: parts.concat(),
    };
    let elements = entries.iter().filter_map(|entry| {
        Some(Element {
            key: entry.mac()?.0.to_vec(),
            data: Some(ElementData::Value(entry.mark()?.to_ne_bytes().to_vec())),
            comment: None,
        })
    });
    let mut changes = vec![
        Change::AddTable,
        Change::DeleteTable,
        Change::AddTable,
        Change::AddSet(SetSpec {
            name: ENTRIES.into(),
            key: vec![ValueType::LinkAddress],
            data: Some(vec![ValueType::Number]),
        }),
        Change::AddElements {
            set: ENTRIES.into(),
            elements: elements.collect(),
        },
        chain("prerouting", "filter", HookPoint::Prerouting, PRIORITY_MANGLE),
        chain("output", "route", HookPoint::Output, PRIORITY_MANGLE),
        rule(
            "prerouting",
            vec![from_interface(interface), in_state(STATE_NEW), mark_by_sender()],
        ),
        rule(
            "prerouting",
            vec![
                from_interface(interface),
                in_state(STATE_NEW_OR_INVALID),
                mark(),
                vec![
                    Expression::Equal {
                        from: FIRST,
                        value: vec![0; 4],
                    },
                    Expression::Verdict(Verdict::Drop),
                ],
            ],
        ),
        rule(
            "prerouting",
            vec![from_interface(interface), mark(), vec![follow()]],
        ),
        rule(
            "output",
            vec![
                mark(),
                vec![Expression::AnyBit {
                    from: FIRST,
                    bits: u32::MAX,
                }],
                mark(),
                vec![follow()],
            ],
        ),
    ];
    if let Some(address) = answers_from {
        changes.push(chain(
            "datagrams",
            "nat",
            HookPoint::Prerouting,
            PRIORITY_DESTINATION_NAT,
        ));
        changes.push(rule(
            "datagrams",
            vec![
                from_interface(interface),
                of_protocol(Protocol::Udp),
                lead_to(address),
            ],
        ));
    }
    if let Some(own) = own {
        changes.push(chain("strays", "filter", HookPoint::Output, PRIORITY_FILTER));
        changes.extend(strays(interface, own).map(|expressions| Change::AddRule {
            chain: "strays".into(),
            expressions,
        }));
    }
    changes.retain(|change| !matches!(change, Change::AddElements { elements, .. } if elements.is_empty()));
    changes
}

/// What begins a connection by the way that is there for answers: it is told at once that there is no route.
fn strays(interface: &str, own: IpNet) -> [Vec<Expression>; 2] {
    let leaves = || to_interface(interface);
    let unmarked = vec![Expression::Equal {
        from: FIRST,
        value: vec![0; 4],
    }];
    [
        [
            leaves(),
            to_network(own),
            vec![Expression::Verdict(Verdict::Return)],
        ]
        .concat(),
        [
            leaves(),
            in_state(STATE_NEW),
            mark(),
            unmarked,
            vec![Expression::Refuse { icmp_code: NO_ROUTE }],
        ]
        .concat(),
    ]
}

fn lead_to(address: IpAddr) -> Vec<Expression> {
    let family = match address.is_ipv4() {
        true => Family::Ipv4,
        false => Family::Ipv6,
    };
    vec![
        Expression::Immediate {
            to: FIRST,
            value: with_octets(address, <[u8]>::to_vec),
        },
        Expression::Translate(Translation::Destination {
            family,
            address: FIRST,
            port: None,
        }),
    ]
}

fn mark_by_sender() -> Vec<Expression> {
    let (offset, length) = SENDER;
    vec![
        Expression::Payload {
            header: Header::Link,
            offset,
            length,
            to: FIRST,
        },
        Expression::Map {
            map: ENTRIES.into(),
            from: FIRST,
            to: Some(FIRST),
        },
        Expression::MarkConnection { from: FIRST },
    ]
}

fn mark() -> Vec<Expression> {
    vec![Expression::Conntrack {
        key: ConntrackKey::Mark,
        to: FIRST,
    }]
}

fn follow() -> Expression {
    Expression::MarkPacket { from: FIRST }
}

impl Links {
    /// Makes packets with the mark of an entry go to its node over this link, and none with other marks.
    pub(super) fn follow_marks(&mut self, index: u32, entries: &[Entry<'_>]) -> Result<(), NetlinkError> {
        for is_ipv4 in [true, false] {
            let wanted: BTreeMap<u32, IpAddr> = entries
                .iter()
                .filter_map(|entry| Some((entry.mark()?, entry.gateway(is_ipv4)?)))
                .collect();
            let present = match self.marks(is_ipv4) {
                Ok(present) => present,
                // A kernel without the family has no rules of it.
                Err(error) if wanted.is_empty() && error.errno().is_some() => continue,
                Err(error) => return Err(error),
            };
            let mut requests = Requests::default();
            for (mark, gateway) in &wanted {
                push_route(&mut requests, *mark, *gateway, index);
            }
            for mark in wanted.keys().filter(|mark| !present.contains(mark)) {
                let flags = flag::ACK | flag::CREATE | flag::EXCLUSIVE;
                push_rule(&mut requests, RTM_NEWRULE, flags, *mark, is_ipv4);
            }
            for mark in present.iter().filter(|mark| !wanted.contains_key(*mark)) {
                push_rule(&mut requests, RTM_DELRULE, flag::ACK, *mark, is_ipv4);
            }
            if requests.len() > 0 {
                self.socket.transact(requests, Framing::Separate)?;
            }
            for mark in present.iter().filter(|mark| !wanted.contains_key(*mark)) {
                self.forget_route(*mark, is_ipv4)?;
            }
        }
        Ok(())
    }

    fn forget_route(&mut self, mark: u32, is_ipv4: bool) -> Result<(), NetlinkError> {
        let removed = self.acknowledged(RTM_DELROUTE, flag::ACK, |body| {
            body.raw(&route_header(is_ipv4));
            body.u32(RTA_TABLE, mark);
        });
        ignoring(removed, Errno::SRCH)
    }

    /// The marks that rules of ours are for.
    fn marks(&mut self, is_ipv4: bool) -> Result<BTreeSet<u32>, NetlinkError> {
        let dump = Requests::one(RTM_GETRULE, flag::DUMP, |body| body.raw(&rule_header(is_ipv4)));
        let marks = self.socket.query(dump)?.into_iter().filter_map(|reply| {
            let parts = reply.body.get(12..)?;
            let priority = find(parts, FRA_PRIORITY)?.u32()?;
            (priority == RULE_PRIORITY).then_some(())?;
            find(parts, FRA_FWMARK)?.u32()
        });
        Ok(marks.collect())
    }
}

fn family_of(is_ipv4: bool) -> u8 {
    if is_ipv4 { AF_INET } else { AF_INET6 }
}

pub(super) fn rule_header(is_ipv4: bool) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family_of(is_ipv4);
    header[7] = FR_ACT_TO_TBL;
    header
}

pub(super) fn route_header(is_ipv4: bool) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family_of(is_ipv4);
    header[5] = RTPROT_STATIC;
    header[7] = RTN_UNICAST;
    header
}

fn push_rule(requests: &mut Requests, kind: u16, flags: u16, mark: u32, is_ipv4: bool) {
    requests.push(kind, flags, |body| {
        body.raw(&rule_header(is_ipv4));
        body.u32(FRA_PRIORITY, RULE_PRIORITY);
        body.u32(FRA_FWMARK, mark);
        body.u32(FRA_TABLE, mark);
    });
}

fn push_route(requests: &mut Requests, mark: u32, gateway: IpAddr, index: u32) {
    requests.push(RTM_NEWROUTE, flag::ACK | flag::CREATE | flag::REPLACE, |body| {
        body.raw(&route_header(family(gateway) == AF_INET));
        with_octets(gateway, |octets| body.bytes(RTA_GATEWAY, octets));
        body.u32(RTA_OIF, index);
        body.u32(RTA_TABLE, mark);
    });
}
