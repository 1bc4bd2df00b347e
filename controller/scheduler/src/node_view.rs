//! A node as the scheduler sees it.

use muster_types::service::Protocol;
use muster_types::{Node, NodeId, Resources};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A node as the scheduler sees it when it places one group. Placing a task changes it.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// The node.
    pub node: Arc<Node>,
    /// What is not reserved.
    pub free: Resources,
    /// Host-mode ports in use.
    pub ports: BTreeSet<(Protocol, u16)>,
    /// Tasks that shall run on it.
    pub tasks: u64,
    /// Those of the group's service.
    pub service_tasks: u64,
    /// Failures of the group's tasks there within [`FAILURE_WINDOW`](crate::place::FAILURE_WINDOW).
    pub failures: u64,
}

impl NodeView {
    /// A node with nothing on it.
    pub fn empty(node: Arc<Node>) -> Self {
        Self {
            free: node.description.resources,
            node,
            ports: BTreeSet::new(),
            tasks: 0,
            service_tasks: 0,
            failures: 0,
        }
    }

    /// Its id.
    pub fn id(&self) -> NodeId {
        self.node.id
    }
}
