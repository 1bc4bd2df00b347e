//! What the API needs of the cluster, as seen from this node.

use super::{EventStream, LogOptions, Result, TaskLogStream};
use async_trait::async_trait;
use muster_types::file::FileSpec;
use muster_types::network::NetworkSpec;
use muster_types::policy::NetworkPolicy;
use muster_types::service::Protocol;
use muster_types::service::TaskTemplate;
use muster_types::{
    Availability, Cluster, ClusterFile, ClusterNetwork, ClusterSpec, FileId, FileKind, JoinToken, NetworkId,
    Node, NodeId, NodeSpec, RootCa, Service, ServiceId, ServiceSpec, Task, TaskId, Timestamp,
};
use std::net::IpAddr;
use std::sync::Arc;

/// The cluster, as seen from this node.
///
/// On a node outside any cluster every method but `local`, `swarm_init`, `swarm_join` and `events` gives
/// [`BackendError::no_swarm`](super::BackendError::no_swarm), on a worker
/// [`not_controller`](super::BackendError::not_controller) (but `swarm_leave` works), without a leader
/// [`no_leader`](super::BackendError::no_leader) within 5 s.
///
/// References are a full id, else a name (nodes: name or host name), else an unambiguous prefix of an id;
/// [`resolve`](super::resolve) does that with Docker's error texts. Reads are linearizable.
///
/// A cancelled change may or may not have happened; the same holds for a time-out, whose message says so.
#[async_trait]
pub trait ClusterBackend: Send + Sync + 'static {
    /// This node's membership. Cheap and never waits: it answers every `_ping`.
    fn local(&self) -> LocalSwarm;

    /// Makes a cluster with this node as its first controller. `Unavailable` with `ALREADY_MEMBER` on a member.
    async fn swarm_init(&self, request: InitRequest) -> Result<NodeId>;

    /// Joins a cluster; the token decides the role. Returns once the node is a member.
    async fn swarm_join(&self, request: JoinRequest) -> Result<()>;

    /// Leaves. A controller needs `force`, else `Unavailable` with the reason.
    async fn swarm_leave(&self, force: bool) -> Result<()>;

    /// The cluster's object.
    async fn swarm_inspect(&self) -> Result<Cluster>;

    /// Replaces the cluster's spec, and rotates tokens and the root certificate. A stale `version` gives
    /// [`out_of_sequence`](super::BackendError::out_of_sequence).
    async fn swarm_update(&self, version: u64, update: ClusterUpdate) -> Result<()>;

    /// All nodes.
    async fn node_list(&self) -> Result<Vec<NodeView>>;

    /// One node.
    async fn node_inspect(&self, reference: &str) -> Result<NodeView>;

    /// Replaces a node's spec; this is how a node is promoted, demoted and drained. A stale `version` gives
    /// [`out_of_sequence`](super::BackendError::out_of_sequence).
    async fn node_update(&self, id: NodeId, version: u64, spec: NodeSpec) -> Result<()>;

    /// Removes a node's record. `Invalid` unless it is a worker that is down, or `force` is given.
    async fn node_remove(&self, id: NodeId, force: bool) -> Result<()>;

    /// Makes a service. `Conflict` when the name is in use, `Invalid` for a bad spec.
    async fn service_create(&self, spec: ServiceSpec) -> Result<ServiceCreated>;

    /// All services; with `counts`, [`ServiceView::counts`] is filled in.
    async fn service_list(&self, counts: bool) -> Result<Vec<ServiceView>>;

    /// One service; never with counts.
    async fn service_inspect(&self, reference: &str) -> Result<ServiceView>;

    /// Changes a service and returns warnings. A stale `version` gives
    /// [`out_of_sequence`](super::BackendError::out_of_sequence).
    async fn service_update(&self, id: ServiceId, version: u64, change: ServiceChange)
    -> Result<Vec<String>>;

    /// Removes a service; its tasks stop after that.
    async fn service_remove(&self, id: ServiceId) -> Result<()>;

    /// The networks of the cluster.
    async fn network_list(&self) -> Result<Vec<Arc<ClusterNetwork>>>;

    /// Makes a network of the cluster. `Conflict` when the name is in use, `Forbidden` when its addresses are.
    async fn network_create(&self, spec: NetworkSpec) -> Result<NetworkId>;

    /// Removes a network of the cluster. `Invalid`, with who it is, when something uses it.
    async fn network_remove(&self, id: NetworkId) -> Result<()>;

    /// The way that connections from one service to another take, to a port or any.
    async fn service_trace(
        &self,
        from: &str,
        to: &str,
        port: Option<(Protocol, u16)>,
    ) -> Result<Vec<TraceStep>>;

    /// Gives a network of the cluster these rules, and no others.
    async fn network_set_policy(&self, id: NetworkId, policy: NetworkPolicy) -> Result<()>;

    /// All secrets, or all configs.
    async fn file_list(&self, kind: FileKind) -> Result<Vec<Arc<ClusterFile>>>;

    /// One secret or config.
    async fn file_inspect(&self, kind: FileKind, reference: &str) -> Result<Arc<ClusterFile>>;

    /// Makes a secret or config. `Conflict` when the name is in use, `Invalid` for a bad spec.
    async fn file_create(&self, kind: FileKind, spec: FileSpec) -> Result<FileId>;

    /// Changes the labels of a secret or config; `Invalid` when the spec differs in more, but content may be left out. A
    /// stale `version` gives [`out_of_sequence`](super::BackendError::out_of_sequence).
    async fn file_update(&self, kind: FileKind, id: FileId, version: u64, spec: FileSpec) -> Result<()>;

    /// Removes a secret or config. `Invalid`, with the services' names, when some need it.
    async fn file_remove(&self, kind: FileKind, id: FileId) -> Result<()>;

    /// Tasks that the selection does not rule out. The API filters further.
    async fn task_list(&self, selection: TaskSelection) -> Result<Vec<TaskView>>;

    /// One task, by id or an unambiguous prefix of one.
    async fn task_inspect(&self, reference: &str) -> Result<TaskView>;

    /// Logs of tasks, from the nodes that run or ran them. A node that cannot be reached becomes an error entry at the
    /// end of the stream, after the entries of the others.
    async fn task_logs(&self, selection: LogSelection, options: LogOptions) -> Result<TaskLogStream>;

    /// Brings an image of this name to this node from another one: where a platform is given, the one for it. `NotFound`
    /// when no other node has it. Works on workers, too.
    async fn image_fetch(&self, reference: &str, platform: &str) -> Result<()>;

    /// Events of cluster objects, as [`LocalEngine::events`](super::LocalEngine::events). Empty and without end on
    /// nodes that are not controllers.
    async fn events(&self, since: Option<Timestamp>, until: Option<Timestamp>) -> Result<EventStream>;
}

