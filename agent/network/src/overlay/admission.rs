//! Which machines may send packets into overlays: the nodes that have containers on them, and nobody else.
//!
//! A table of its own for each family that tunnels run over, there only while there are overlays.
//!
//! ```text
//! input            to a port in @ports, from a node that is not in @nodes: drop
//! postrouting      to a port of a node in @nodes, with a source that was translated: drop   (a container's datagram, which
//!                                                        bears this node's address now and would be admitted there)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::addresses::with_octets;
use crate::firewall::Tables;
use crate::netlink::NetlinkError;
use crate::nft::terms::{of_protocol, padded, with_status};
use crate::nft::{
    Batch, Change, Element, Expression, Family, Header, Hook, HookPoint, Register, SetSpec, ValueType,
    Verdict,
};
use crate::spec::Protocol;

/// Set of the nodes: port of the tunnels, then the node's address.
const NODES: &str = "nodes";
/// Set of the ports that tunnels use.
const PORTS: &str = "ports";
const INPUT: &str = "input";
const POSTROUTING: &str = "postrouting";
/// Before other filters of the host, so that what comes from elsewhere does not even reach them.
const PRIORITY: i32 = -5;
/// Once the source was translated.
const PRIORITY_AFTER_SOURCE_NAT: i32 = 150;
/// Bit of a connection's status (nf_conntrack_common.h).
const STATUS_SOURCE_TRANSLATED: u32 = 0x10;

/// Where tunnels end on this node: at a port of its addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TunnelEnd {
    pub is_ipv4: bool,
    pub port: u16,
}

/// What may come in: by where tunnels end, from which nodes.
pub(crate) type Admitted = BTreeMap<TunnelEnd, BTreeSet<IpAddr>>;

/// Keeps the kernel's tables equal to what is admitted.
#[derive(Default)]
pub(crate) struct Admission {
    held: Admitted,
    known: bool,
}

impl Admission {
    /// Replaces what is admitted; each family's table at once.
    pub fn set(
        &mut self,
        tables: &mut impl Tables,
        table: &str,
        wanted: Admitted,
    ) -> Result<(), NetlinkError> {
        if self.known && self.held == wanted {
            return Ok(());
        }
        self.known = false;
        for family in [Family::Ipv4, Family::Ipv6] {
            let committed = tables.commit(&Batch {
                family,
                table: table.to_owned(),
                changes: table_of(family, &wanted),
            });
            match committed {
                // A kernel without IPv6 has no such tables, and no such tunnels.
                Err(error) if family == Family::Ipv6 && !uses(&wanted, family) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "no packet filter of IPv6"
                    );
                }
                other => other?,
            }
        }
        self.held = wanted;
        self.known = true;
        Ok(())
    }
}

fn uses(wanted: &Admitted, family: Family) -> bool {
    wanted.keys().any(|end| end.is_of(family))
}

impl TunnelEnd {
    fn is_of(self, family: Family) -> bool {
        self.is_ipv4 == (family == Family::Ipv4)
    }
}

fn table_of(family: Family, wanted: &Admitted) -> Vec<Change> {
    let mut changes = vec![Change::AddTable, Change::DeleteTable];
    if !uses(wanted, family) {
        return changes;
    }
    let layout = match family {
        Family::Ipv6 => IPV6,
        Family::Ipv4 | Family::Inet | Family::Bridge => IPV4,
    };
    let set = |name: &'static str, key| {
        Change::AddSet(SetSpec {
            name: name.into(),
            key,
            data: None,
        })
    };
    let element = |key: Vec<u8>| Element {
        key,
        data: None,
        comment: None,
    };
    let ends = || wanted.iter().filter(|(end, _)| end.is_of(family));
    let nodes = ends().flat_map(|(end, nodes)| {
        let key = |node: &IpAddr| with_octets(*node, |octets| [&padded(end.port), octets].concat());
        nodes.iter().map(move |node| element(key(node)))
    });
    let ports = ends().map(|(end, _)| element(end.port.to_be_bytes().to_vec()));
    let chain = |name: &'static str, point, priority| Change::AddChain {
        name: name.into(),
        hook: Some(Hook {
            kind: "filter",
            point,
            priority,
        }),
    };
    changes.extend([
        Change::AddTable,
        set(NODES, vec![ValueType::Port, layout.address]),
        set(PORTS, vec![ValueType::Port]),
        Change::AddElements {
            set: NODES.into(),
            elements: nodes.collect(),
        },
        Change::AddElements {
            set: PORTS.into(),
            elements: ports.collect(),
        },
        chain(INPUT, HookPoint::Input, PRIORITY),
        Change::AddRule {
            chain: INPUT.into(),
            expressions: strangers(&layout),
        },
        chain(POSTROUTING, HookPoint::Postrouting, PRIORITY_AFTER_SOURCE_NAT),
        Change::AddRule {
            chain: POSTROUTING.into(),
            expressions: pretenders(&layout),
        },
    ]);
    changes.retain(|change| !matches!(change, Change::AddElements { elements, .. } if elements.is_empty()));
    changes
}

/// Where a packet has its addresses.
struct Layout {
    source: u32,
    destination: u32,
    bytes: u32,
    address: ValueType,
}

const IPV4: Layout = Layout {
    source: 12,
    destination: 16,
    bytes: 4,
    address: ValueType::Ipv4Address,
};

const IPV6: Layout = Layout {
    source: 8,
    destination: 24,
    bytes: 16,
    address: ValueType::Ipv6Address,
};

const FIRST: Register = Register(0);

/// Drops datagrams to a port of tunnels that come from no node.
fn strangers(layout: &Layout) -> Vec<Expression> {
    let mut steps = to_port_of_tunnels();
    steps.extend([
        address(layout.source, layout),
        member(NODES, Membership::Outside),
        Expression::Verdict(Verdict::Drop),
    ]);
    steps
}

/// Drops datagrams to a node's port of tunnels whose source is not the one that they were sent with: those of tunnels are
/// this host's own.
fn pretenders(layout: &Layout) -> Vec<Expression> {
    let mut steps = to_port_of_tunnels();
    steps.extend([
        address(layout.destination, layout),
        member(NODES, Membership::Inside),
    ]);
    steps.extend(with_status(STATUS_SOURCE_TRANSLATED));
    steps.push(Expression::Verdict(Verdict::Drop));
    steps
}

/// Leaves the port in the first register.
fn to_port_of_tunnels() -> Vec<Expression> {
    let mut steps = of_protocol(Protocol::Udp);
    steps.extend([
        Expression::Payload {
            header: Header::Transport,
            offset: 2,
            length: 2,
            to: FIRST,
        },
        member(PORTS, Membership::Inside),
    ]);
    steps
}

/// Puts an address behind the port.
fn address(offset: u32, layout: &Layout) -> Expression {
    Expression::Payload {
        header: Header::Network,
        offset,
        length: layout.bytes,
        to: Register(1),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Membership {
    Inside,
    Outside,
}

fn member(set: &'static str, membership: Membership) -> Expression {
    Expression::Member {
        set: set.into(),
        from: FIRST,
        inverted: membership == Membership::Outside,
    }
}
