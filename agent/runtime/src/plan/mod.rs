//! What an OCI specification becomes before anything is forked: steps with every string, path and number prepared.
//!
//! The daemon makes a plan, the monitor decodes it, and the container's first process carries it out without allocating.

mod console;
mod container;
mod extras;
mod ids;
mod mounts;
mod namespaces;
mod process;

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::path::PathBuf;

use crate::cgroup::CgroupRoot;
use crate::error::{Result, RuntimeError};
use crate::launch::AgentPlan;
use crate::monitor::ExecRequest;
use crate::start::LogConfig;

pub(crate) use console::size_of as console_size;
pub(crate) use container::{ContainerOptions, container_plan};
pub(crate) use extras::{ProcessExtras, SchedulerPlan};
pub(crate) use ids::IdMaps;
pub use mounts::SUBPATH_OPTION;
pub(crate) use mounts::open_source;
pub(crate) use process::{CAPABILITIES, CapabilityPlan, LabelPlan, ProcessPlan};

/// A container to start, as the monitor gets it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ContainerPlan {
    pub id: String,
    pub state_dir: PathBuf,
    pub exit_file: Option<PathBuf>,
    pub log: Option<LogConfig>,
    pub stdin_open: bool,
    pub stdin_once: bool,
    pub init: bool,
    pub hold: bool,
    pub console_size: Option<(u16, u16)>,
    pub cgroup: Option<CgroupPlan>,
    pub sandbox: SandboxPlan,
    pub process: ProcessPlan,
    pub extras: ProcessExtras,
    /// Whom the filter asks.
    pub agent: Option<AgentPlan>,
}

/// The control group to make.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CgroupPlan {
    pub root: CgroupRoot,
    pub path: String,
    /// `LinuxResources` as JSON: its serde form skips absent fields, which the plan's encoding cannot express.
    pub resources: Vec<u8>,
}

impl CgroupPlan {
    /// The limits, and the devices that every container may use.
    pub fn resources(&self) -> Result<LinuxResources> {
        serde_json::from_slice(&self.resources)
            .map_err(|error| RuntimeError::io("read the resources of the plan", error))
    }
}

/// The namespaces, and the file system as the container sees it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SandboxPlan {
    /// `CLONE_NEW…` of the namespaces to make.
    pub new_namespaces: u64,
    /// The mount namespace is the host's or another container's: the root file system is attached in it, and entered
    /// by this process alone.
    pub shares_mounts: bool,
    pub group_view: GroupView,
    /// The users and groups of a new user namespace.
    pub ids: Option<IdMaps>,
    /// The clocks of a new time namespace, as `/proc/self/timens_offsets` takes them; empty where none differs.
    pub clock_offsets: Option<CString>,
    /// Namespaces to join: a path and its `CLONE_NEW…`.
    pub joined: Vec<(PathBuf, u64)>,
    /// The root file system to bind; `None` when the engine hands over a detached mount.
    pub root_source: Option<PathBuf>,
    /// An existing directory of the host where the root file system is attached, in the container's mount namespace.
    pub attach_point: CString,
    pub root_readonly: bool,
    pub root_propagation: Option<u64>,
    /// Sources of bind mounts on the host; [`Step::Bind`] counts into them.
    pub binds: Vec<BindSource>,
    /// What is done before the process is in its control group's namespace.
    pub steps: Vec<Step>,
    /// What is done after.
    pub late_steps: Vec<Step>,
    pub host_name: Option<CString>,
    pub domain_name: Option<CString>,
    /// Files below /proc/sys and their values.
    pub sysctls: Vec<(CString, CString)>,
    /// Stop before the root file system is entered, until the parent has run hooks.
    pub waits_for_hooks: bool,
}

/// Which control groups the container sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum GroupView {
    /// Those of the host, or of the namespace that it joins.
    Shared,
    /// Those of the host; what is mounted in the container shows only its own.
    MountedOwn,
    /// Its own in a new namespace, which is made once the process is in its group.
    Namespace,
}

