//! The tables and how they are read.

use crate::index::Indexes;
use crate::request::Requests;
use crate::{LEVEL_OF_FILES, NodeLoad, ObjectKey, Part, RequestOutcome};
use imbl::OrdMap;
use muster_types::overlay::Attachment;
use muster_types::service::PublishedPort;
use muster_types::{
    AttachmentId, Cluster, ClusterFile, ClusterNetwork, FileId, FileKind, NetworkId, Node, NodeId, RaftId,
    RequestId, Service, ServiceId, Slot, Task, TaskId, TaskTemplate, Timestamp,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What tasks of one revision run. It never changes; tasks point at it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TemplateRevision {
    /// The template.
    pub template: Arc<TaskTemplate>,
    /// Published ports of the service at that revision.
    pub ports: Vec<PublishedPort>,
    /// The run of the job that these tasks belong to: each run has a revision of its own.
    #[serde(default)]
    pub iteration: Option<u64>,
}

impl TemplateRevision {
    /// The feature level of the oldest version of an agent that runs these tasks as they are meant. An older one would
    /// run them without their secrets and configs.
    pub fn node_level(&self) -> u32 {
        match self.template.files().next() {
            Some(_) => LEVEL_OF_FILES,
            None => 1,
        }
    }
}

/// Everything that the controllers replicate. A clone is a snapshot and costs the same for any size.
#[derive(Debug, Clone, Default)]
pub struct ClusterState {
    pub(crate) index: u64,
    pub(crate) time: Timestamp,
    pub(crate) rejections: u64,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) nodes: OrdMap<NodeId, Arc<Node>>,
    /// When each removed node was removed.
    pub(crate) removed_nodes: OrdMap<NodeId, Timestamp>,
    pub(crate) services: OrdMap<ServiceId, Arc<Service>>,
    pub(crate) templates: OrdMap<(ServiceId, u64), Arc<TemplateRevision>>,
    pub(crate) tasks: OrdMap<TaskId, Arc<Task>>,
    pub(crate) networks: OrdMap<NetworkId, Arc<ClusterNetwork>>,
    pub(crate) attachments: OrdMap<AttachmentId, Arc<Attachment>>,
    /// The address that each subnet, known by its network and its first address, gave out last.
    pub(crate) last_given: OrdMap<(NetworkId, u128), u128>,
    pub(crate) files: OrdMap<FileId, Arc<ClusterFile>>,
    pub(crate) requests: Requests,
    pub(crate) indexes: Indexes,
}

impl ClusterState {
    /// The state before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Index of the last applied entry.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Cluster time of the last applied entry; never goes back.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// How many changesets were rejected since the beginning.
    pub fn rejections(&self) -> u64 {
        self.rejections
    }

    /// The cluster's own object, once it was made.
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    /// Every node, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// The node that has this Raft id.
    pub fn node_by_raft_id(&self, raft_id: RaftId) -> Option<&Arc<Node>> {
        self.indexes
            .node_by_raft_id
            .get(&raft_id)
            .and_then(|id| self.nodes.get(id))
    }

    /// Whether a node with this id was removed.
    pub fn is_removed_node(&self, id: NodeId) -> bool {
        self.removed_nodes.contains_key(&id)
    }

    /// What the tasks on a node take from it.
    pub fn load(&self, id: NodeId) -> NodeLoad {
        self.indexes.load.get(&id).cloned().unwrap_or_default()
    }

    /// One service, also while it is being removed.
    pub fn service(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.services.get(&id)
    }

    /// Every service, by id, also those being removed.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The service that has this name; never one being removed.
    pub fn service_by_name(&self, name: &str) -> Option<&Arc<Service>> {
        self.indexes
            .service_by_name
            .get(name)
            .and_then(|id| self.services.get(id))
    }

    /// A template revision.
    pub fn template(&self, service: ServiceId, version: u64) -> Option<&Arc<TemplateRevision>> {
        self.templates.get(&(service, version))
    }

    /// Every template revision of a service, oldest first.
    pub fn templates_of(&self, service: ServiceId) -> impl Iterator<Item = (u64, &Arc<TemplateRevision>)> {
        self.templates
            .range((service, 0)..=(service, u64::MAX))
            .map(|((_, version), revision)| (*version, revision))
    }

