//! The replicated state of the cluster: tables, indexes, and the one function that changes them.
//!
//! A log entry holds a [`Changeset`]: objects become what it says, if its preconditions hold. [`ClusterState::apply`]
//! is total and deterministic; every controller that applied the same entries holds the same state.
//!
//! This crate must never read a clock, draw randomness or do I/O, and it decides nothing: which changes to make is
//! the business of `muster-orchestration` and of the control API. Start reading at [`change`], then [`apply`].

pub mod address_pool;
pub mod apply;
pub mod change;
pub mod diff;
pub mod entry;
pub mod invariants;
pub mod key;
pub mod load;
pub mod networks;
pub mod rejection;
pub mod request;
pub mod service_tasks;
pub mod service_update;
pub mod snapshot;
pub mod state;
pub mod touched;

mod index;

pub use address_pool::{AddressPool, AddressRuns, Exhausted};
pub use apply::{Application, Outcome};
pub use change::{Change, Changeset, NewTask, Precondition, PreviousSpec, Reporter, Revision};
pub use entry::{
    Entry, EntryError, LEVEL_OF_FILES, LEVEL_OF_JOBS, LEVEL_OF_NETWORKS, LEVEL_OF_POLICIES,
    LEVEL_OF_ROTATION, SUPPORTED_FEATURE_LEVEL, needs_level_of_rotation,
};
pub use key::{ObjectKey, Part};
pub use load::NodeLoad;
pub use rejection::Rejection;
pub use request::RequestOutcome;
pub use service_tasks::ServiceTasks;
pub use snapshot::SnapshotError;
pub use state::{ClusterState, TemplateRevision};
pub use touched::Touched;
