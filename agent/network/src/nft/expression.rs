//! The steps of a rule.

use super::change::{Family, Name, Verdict};
use super::encode::write_verdict;
use super::wire::*;
use crate::netlink::Body;

/// A register of the rule machine, by its four-byte number: 0 is the first, and a value of 16 bytes fills four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Register(pub u32);

impl Register {
    fn number(self) -> u32 {
        // The four-byte registers are numbered from 8.
        8 + self.0
    }
}

/// What can be asked about a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetaKey {
    Protocol,
    InputInterfaceName,
    OutputInterfaceName,
    TransportProtocol,
}

/// What can be asked about a packet's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConntrackKey {
    State,
    Status,
    Mark,
}

/// Which header an offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    Link,
    Network,
    Transport,
}

/// What a NAT rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Translation {
    /// New destination from the registers.
    Destination {
        family: Family,
        address: Register,
        /// The port stays as it is where there is none.
        port: Option<Register>,
    },
    /// New source: the address of the interface that the packet leaves by.
    Masquerade,
}

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expression {
    Meta {
        key: MetaKey,
        to: Register,
    },
    Payload {
        header: Header,
        offset: u32,
        length: u32,
        to: Register,
    },
    /// Loads a value.
    Immediate {
        to: Register,
        value: Vec<u8>,
    },
    /// Ends the rule unless the register begins with the value.
    Equal {
        from: Register,
        value: Vec<u8>,
    },
    /// Ends the rule if none of these bits of a four-byte register is set.
    AnyBit {
        from: Register,
        bits: u32,
    },
    /// Clears the bits of a register that are not in the mask.
    Mask {
        of: Register,
        mask: Vec<u8>,
    },
    /// Ends the rule unless (or, inverted, if) the set holds the key.
    Member {
        set: Name,
        from: Register,
        inverted: bool,
    },
    /// Ends the rule unless the map has the key; loads the data, or with no register obeys the verdict.
    Map {
        map: Name,
        from: Register,
        to: Option<Register>,
    },
    Conntrack {
        key: ConntrackKey,
        to: Register,
    },
    /// Marks the packet's connection with a four-byte register.
    MarkConnection {
        from: Register,
    },
    /// Marks the packet with a four-byte register; routes may depend on it.
    MarkPacket {
        from: Register,
    },
    /// Loads the kind of the destination address: 2 is one of this host's own.
    DestinationKind {
        to: Register,
    },
    /// Loads the kind of the source address: 1 is one of another machine's.
    SourceKind {
        to: Register,
    },
    Translate(Translation),
    /// Loads the numbers below this one in turn, one for each packet.
    NextOf {
        count: u32,
        to: Register,
    },
    /// Refuses the packet; its sender is told with this code that the destination cannot be reached.
    Refuse {
        icmp_code: u8,
    },
    Verdict(Verdict),
}

