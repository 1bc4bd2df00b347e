//! The vocabulary of the local engine: what a container is asked to be, and what it is.

use crate::block_io::DeviceLimits;
pub use crate::endpoint::{EndpointSpec, NetworkEndpoint};
pub use crate::health::{HealthCheck, HealthProbe, HealthState};
use crate::image::OverlayDirectories;
use crate::namespace::{CgroupNamespace, IpcMode, NamespaceMode, mode_or_flag};
use crate::service::{DnsSpec, Labels, LogDriver, Protocol};
use crate::{ContainerId, TaskId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// What a container is asked to be: the union of the Engine API's `Config` and `HostConfig`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Image reference as the user wrote it.
    pub image: String,
    /// Replaces the image's entrypoint when `Some`; `Some(empty)` clears it.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command when `Some`.
    pub cmd: Option<Vec<String>>,
    /// `KEY=value` entries added to the image's; `KEY` alone removes.
    pub env: Vec<String>,
    /// Working directory; the image's when empty.
    pub working_dir: String,
    /// `user[:group]`; the image's when empty.
    pub user: String,
    /// Additional groups.
    pub groups: Vec<String>,
    /// Host name; the short id when empty.
    pub hostname: String,
    /// Domain name.
    pub domainname: String,
    /// Labels.
    pub labels: Labels,
    /// Terminal.
    pub tty: bool,
    /// Keep standard input open without a client.
    pub open_stdin: bool,
    /// Close standard input after the first client leaves.
    pub stdin_once: bool,
    /// What the creating client meant to attach: (stdin, stdout, stderr); reported back only.
    pub attach: (bool, bool, bool),
    /// Stop signal; the image's, else SIGTERM, when empty.
    pub stop_signal: String,
    /// Wait between the stop signal and SIGKILL; 10 s when `None`.
    pub stop_grace: Option<Duration>,
    /// Health check; the image's when `None`.
    pub health: Option<HealthCheck>,
    /// `port/protocol` entries beside the image's.
    pub exposed_ports: Vec<String>,
    /// Anonymous volume paths beside the image's.
    pub volumes: Vec<String>,
    /// Everything that ties it to the host.
    pub host: HostConfig,
    /// The task that it runs. Only the node's agent sets it; no request of the Engine API can.
    pub task: Option<TaskId>,
    /// It starts only with files that it is given for that start: its task's secrets and configs. Set as `task` is.
    pub needs_files: bool,
}

/// What ties a container to its host.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostConfig {
    /// Remove it when it ends.
    pub auto_remove: bool,
    /// Run an init process as pid 1.
    pub init: bool,
    /// Restart by the engine itself (never for tasks).
    pub restart: EngineRestart,
    /// Network.
    pub network: NetworkMode,
    /// What is asked of its place in each network, by the network's name or id. The mode's own network need not be in it.
    pub endpoints: BTreeMap<String, EndpointSpec>,
    /// Containers of the default bridge that it knows by other names, as `container[:alias]`.
    pub links: Vec<String>,
    /// Hardware address in the mode's network; empty lets the engine choose.
    pub mac: String,
    /// Host ports to publish.
    pub ports: Vec<PortBinding>,
    /// Publish every exposed port on an ephemeral host port.
    pub publish_all: bool,
    /// Mounts (both `Binds` and `Mounts`).
    pub mounts: Vec<MountSpec>,
    /// Containers whose mounts it has too, as `container[:ro|rw]`.
    pub volumes_from: Vec<String>,
    /// Limits.
    pub resources: ContainerResources,
    /// All capabilities, all devices, no confinement.
    pub privileged: bool,
    /// Capabilities added to the default set.
    pub cap_add: Vec<String>,
    /// Capabilities removed from the default set.
    pub cap_drop: Vec<String>,
    /// `no-new-privileges`, `seccomp=unconfined`, `seccomp=<profile JSON>`, `apparmor=…`, `label=…`.
    pub security_opt: Vec<String>,
    /// Mount the root file system read-only.
    pub read_only: bool,
    /// Entries of the hosts file, as `name:address`.
    pub extra_hosts: Vec<String>,
    /// Resolver settings.
    pub dns: DnsSpec,
    /// Namespaced kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Resource limits of the processes.
    pub ulimits: Vec<Ulimit>,
    /// Bytes of /dev/shm; 64 MiB when `None`.
    pub shm_bytes: Option<u64>,
    /// Process ids.
    #[serde(alias = "pid_host", deserialize_with = "mode_or_flag")]
    pub pid: NamespaceMode,
    /// Message queues and shared memory.
    #[serde(alias = "ipc_host", deserialize_with = "mode_or_flag")]
    pub ipc: IpcMode,
    /// Share of the host's uts namespace.
    pub uts_host: bool,
    /// Control groups.
    pub cgroup_namespace: CgroupNamespace,
    /// Users are those of the host, even where the engine maps them.
    pub user_host: bool,
    /// OOM killer preference.
    pub oom_score_adj: i64,
    /// Log driver; the node's default when `None`.
    pub log: Option<LogDriver>,
    /// Devices.
    pub devices: Vec<DeviceMapping>,
    /// Further rules for the use of devices, as `c 10:200 rwm`.
    pub device_rules: Vec<String>,
    /// Paths to hide; the usual ones when `None`.
    pub masked_paths: Option<Vec<String>>,
    /// Paths to make read-only; the usual ones when `None`.
    pub readonly_paths: Option<Vec<String>>,
    /// Rows and columns of the terminal at start; 0 leaves them.
    pub console_size: (u16, u16),
    /// The file that the client wrote the id to, reported back only.
    pub id_file: String,
    /// Name of the runtime as the user wrote it, reported back only.
    pub runtime: String,
    /// Isolation as the user wrote it, reported back only: Linux has but one.
    pub isolation: String,
    /// Volume driver as the user wrote it, reported back only: a volume of another driver than ours is refused.
    pub volume_driver: String,
    /// Parent cgroup; the engine's own when empty.
    pub cgroup_parent: String,
    /// Runtime annotations.
    pub annotations: Labels,
}

