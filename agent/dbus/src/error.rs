//! What can go wrong with a bus.

use std::io;

/// Why something was not said or not answered.
#[derive(Debug, thiserror::Error)]
pub enum DbusError {
    /// Nobody listens.
    #[error("cannot reach the message bus at {address}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The bus does not let this user in.
    #[error("the message bus at {address} refuses this user: {answer}")]
    Rejected {
        /// Where it is.
        address: String,
        /// What it said.
        answer: String,
    },
    /// The connection broke, or there was no answer in time.
    #[error("no answer from the message bus to {call}")]
    Lost {
        /// What was asked.
        call: String,
        /// Why.
        source: io::Error,
    },
    /// Something arrived that is no message.
    #[error("the message bus sent what is no message")]
    Malformed,
    /// The service answered with an error.
    #[error("{call}: {name}: {message}")]
    Failed {
        /// What was asked.
        call: String,
        /// The error's name, such as `org.freedesktop.DBus.Error.ServiceUnknown`.
        name: String,
        /// Its text.
        message: String,
    },
}

impl DbusError {
    /// Whether the service does not run: there is no bus, or nobody of that name on it.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Failed { name, .. } => [
                "org.freedesktop.DBus.Error.ServiceUnknown",
                "org.freedesktop.DBus.Error.NameHasNoOwner",
            ]
            .contains(&name.as_str()),
            Self::Rejected { .. } | Self::Lost { .. } | Self::Malformed => false,
        }
    }
}
