//! What the table's rules match and do, as expressions.

use super::ruleset::{BRIDGES, SAME_BRIDGE};
use crate::nft::terms::{in_state, with_status};
use crate::nft::{Expression, Family, Header, MetaKey, Register, Translation, ValueType, Verdict};

/// The first register.
pub(super) const FIRST: Register = Register(0);

/// Bits of a connection's state and status (nf_conntrack_common.h).
const ESTABLISHED_OR_RELATED: u32 = 0b110;
const STATUS_DESTINATION_TRANSLATED: u32 = 0x20;

/// Kind of an address that is a neighbour's or further away (RTN_UNICAST).
const KIND_UNICAST: u32 = 1;
/// Bytes of an interface's name in a register (IFNAMSIZ).
const INTERFACE_NAME_BYTES: usize = 16;

/// Where an address stands in a packet, and which ones are the loopback's.
pub(super) struct Layout {
    pub(super) family: Family,
    pub(super) source: u32,
    pub(super) destination: u32,
    bytes: u32,
    pub(super) address: ValueType,
    /// The loopback's addresses begin so.
    loopback: &'static [u8],
    /// Number of the family's control messages.
    pub(super) icmp: u8,
}

const IPV4: Layout = Layout {
    family: Family::Ipv4,
    source: 12,
    destination: 16,
    bytes: 4,
    address: ValueType::Ipv4Address,
    loopback: &[127],
    icmp: 1,
};

const IPV6: Layout = Layout {
    family: Family::Ipv6,
    source: 8,
    destination: 24,
    bytes: 16,
    address: ValueType::Ipv6Address,
    loopback: &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    icmp: 58,
};

impl Layout {
    pub(super) fn of(family: Family) -> &'static Self {
        match family {
            Family::Ipv6 => &IPV6,
            Family::Ipv4 | Family::Inet | Family::Bridge => &IPV4,
        }
    }

    /// The register behind an address in the first one.
    pub(super) fn behind(&self) -> Register {
        Register(self.bytes / 4)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Membership {
    Inside,
    Outside,
}

pub(super) fn verdict(verdict: Verdict) -> Vec<Expression> {
    vec![Expression::Verdict(verdict)]
}

pub(super) fn obey(map: &'static str) -> Expression {
    Expression::Map {
        map: map.into(),
        from: FIRST,
        to: None,
    }
}

pub(super) fn from_any(set: &'static str) -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: MetaKey::InputInterfaceName,
            to: FIRST,
        },
        Expression::Member {
            set: set.into(),
            from: FIRST,
            inverted: false,
        },
    ]
}

pub(super) fn from_outside() -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: MetaKey::InputInterfaceName,
            to: FIRST,
        },
        Expression::Member {
            set: BRIDGES.into(),
            from: FIRST,
            inverted: true,
        },
    ]
}

pub(super) fn to_bridge(membership: Membership) -> Vec<Expression> {
    to_member(BRIDGES, membership)
}

pub(super) fn to_any(set: &'static str) -> Vec<Expression> {
    to_member(set, Membership::Inside)
}

fn to_member(set: &'static str, membership: Membership) -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: MetaKey::OutputInterfaceName,
            to: FIRST,
        },
        Expression::Member {
            set: set.into(),
            from: FIRST,
            inverted: membership == Membership::Outside,
        },
    ]
}

pub(super) fn interfaces() -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: MetaKey::InputInterfaceName,
            to: FIRST,
        },
        Expression::Meta {
            key: MetaKey::OutputInterfaceName,
            to: Register(4),
        },
    ]
}

pub(super) fn within_one_bridge() -> Vec<Expression> {
    let member = Expression::Member {
        set: SAME_BRIDGE.into(),
        from: FIRST,
        inverted: false,
    };
    [interfaces(), vec![member]].concat()
}

/// A packet that a bridge forwards by itself has no input interface at this point; neither has one of this host's own.
pub(super) fn turned_round() -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: MetaKey::InputInterfaceName,
            to: FIRST,
        },
        Expression::Equal {
            from: FIRST,
            value: vec![0; INTERFACE_NAME_BYTES],
        },
        Expression::SourceKind { to: FIRST },
        Expression::Equal {
            from: FIRST,
            value: KIND_UNICAST.to_ne_bytes().to_vec(),
        },
    ]
}

pub(super) fn loopback(layout: &Layout, offset: u32) -> Vec<Expression> {
    vec![
        Expression::Payload {
            header: Header::Network,
            offset,
            length: layout.loopback.len() as u32,
            to: FIRST,
        },
        Expression::Equal {
            from: FIRST,
            value: layout.loopback.to_vec(),
        },
    ]
}

pub(super) fn destination(layout: &Layout) -> Vec<Expression> {
    vec![Expression::Payload {
        header: Header::Network,
        offset: layout.destination,
        length: layout.bytes,
        to: FIRST,
    }]
}

/// Looks up protocol and port, behind what is in the registers already, and goes where the map says.
pub(super) fn to_published(layout: &Layout, map: &'static str, next: Register) -> Vec<Expression> {
    let lead = vec![
        Expression::Map {
            map: map.into(),
            from: FIRST,
            to: Some(FIRST),
        },
        Expression::Translate(Translation::Destination {
            family: layout.family,
            address: FIRST,
            port: Some(layout.behind()),
        }),
    ];
    [protocol_and_port(next), lead].concat()
}

pub(super) fn protocol_and_port(next: Register) -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: MetaKey::TransportProtocol,
            to: next,
        },
        Expression::Payload {
            header: Header::Transport,
            offset: 2,
            length: 2,
            to: Register(next.0 + 1),
        },
    ]
}

pub(super) fn is_member(set: &'static str) -> Expression {
    Expression::Member {
        set: set.into(),
        from: FIRST,
        inverted: false,
    }
}

pub(super) fn of_protocol(number: u8) -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: MetaKey::TransportProtocol,
            to: FIRST,
        },
        Expression::Equal {
            from: FIRST,
            value: vec![number],
        },
    ]
}

pub(super) fn translated() -> Vec<Expression> {
    with_status(STATUS_DESTINATION_TRANSLATED)
}

pub(super) fn established() -> Vec<Expression> {
    in_state(ESTABLISHED_OR_RELATED)
}