/// Limits of a container; zero means none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerResources {
    /// Billionths of a CPU.
    pub nano_cpus: u64,
    /// Relative weight (v1 shares).
    pub cpu_shares: u64,
    /// CFS period in microseconds.
    pub cpu_period_us: u64,
    /// CFS quota in microseconds; negative means none.
    pub cpu_quota_us: i64,
    /// Real-time period in microseconds.
    pub cpu_realtime_period_us: u64,
    /// Real-time runtime in microseconds.
    pub cpu_realtime_runtime_us: i64,
    /// CPUs allowed.
    pub cpuset_cpus: String,
    /// Memory nodes allowed.
    pub cpuset_mems: String,
    /// Hard limit in bytes.
    pub memory_bytes: u64,
    /// Soft limit in bytes.
    pub memory_reservation_bytes: u64,
    /// Memory plus swap in bytes; -1 means unlimited swap.
    pub memory_swap_bytes: i64,
    /// Swappiness, 0 to 100.
    pub memory_swappiness: Option<u64>,
    /// Disable the OOM killer; not said where the host cannot.
    pub oom_kill_disable: Option<bool>,
    /// Limit of kernel memory in bytes, which no kernel of today keeps.
    pub kernel_memory_bytes: u64,
    /// Most processes; 0 or negative means none.
    pub pids: i64,
    /// Block I/O weight, 10 to 1000.
    pub blkio_weight: u16,
    /// Limits of single block devices.
    pub devices: DeviceLimits,
}

/// Restart of a container by its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum EngineRestart {
    /// Never.
    #[default]
    No,
    /// Always.
    Always,
    /// Always, unless a user stopped it.
    UnlessStopped,
    /// After a failure, at most this often (0: no limit).
    OnFailure {
        /// Most restarts.
        retries_max: u64,
    },
}

/// The container's network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NetworkMode {
    /// The default bridge.
    #[default]
    Bridge,
    /// The host's own.
    Host,
    /// Loopback only.
    None,
    /// Another container's.
    Container(String),
    /// A named network.
    Named(String),
}

/// A port to publish on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// Port of the container.
    pub container_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Host address; every address when `None`.
    pub host_ip: Option<IpAddr>,
    /// Host port, or the first of a range; 0 lets the engine choose.
    pub host_port: u16,
    /// Last host port of the range that the engine chooses from; 0 where there is no range.
    #[serde(default)]
    pub host_port_last: u16,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MountSpec {
    /// Kind.
    pub kind: MountKind,
    /// Host path, or volume name; empty for tmpfs and anonymous volumes.
    pub source: String,
    /// Path in the container.
    pub target: String,
    /// Read-only.
    pub read_only: bool,
    /// Bind propagation, for example `rprivate`.
    pub propagation: String,
    /// Bind: create the source when missing (`-v` does, `--mount` does not).
    pub create_source: bool,
    /// Volume: do not copy the image's content into a new volume.
    pub no_copy: bool,
    /// Volume labels, when it is made for this mount.
    pub volume_labels: Labels,
    /// Volume: options of its driver, when it is made for this mount.
    pub volume_options: BTreeMap<String, String>,
    /// Volume or image: the part of it that is mounted; all of it when empty.
    pub subpath: String,
    /// Whose label the files get where SELinux is in force (`z` and `Z` of a bind).
    pub relabel: Relabel,
    /// Bind: without what is mounted below the source.
    pub non_recursive: bool,
    /// Read-only bind: leave what is mounted below the source writable.
    pub read_only_non_recursive: bool,
    /// Tmpfs size in bytes; 0 means the kernel's default.
    pub tmpfs_bytes: u64,
    /// Tmpfs mode; 1777 when 0.
    pub tmpfs_mode: u32,
    /// Further options of a tmpfs, for example `exec` or `uid=7`; none contradicts another.
    pub tmpfs_options: Vec<String>,
    /// The text that asked for it in a short form (an entry of `Binds`, the options of an entry of `Tmpfs`), reported back
    /// only; `None` in the long form.
    pub as_written: Option<String>,
}

