//! Placement: which node a task goes to, and why none fits.
//!
//! Tasks of one service and one template revision are alike, so they are placed as a [`Group`]: every filter looks at
//! every node once per group, not once per task. Filters are yes/no rules that explain themselves; ranking only
//! orders what they leave. This crate must never read a clock, draw randomness or keep anything between calls. Start
//! reading at [`place`].

pub mod constraints;
pub mod explain;
pub mod filter;
pub mod node_view;
pub mod place;
mod spread;

pub use constraints::Constraints;
pub use explain::{Cause, Explanation};
pub use filter::Group;
pub use node_view::NodeView;
pub use place::{Placements, place};
