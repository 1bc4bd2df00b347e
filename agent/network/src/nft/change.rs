//! What can be changed in a table, as data that tests can compare.

use std::borrow::Cow;

use super::expression::Expression;

/// Name of a chain, set or map.
pub(crate) type Name = Cow<'static, str>;

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Both families of IP.
    Inet,
    Ipv4,
    Ipv6,
    Bridge,
}

impl Family {
    pub fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
            Self::Bridge => 7,
        }
    }
}

/// Changes to one table that take effect together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    pub family: Family,
    pub table: String,
    pub changes: Vec<Change>,
}

/// One change to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Does nothing if it exists.
    AddTable,
    /// Deletes the table with all that is in it.
    DeleteTable,
    AddChain {
        name: Name,
        hook: Option<Hook>,
    },
    AddSet(SetSpec),
    /// Deletes a chain without rules.
    DeleteChain {
        name: Name,
    },
    /// Deletes a set or map that no rule uses, with its elements.
    DeleteSet {
        name: Name,
    },
    /// Deletes all rules of a chain.
    FlushChain {
        name: Name,
    },
    AddRule {
        chain: Name,
        expressions: Vec<Expression>,
    },
    /// Does nothing for elements that exist with the same data.
    AddElements {
        set: Name,
        elements: Vec<Element>,
    },
    /// Fails if one of them does not exist.
    DeleteElements {
        set: Name,
        elements: Vec<Element>,
    },
    /// Deletes all elements.
    Flush {
        set: Name,
    },
}

/// Where a base chain is called from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hook {
    /// `filter`, `nat` or `route`.
    pub kind: &'static str,
    pub point: HookPoint,
    pub priority: i32,
}

/// A point on a packet's way; the numbers are the same for IPv4 and for bridges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HookPoint {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

impl HookPoint {
    pub fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

/// A set or, with data, a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SetSpec {
    pub name: Name,
    pub key: Vec<ValueType>,
    pub data: Option<Vec<ValueType>>,
}

/// Types of keys and data, with the numbers by which nft knows how to print them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueType {
    Ipv4Address,
    Ipv6Address,
    Protocol,
    Port,
    InterfaceName,
    /// Hardware address.
    LinkAddress,
    /// Four bytes in the machine's order; nft calls it a mark.
    Number,
    /// Only as a map's data, and alone.
    Verdict,
}

impl ValueType {
    /// nft's number of the type.
    fn number(self) -> u32 {
        match self {
            Self::Number => 19,
            Self::Ipv4Address => 7,
            Self::Ipv6Address => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::LinkAddress => 9,
            Self::InterfaceName => 41,
            Self::Verdict => super::wire::NFT_DATA_VERDICT,
        }
    }

    /// Bytes in a key, padded as parts of a key are.
    fn bytes(self) -> u32 {
        match self {
            Self::Ipv4Address | Self::Protocol | Self::Port | Self::Number => 4,
            Self::LinkAddress => 8,
            Self::InterfaceName | Self::Ipv6Address => 16,
            Self::Verdict => 0,
        }
    }

    /// The number of a sequence of types: six bits for each.
    pub fn sequence_number(types: &[Self]) -> u32 {
        types.iter().fold(0, |number, part| (number << 6) | part.number())
    }

    /// Whether the sequence is read from the left; a lone name or number is in the machine's order.
    pub fn sequence_is_in_network_order(types: &[Self]) -> bool {
        !matches!(types, [Self::InterfaceName | Self::Number])
    }

    /// The length of a sequence of types; a lone one is not padded.
    pub fn sequence_bytes(types: &[Self]) -> u32 {
        match types {
            [Self::Port] => 2,
            [Self::Protocol] => 1,
            [Self::LinkAddress] => 6,
            _ => types.iter().map(|part| part.bytes()).sum(),
        }
    }
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub key: Vec<u8>,
    pub data: Option<ElementData>,
    pub comment: Option<String>,
}

/// What a map says for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ElementData {
    Value(Vec<u8>),
    Verdict(Verdict),
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(Name),
}
