//! Names of replicated objects and of their separately versioned parts.

use muster_types::{AttachmentId, FileId, NetworkId, NodeId, ServiceId, TaskId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One replicated object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectKey {
    /// The cluster's own object.
    Cluster,
    /// A node.
    Node(NodeId),
    /// A service.
    Service(ServiceId),
    /// A revision of a service's task template.
    Template(ServiceId, u64),
    /// A task.
    Task(TaskId),
    /// A network of the cluster.
    Network(NetworkId),
    /// The place of a standalone container in a network.
    Attachment(AttachmentId),
    /// A secret or a config.
    File(FileId),
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Node(id) => write!(f, "node {id}"),
            Self::Service(id) => write!(f, "service {id}"),
            Self::Template(service, version) => write!(f, "template {version} of service {service}"),
            Self::Task(id) => write!(f, "task {id}"),
            Self::Network(id) => write!(f, "network {id}"),
            Self::Attachment(id) => write!(f, "attachment {id}"),
            Self::File(id) => write!(f, "secret or config {id}"),
        }
    }
}

/// The part of an object that has a version of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Part {
    /// What the user wants.
    Spec,
    /// What the controller decided.
    Control,
    /// What was observed.
    Status,
}
