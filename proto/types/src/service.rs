//! Services: what the user wants to run, and how.

use crate::container::{HealthCheck, MountSpec, Ulimit};
use crate::file::FileReference;
use crate::image::RegistryAuth;
use crate::overlay::NetworkAddresses;
use crate::{JobStatus, Meta, Resources, ServiceId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Labels, sorted by key.
pub type Labels = BTreeMap<String, String>;

/// A service as the cluster stores it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Identity; never changes.
    pub id: ServiceId,
    /// Times and versions.
    pub meta: Meta,
    /// What the user wants now.
    pub spec: Arc<ServiceSpec>,
    /// What the user wanted before the last update; the target of a rollback.
    pub previous_spec: Option<Arc<ServiceSpec>>,
    /// The task template revision that new tasks run: the `spec_version` of the update that last changed it.
    pub template_version: u64,
    /// Progress of the last update, if there was one.
    pub update: Option<UpdateStatus>,
    /// The published ports with the numbers that the system chose where the spec leaves them open.
    #[serde(default)]
    pub allocated_ports: Vec<PublishedPort>,
    /// Its virtual addresses, one entry for each network that it has one on.
    #[serde(default)]
    pub vips: Vec<NetworkAddresses>,
    /// Where it stands, if it is a job.
    #[serde(default)]
    pub job: Option<JobStatus>,
    /// The user removed it; it goes once its tasks have stopped.
    pub removing: bool,
}

/// What the user wants of a service. Never edited by the system.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceSpec {
    /// Unique name; a DNS label of at most 63 characters.
    pub name: String,
    /// The user's labels on the service (not on its containers).
    pub labels: Labels,
    /// What each task runs.
    pub template: TaskTemplate,
    /// How many tasks, and where.
    pub mode: ServiceMode,
    /// How updates replace tasks.
    pub update: UpdateConfig,
    /// How rollbacks replace tasks.
    pub rollback: UpdateConfig,
    /// Published ports.
    pub ports: Vec<PublishedPort>,
    /// How clients of the network reach the tasks.
    pub endpoint_mode: EndpointMode,
}

/// What one task runs. A change of it makes tasks out of date.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskTemplate {
    /// The container.
    pub container: ContainerSpec,
    /// Set aside for the task on its node.
    pub reservations: Resources,
    /// What the task may use at most.
    pub limits: Resources,
    /// When a stopped task is replaced.
    pub restart: RestartPolicy,
    /// Where tasks may and should run.
    pub placement: Placement,
    /// Networks by name or id; empty means the default bridge.
    pub networks: Vec<NetworkAttachment>,
    /// Log driver of the containers; the node's default when `None`.
    pub log_driver: Option<LogDriver>,
    /// Counter that a client raises to replace tasks without another change.
    pub force_update: u64,
}

/// The container of a task.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Image reference, possibly with a digest.
    pub image: String,
    /// Who pulls the image; never shown to clients.
    pub registry_auth: RegistryAuth,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Replaces the image's command when not empty.
    pub args: Vec<String>,
    /// Host name template; the short container id when `None`.
    pub hostname: Option<String>,
    /// `KEY=value` entries.
    pub env: Vec<String>,
    /// Working directory.
    pub dir: Option<String>,
    /// `user[:group]`.
    pub user: Option<String>,
    /// Additional groups.
    pub groups: Vec<String>,
    /// Labels on the container.
    pub labels: Labels,
    /// Allocate a terminal.
    pub tty: bool,
    /// Keep standard input open.
    pub open_stdin: bool,
    /// Mount the root file system read-only.
    pub read_only: bool,
    /// Signal that asks the container to stop; the image's, else SIGTERM, when `None`.
    pub stop_signal: Option<String>,
    /// Wait between the stop signal and SIGKILL; 10 s when `None`.
    pub stop_grace: Option<Duration>,
    /// Run an init process as pid 1; the node's default when `None`.
    pub init: Option<bool>,
    /// Mounts.
    pub mounts: Vec<MountSpec>,
    /// Secrets that its tasks find as files.
    pub secrets: Vec<FileReference>,
    /// Configs that its tasks find as files.
    pub configs: Vec<FileReference>,
    /// Entries of the hosts file, as `address name [name ...]`.
    pub hosts: Vec<String>,
    /// Name servers, search domains and options.
    pub dns: DnsSpec,
    /// Namespaced kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Capabilities added to the default set.
    pub cap_add: Vec<String>,
    /// Capabilities removed from the default set.
    pub cap_drop: Vec<String>,
    /// Resource limits of the processes.
    pub ulimits: Vec<Ulimit>,
    /// Health check; the image's when `None`.
    pub health: Option<HealthCheck>,
    /// OOM killer preference, -1000 to 1000.
    pub oom_score_adj: i64,
    /// Forbid gaining privileges through exec.
    pub no_new_privileges: bool,
}

/// Resolver settings of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsSpec {
    /// Name servers; the host's when empty.
    pub nameservers: Vec<String>,
    /// Search domains; the host's when empty.
    pub search: Vec<String>,
    /// Options; the host's when empty.
    pub options: Vec<String>,
}

