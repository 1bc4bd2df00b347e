//! The one error type of both backends: a kind, which selects the HTTP status, and a text for the user.

/// Result of a backend's method.
pub type Result<T, E = BackendError> = std::result::Result<T, E>;

/// What went wrong, as far as a client must tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The object does not exist (404).
    NotFound,
    /// The object's state forbids it: a name in use, an image with containers (409).
    Conflict,
    /// The request is wrong (400).
    Invalid,
    /// Nobody who may do it (401).
    Unauthorized,
    /// Not allowed (403).
    Forbidden,
    /// Nothing to do: already started, already stopped (304, without a body).
    NotModified,
    /// Cannot be served now: no cluster, no leader, not a controller (503).
    Unavailable,
    /// Not built yet (501).
    NotImplemented,
    /// Everything else (500).
    Internal,
}

/// An error of a backend. The message is shown to the user as it is: what, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BackendError {
    /// Selects the status.
    pub kind: ErrorKind,
    /// For the user.
    pub message: String,
}

/// Docker's words for a cluster call on a node outside any cluster.
pub const NO_SWARM: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to \
     connect this node to swarm and try again.";
/// Docker's words for a cluster call on a worker.
pub const NOT_CONTROLLER: &str = "This node is not a swarm manager. Worker nodes can't be used to view or modify \
     cluster state. Please run this command on a manager node or promote the current node to a manager.";
/// Docker's words for a cluster without a leader.
pub const NO_LEADER: &str = "The swarm does not have a leader. It's possible that too few managers are online. Make \
     sure more than half of the managers are online.";
/// Docker's words for leaving when there is nothing to leave.
pub const NOT_PART: &str = "This node is not part of a swarm";
/// Docker's words for `init` or `join` on a member.
pub const ALREADY_MEMBER: &str = "This node is already part of a swarm. Use \"docker swarm leave\" to leave this \
     swarm and join another one.";

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {
        impl BackendError {
            $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self {
                Self { kind: ErrorKind::$kind, message: message.into() }
            })*
        }
    };
}

constructors! {
    /// The object does not exist.
    not_found => NotFound,
    /// The object's state forbids it.
    conflict => Conflict,
    /// The request is wrong.
    invalid => Invalid,
    /// Nobody who may do it.
    unauthorized => Unauthorized,
    /// Not allowed.
    forbidden => Forbidden,
    /// Nothing to do.
    not_modified => NotModified,
    /// Cannot be served now.
    unavailable => Unavailable,
    /// Not built yet.
    not_implemented => NotImplemented,
    /// Everything else.
    internal => Internal,
}

impl BackendError {
    /// This node is in no cluster.
    pub fn no_swarm() -> Self {
        Self::unavailable(NO_SWARM)
    }

    /// This node is a worker.
    pub fn not_controller() -> Self {
        Self::unavailable(NOT_CONTROLLER)
    }

    /// The cluster has no leader.
    pub fn no_leader() -> Self {
        Self::unavailable(NO_LEADER)
    }

    /// A stale `version` was given; Docker's clients look for this text, and its daemon gives it the status 500.
    pub fn out_of_sequence() -> Self {
        Self::internal("rpc error: code = Unknown desc = update out of sequence")
    }
}
