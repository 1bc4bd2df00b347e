//! The local container engine, which `docker run` and tasks both use: containers, exec, logs, events, volumes.
//!
//! Must never: decide what the cluster wants, speak HTTP, or lose a running container because the daemon ended.
//!
//! Start reading at [`Engine`] (the operations in one list), then `phase` (a container's life), `start` and `ending`
//! (how it comes and goes), `open` (what is found after a restart) and `spec` (what the runtime is asked for).
//!
//! What must survive what: rows in redb (`store`) and the container's directory survive everything; facts about a run
//! (`start::RunFacts`) survive the daemon but not the host's boot; the monitor is the truth about what runs.

mod archive;
mod attach;
mod backoff;
mod build;
mod check;
mod clock;
mod commit;
mod commit_config;
mod config;
mod container;
mod copy_up;
mod create;
mod ending;
mod engine;
mod error;
mod events;
mod exec;
mod files;
mod given_files;
mod health;
mod host;
mod image_config;
mod image_ops;
mod joined;
mod layout;
mod local_options;
mod log_driver;
mod log_feed;
mod log_forward;
mod log_pack;
mod logs;
mod metrics;
mod mount_sources;
mod names;
mod neighbours;
mod network;
mod observe;
mod open;
mod orphans;
mod path_stat;
mod phase;
mod piece_writer;
mod propagation;
mod record;
mod remove;
mod rootfs_view;
mod signal;
mod spec;
mod start;
mod stop;
mod store;
mod top;
mod update;
mod user;
pub mod user_namespace;
mod volume_mounts;
mod volumes;
mod wait;
mod wanted_mounts;
mod working_dir;

pub use archive::{ArchiveStream, PutOptions};
pub use attach::{AttachSession, OutputChunk, OutputKind};
pub use build::{BaseImages, BuildOutput, BuildRequest, BuildStream, StepCache};
pub use commit::{CommitOptions, ImportOptions};
pub use config::{BridgeSettings, EngineConfig};
pub use engine::{Created, Engine, RemoveOptions, StopOptions};
pub use error::{Error, ErrorKind, Result};
pub use events::EventFeed;
pub use exec::{ExecConfig, ExecInfo};
pub use given_files::GivenFile;
pub use log_driver::check_log_driver;
pub use log_feed::LogSession;
pub use logs::{LogEntry, LogQuery, LogStreamKind};
pub use metrics::EngineMetrics;
pub use muster_images::{
    BuildStep, ChangeKind, FileChange, HistoryEntry, LoadedImage, RemovedEvent, StepPruning,
};
pub use muster_runtime::AttachRequest;
pub use network::{
    PlaceWish, SharedFailure, SharedFailures, SharedGuard, SharedMesh, SharedNetwork, SharedPlace,
    SharedPlaces, SharedPort, SubnetPool,
};
pub use observe::{ContainerStats, EngineFacts};
pub use path_stat::PathStat;
pub use top::ProcessTable;
pub use volumes::{Volume, VolumeSpec};
pub use wait::{WaitCondition, WaitResult};
