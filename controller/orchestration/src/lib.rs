//! The reconcile function: from committed state, time and fresh ids to the changesets that bring the cluster closer to
//! what its users want.
//!
//! [`reconcile`] is pure. It keeps nothing between calls: a delay, a deadline or a count is a field of a replicated
//! object, and [`Dirty`] only says where looking may be worth it. The passes run over one service at a time, in the
//! order of [`pass::PASSES`]. This crate must never read a clock, draw randomness or do I/O. Start reading at
//! [`reconcile`], then the list of passes.

pub mod dirty;
pub mod networks;
pub mod plan;
mod reconcile;

mod changes;
mod draft;
mod due;
mod pass;

pub use dirty::Dirty;
pub use pass::PLACEMENT;
pub use plan::{CHANGES_MAX, Pending, Plan};
pub use reconcile::{Limits, reconcile, reconcile_observed, reconcile_within};
