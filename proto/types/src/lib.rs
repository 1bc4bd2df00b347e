//! The domain vocabulary of Muster: typed ids, timestamps, specs and statuses, task states with the table of
//! who may make which transition, and validation that returns every problem at once.
//!
//! This crate must never read a clock, draw randomness or do I/O. Start reading at [`service`], [`task`] and
//! [`node`]; [`container`] holds the vocabulary of the local engine.

pub mod assignment;
pub mod block_io;
pub mod cluster;
pub mod constraint;
pub mod container;
pub mod container_update;
mod endpoint;
pub mod event;
pub mod file;
mod health;
pub mod id;
pub mod id_map;
pub mod image;
pub mod job;
pub mod leading;
pub mod meta;
pub mod namespace;
pub mod network;
pub mod node;
pub mod overlay;
pub mod policy;
pub mod reason;
pub mod resources;
pub mod service;
pub mod task;
pub mod time;
pub mod validate;

pub use assignment::{AssignedTask, AssignmentAge, AssignmentSet, AssignmentUpdate};
pub use cluster::{Cluster, ClusterSpec, Issuer, JoinToken, JoinTokens, RootCa, RootRotation};
pub use constraint::{Constraint, ConstraintError};
pub use file::{AssignedFile, ClusterFile, FileKind};
pub use id::{
    AttachmentId, ClusterId, ContainerId, FileId, IdSource, NetworkId, NodeId, RaftId, RequestId, ServiceId,
    SessionId, TaskId,
};
pub use job::JobStatus;
pub use meta::Meta;
pub use node::{Availability, Node, NodeDescription, NodeRole, NodeSpec, NodeState, NodeStatus, NodeTls};
pub use overlay::{AssignedNetwork, ClusterNetwork, NetworkUpdate, TaskNetwork};
pub use reason::Reason;
pub use resources::Resources;
pub use service::{Service, ServiceMode, ServiceSpec, TaskTemplate};
pub use task::{DesiredState, Slot, Task, TaskState, TaskStatus};
pub use time::Timestamp;
pub use validate::{Problem, Problems};
