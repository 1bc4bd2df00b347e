//! Errors of the runtime, as the engine sees them.

use std::io;

/// What can go wrong with a container.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The specification asks for something invalid or unsupported.
    #[error("invalid container specification: {problem}")]
    Spec { problem: String },
    /// The container or the exec'ed process could not be started.
    #[error("{message}")]
    Start {
        /// A message as the engine shows it to the user.
        message: String,
        /// The exit code that the engine reports: 127 not found, 126 not executable, 128 anything else.
        code: i32,
    },
    /// The monitor refused a request.
    #[error("{message}")]
    Refused { message: String },
    /// No monitor serves this container: it ended, or the machine rebooted.
    #[error("the container has no monitor: it is not running")]
    Gone,
    /// The monitor or the launcher sent something that is not understood.
    #[error("unexpected answer from the container's monitor: {problem}")]
    Protocol { problem: String },
    /// A file, socket or process operation failed.
    #[error("cannot {operation}")]
    Io {
        operation: String,
        #[source]
        source: io::Error,
    },
    /// A control group operation failed.
    #[error("cannot {operation} the container's control group")]
    Cgroup {
        operation: &'static str,
        #[source]
        source: Box<crate::cgroup::CgroupError>,
    },
}

/// Result of a runtime operation.
pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

impl RuntimeError {
    pub(crate) fn io(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        RuntimeError::Io {
            operation: operation.into(),
            source: source.into(),
        }
    }

    pub(crate) fn cgroup(operation: &'static str, source: crate::cgroup::CgroupError) -> Self {
        RuntimeError::Cgroup {
            operation,
            source: Box::new(source),
        }
    }

    pub(crate) fn spec(problem: impl Into<String>) -> Self {
        RuntimeError::Spec {
            problem: problem.into(),
        }
    }

    pub(crate) fn protocol(problem: impl Into<String>) -> Self {
        RuntimeError::Protocol {
            problem: problem.into(),
        }
    }
}

/// Renders an error with everything that caused it, for messages to users and across process boundaries.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