impl Expression {
    /// Writes the step as one or more elements of a rule's list.
    pub fn write(&self, body: &mut Body<'_>) {
        match self {
            Self::Meta { key, to } => step(body, "meta", |data| {
                data.be32(NFTA_META_KEY, meta_number(*key));
                data.be32(NFTA_META_DREG, to.number());
            }),
            Self::Payload {
                header,
                offset,
                length,
                to,
            } => step(body, "payload", |data| {
                data.be32(NFTA_PAYLOAD_DREG, to.number());
                data.be32(NFTA_PAYLOAD_BASE, header_number(*header));
                data.be32(NFTA_PAYLOAD_OFFSET, *offset);
                data.be32(NFTA_PAYLOAD_LEN, *length);
            }),
            Self::Immediate { to, value } => step(body, "immediate", |data| {
                data.be32(NFTA_IMMEDIATE_DREG, to.number());
                data.nested(NFTA_IMMEDIATE_DATA, |inner| inner.bytes(NFTA_DATA_VALUE, value));
            }),
            Self::Equal { from, value } => compare(body, *from, NFT_CMP_EQ, value),
            Self::AnyBit { from, bits } => {
                mask(body, *from, &bits.to_ne_bytes());
                compare(body, *from, NFT_CMP_NEQ, &[0; 4]);
            }
            Self::Mask { of, mask: bits } => mask(body, *of, bits),
            Self::Member { set, from, inverted } => step(body, "lookup", |data| {
                data.text(NFTA_LOOKUP_SET, set);
                data.be32(NFTA_LOOKUP_SREG, from.number());
                if *inverted {
                    data.be32(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
                }
            }),
            Self::Map { map, from, to } => step(body, "lookup", |data| {
                data.text(NFTA_LOOKUP_SET, map);
                data.be32(NFTA_LOOKUP_SREG, from.number());
                data.be32(NFTA_LOOKUP_DREG, to.map_or(0, Register::number));
            }),
            Self::Conntrack { key, to } => step(body, "ct", |data| {
                data.be32(NFTA_CT_KEY, conntrack_number(*key));
                data.be32(NFTA_CT_DREG, to.number());
            }),
            Self::MarkConnection { from } => step(body, "ct", |data| {
                data.be32(NFTA_CT_KEY, conntrack_number(ConntrackKey::Mark));
                data.be32(NFTA_CT_SREG, from.number());
            }),
            Self::MarkPacket { from } => step(body, "meta", |data| {
                data.be32(NFTA_META_KEY, NFT_META_MARK);
                data.be32(NFTA_META_SREG, from.number());
            }),
            Self::DestinationKind { to } => write_address_kind(body, *to, NFTA_FIB_F_DADDR),
            Self::SourceKind { to } => write_address_kind(body, *to, NFTA_FIB_F_SADDR),
            Self::Translate(Translation::Destination {
                family,
                address,
                port,
            }) => step(body, "nat", |data| {
                data.be32(NFTA_NAT_TYPE, NFT_NAT_DNAT);
                data.be32(NFTA_NAT_FAMILY, u32::from(family.number()));
                data.be32(NFTA_NAT_REG_ADDR_MIN, address.number());
                if let Some(port) = port {
                    data.be32(NFTA_NAT_REG_PROTO_MIN, port.number());
                }
            }),
            Self::Translate(Translation::Masquerade) => step(body, "masq", |_| {}),
            Self::NextOf { count, to } => step(body, "numgen", |data| {
                data.be32(NFTA_NG_DREG, to.number());
                data.be32(NFTA_NG_MODULUS, *count);
                data.be32(NFTA_NG_TYPE, NFT_NG_INCREMENTAL);
            }),
            Self::Refuse { icmp_code } => step(body, "reject", |data| {
                data.be32(NFTA_REJECT_TYPE, NFT_REJECT_ICMP_UNREACH);
                data.u8(NFTA_REJECT_ICMP_CODE, *icmp_code);
            }),
            Self::Verdict(verdict) => step(body, "immediate", |data| {
                data.be32(NFTA_IMMEDIATE_DREG, 0);
                data.nested(NFTA_IMMEDIATE_DATA, |value| write_verdict(value, verdict));
            }),
        }
    }
}

fn write_address_kind(body: &mut Body<'_>, to: Register, address: u32) {
    step(body, "fib", |data| {
        data.be32(NFTA_FIB_DREG, to.number());
        data.be32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
        data.be32(NFTA_FIB_FLAGS, address);
    });
}

fn step(body: &mut Body<'_>, name: &str, fill: impl FnOnce(&mut Body<'_>)) {
    body.nested(NFTA_LIST_ELEM, |element| {
        element.text(NFTA_EXPR_NAME, name);
        element.nested(NFTA_EXPR_DATA, fill);
    });
}

fn compare(body: &mut Body<'_>, from: Register, operation: u32, value: &[u8]) {
    step(body, "cmp", |data| {
        data.be32(NFTA_CMP_SREG, from.number());
        data.be32(NFTA_CMP_OP, operation);
        data.nested(NFTA_CMP_DATA, |operand| operand.bytes(NFTA_DATA_VALUE, value));
    });
}

fn mask(body: &mut Body<'_>, register: Register, bits: &[u8]) {
    step(body, "bitwise", |data| {
        data.be32(NFTA_BITWISE_SREG, register.number());
        data.be32(NFTA_BITWISE_DREG, register.number());
        data.be32(NFTA_BITWISE_LEN, bits.len() as u32);
        data.nested(NFTA_BITWISE_MASK, |operand| operand.bytes(NFTA_DATA_VALUE, bits));
        data.nested(NFTA_BITWISE_XOR, |operand| {
            operand.bytes(NFTA_DATA_VALUE, &vec![0; bits.len()])
        });
    });
}

fn meta_number(key: MetaKey) -> u32 {
    match key {
        MetaKey::Protocol => 1,
        MetaKey::InputInterfaceName => 6,
        MetaKey::OutputInterfaceName => 7,
        MetaKey::TransportProtocol => 16,
    }
}

fn conntrack_number(key: ConntrackKey) -> u32 {
    match key {
        ConntrackKey::State => 0,
        ConntrackKey::Status => 2,
        ConntrackKey::Mark => 3,
    }
}

fn header_number(header: Header) -> u32 {
    match header {
        Header::Link => 0,
        Header::Network => 1,
        Header::Transport => 2,
    }
}
