//! Netlink messages written and read by hand: a message builder, an attribute reader and a blocking socket.
//!
//! Routing and nf_tables speak the same framing, so one small encoder serves both, and a request for a whole
//! interface is one message instead of a conversation.

mod reader;
mod socket;
mod writer;

pub(crate) use reader::{Attribute, attributes, find};
pub use socket::NetlinkError;
pub(crate) use socket::{Framing, Protocol, Reply, Socket};
pub(crate) use writer::{Body, Requests};

/// Flags of a netlink request (linux/netlink.h).
pub(crate) mod flag {
    pub const REQUEST: u16 = 0x1;
    pub const ACK: u16 = 0x4;
    pub const DUMP: u16 = 0x300;
    pub const REPLACE: u16 = 0x100;
    pub const EXCLUSIVE: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
}

/// Set on an attribute that holds attributes.
pub(crate) const NESTED: u16 = 0x8000;
/// The bits of an attribute's kind that are not flags.
pub(crate) const KIND_MASK: u16 = 0x3fff;
/// Size of the header in front of every message.
pub(crate) const HEADER_BYTES: usize = 16;

/// Rounds up to netlink's alignment of four bytes.
pub(crate) const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}
