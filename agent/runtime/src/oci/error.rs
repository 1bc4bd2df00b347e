//! Why a command of the OCI runtime failed, in the words that its callers look for.

use std::io;

use crate::error::RuntimeError;

/// A failed command. `containerd` and `podman` tell some of these apart by their text, which is runc's.
#[derive(Debug, thiserror::Error)]
pub(super) enum OciError {
    /// The command line is wrong.
    #[error("{problem}; see docs/oci-runtime.md for what there is")]
    Usage { problem: String },
    /// Something is not supported.
    #[error("{what} is not supported: {instead}")]
    Unsupported {
        what: &'static str,
        instead: &'static str,
    },
    /// There is no container of this name.
    #[error("container {id:?}: container does not exist")]
    NotExist { id: String },
    /// There is one already.
    #[error("container with given ID already exists: {id}")]
    Exists { id: String },
    /// It has ended.
    #[error("container not running")]
    NotRunning,
    /// Its state does not allow this.
    #[error("cannot {operation} container {id} that is not {wanted}: {status}")]
    WrongState {
        operation: &'static str,
        id: String,
        wanted: &'static str,
        status: &'static str,
    },
    /// A hook failed.
    #[error("error running {kind} hook #{number} ({path}): {problem}")]
    Hook {
        kind: &'static str,
        number: usize,
        path: String,
        problem: String,
    },
    /// The runtime itself failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A file or system operation failed.
    #[error("cannot {operation}")]
    Io {
        operation: String,
        #[source]
        source: io::Error,
    },
}

/// Result of a command.
pub(super) type Result<T, E = OciError> = std::result::Result<T, E>;

impl OciError {
    pub(super) fn usage(problem: impl Into<String>) -> OciError {
        OciError::Usage {
            problem: problem.into(),
        }
    }

    pub(super) fn io(operation: impl Into<String>, source: impl Into<io::Error>) -> OciError {
        OciError::Io {
            operation: operation.into(),
            source: source.into(),
        }
    }
}

impl From<OciError> for RuntimeError {
    fn from(error: OciError) -> RuntimeError {
        match error {
            OciError::Runtime(error) => error,
            error => RuntimeError::Refused {
                message: crate::error::chain(&error),
            },
        }
    }
}