/// A service's connection to a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkAttachment {
    /// Name or id.
    pub target: String,
    /// Further names for the tasks on it.
    pub aliases: Vec<String>,
    /// Driver options.
    pub driver_opts: Labels,
}

/// Log driver and its options.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogDriver {
    /// Driver name, for example `json-file`.
    pub name: String,
    /// Options of the driver.
    pub options: Labels,
}

/// How many tasks a service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceMode {
    /// A number of tasks in slots 1..=N.
    Replicated {
        /// Wanted number of tasks.
        replicas: u64,
    },
    /// One task on every node that fits.
    Global,
    /// A number of slots, each of which shall complete once.
    ReplicatedJob {
        /// Most tasks that are under way at once.
        concurrent_max: u64,
        /// Slots 0..N that shall complete.
        completions: u64,
    },
    /// One task on every node that fits, which shall complete once.
    GlobalJob,
}

impl ServiceMode {
    /// Its tasks shall complete.
    pub fn is_job(self) -> bool {
        match self {
            Self::ReplicatedJob { .. } | Self::GlobalJob => true,
            Self::Replicated { .. } | Self::Global => false,
        }
    }

    /// Its slots are nodes.
    pub fn is_per_node(self) -> bool {
        match self {
            Self::Global | Self::GlobalJob => true,
            Self::Replicated { .. } | Self::ReplicatedJob { .. } => false,
        }
    }
}

impl Default for ServiceMode {
    fn default() -> Self {
        Self::Replicated { replicas: 1 }
    }
}

/// When and how often a stopped task is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartPolicy {
    /// Which ends are followed by a replacement.
    pub condition: RestartCondition,
    /// Wait before a replacement of a failed task starts.
    pub delay: Duration,
    /// Most replacements within the window; 0 means no limit.
    pub attempts_max: u64,
    /// The window that attempts are counted in; zero means for ever.
    pub window: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: Duration::from_secs(5),
            attempts_max: 0,
            window: Duration::ZERO,
        }
    }
}

/// Which ends of a task are followed by a replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RestartCondition {
    /// Never.
    None,
    /// A failure only.
    OnFailure,
    /// Any end.
    #[default]
    Any,
}

/// Where tasks may and should run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Placement {
    /// Constraint expressions; all must hold.
    pub constraints: Vec<String>,
    /// Spread over the values of these, in order.
    pub preferences: Vec<SpreadOver>,
    /// Most tasks of the service on one node; 0 means no limit.
    pub replicas_per_node_max: u64,
    /// Platforms that the image has; empty means any.
    pub platforms: Vec<Platform>,
}

/// A spread preference: `node.labels.X` or `engine.labels.X`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpreadOver {
    /// The descriptor as the user wrote it.
    pub descriptor: String,
}

/// Operating system and processor architecture.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// For example `linux`.
    pub os: String,
    /// For example `amd64` or `x86_64`.
    pub architecture: String,
}

/// How an update or rollback replaces tasks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateConfig {
    /// Slots replaced at once; 0 means all.
    pub parallelism: u64,
    /// Wait between batches.
    pub delay: Duration,
    /// How long a new task is watched for failure.
    pub monitor: Duration,
    /// What follows too many failures.
    pub failure_action: FailureAction,
    /// Share of slots that may fail.
    pub failure_ratio_max: f32,
    /// Whether the old task stops before the new one starts.
    pub order: UpdateOrder,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: Duration::ZERO,
            monitor: Duration::from_secs(5),
            failure_action: FailureAction::Pause,
            failure_ratio_max: 0.0,
            order: UpdateOrder::StopFirst,
        }
    }
}

/// What follows too many failures during an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum FailureAction {
    /// Stop updating and wait for the user.
    #[default]
    Pause,
    /// Go on.
    Continue,
    /// Return to the previous spec.
    Rollback,
}

/// Whether the old task stops before the new one starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum UpdateOrder {
    /// Stop the old task, then start the new one.
    #[default]
    StopFirst,
    /// Start the new task, then stop the old one.
    StartFirst,
}

/// Progress of an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateStatus {
    /// Where it stands.
    pub state: UpdateState,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended, if it has.
    pub completed_at: Option<Timestamp>,
    /// For the user.
    pub message: String,
}

/// Where an update stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateState {
    /// Tasks are being replaced.
    Updating,
    /// Stopped after failures; the user decides.
    Paused,
    /// All tasks are up to date.
    Completed,
    /// Returning to the previous spec.
    RollbackStarted,
    /// The return stopped after failures.
    RollbackPaused,
    /// All tasks run the previous spec.
    RollbackCompleted,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Name for the user; may be empty.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port of the container.
    pub target_port: u16,
    /// Port of the node; 0 lets the system choose.
    pub published_port: u16,
    /// On every node, or on the task's node.
    pub mode: PublishMode,
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a published port answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PublishMode {
    /// On every node of the cluster.
    #[default]
    Ingress,
    /// On the nodes that run a task.
    Host,
}

/// How clients of a network reach the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum EndpointMode {
    /// A virtual address.
    #[default]
    Vip,
    /// The name resolves to every task.
    DnsRoundRobin,
}
