//! What a log entry says: which objects become what, and under which conditions.

use crate::{ObjectKey, Part};
use muster_types::node::ControllerMember;
use muster_types::overlay::{Attachment, NetworkAddresses};
use muster_types::policy::NetworkPolicy;
use muster_types::service::{Labels, PublishedPort, UpdateStatus};
use muster_types::{
    AttachmentId, Cluster, ClusterFile, ClusterNetwork, ClusterSpec, DesiredState, FileId, JoinTokens,
    NetworkId, NodeDescription, NodeId, NodeSpec, NodeState, Reason, RequestId, RootCa, RootRotation,
    ServiceId, ServiceSpec, Slot, TaskId, TaskStatus, Timestamp,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Changes that apply together or not at all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changeset {
    /// The control request that it answers; a request applies at most once.
    pub request: Option<RequestId>,
    /// Why.
    pub reason: Reason,
    /// What the decision read and must still be so.
    pub preconditions: Vec<Precondition>,
    /// The changes, applied in order.
    pub changes: Vec<Change>,
}

impl Changeset {
    /// An unconditional changeset without a request id.
    pub fn new(reason: Reason, changes: Vec<Change>) -> Self {
        Self {
            request: None,
            reason,
            preconditions: Vec::new(),
            changes,
        }
    }

    /// The same changeset on behalf of a control request.
    #[must_use]
    pub fn for_request(mut self, request: RequestId) -> Self {
        self.request = Some(request);
        self
    }

    /// The same changeset with one more precondition.
    #[must_use]
    pub fn when(mut self, precondition: Precondition) -> Self {
        self.preconditions.push(precondition);
        self
    }
}

/// Something that must be so for a changeset to apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    /// A part of an object has not changed since the decision read it.
    Version {
        /// The object.
        object: ObjectKey,
        /// The part that was read.
        part: Part,
        /// Its version then.
        version: u64,
    },
    /// The object is there.
    Exists(ObjectKey),
    /// The object is not there.
    Absent(ObjectKey),
    /// No service has this name.
    ServiceNameFree(String),
}

