//! What a node must run, as the dispatcher sends it and the agent keeps it on disk.

use crate::service::{PublishedPort, TaskTemplate};
use crate::{DesiredState, NodeId, ServiceId, Slot, TaskId, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Age of an assignment set: a higher incarnation wins, then a higher applied index. Agents ignore older sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct AssignmentAge {
    /// Cluster incarnation.
    pub incarnation: u64,
    /// Applied index of the state it was made from.
    pub index: u64,
}

/// Everything that one node must run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AssignmentSet {
    /// Its age.
    pub age: AssignmentAge,
    /// The node it is for.
    pub node: NodeId,
    /// Tasks, by id.
    pub tasks: Vec<AssignedTask>,
}

/// What the dispatcher sends of a node's assignment set: within a session the whole set first, then what changed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AssignmentUpdate {
    /// Age of the set that it changes, which is the one sent before it; `None` for a whole set.
    pub from: Option<AssignmentAge>,
    /// Age of the set that it leads to.
    pub age: AssignmentAge,
    /// The node it is for.
    pub node: NodeId,
    /// Tasks that are new or changed; every task of a whole set.
    pub tasks: Vec<AssignedTask>,
    /// Tasks that left the set.
    pub gone: Vec<TaskId>,
}

impl From<AssignmentSet> for AssignmentUpdate {
    fn from(set: AssignmentSet) -> Self {
        Self {
            from: None,
            age: set.age,
            node: set.node,
            tasks: set.tasks,
            gone: Vec::new(),
        }
    }
}

/// One task with all that its node needs to run it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AssignedTask {
    /// The task.
    pub id: TaskId,
    /// Its service.
    pub service: ServiceId,
    /// The service's name, for the container's name and labels.
    pub service_name: String,
    /// The service's labels, for templates.
    pub service_labels: crate::service::Labels,
    /// Its slot.
    pub slot: Slot,
    /// Template revision.
    pub template_version: u64,
    /// What it runs.
    pub template: Arc<TaskTemplate>,
    /// Ports to publish on the node itself.
    pub ports: Vec<PublishedPort>,
    /// What the controller wants.
    pub desired: DesiredState,
    /// Not before this (cluster) time does it start.
    pub start_after: Option<Timestamp>,
    /// The last status that the controllers recorded.
    pub recorded: (u32, crate::TaskState),
}

impl AssignedTask {
    /// The container's name: `<service>.<slot>.<task id>`.
    pub fn container_name(&self) -> String {
        format!("{}.{}.{}", self.service_name, self.slot, self.id)
    }
}
