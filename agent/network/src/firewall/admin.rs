//! A chain for the administrator's own rules, before ours.
//!
//! It is in a table of its own, which is made where it does not exist and never changed after that: ours is replaced as
//! a whole, and what somebody wrote must not go with it.

use super::Tables;
use crate::netlink::NetlinkError;
use crate::nft::{Batch, Change, Family, Hook, HookPoint};

/// The chain's name.
const CHAIN: &str = "forward";
/// Before our own chain, which is at 0.
const PRIORITY: i32 = -10;

/// Makes table and chain where they do not exist.
pub(super) fn ensure(tables: &mut impl Tables, own_table: &str) -> Result<(), NetlinkError> {
    let forward = Hook {
        kind: "filter",
        point: HookPoint::Forward,
        priority: PRIORITY,
    };
    tables.commit(&Batch {
        family: Family::Inet,
        table: format!("{own_table}-user"),
        changes: vec![
            Change::AddTable,
            Change::AddChain {
                name: CHAIN.into(),
                hook: Some(forward),
            },
        ],
    })
}
