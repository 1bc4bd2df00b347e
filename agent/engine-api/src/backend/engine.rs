//! What the API needs of a node's container engine.

use super::{
    AttachOptions, AttachSession, BackendError, ContainerFiles, ContainerStats, EventStream, ImageBuilder,
    LogOptions, LogSession, RegistryClient, RegistryFacts, Result, UploadStream,
};
use async_trait::async_trait;
use futures::future::BoxFuture;
use muster_types::container::{ContainerConfig, ContainerInfo, EndpointSpec};
use muster_types::container_update::ContainerUpdate;
use muster_types::image::ImageSummary;
use muster_types::network::{NetworkInfo, NetworkSpec};
use muster_types::service::Labels;
use muster_types::{ContainerId, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A node's container engine.
///
/// References to containers are a full id, a name (with or without a leading slash) or an unambiguous prefix of an
/// id; an unknown one gives `NotFound` with `No such container: <reference>`. References to images are a name (`:latest`
/// is implied), a digest, an id or a prefix of one; an unknown one gives `NotFound` with `No such image: <reference>`.
///
/// Methods may be cancelled by dropping their future. A change that was begun (create, start, stop, remove, load) is
/// then still carried to its end or undone by the engine; the object is never left half-made.
#[async_trait]
pub trait LocalEngine: ContainerFiles + RegistryClient + ImageBuilder {
    /// Facts about the node and its engine. Cheap: it is called for every `docker info` and `docker version`.
    async fn info(&self) -> Result<EngineInfo>;

    /// Events of local objects from `since` (those still remembered; only new ones when `None`) to `until`
    /// (without end when `None`). New events are subscribed to before this returns.
    async fn events(&self, since: Option<Timestamp>, until: Option<Timestamp>) -> Result<EventStream>;

    /// Makes a container. Errors: `Conflict` when the name is in use, `NotFound` with `No such image: …`, `Invalid`.
    async fn container_create(&self, name: Option<&str>, config: ContainerConfig)
    -> Result<ContainerCreated>;

    /// Starts it. `NotModified` when it runs already.
    async fn container_start(&self, reference: &str) -> Result<()>;

    /// Stops it and returns once it has stopped. `NotModified` when it does not run.
    async fn container_stop(&self, reference: &str, options: StopOptions) -> Result<()>;

    /// Stops it if it runs, then starts it.
    async fn container_restart(&self, reference: &str, options: StopOptions) -> Result<()>;

    /// Sends a signal (name with or without `SIG`, or number). `Conflict` when it does not run.
    async fn container_kill(&self, reference: &str, signal: &str) -> Result<()>;

    /// Freezes it. `Conflict` when it does not run or is frozen.
    async fn container_pause(&self, reference: &str) -> Result<()>;

    /// Thaws it. `Conflict` when it is not frozen.
    async fn container_unpause(&self, reference: &str) -> Result<()>;

    /// Gives it another name. `Conflict` when the name is in use.
    async fn container_rename(&self, reference: &str, name: &str) -> Result<()>;

    /// Takes away the link by which it knows another container of the default bridge as `alias`. `NotFound` without one.
    async fn container_unlink(&self, reference: &str, alias: &str) -> Result<()> {
        let _ = (reference, alias);
        Err(BackendError::not_implemented("this engine removes no links"))
    }

    /// Changes its limits and its restart policy, also while it runs; returns warnings. `Conflict` when the change
    /// contradicts what it has, `Invalid` when it makes no sense.
    async fn container_update(&self, reference: &str, update: ContainerUpdate) -> Result<Vec<String>>;

    /// Removes it. `Conflict` when it runs and `force` is not given.
    async fn container_remove(&self, reference: &str, options: RemoveOptions) -> Result<()>;

    /// Waits for its end. The outer future resolves as soon as the container is found and the wait is registered (the
    /// API answers its headers then, and clients start the container only after that), the inner one at the end.
    async fn container_wait(
        &self,
        reference: &str,
        condition: WaitCondition,
    ) -> Result<BoxFuture<'static, Result<WaitResult>>>;

    /// All containers that the hint does not rule out, newest first. The API filters further.
    async fn container_list(&self, hint: ContainerFilterHint) -> Result<Vec<Arc<ContainerInfo>>>;

    /// One container; with `size`, [`ContainerInfo::size_rw`] is filled in.
    async fn container_inspect(&self, reference: &str, size: bool) -> Result<Arc<ContainerInfo>>;

    /// Its processes as `ps` with these arguments (default `-ef`) prints them. `Conflict` when it does not run.
    async fn container_top(&self, reference: &str, arguments: &str) -> Result<ProcessTable>;

    /// One reading of its counters; all zero when it does not run.
    async fn container_stats(&self, reference: &str) -> Result<ContainerStats>;

    /// Connects to its streams. A container that was not started yet is attached to as soon as it starts; the session
    /// is registered before this returns. `Conflict` when it is frozen.
    async fn container_attach(&self, reference: &str, options: AttachOptions) -> Result<AttachSession>;

    /// Its log.
    async fn container_logs(&self, reference: &str, options: LogOptions) -> Result<LogSession>;

    /// Sets the size of its terminal. `Conflict` when it does not run.
    async fn container_resize(&self, reference: &str, rows: u16, columns: u16) -> Result<()>;

    /// Prepares a process in a running container and returns its id. `Conflict` when the container does not run.
    async fn exec_create(&self, container: &str, config: ExecConfig) -> Result<String>;

    /// Starts a prepared process. With `attach` the session has the streams that [`ExecConfig`] named, else the
    /// process runs on its own and `None` is returned. `Conflict` when it was started before.
    async fn exec_start(
        &self,
        id: &str,
        attach: bool,
        size: Option<(u16, u16)>,
    ) -> Result<Option<AttachSession>>;

    /// A prepared, running or ended process. `NotFound` with `No such exec instance: <id>`.
    async fn exec_inspect(&self, id: &str) -> Result<ExecInfo>;

    /// Sets the size of its terminal.
    async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()>;

    /// Reads an archive of images. Errors: `Invalid` with what is wrong with it; nothing is left behind then.
    async fn image_load(&self, archive: UploadStream) -> Result<Vec<LoadedImage>>;

    /// All images, newest first.
    async fn image_list(&self) -> Result<Vec<Arc<ImageSummary>>>;

    /// One image.
    async fn image_inspect(&self, reference: &str) -> Result<Arc<ImageSummary>>;

    /// How an image was built, newest layer first.
    async fn image_history(&self, reference: &str) -> Result<Vec<ImageLayer>>;

    /// Gives an image another name (`name:tag`), taking it from the image that had it. `Invalid` for a bad name.
    async fn image_tag(&self, reference: &str, target: &str) -> Result<()>;

    /// Removes a name, and the image with its last name. `Conflict` when containers use it and `force` is not given.
    async fn image_remove(&self, reference: &str, force: bool) -> Result<Vec<RemovedImage>>;

    /// The networks of this node, with the built-in `bridge`, `host` and `none`.
    async fn network_list(&self) -> Result<Vec<NetworkInfo>>;

    /// Makes a network of this node and returns its id.
    async fn network_create(&self, spec: NetworkSpec) -> Result<String> {
        let _ = spec;
        Err(BackendError::not_implemented("this engine makes no networks"))
    }

    /// Removes a network of this node.
    async fn network_remove(&self, reference: &str) -> Result<()> {
        Err(BackendError::not_found(format!("network {reference} not found")))
    }

    /// Puts a container on a network, at once where it runs.
    async fn network_connect(&self, reference: &str, container: &str, spec: EndpointSpec) -> Result<()> {
        let _ = (container, spec);
        Err(BackendError::not_found(format!("network {reference} not found")))
    }

    /// Takes a container off a network; with `force` also one that is gone by now.
    async fn network_disconnect(&self, reference: &str, container: &str, force: bool) -> Result<()> {
        let _ = (container, force);
        Err(BackendError::not_found(format!("network {reference} not found")))
    }

    /// All volumes.
    async fn volume_list(&self) -> Result<Vec<VolumeInfo>> {
        Err(BackendError::not_implemented("volumes are not implemented yet"))
    }

    /// Bytes of the files of every volume, by name. Walks them.
    async fn volume_sizes(&self) -> Result<BTreeMap<String, u64>> {
        Err(BackendError::not_implemented("volumes are not implemented yet"))
    }

    /// What the images take on disk.
    async fn image_usage(&self) -> Result<ImageUsage> {
        Err(BackendError::not_implemented("disk usage is not implemented yet"))
    }

    /// Makes a volume, or returns the one with this name.
    async fn volume_create(&self, request: VolumeRequest) -> Result<VolumeInfo> {
        let _ = request;
        Err(BackendError::not_implemented("volumes are not implemented yet"))
    }

    /// Removes a volume. `Conflict` when containers use it.
    async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        let _ = (name, force);
        Err(BackendError::not_implemented("volumes are not implemented yet"))
    }
}

