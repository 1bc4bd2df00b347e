//! What the engine asks for when it starts a container.

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::monitor::Monitor;

/// Where a container's output goes: Docker's json-file format, rotated by size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// The current file; older ones are `path.1`, `path.2` and so on.
    pub path: PathBuf,
    /// The size at which the file is rotated; `None` never rotates.
    pub max_bytes: Option<u64>,
    /// How many files are kept, the current one included; at least 1.
    pub max_files: u32,
    /// What is written with every line; nothing when empty.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// A container to start.
#[derive(Debug)]
pub struct StartRequest {
    /// The container's id, used in messages.
    pub id: String,
    /// The container, as an OCI runtime specification with numeric users.
    pub spec: Spec,
    /// The existing run directory of this container: the monitor's socket and record.
    pub state_dir: PathBuf,
    /// The exit status is recorded here; it survives a reboot.
    pub exit_file: PathBuf,
    /// The output log; `None` drops output that nobody is attached to.
    pub log: Option<LogConfig>,
    /// Keeps standard input open for attached clients; else it is /dev/null.
    pub stdin_open: bool,
    /// Closes standard input when the first client that is attached to it closes its side.
    pub stdin_once: bool,
    /// Runs the process below a tiny init that reaps orphans and passes signals on.
    pub init: bool,
    /// A detached mount to use as root file system; else `spec.root.path` is bound.
    pub rootfs: Option<OwnedFd>,
    /// The network namespace to join; else as the specification says.
    pub netns: Option<OwnedFd>,
    /// The control group's path below the launcher's root.
    pub cgroup_path: String,
    /// The terminal's first size: rows, columns.
    pub console_size: Option<(u16, u16)>,
    /// Stops just before exec, until [`Monitor::release`].
    pub hold: bool,
}

/// A container that runs (or is held just before exec).
#[derive(Debug)]
pub struct Started {
    /// The process id of the container's init, as the host sees it.
    pub pid: i32,
    /// When it started, in nanoseconds since 1970.
    pub started_at_ns: i128,
    /// The handle to its monitor.
    pub monitor: Monitor,
}
