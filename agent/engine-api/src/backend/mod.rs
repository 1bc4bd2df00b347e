//! The traits behind the routes: the local engine and the cluster. The API owns them; the engine and the daemon
//! implement them.
//!
//! All methods speak the domain's vocabulary (`muster-types`); names of the Engine API stay in `wire` and `convert`.

mod builds;
mod cluster;
mod engine;
mod error;
mod files;
mod registry;
mod resolve;
mod stats;
mod stream;

pub use builds::{
    BaseImages, BuildCacheEntry, BuildEvent, BuildPruning, BuildRequest, BuildStream, ImageBuilder,
};
pub use cluster::{
    ClusterBackend, ClusterUpdate, ControllerReach, ControllerView, InitRequest, JoinRequest, LocalSwarm,
    LocalSwarmState, LogSelection, NodeView, Place, RemoteController, ServiceChange, ServiceCreated,
    ServiceView, TaskCounts, TaskSelection, TaskView, TokenRotation, TraceStep,
};
pub use engine::{
    ContainerCreated, ContainerFilterHint, EngineInfo, ExecConfig, ExecInfo, ImageLayer, ImageUsage,
    LoadedImage, LocalEngine, ProcessTable, RemoveOptions, RemovedImage, StopOptions, VolumeInfo,
    VolumeRequest, WaitCondition, WaitResult,
};
pub use error::{
    ALREADY_MEMBER, BackendError, ErrorKind, NO_LEADER, NO_SWARM, NOT_CONTROLLER, NOT_PART, Result,
};
pub use files::{
    ArchiveStream, ChangeKind, CommitRequest, ContainerFiles, FileChange, ImportRequest, PathStat, PutOptions,
};
pub use registry::{
    ImageProgress, ProgressStream, PullRequest, PushRequest, RegistryClient, RegistryFacts, RemoteImage,
    RemotePlatform,
};
pub use resolve::{Candidate, resolve};
pub use stats::{BlockCount, ContainerStats, CpuStats, InterfaceStats, MemoryStats, PidsStats};
pub use stream::{
    AttachOptions, AttachSession, EventStream, InputStream, LogEntry, LogOptions, LogSession, LogStream,
    OutputChunk, OutputStream, StreamKind, TaskLogEntry, TaskLogStream, UploadStream,
};

use std::sync::Arc;

/// Everything that the API talks to.
#[derive(Clone)]
pub struct Backends {
    /// This node's containers and images.
    pub engine: Arc<dyn LocalEngine>,
    /// The cluster, as seen from this node.
    pub cluster: Arc<dyn ClusterBackend>,
}
