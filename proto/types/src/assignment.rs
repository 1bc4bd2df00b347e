//! What a node must run, as the dispatcher sends it and the agent keeps it on disk.

use crate::service::{PublishedPort, TaskTemplate};
use crate::{
    AssignedFile, AssignedNetwork, DesiredState, FileId, NetworkId, NetworkUpdate, NodeId, ServiceId, Slot,
    TaskId, TaskNetwork, Timestamp,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
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
    /// The cluster's networks that the node has a part in, by id.
    #[serde(default)]
    pub networks: Vec<AssignedNetwork>,
    /// The secrets and configs that its tasks need, by id.
    #[serde(default)]
    pub files: Vec<AssignedFile>,
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
    /// Networks that are new or changed; every network of a whole set, as a whole.
    pub networks: Vec<NetworkUpdate>,
    /// Networks that the node has no part in any more.
    pub networks_gone: Vec<NetworkId>,
    /// Secrets and configs that tasks need from now on; every one of a whole set. Their content never changes.
    pub files: Vec<AssignedFile>,
    /// Secrets and configs that no task needs any more.
    pub files_gone: Vec<FileId>,
}

impl AssignmentSet {
    /// Takes in what an update says of networks. The update must begin at this set's age.
    pub fn update_networks(&mut self, update: &AssignmentUpdate) {
        if update.from.is_none() {
            self.networks.clear();
        }
        self.networks
            .retain(|network| !update.networks_gone.contains(&network.facts.id));
        for change in &update.networks {
            match self
                .networks
                .binary_search_by_key(&change.id, |network| network.facts.id)
            {
                Ok(place) => self.networks[place].update(change),
                Err(place) => {
                    if let Some(network) = AssignedNetwork::begin(change) {
                        self.networks.insert(place, network);
                    }
                }
            }
        }
    }

    /// Takes in what an update says of secrets and configs. The update must begin at this set's age.
    pub fn update_files(&mut self, update: &AssignmentUpdate) {
        let sent = |id: &FileId| update.files.iter().any(|file| file.id == *id);
        let whole = update.from.is_none();
        self.files
            .retain(|file| !whole && !update.files_gone.contains(&file.id) && !sent(&file.id));
        self.files.extend(update.files.iter().cloned());
        self.files.sort_by_key(|file| file.id);
    }

    /// The secrets and configs of a task that are there.
    pub fn files_of(&self, task: &AssignedTask) -> Vec<AssignedFile> {
        let needed: BTreeSet<FileId> = task.template.files().map(|(_, file)| file.id).collect();
        let there = self.files.iter().filter(|file| needed.contains(&file.id));
        there.cloned().collect()
    }
}

impl From<AssignmentSet> for AssignmentUpdate {
    fn from(set: AssignmentSet) -> Self {
        Self {
            from: None,
            age: set.age,
            node: set.node,
            tasks: set.tasks,
            gone: Vec::new(),
            networks: set.networks.into_iter().map(NetworkUpdate::from).collect(),
            networks_gone: Vec::new(),
            files: set.files,
            files_gone: Vec::new(),
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
    /// Its places in networks of the cluster, in the order of its template; the ingress network last.
    #[serde(default)]
    pub networks: Vec<TaskNetwork>,
}

impl AssignedTask {
    /// The container's name: `<service>.<slot>.<task id>`.
    pub fn container_name(&self) -> String {
        format!("{}.{}.{}", self.service_name, self.slot, self.id)
    }
}
