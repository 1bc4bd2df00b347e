//! What can go wrong with control groups, in the words of the person who asked for a limit.

use std::io;
use std::path::PathBuf;

use super::Controller;

/// A control group could not be made, changed, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No usable control group file system was found.
    #[error(
        "no control groups are mounted: mount cgroup2 (or the v1 controllers) on /sys/fs/cgroup and try again"
    )]
    NotMounted,
    /// A control group file or directory could not be used.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried: "create", "write \"5\" to", …
        operation: String,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The group's path cannot be used.
    #[error("control group path {path:?} cannot be used: {reason}")]
    InvalidPath {
        /// The path as asked.
        path: String,
        /// Why it was refused.
        reason: &'static str,
    },
    /// The kernel lacks the controller that a limit needs, or it is not mounted.
    #[error(
        "{limit} needs the {controller} controller, which this node does not have: leave the limit out or enable the controller"
    )]
    MissingController {
        /// The controller.
        controller: Controller,
        /// The limit that needs it.
        limit: &'static str,
    },
    /// The kernel or control group version cannot express a limit.
    #[error("{limit} is not supported on this node: {reason}")]
    Unsupported {
        /// The limit as asked.
        limit: String,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// A limit's value makes no sense.
    #[error("{limit} cannot be {value}: {reason}")]
    InvalidLimit {
        /// The limit's name.
        limit: &'static str,
        /// The refused value.
        value: String,
        /// Why it was refused.
        reason: String,
    },
    /// The kernel refused a limit.
    #[error("cannot set {file} to {value:?} for {group}{hint}")]
    LimitRefused {
        /// The control file.
        file: String,
        /// The value as written.
        value: String,
        /// The group.
        group: String,
        /// What may help, empty or starting with ": ".
        hint: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A group of that name exists and holds processes.
    #[error("control group {path} already exists and holds {processes} processes")]
    InUse {
        /// The group.
        path: String,
        /// How many processes were seen in it.
        processes: usize,
    },
    /// The group's processes did not stop in time.
    #[error("the processes of control group {path} did not {action} within {waited_ms} ms")]
    TimedOut {
        /// The group.
        path: String,
        /// "freeze", "thaw" or "end".
        action: &'static str,
        /// How long was waited.
        waited_ms: u128,
    },
    /// A group that should hand controllers to groups below has processes of its own.
    #[error(
        "control group {} has processes, so it cannot hand controllers to groups below: \
         move them to a group of their own or choose another parent", path.display()
    )]
    HoldsProcesses {
        /// The group.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Nested deeper than this code is willing to follow.
    #[error("control group {path} holds groups nested deeper than {limit}")]
    TooDeep {
        /// The group.
        path: String,
        /// The bound.
        limit: usize,
    },
    /// A device rule cannot be used.
    #[error("device rule {rule:?} cannot be used: {reason}")]
    InvalidDeviceRule {
        /// The rule as given.
        rule: String,
        /// Why it was refused.
        reason: &'static str,
    },
    /// Device access cannot be restricted here, so nothing is started.
    #[error(
        "device access of {path} cannot be restricted: {reason}; the container is not started without its device rules"
    )]
    DevicesUnrestricted {
        /// The group.
        path: String,
        /// What was missing.
        reason: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl CgroupError {
    pub(super) fn io(
        operation: impl Into<String>,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        CgroupError::Io {
            operation: operation.into(),
            path: path.into(),
            source: source.into(),
        }
    }

    /// The kernel's error number, if one is behind this error.
    pub fn errno(&self) -> Option<i32> {
        match self {
            CgroupError::Io { source, .. }
            | CgroupError::HoldsProcesses { source, .. }
            | CgroupError::LimitRefused { source, .. }
            | CgroupError::DevicesUnrestricted { source, .. } => source.raw_os_error(),
            CgroupError::NotMounted
            | CgroupError::InvalidPath { .. }
            | CgroupError::MissingController { .. }
            | CgroupError::Unsupported { .. }
            | CgroupError::InvalidLimit { .. }
            | CgroupError::InUse { .. }
            | CgroupError::TimedOut { .. }
            | CgroupError::TooDeep { .. }
            | CgroupError::InvalidDeviceRule { .. } => None,
        }
    }
}

/// The result of a control group operation.
pub type Result<T> = std::result::Result<T, CgroupError>;