/// Facts about the node and its engine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineInfo {
    /// The engine's own id, kept over restarts.
    pub id: String,
    /// Host name.
    pub name: String,
    /// Version of Muster.
    pub version: String,
    /// Commit that it was built from; may be empty.
    pub commit: String,
    /// Data directory.
    pub data_dir: String,
    /// Snapshot driver, for example `overlayfs`.
    pub storage_driver: String,
    /// Kernel release.
    pub kernel_version: String,
    /// Distribution, for the user.
    pub operating_system: String,
    /// Its version.
    pub os_version: String,
    /// Kernel's name of the architecture, for example `x86_64`.
    pub architecture: String,
    /// CPUs.
    pub cpus: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// The node's own labels.
    pub labels: Labels,
    /// Log driver of containers that name none.
    pub log_driver: String,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// `seccomp`, `apparmor`, `selinux`, `cgroupns`, …: what confinement is in force.
    pub security: Vec<String>,
    /// Cgroup controllers that are missing, and the like.
    pub warnings: Vec<String>,
    /// Swap can be limited.
    pub swap_limit: bool,
    /// Packets are forwarded (IPv4).
    pub ip_forwarding: bool,
    /// How registries are reached.
    pub registries: RegistryFacts,
    /// When the daemon started.
    pub started_at: Timestamp,
}

