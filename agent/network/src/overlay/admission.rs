//! Which machines may send packets into overlays: the nodes that have containers on them, and nobody else.
//!
//! A table of its own for each family that tunnels run over, there only while there are overlays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::addresses::with_octets;
use crate::firewall::Tables;
use crate::netlink::NetlinkError;
use crate::nft::{
    Batch, Change, Element, Expression, Family, Header, Hook, HookPoint, MetaKey, Register, SetSpec,
    ValueType, Verdict,
};
use crate::spec::Protocol;

/// Set of the nodes: port of the tunnels, then the node's address.
const NODES: &str = "nodes";
/// Set of the ports that tunnels use.
const PORTS: &str = "ports";
const INPUT: &str = "input";
/// Before other filters of the host, so that what comes from elsewhere does not even reach them.
const PRIORITY: i32 = -5;

/// What may come in: by the port of the tunnels, from which nodes.
pub(crate) type Admitted = BTreeMap<u16, BTreeSet<IpAddr>>;

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

fn is_of(family: Family, address: IpAddr) -> bool {
    address.is_ipv4() == (family == Family::Ipv4)
}

fn uses(wanted: &Admitted, family: Family) -> bool {
    wanted.values().flatten().any(|node| is_of(family, *node))
}

fn table_of(family: Family, wanted: &Admitted) -> Vec<Change> {
    let mut changes = vec![Change::AddTable, Change::DeleteTable];
    let has_tunnels = match family {
        Family::Ipv6 => uses(wanted, family),
        Family::Ipv4 | Family::Inet | Family::Bridge => !wanted.is_empty(),
    };
    if !has_tunnels {
        return changes;
    }
    let (offset, length, address) = match family {
        Family::Ipv6 => (8, 16, ValueType::Ipv6Address),
        Family::Ipv4 | Family::Inet | Family::Bridge => (12, 4, ValueType::Ipv4Address),
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
    let padded = |port: u16| {
        let [high, low] = port.to_be_bytes();
        [high, low, 0, 0]
    };
    let nodes = wanted.iter().flat_map(|(port, nodes)| {
        let of_family = nodes.iter().filter(|node| is_of(family, **node));
        of_family.map(|node| element(with_octets(*node, |octets| [&padded(*port), octets].concat())))
    });
    let ports = wanted.keys().map(|port| element(port.to_be_bytes().to_vec()));
    let input = Hook {
        kind: "filter",
        point: HookPoint::Input,
        priority: PRIORITY,
    };
    changes.extend([
        Change::AddTable,
        set(NODES, vec![ValueType::Port, address]),
        set(PORTS, vec![ValueType::Port]),
        Change::AddElements {
            set: NODES.into(),
            elements: nodes.collect(),
        },
        Change::AddElements {
            set: PORTS.into(),
            elements: ports.collect(),
        },
        Change::AddChain {
            name: INPUT.into(),
            hook: Some(input),
        },
        Change::AddRule {
            chain: INPUT.into(),
            expressions: strangers(offset, length),
        },
    ]);
    changes.retain(|change| !matches!(change, Change::AddElements { elements, .. } if elements.is_empty()));
    changes
}

/// Drops datagrams to a port of tunnels that come from no node.
fn strangers(offset: u32, length: u32) -> Vec<Expression> {
    let first = Register(0);
    let member = |set: &'static str, inverted| Expression::Member {
        set: set.into(),
        from: first,
        inverted,
    };
    vec![
        Expression::Meta {
            key: MetaKey::TransportProtocol,
            to: first,
        },
        Expression::Equal {
            from: first,
            value: vec![Protocol::Udp.number()],
        },
        Expression::Payload {
            header: Header::Transport,
            offset: 2,
            length: 2,
            to: first,
        },
        member(PORTS, false),
        Expression::Payload {
            header: Header::Network,
            offset,
            length,
            to: Register(1),
        },
        member(NODES, true),
        Expression::Verdict(Verdict::Drop),
    ]
}