/// This node's membership.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalSwarm {
    /// Membership.
    pub state: LocalSwarmState,
    /// This node's id, when it is a member.
    pub node_id: Option<NodeId>,
    /// The address that it advertises.
    pub node_address: String,
    /// It is a controller with a running Raft node.
    pub controller: bool,
    /// Why the state is [`LocalSwarmState::Error`].
    pub error: String,
    /// Controllers that the node knows.
    pub controllers: Vec<RemoteController>,
}

/// Membership of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalSwarmState {
    /// In no cluster.
    #[default]
    Inactive,
    /// Joining.
    Pending,
    /// A member.
    Active,
    /// Joining or starting failed.
    Error,
    /// A controller that needs its unlock key.
    Locked,
}

/// A controller that a node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteController {
    /// Its id.
    pub node: NodeId,
    /// Its address (host:port).
    pub address: String,
}

/// How to make a cluster. Addresses are as the user wrote them; the backend checks and completes them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InitRequest {
    /// Address (and port) to listen on.
    pub listen_address: String,
    /// Address or interface (and port) told to the other nodes; found by itself when empty.
    pub advertise_address: String,
    /// Address or interface for container traffic; the advertised one when empty.
    pub data_path_address: String,
    /// Make a new one-member cluster out of this node's state.
    pub force_new_cluster: bool,
    /// Settings.
    pub spec: ClusterSpec,
    /// Whether the first node takes tasks.
    pub availability: Availability,
}