/// A file or directory of the host to be seen in the container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BindSource {
    pub path: PathBuf,
    /// The part of it that is bound, resolved below it.
    #[serde(default)]
    pub subpath: Option<PathBuf>,
    pub recursive: bool,
    pub attributes: Attributes,
    /// Those that go for mounts below too.
    pub recursive_attributes: Attributes,
    /// Shows the files as owned by other users and groups.
    pub ids: Option<BindIds>,
}

impl BindSource {
    /// Nobody may bind it again: that is only said of it where it stays.
    pub(crate) fn is_unbindable(&self) -> bool {
        self.attributes.propagation & libc::MS_UNBINDABLE != 0
    }
}

/// Whose files those of a bind mount appear to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BindIds {
    /// The maps: ids of the file system inside, what they are seen as outside.
    pub maps: IdMaps,
    /// Whether they go for mounts below too.
    pub recursive: bool,
}

/// Mount attributes to set and clear, and the propagation (0 leaves it).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attributes {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
}

/// A path in the container; it is resolved with the container's root as `/` and never leaves it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    /// Relative to the root.
    pub path: CString,
    /// Directories to make when the path does not exist: each one's parent and name.
    pub parents: Vec<(CString, CString)>,
    /// The parent and name of the last component.
    pub last: (CString, CString),
    pub is_file: bool,
    /// Refuse symbolic links on the way: for /proc and /sys, which nothing may redirect.
    pub strict: bool,
}

/// One step towards the container's file system.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Mounts a new file system.
    Mount {
        target: Target,
        kind: CString,
        source: CString,
        options: Vec<(CString, Option<CString>)>,
        attributes: u64,
        propagation: u64,
        /// The SELinux label of its root, where the file system has no option for one.
        label: Option<CString>,
        /// Fill it with what lies where it is attached.
        copy_up: bool,
    },
    /// Attaches a bind source.
    Bind { target: Target, source: usize },
    /// Makes a device node.
    Device {
        target: Target,
        mode: u32,
        device: u64,
        uid: u32,
        gid: u32,
    },
    /// Makes a symbolic link.
    Link { target: Target, to: CString },
    /// Hides a path; `magic` is the file system that it must be on.
    Mask { path: CString, magic: Option<i64> },
    /// Makes a path read-only; `magic` is the file system that it must be on.
    ReadOnly { path: CString, magic: Option<i64> },
    /// Makes a mount of the container read-only, without those below it.
    Seal { path: CString },
    /// Makes a missing directory.
    Directory { target: Target },
}

impl Step {
    /// Whether it may have to happen in the container's network namespace.
    pub(crate) fn may_need_network(&self) -> bool {
        const WITHOUT: [&[u8]; 4] = [b"proc", b"tmpfs", b"devpts", b"mqueue"];
        match self {
            Step::Mount { kind, .. } => !WITHOUT.contains(&kind.to_bytes()),
            Step::Bind { .. }
            | Step::Device { .. }
            | Step::Link { .. }
            | Step::Mask { .. }
            | Step::ReadOnly { .. }
            | Step::Seal { .. }
            | Step::Directory { .. } => false,
        }
    }
}

/// A process to start in a running container, as the monitor gets it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExecPlan {
    pub process: ProcessPlan,
    pub console_size: Option<(u16, u16)>,
    pub stdin_open: bool,
    pub output: bool,
    /// The engine asks for none of these, and an older monitor would not know them.
    #[serde(skip)]
    pub extras: ProcessExtras,
}

impl ExecPlan {
    pub(crate) fn new(request: &ExecRequest) -> Result<ExecPlan> {
        let mut process = ProcessPlan::new(&request.process, None)?;
        process.terminal = request.terminal;
        Ok(ExecPlan {
            process,
            console_size: request
                .console_size
                .or_else(|| console::size_of(&request.process)),
            stdin_open: request.stdin_open,
            output: request.output,
            extras: ProcessExtras::default(),
        })
    }
}

/// A string without zero bytes, as the kernel wants it.
pub(crate) fn c_string(text: impl Into<Vec<u8>>, what: &str) -> Result<CString> {
    CString::new(text).map_err(|_| RuntimeError::spec(format!("{what} contains a zero byte")))
}