/// Whose SELinux label the files of a mount get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Relabel {
    /// They keep their own.
    #[default]
    No,
    /// That of all containers.
    Containers,
    /// That of this container alone.
    Own,
}

/// Kind of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum MountKind {
    /// A path of the host.
    #[default]
    Bind,
    /// A volume.
    Volume,
    /// Memory.
    Tmpfs,
    /// The files of an image, read-only.
    Image,
}

/// A resource limit of processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Name without `RLIMIT_`, lower case.
    pub name: String,
    /// Soft limit; -1 means unlimited.
    pub soft: i64,
    /// Hard limit; -1 means unlimited.
    pub hard: i64,
}

/// A device of the host made visible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    /// Path on the host.
    pub host_path: String,
    /// Path in the container.
    pub container_path: String,
    /// Some of `rwm`.
    pub permissions: String,
}

/// State of a container, in Docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Made, never started.
    #[default]
    Created,
    /// Running.
    Running,
    /// Frozen.
    Paused,
    /// Ended; the engine is about to start it again.
    Restarting,
    /// Being removed.
    Removing,
    /// Ended.
    Exited,
    /// Could not be removed.
    Dead,
}

impl ContainerState {
    /// Lower-case name as the Engine API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

/// What a container is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerInfo {
    /// Identity.
    pub id: ContainerId,
    /// Name without a slash.
    pub name: String,
    /// What it was asked to be.
    pub config: ContainerConfig,
    /// The image's id.
    pub image_id: String,
    /// What it executes: path and arguments.
    pub command: Vec<String>,
    /// The whole environment.
    pub env: Vec<String>,
    /// Working directory in effect.
    pub working_dir: String,
    /// User in effect.
    pub user: String,
    /// When it was made.
    pub created: Timestamp,
    /// State.
    pub state: ContainerState,
    /// Process id of its first process; 0 when it does not run.
    pub pid: i32,
    /// Exit code of the last run; 0 before.
    pub exit_code: i32,
    /// The kernel's OOM killer ended the last run.
    pub oom_killed: bool,
    /// Why the last start or run failed; empty when it did not.
    pub error: String,
    /// Last start; zero when never.
    pub started_at: Timestamp,
    /// Last end; zero when never.
    pub finished_at: Timestamp,
    /// Restarts by the engine.
    pub restart_count: u64,
    /// Health, where it is checked.
    pub health: Option<HealthState>,
    /// Networks by name.
    pub networks: BTreeMap<String, NetworkEndpoint>,
    /// Published ports in effect.
    pub ports: Vec<PortBinding>,
    /// Mounts in effect.
    pub mounts: Vec<MountPoint>,
    /// Path of its log.
    pub log_path: String,
    /// Paths of its generated files.
    pub hostname_path: String,
    /// Path of its hosts file.
    pub hosts_path: String,
    /// Path of its resolver configuration.
    pub resolv_conf_path: String,
    /// Bytes of its writable layer, when asked for.
    pub size_rw: Option<u64>,
    /// Bytes of its whole file system, when asked for.
    #[serde(default)]
    pub size_root: Option<u64>,
    /// AppArmor profile; empty where there is none.
    #[serde(default)]
    pub apparmor_profile: String,
    /// SELinux labels of its processes and of its files; empty where there are none.
    #[serde(default)]
    pub selinux_labels: (String, String),
    /// Processes of exec that were made and have not ended.
    #[serde(default)]
    pub execs: Vec<String>,
    /// Where its files lie, when one container is asked for.
    #[serde(default)]
    pub directories: Option<OverlayDirectories>,
}

/// A mount in effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// Kind.
    pub kind: MountKind,
    /// Volume name, for volumes; the image as the user wrote it, for images.
    pub name: String,
    /// Path on the host; the image's id, for images.
    pub source: String,
    /// The part of the source that is mounted; all of it when empty.
    #[serde(default)]
    pub subpath: String,
    /// Path in the container.
    pub target: String,
    /// Writable.
    pub writable: bool,
    /// Propagation.
    pub propagation: String,
}
