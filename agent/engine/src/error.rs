//! What can go wrong in the engine, in the words that Docker's users know.

use std::io;

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How a caller should treat an error; the Engine API maps it to a status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The named object does not exist.
    NotFound,
    /// The object's state forbids it.
    Conflict,
    /// The request is wrong.
    Invalid,
    /// It is not allowed.
    Forbidden,
    /// Nothing had to be done.
    NotModified,
    /// The engine stops, or waits for something that is away.
    Unavailable,
    /// It is not part of this engine.
    NotImplemented,
    /// The engine or its host failed.
    Internal,
}

/// An operation of the engine failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No container has this id, name or prefix.
    #[error("No such container: {reference}")]
    NoSuchContainer {
        /// What the caller named.
        reference: String,
    },
    /// A prefix fits several containers.
    #[error("Multiple IDs found with provided prefix: {prefix}")]
    AmbiguousPrefix {
        /// What the caller named.
        prefix: String,
    },
    /// The name is taken.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". \
         You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse {
        /// The name.
        name: String,
        /// Who has it.
        id: String,
    },
    /// The name breaks the rules.
    #[error("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// The configuration cannot be run.
    #[error("{problem}")]
    InvalidConfig {
        /// What is wrong with it.
        problem: String,
    },
    /// The container's state forbids the operation.
    #[error("{message}")]
    WrongState {
        /// Docker's sentence.
        message: String,
    },
    /// The container already is what the caller wants.
    #[error("{message}")]
    NotModified {
        /// Docker's sentence.
        message: String,
    },
    /// No such exec session.
    #[error("No such exec instance: {id}")]
    NoSuchExec {
        /// What the caller named.
        id: String,
    },
    /// A container has nothing at a path.
    #[error("Could not find the file {path} in container {container}")]
    NoSuchFile {
        /// The path.
        path: String,
        /// What the caller named.
        container: String,
    },
    /// No such network.
    #[error("network {name} not found")]
    NoSuchNetwork {
        /// What the caller named.
        name: String,
    },
    /// The network's name is taken.
    #[error("network with name {name} already exists")]
    NetworkExists {
        /// The name.
        name: String,
    },
    /// The container is not on the network.
    #[error("container {container} is not connected to the network {network}")]
    NotConnected {
        /// The container.
        container: String,
        /// The network.
        network: String,
    },
    /// There is no driver of that name.
    #[error("plugin {name:?} not found")]
    NoSuchPlugin {
        /// The driver.
        name: String,
    },
    /// The request makes sense, but is not allowed.
    #[error("{message}")]
    Forbidden {
        /// Docker's sentence.
        message: String,
    },
    /// Who decides is not in reach.
    #[error("{message}")]
    Unavailable {
        /// Docker's sentence.
        message: String,
    },
    /// A container's ports could not be published.
    #[error("driver failed programming external connectivity on endpoint {name} ({id})")]
    Endpoint {
        /// The container.
        name: String,
        /// The endpoint.
        id: String,
        /// Why.
        source: Box<muster_network::NetworkError>,
    },
    /// No such volume.
    #[error("get {name}: no such volume")]
    NoSuchVolume {
        /// What the caller named.
        name: String,
    },
    /// A volume is in use.
    #[error("remove {name}: volume is in use - [{users}]")]
    VolumeInUse {
        /// The volume.
        name: String,
        /// The ids of its containers.
        users: String,
    },
    /// The container could not be started; the code is what its run reports.
    #[error("{message}")]
    StartFailed {
        /// 125, 126 or 127, as Docker has it.
        code: i32,
        /// Docker's sentence.
        message: String,
        /// Whether the request is to blame rather than the host.
        invalid: bool,
    },
    /// No address of the network is free.
    #[error("no available addresses on network {network}; remove containers or choose a larger subnet")]
    AddressesExhausted {
        /// The network.
        network: String,
    },
    /// A step of a build failed.
    #[error("The command '{command}' returned a non-zero code: {code}")]
    StepFailed {
        /// What was run.
        command: String,
        /// What it returned.
        code: i32,
    },
    /// A build ended because nobody waits for it, or because another part of it failed.
    #[error("the build was cancelled")]
    BuildCancelled,
    /// A base image is not here, and could not be fetched.
    #[error("{message}")]
    NoBaseImage {
        /// For the user.
        message: String,
        /// Nobody has it.
        is_missing: bool,
    },
    /// The image store refused.
    #[error(transparent)]
    Image(Box<muster_images::Error>),
    /// The network refused.
    #[error(transparent)]
    Network(Box<muster_network::NetworkError>),
    /// The runtime refused.
    #[error(transparent)]
    Runtime(#[from] muster_runtime::RuntimeError),
    /// A control group operation failed.
    #[error("cannot {operation} the container")]
    Cgroup {
        /// What was attempted.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: Box<muster_runtime::cgroup::CgroupError>,
    },
    /// Containers cannot have other users here.
    #[error(
        "userns-remap cannot be used here: overlayfs has to take id-mapped layers, which needs Linux 6.15 or newer and a \
         data directory on a file system with id-mapped mounts (ext4, xfs, btrfs)"
    )]
    NoUserNamespaces {
        /// What was tried.
        #[source]
        source: Box<Error>,
    },
    /// A killed container does not end.
    #[error(
        "container {id} did not end within {seconds} s after SIGKILL: a process of it waits for the kernel"
    )]
    Unkillable {
        /// The container.
        id: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The metadata could not be read or written.
    #[error("engine metadata: {operation}")]
    Store {
        /// What was attempted.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: Box<redb::Error>,
    },
    /// A metadata row is damaged.
    #[error("engine metadata: the row {key} is damaged")]
    DamagedRow {
        /// Its key.
        key: String,
        /// Why it cannot be read.
        #[source]
        source: serde_json::Error,
    },
    /// A file operation failed.
    #[error("{operation}")]
    Io {
        /// What was attempted, with the path.
        operation: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// A log driver keeps nothing that could be read.
    #[error("configured logging driver does not support reading")]
    LogsUnreadable,
    /// A thing that this engine does not do.
    #[error("{what} is not supported")]
    NotSupported {
        /// What was asked for.
        what: String,
    },
}

impl Error {
    /// How a caller should treat it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchContainer { .. }
            | Self::NoSuchExec { .. }
            | Self::NoSuchVolume { .. }
            | Self::NoSuchFile { .. }
            | Self::NoSuchNetwork { .. }
            | Self::NoSuchPlugin { .. } => ErrorKind::NotFound,
            Self::NameInUse { .. }
            | Self::WrongState { .. }
            | Self::VolumeInUse { .. }
            | Self::NetworkExists { .. }
            // The container ended before its end is known here.
            | Self::Runtime(muster_runtime::RuntimeError::Gone) => ErrorKind::Conflict,
            Self::NoBaseImage { is_missing: true, .. } => ErrorKind::NotFound,
            Self::NoBaseImage { .. } | Self::BuildCancelled => ErrorKind::Unavailable,
            Self::StepFailed { .. } => ErrorKind::Internal,
            Self::Forbidden { .. } => ErrorKind::Forbidden,
            Self::AmbiguousPrefix { .. } | Self::InvalidName { .. } | Self::InvalidConfig { .. } => {
                ErrorKind::Invalid
            }
            Self::NotModified { .. } => ErrorKind::NotModified,
            Self::StartFailed { invalid: true, .. } => ErrorKind::Invalid,
            Self::Image(error) => image_kind(error),
            Self::ShuttingDown | Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::NotSupported { .. } | Self::LogsUnreadable => ErrorKind::NotImplemented,
            Self::StartFailed { .. }
            | Self::NotConnected { .. }
            | Self::AddressesExhausted { .. }
            | Self::Network(_)
            | Self::Endpoint { .. }
            | Self::Runtime(_)
            | Self::NoUserNamespaces { .. }
            | Self::Cgroup { .. }
            | Self::Unkillable { .. }
            | Self::Store { .. }
            | Self::DamagedRow { .. }
            | Self::Io { .. } => ErrorKind::Internal,
        }
    }

    /// Users' containers may not join a network of the cluster, in Swarm's words.
    pub fn not_attachable(network: &str) -> Self {
        Self::forbidden(format!(
            "Could not attach to network {network}: rpc error: code = PermissionDenied desc = network {network} not \
             manually attachable"
        ))
    }

    /// The message with every cause behind it, on one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// The same error of an instruction of a Dockerfile.
    pub(crate) fn of_step(self, name: &str) -> Self {
        match self {
            Self::InvalidConfig { problem } => Self::invalid(format!("{name} failed: {problem}")),
            other => other,
        }
    }

    /// The same error of a line of a Dockerfile.
    pub(crate) fn in_line(self, line: usize) -> Self {
        match self {
            Self::InvalidConfig { problem } if line > 0 && !problem.contains("parse error on line") => {
                Self::invalid(format!("{problem} (line {line} of the Dockerfile)"))
            }
            other => other,
        }
    }

    pub(crate) fn io(operation: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            operation: operation.into(),
            source,
        }
    }

    pub(crate) fn invalid(problem: impl Into<String>) -> Self {
        Self::InvalidConfig {
            problem: problem.into(),
        }
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::Forbidden {
            message: message.into(),
        }
    }

    pub(crate) fn not_supported(what: impl Into<String>) -> Self {
        Self::NotSupported { what: what.into() }
    }

    pub(crate) fn wrong_state(message: impl Into<String>) -> Self {
        Self::WrongState {
            message: message.into(),
        }
    }
}

impl From<muster_images::Error> for Error {
    fn from(error: muster_images::Error) -> Self {
        Self::Image(Box::new(error))
    }
}

impl From<muster_network::NetworkError> for Error {
    fn from(error: muster_network::NetworkError) -> Self {
        Self::Network(Box::new(error))
    }
}

fn image_kind(error: &muster_images::Error) -> ErrorKind {
    match error.kind() {
        muster_images::ErrorKind::NotFound => ErrorKind::NotFound,
        muster_images::ErrorKind::Conflict => ErrorKind::Conflict,
        muster_images::ErrorKind::Invalid => ErrorKind::Invalid,
        _ => ErrorKind::Internal,
    }
}
