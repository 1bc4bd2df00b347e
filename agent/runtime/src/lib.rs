//! Runs Linux containers: namespaces, mounts, cgroups, capabilities, seccomp, and a tiny monitor per container.
//!
//! Must never: talk to the network, decide what runs, or trust a path inside a container's root file system.
//!
//! Start reading at [`Launcher`] (how a container starts), then `plan` (what the OCI spec becomes before the first
//! fork), `init` (what the container's first process does with it, without allocating) and `monitor` (the parent that
//! holds stdio, the log and the exit status across daemon restarts).

pub mod cgroup;
pub mod label;
pub mod seccomp;

mod bundle;
mod error;
mod exit;
mod init;
mod launch;
mod launcher;
mod log;
mod memory;
mod monitor;
mod oci;
mod plan;
mod start;
mod sys;
mod user;
mod user_namespace;

pub use bundle::{run_bundle, run_bundle_below, run_spec};
pub use error::{Result, RuntimeError, chain as describe};
pub use exit::{ExitStatus, MONITOR_LOST, read_exit_file};
pub use launcher::{LAUNCHER_SUBCOMMAND, Launcher, LauncherConfig, launcher_main};
pub use monitor::{
    AttachInput, AttachOutput, AttachRequest, AttachStream, ExecControl, ExecRequest, ExecSession, Monitor,
    Output, recover_lost,
};
pub use oci::{OCI_SUBCOMMAND, PROTECTED_SUBCOMMAND, oci_main, oci_protected_main};
pub use plan::SUBPATH_OPTION;
pub use start::{LogConfig, StartRequest, Started};
pub use user::{ResolvedUser, resolve_group_name, resolve_user};
pub use user_namespace::{Beside, MappedRange, UserNamespace, map_mount};
