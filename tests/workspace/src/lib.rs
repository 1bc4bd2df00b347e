//! Reads this repository, for the tests about the repository itself: what depends on what, how files are named, what
//! the documents claim.
//!
//! Must never be depended on by another crate. Start reading at `tests/repository/main.rs`; [`Repository`] gives the
//! files, [`Packages`] what `cargo metadata` says, [`table`] what a document's table says.

mod document;
mod packages;
mod source;

pub use document::{links, table};
pub use packages::{DependencyKind, Package, Packages};
pub use source::{Repository, SourceFile};
