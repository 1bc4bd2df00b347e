//! Conditions and parts of keys that several rule sets have. Conditions leave what they look at in the first register.

use super::{ConntrackKey, Expression, Family, Header, MetaKey, Register, ValueType};
use crate::addresses::with_octets;
use crate::ip_net::IpNet;
use crate::spec::Protocol;

/// Bits of a connection's state (nf_conntrack_common.h).
pub(crate) const STATE_NEW: u32 = 0b1000;
/// As [`STATE_NEW`], or of no connection. Questions about neighbours are neither.
pub(crate) const STATE_NEW_OR_INVALID: u32 = 0b1001;
/// Kind of an address that is one of this host's own (RTN_LOCAL).
const KIND_LOCAL: u32 = 2;
const FIRST: Register = Register(0);

/// Came in by this interface.
pub(crate) fn from_interface(name: &str) -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: MetaKey::InputInterfaceName,
            to: FIRST,
        },
        Expression::Equal {
            from: FIRST,
            value: interface_key(name).to_vec(),
        },
    ]
}

/// Leaves by this interface.
pub(crate) fn to_interface(name: &str) -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: MetaKey::OutputInterfaceName,
            to: FIRST,
        },
        Expression::Equal {
            from: FIRST,
            value: interface_key(name).to_vec(),
        },
    ]
}

/// Goes to an address of this host.
pub(crate) fn to_this_host() -> Vec<Expression> {
    vec![
        Expression::DestinationKind { to: FIRST },
        Expression::Equal {
            from: FIRST,
            value: KIND_LOCAL.to_ne_bytes().to_vec(),
        },
    ]
}

/// Goes to an address of this network.
pub(crate) fn to_network(net: IpNet) -> Vec<Expression> {
    let (offset, length) = if net.is_ipv4() { (16, 4) } else { (24, 16) };
    let bits = u128::MAX
        .checked_shl(length * 8 - u32::from(net.prefix()))
        .unwrap_or(0);
    let mask = bits.to_be_bytes()[16 - length as usize..].to_vec();
    vec![
        Expression::Payload {
            header: Header::Network,
            offset,
            length,
            to: FIRST,
        },
        Expression::Mask { of: FIRST, mask },
        Expression::Equal {
            from: FIRST,
            value: with_octets(net.network().address(), <[u8]>::to_vec),
        },
    ]
}

/// Belongs to a connection in one of these states.
pub(crate) fn in_state(bits: u32) -> Vec<Expression> {
    has_bits(ConntrackKey::State, bits)
}

/// Belongs to a connection with one of these bits of status (`enum ip_conntrack_status`).
pub(crate) fn with_status(bits: u32) -> Vec<Expression> {
    has_bits(ConntrackKey::Status, bits)
}

fn has_bits(key: ConntrackKey, bits: u32) -> Vec<Expression> {
    vec![
        Expression::Conntrack { key, to: FIRST },
        Expression::AnyBit { from: FIRST, bits },
    ]
}

/// Is of this protocol.
pub(crate) fn of_protocol(protocol: Protocol) -> Vec<Expression> {
    vec![
        Expression::Meta {
            key: MetaKey::TransportProtocol,
            to: FIRST,
        },
        Expression::Equal {
            from: FIRST,
            value: vec![protocol.number()],
        },
    ]
}

/// A name of an interface as keys have it.
pub(crate) fn interface_key(name: &str) -> [u8; 16] {
    let mut key = [0; 16];
    for (to, from) in key.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    key
}

/// A port as a part of a key or of data, of which each fills four bytes, in network order from the left.
pub(crate) fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The type of a family's addresses.
pub(crate) fn address_type(family: Family) -> ValueType {
    match family {
        Family::Ipv6 => ValueType::Ipv6Address,
        Family::Ipv4 | Family::Inet | Family::Bridge => ValueType::Ipv4Address,
    }
}
