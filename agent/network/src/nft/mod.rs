//! nf_tables over netlink: changes as data, their encoding, and reading back the elements of sets.
//!
//! Only what this crate's rule sets use is here. The tests compare the result with what `nft` reads back.

mod change;
mod decode;
mod encode;
mod expression;
pub(crate) mod others;
pub(crate) mod terms;
mod wire;

pub(crate) use change::{
    Batch, Change, Element, ElementData, Family, Hook, HookPoint, Name, SetSpec, ValueType, Verdict,
};
pub(crate) use decode::read_elements;
pub(crate) use encode::encode;
pub(crate) use expression::{ConntrackKey, Expression, Header, MetaKey, Register, Translation};