/// How to join a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// Address (and port) to listen on.
    pub listen_address: String,
    /// Address or interface (and port) told to the other nodes; found by itself when empty.
    pub advertise_address: String,
    /// Address or interface for container traffic; the advertised one when empty.
    pub data_path_address: String,
    /// Controllers to try; never empty.
    pub remote_addresses: Vec<String>,
    /// The token.
    pub token: JoinToken,
    /// Whether the node takes tasks.
    pub availability: Availability,
}

/// Tokens to make anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenRotation {
    /// The worker token.
    pub worker: bool,
    /// The controller token.
    pub controller: bool,
}

/// A change of the cluster as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterUpdate {
    /// Its settings. A higher `root_rotations` asks for a new root certificate.
    pub spec: ClusterSpec,
    /// Tokens to make anew.
    pub tokens: TokenRotation,
    /// The root certificate and key that shall take the place of the one that is there.
    pub root: Option<RootCa>,
}

/// A node with what only the Raft group knows.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    /// The record.
    pub node: Node,
    /// The root certificate that it trusts, PEM, where that is known.
    pub trusted_root_pem: Option<String>,
    /// Its part in the Raft group now; `None` on workers.
    pub controller: Option<ControllerView>,
}

/// A controller's part in the Raft group now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerView {
    /// It leads.
    pub leader: bool,
    /// Whether the leader hears of it.
    pub reach: ControllerReach,
    /// Its address (host:port).
    pub address: String,
}

/// Whether the leader hears of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ControllerReach {
    /// There is no leader to know.
    #[default]
    Unknown,
    /// It does not.
    Unreachable,
    /// It does.
    Reachable,
}

/// A service was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCreated {
    /// Its id.
    pub id: ServiceId,
    /// For the user.
    pub warnings: Vec<String>,
}

/// A change of a service.
#[derive(Debug, Clone, PartialEq)]
pub enum ServiceChange {
    /// Replace the spec. The name and the kind of mode cannot change.
    Spec(Box<ServiceSpec>),
    /// Swap the spec and the previous one.
    RollBack,
}

/// A service with the number of its tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceView {
    /// The record.
    pub service: Service,
    /// Number of tasks, when it was asked for.
    pub counts: Option<TaskCounts>,
    /// Its virtual addresses.
    pub vips: Vec<Place>,
}

/// Number of a service's tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskCounts {
    /// Running tasks that should run.
    pub running: u64,
    /// Tasks wanted: replicas, nodes that fit a global service, or what a job may have under way at once.
    pub desired: u64,
    /// Slots that completed in this run of a job.
    pub completed: u64,
}

/// Which tasks are wanted. Empty lists rule out nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskSelection {
    /// Of these services only.
    pub services: Vec<ServiceId>,
    /// On these nodes only.
    pub nodes: Vec<NodeId>,
}

/// A task with what its service says of it.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskView {
    /// The record.
    pub task: Task,
    /// The template that it runs.
    pub template: Arc<TaskTemplate>,
    /// Its service's name; empty when the service is gone.
    pub service_name: String,
    /// The run of the job that it belongs to, if it is of one.
    pub iteration: Option<u64>,
    /// It runs its service's newest template.
    pub up_to_date: bool,
    /// Its places in networks of the cluster.
    pub places: Vec<Place>,
}

/// One step of the way that a connection takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceStep {
    /// `network`, `name`, `policy`, `endpoint` or `way`.
    pub step: &'static str,
    /// A connection gets past it.
    pub passes: bool,
    /// What happens there.
    pub text: String,
}

/// A place in a network of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// The network.
    pub network: Arc<ClusterNetwork>,
    /// The addresses there.
    pub addresses: Vec<IpAddr>,
}

/// Whose logs are wanted: every task of the services, and the tasks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogSelection {
    /// Services.
    pub services: Vec<ServiceId>,
    /// Tasks.
    pub tasks: Vec<TaskId>,
}
