//! Faults as elements of sets in a table of the bridge: what is in a set gets lost.

use std::net::Ipv4Addr;

use crate::nft::{
    Batch, Change, Element, Expression, Family, Header, Hook, HookPoint, MetaKey, Register, SetSpec,
    ValueType, Verdict,
};
use crate::spec::Protocol;

const TABLE: &str = "muster_lab";
const CUT: &str = "cut_nodes";
const BLOCKED: &str = "blocked_pairs";
const BLOCKED_PORTS: &str = "blocked_ports";
const FAULTS: &str = "faults";

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const SOURCE_OFFSET: u32 = 12;
const DESTINATION_OFFSET: u32 = 16;

pub(super) fn batch(changes: Vec<Change>) -> Batch {
    Batch {
        family: Family::Bridge,
        table: TABLE.to_owned(),
        changes,
    }
}

/// The table without any fault.
pub(super) fn install() -> Vec<Change> {
    use ValueType::{Ipv4Address, Port, Protocol};
    let set = |name: &'static str, key| {
        Change::AddSet(SetSpec {
            name: name.into(),
            key,
            data: None,
        })
    };
    let mut changes = vec![
        Change::AddTable,
        set(CUT, vec![Ipv4Address]),
        set(BLOCKED, vec![Ipv4Address, Ipv4Address]),
        set(BLOCKED_PORTS, vec![Ipv4Address, Ipv4Address, Protocol, Port]),
        Change::AddChain {
            name: FAULTS.into(),
            hook: None,
        },
        lost(vec![address(SOURCE_OFFSET), member(CUT)]),
        lost(vec![address(DESTINATION_OFFSET), member(CUT)]),
        lost(vec![pair(), member(BLOCKED)]),
        lost(vec![pair(), protocol(), port(), member(BLOCKED_PORTS)]),
    ];
    let hooks = [
        ("input", HookPoint::Input),
        ("forward", HookPoint::Forward),
        ("output", HookPoint::Output),
    ];
    for (name, point) in hooks {
        changes.push(Change::AddChain {
            name: name.into(),
            hook: Some(Hook {
                kind: "filter",
                point,
                priority: 0,
            }),
        });
        let jump = Expression::Verdict(Verdict::Jump(FAULTS.into()));
        changes.push(Change::AddRule {
            chain: name.into(),
            expressions: [is_ipv4(), vec![jump]].concat(),
        });
    }
    changes
}

pub(super) fn block(from: &[Ipv4Addr], to: &[Ipv4Addr]) -> Vec<Change> {
    let elements = pairs(from, to).map(|pair| element(pair.to_vec())).collect();
    vec![Change::AddElements {
        set: BLOCKED.into(),
        elements,
    }]
}

pub(super) fn block_port(from: &[Ipv4Addr], to: &[Ipv4Addr], protocol: Protocol, port: u16) -> Vec<Change> {
    let [high, low] = port.to_be_bytes();
    let rest = [protocol.number(), 0, 0, 0, high, low, 0, 0];
    let elements = pairs(from, to)
        .map(|pair| element([&pair[..], &rest].concat()))
        .collect();
    vec![Change::AddElements {
        set: BLOCKED_PORTS.into(),
        elements,
    }]
}

pub(super) fn cut(nodes: &[Ipv4Addr]) -> Vec<Change> {
    let elements = nodes.iter().map(|node| element(node.octets().to_vec())).collect();
    vec![Change::AddElements {
        set: CUT.into(),
        elements,
    }]
}

pub(super) fn heal() -> Vec<Change> {
    [CUT, BLOCKED, BLOCKED_PORTS]
        .map(|set| Change::Flush { set: set.into() })
        .to_vec()
}

fn pairs(from: &[Ipv4Addr], to: &[Ipv4Addr]) -> impl Iterator<Item = [u8; 8]> {
    let pair = |(from, to): (Ipv4Addr, Ipv4Addr)| {
        (u64::from(from.to_bits()) << 32 | u64::from(to.to_bits())).to_be_bytes()
    };
    from.iter()
        .flat_map(move |from| to.iter().map(move |to| (*from, *to)))
        .map(pair)
}

fn element(key: Vec<u8>) -> Element {
    Element {
        key,
        data: None,
        comment: None,
    }
}

fn lost(condition: Vec<Expression>) -> Change {
    let expressions = [condition, vec![Expression::Verdict(Verdict::Drop)]].concat();
    Change::AddRule {
        chain: FAULTS.into(),
        expressions,
    }
}

fn is_ipv4() -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: MetaKey::Protocol,
            to: Register(0),
        },
        Expression::Equal {
            from: Register(0),
            value: ETHERTYPE_IPV4.to_vec(),
        },
    ]
}

fn address(offset: u32) -> Expression {
    Expression::Payload {
        header: Header::Network,
        offset,
        length: 4,
        to: Register(0),
    }
}

/// Source and destination lie side by side in the header, as in the key.
fn pair() -> Expression {
    Expression::Payload {
        header: Header::Network,
        offset: SOURCE_OFFSET,
        length: 8,
        to: Register(0),
    }
}

fn protocol() -> Expression {
    Expression::Meta {
        key: MetaKey::TransportProtocol,
        to: Register(2),
    }
}

fn port() -> Expression {
    Expression::Payload {
        header: Header::Transport,
        offset: 2,
        length: 2,
        to: Register(3),
    }
}

fn member(set: &'static str) -> Expression {
    Expression::Member {
        set: set.into(),
        from: Register(0),
        inverted: false,
    }
}