/// A container was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerCreated {
    /// Its id.
    pub id: ContainerId,
    /// For the user.
    pub warnings: Vec<String>,
}

/// How to stop a container; what is not given comes from the container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopOptions {
    /// Signal.
    pub signal: Option<String>,
    /// Wait until SIGKILL; `Duration::MAX` means for ever.
    pub grace: Option<Duration>,
}

/// How to remove a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoveOptions {
    /// Kill it first if it runs.
    pub force: bool,
    /// Remove its anonymous volumes too.
    pub volumes: bool,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    /// It does not run: at once, if it does not run now.
    #[default]
    NotRunning,
    /// Its next end, even if it does not run now.
    NextExit,
    /// Its removal. The result is that of its last run.
    Removed,
}

/// What was waited for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WaitResult {
    /// Exit code.
    pub exit_code: i32,
    /// Why it could not be waited for, or removed.
    pub error: Option<String>,
}

/// What the API will throw away anyway; an engine may ignore it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContainerFilterHint {
    /// Only running, frozen and restarting containers are wanted.
    pub running_only: bool,
    /// Sizes are wanted.
    pub size: bool,
}

/// Output of `ps` for a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessTable {
    /// Column titles.
    pub titles: Vec<String>,
    /// Rows with as many cells.
    pub processes: Vec<Vec<String>>,
}

/// A process to run in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecConfig {
    /// Path and arguments; never empty.
    pub command: Vec<String>,
    /// `KEY=value` entries beside the container's.
    pub env: Vec<String>,
    /// Working directory; the container's when empty.
    pub working_dir: String,
    /// `user[:group]`; the container's when empty.
    pub user: String,
    /// Terminal.
    pub tty: bool,
    /// All capabilities, no confinement.
    pub privileged: bool,
    /// Attach standard input.
    pub stdin: bool,
    /// Attach standard output.
    pub stdout: bool,
    /// Attach standard error.
    pub stderr: bool,
    /// Rows and columns of the terminal at start.
    pub size: Option<(u16, u16)>,
    /// Keys that detach, reported back only.
    pub detach_keys: String,
}

/// A process of `exec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecInfo {
    /// Its id.
    pub id: String,
    /// Its container.
    pub container: ContainerId,
    /// What was asked for.
    pub config: ExecConfig,
    /// Running now.
    pub running: bool,
    /// Exit code, once it ended.
    pub exit_code: Option<i32>,
    /// Process id in the host's pid namespace; 0 when it does not run.
    pub pid: i32,
}

/// An image that `load` found in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// Its name, where the archive has one.
    pub reference: Option<String>,
    /// Its id.
    pub id: String,
}

/// What `image_remove` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemovedImage {
    /// A name was taken away.
    Untagged(String),
    /// An image or layer was deleted.
    Deleted(String),
}

/// One step of an image's history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageLayer {
    /// Image id, for the newest step; else empty.
    pub id: String,
    /// When.
    pub created: Timestamp,
    /// How.
    pub created_by: String,
    /// Bytes unpacked.
    pub size_bytes: u64,
    /// For the user.
    pub comment: String,
    /// Names of the image, for the newest step.
    pub tags: Vec<String>,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeInfo {
    /// Name.
    pub name: String,
    /// Driver, `local`.
    pub driver: String,
    /// Path on the host.
    pub mountpoint: String,
    /// When it was made.
    pub created: Timestamp,
    /// Labels.
    pub labels: Labels,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Nobody named it.
    pub anonymous: bool,
}

/// What images take on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageUsage {
    /// Bytes of all layers, each counted once.
    pub layers_bytes: u64,
    /// Bytes of the layers that an image shares with others, by the image's id.
    pub shared_bytes: BTreeMap<String, u64>,
}

/// A volume to make.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeRequest {
    /// Name; a random one when empty.
    pub name: String,
    /// Driver; `local` when empty.
    pub driver: String,
    /// Labels.
    pub labels: Labels,
    /// Driver options.
    pub options: BTreeMap<String, String>,
}