    /// One task.
    pub fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.tasks.get(&id)
    }

    /// Every task, by id.
    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values()
    }

    /// The tasks of a service, by slot, then id.
    pub fn tasks_of_service(&self, service: ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        self.indexes
            .tasks_by_slot
            .range((service, FIRST_SLOT, FIRST_TASK)..=(service, LAST_SLOT, LAST_TASK))
            .filter_map(|(_, _, id)| self.tasks.get(id))
    }

    /// The tasks of one slot, by id.
    pub fn tasks_of_slot(&self, service: ServiceId, slot: Slot) -> impl Iterator<Item = &Arc<Task>> {
        self.indexes
            .tasks_by_slot
            .range((service, slot, FIRST_TASK)..=(service, slot, LAST_TASK))
            .filter_map(|(_, _, id)| self.tasks.get(id))
    }

    /// The tasks that a node was given, by service, then id.
    pub fn tasks_of_node(&self, node: NodeId) -> impl Iterator<Item = &Arc<Task>> {
        self.by_node(Some(node))
    }

    /// The slots of a service that have records, from this one on; one with several comes so many times.
    pub fn slots_of_service(&self, service: ServiceId, from: Slot) -> impl Iterator<Item = Slot> + '_ {
        self.indexes
            .tasks_by_slot
            .range((service, from, FIRST_TASK)..=(service, LAST_SLOT, LAST_TASK))
            .map(|(_, slot, _)| *slot)
    }

    /// The tasks of a service that a node was given, by id.
    pub fn tasks_of_node_and_service(
        &self,
        node: NodeId,
        service: ServiceId,
    ) -> impl Iterator<Item = &Arc<Task>> {
        self.by_node_and_service(Some(node), service)
    }

    /// The tasks of a service that have no node, by id.
    pub fn unplaced_tasks_of(&self, service: ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        self.by_node_and_service(None, service)
    }

    /// Services that have tasks without a node.
    pub fn services_with_unplaced_tasks(&self) -> Vec<ServiceId> {
        let mut found = Vec::new();
        let mut first = Some(0);
        while let Some(number) = first {
            let from = (None, ServiceId::from_u128(number), FIRST_TASK);
            let last = (None, ServiceId::from_u128(u128::MAX), LAST_TASK);
            let Some((_, service, _)) = self.indexes.tasks_by_node.range(from..=last).next() else {
                break;
            };
            found.push(*service);
            first = service.as_u128().checked_add(1);
        }
        found
    }

    /// The tasks that have no node, by service, then id.
    pub fn tasks_without_node(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.by_node(None)
    }

    /// Numbers of nodes, services and tasks.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.nodes.len(), self.services.len(), self.tasks.len())
    }

    /// One secret or config.
    pub fn file(&self, id: FileId) -> Option<&Arc<ClusterFile>> {
        self.files.get(&id)
    }

    /// Every secret and config, by id.
    pub fn files(&self) -> impl Iterator<Item = &Arc<ClusterFile>> {
        self.files.values()
    }

    /// The secret or config that has this name.
    pub fn file_by_name(&self, kind: FileKind, name: &str) -> Option<&Arc<ClusterFile>> {
        let id = self.indexes.file_by_name.get(&(kind, name.to_owned()))?;
        self.files.get(id)
    }

    /// What became of a control request, if it applied and is remembered.
    pub fn request_outcome(&self, request: RequestId) -> Option<RequestOutcome> {
        self.requests.get(request)
    }

    /// Version of a part of an object; `None` when there is no such object.
    pub fn version(&self, object: ObjectKey, part: Part) -> Option<u64> {
        let meta = match object {
            ObjectKey::Cluster => self.cluster.as_ref()?.meta,
            ObjectKey::Node(id) => self.nodes.get(&id)?.meta,
            ObjectKey::Service(id) => self.services.get(&id)?.meta,
            ObjectKey::Task(id) => self.tasks.get(&id)?.meta,
            ObjectKey::Network(id) => self.networks.get(&id)?.meta,
            ObjectKey::Attachment(id) => self.attachments.get(&id)?.meta,
            ObjectKey::File(id) => self.files.get(&id)?.meta,
            ObjectKey::Template(service, version) => {
                return self
                    .templates
                    .contains_key(&(service, version))
                    .then_some(version);
            }
        };
        Some(match part {
            Part::Spec => meta.spec_version,
            Part::Control => meta.control_version,
            Part::Status => meta.status_version,
        })
    }

    fn by_node_and_service(
        &self,
        node: Option<NodeId>,
        service: ServiceId,
    ) -> impl Iterator<Item = &Arc<Task>> {
        self.indexes
            .tasks_by_node
            .range((node, service, FIRST_TASK)..=(node, service, LAST_TASK))
            .filter_map(|(_, _, id)| self.tasks.get(id))
    }

    fn by_node(&self, node: Option<NodeId>) -> impl Iterator<Item = &Arc<Task>> {
        let first = (node, ServiceId::from_u128(0), FIRST_TASK);
        let last = (node, ServiceId::from_u128(u128::MAX), LAST_TASK);
        self.indexes
            .tasks_by_node
            .range(first..=last)
            .filter_map(|(_, _, id)| self.tasks.get(id))
    }
}

const FIRST_SLOT: Slot = Slot::Replica(0);
const LAST_SLOT: Slot = Slot::Node(NodeId::from_u128(u128::MAX));
const FIRST_TASK: TaskId = TaskId::from_u128(0);
const LAST_TASK: TaskId = TaskId::from_u128(u128::MAX);