/// One object, or one part of it, becomes what this says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// The cluster begins; its `meta` is written by apply.
    ClusterCreate(Box<Cluster>),
    /// The cluster's settings.
    ClusterSpec(ClusterSpec),
    /// The join tokens.
    ClusterTokens(JoinTokens),
    /// The certificate authority.
    ClusterRootCa(RootCa),
    /// Another root certificate shall take the place of the one that is there.
    ClusterRotationBegin(Box<RootRotation>),
    /// It has: every node has a certificate of it. Tokens name it from now on.
    ClusterRotationEnd,
    /// A higher incarnation, after a restored backup or a forced new cluster.
    ClusterIncarnation(u64),
    /// A higher feature level.
    ClusterFeatureLevel(u32),
    /// A node joins; unknown until its agent opens a session.
    NodeCreate {
        /// Its id, never one that was removed.
        node: NodeId,
        /// Its role and the rest of what the user wants.
        spec: NodeSpec,
        /// What it says of itself.
        description: Arc<NodeDescription>,
    },
    /// What the user wants of a node.
    NodeSpec {
        /// The node.
        node: NodeId,
        /// The new spec.
        spec: NodeSpec,
    },
    /// What a node says of itself.
    NodeDescription {
        /// The node.
        node: NodeId,
        /// The new description.
        description: Arc<NodeDescription>,
    },
    /// What the controllers saw of a node; apply notes since when.
    NodeStatus {
        /// The node.
        node: NodeId,
        /// Reachability.
        state: NodeState,
        /// For the user.
        message: String,
        /// Where its session came from.
        address: String,
    },
    /// A node's daemon restarts and holds its lease until then, whoever leads; the node's next status ends it.
    NodeRestarting {
        /// The node.
        node: NodeId,
        /// Cluster time at which the lease ends.
        until: Timestamp,
    },
    /// A node's part in the Raft group.
    NodeController {
        /// The node.
        node: NodeId,
        /// Its membership; `None` when it leaves the group.
        member: Option<ControllerMember>,
    },
    /// A node's own addresses on networks of the cluster.
    NodeAddresses {
        /// The node.
        node: NodeId,
        /// The addresses.
        addresses: Vec<NetworkAddresses>,
    },
    /// A node goes for good.
    NodeRemove {
        /// The node.
        node: NodeId,
    },
    /// A service begins, with its first template revision.
    ServiceCreate {
        /// Its id.
        service: ServiceId,
        /// What the user wants.
        spec: Arc<ServiceSpec>,
    },
    /// What the user wants of a service.
    ServiceSpec {
        /// The service.
        service: ServiceId,
        /// The new spec; its name must not differ.
        spec: Arc<ServiceSpec>,
        /// What a later rollback returns to.
        previous: PreviousSpec,
        /// Whether new tasks run something else than before.
        revision: Revision,
        /// Progress to start from: none for an update, `RollbackStarted` for a rollback.
        update: Option<UpdateStatus>,
    },
    /// What the controller keeps of a service.
    ServiceControl {
        /// The service.
        service: ServiceId,
        /// Progress of the update.
        update: Option<UpdateStatus>,
        /// Published ports with chosen numbers.
        allocated_ports: Vec<PublishedPort>,
        /// Virtual addresses.
        #[serde(default)]
        vips: Vec<NetworkAddresses>,
    },
    /// The user removes a service. Its name is free at once; the row goes after its tasks.
    ServiceRemoving {
        /// The service.
        service: ServiceId,
    },
    /// A service without tasks goes, with its template revisions.
    ServiceRemove {
        /// The service.
        service: ServiceId,
    },
    /// A template revision that no task runs goes.
    TemplateRemove {
        /// The service.
        service: ServiceId,
        /// The revision.
        version: u64,
    },
    /// A task begins.
    TaskCreate(NewTask),
    /// What the controller wants of a task.
    TaskControl {
        /// The task.
        task: TaskId,
        /// Its node; set at most once.
        node: Option<NodeId>,
        /// What the controller wants; only moves forward.
        desired: DesiredState,
        /// Not before this does it start.
        start_after: Option<Timestamp>,
        /// Why.
        reason: Reason,
        /// Its addresses on networks of the cluster, given with its node; none leaves them.
        #[serde(default)]
        addresses: Vec<NetworkAddresses>,
    },
    /// What was observed of a task.
    TaskStatus {
        /// The task.
        task: TaskId,
        /// Who says so.
        reporter: Reporter,
        /// What was observed.
        status: TaskStatus,
    },
    /// A task's record goes, after the task stopped.
    TaskRemove {
        /// The task.
        task: TaskId,
    },
    /// A network begins; its `meta` is written by apply.
    NetworkCreate(Box<ClusterNetwork>),
    /// A network that nothing uses goes.
    NetworkRemove {
        /// The network.
        network: NetworkId,
    },
    /// Which services of a network may open connections to which.
    NetworkPolicy {
        /// The network.
        network: NetworkId,
        /// The rules; all connections are accepted without any.
        policy: Option<Arc<NetworkPolicy>>,
    },
    /// A standalone container gets a place in a network; its `meta` is written by apply.
    AttachmentCreate(Box<Attachment>),
    /// A standalone container leaves a network.
    AttachmentRemove {
        /// The place.
        attachment: AttachmentId,
    },
    /// A secret or config begins; its `meta` is written by apply.
    FileCreate(Box<ClusterFile>),
    /// The labels of a secret or config: nothing else of it ever changes.
    FileLabels {
        /// Which.
        file: FileId,
        /// All of its labels.
        labels: Labels,
    },
    /// A secret or config that no service needs goes.
    FileRemove {
        /// Which.
        file: FileId,
    },
}

/// A task as the controller makes it: assigned when it has a node, else pending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTask {
    /// Its id.
    pub id: TaskId,
    /// Its service.
    pub service: ServiceId,
    /// Its position.
    pub slot: Slot,
    /// The revision it runs.
    pub template_version: u64,
    /// Its node, where one was found at once.
    pub node: Option<NodeId>,
    /// What the controller wants.
    pub desired: DesiredState,
    /// Not before this does it start.
    pub start_after: Option<Timestamp>,
    /// Why it was made.
    pub reason: Reason,
    /// For the user.
    pub message: String,
    /// Why it has no node.
    pub error: Option<String>,
    /// Its addresses on networks of the cluster, given with its node.
    #[serde(default)]
    pub addresses: Vec<NetworkAddresses>,
}

/// Who reports a task's status (architecture: one owner per field).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reporter {
    /// The reconcile passes.
    Controller,
    /// The agent of this node, over its live session.
    Agent(NodeId),
}

/// What a rollback after this change returns to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PreviousSpec {
    /// The spec that this change replaces.
    Replaced,
    /// Nothing, as after an automatic rollback.
    Nothing,
}

/// Whether a spec change makes a new template revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Revision {
    /// Tasks stay up to date.
    Kept,
    /// Tasks made before are out of date.
    New,
}
