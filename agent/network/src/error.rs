//! Errors of the network's operations.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::namespace::NamespaceError;
use crate::netlink::NetlinkError;
use crate::spec::{InvalidSpec, Protocol};
use crate::sysctl::SysctlError;

/// Why a network operation failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The request makes no sense.
    #[error(transparent)]
    Invalid(#[from] InvalidSpec),
    /// The kernel refused a change of links, addresses or routes.
    #[error("cannot {operation} {subject}")]
    Link {
        /// What was tried.
        operation: &'static str,
        /// With what.
        subject: String,
        /// The kernel's answer.
        #[source]
        source: NetlinkError,
    },
    /// The kernel refused a change of the packet filter.
    #[error("cannot {operation} in the packet filter")]
    Firewall {
        /// What was tried.
        operation: &'static str,
        /// The kernel's answer.
        #[source]
        source: NetlinkError,
    },
    /// A name is taken by a link that is no bridge.
    #[error("{name} exists and is no bridge but a {kind}; choose another name or remove it")]
    NotABridge {
        /// The name.
        name: String,
        /// What it is.
        kind: String,
    },
    /// The bridge does not exist.
    #[error("there is no bridge {name}")]
    NoSuchBridge {
        /// Its name.
        name: String,
    },
    /// The overlay was not made on this node.
    #[error("overlay network {id} is not set up on this node")]
    NoSuchOverlay {
        /// Its id.
        id: String,
    },
    /// A link of the host that containers should get a share of does not exist.
    #[error("there is no network interface {name} on this host")]
    NoSuchParent {
        /// Its name.
        name: String,
    },
    /// The container has no such interface.
    #[error("the container has no network interface {name}")]
    NoSuchInterface {
        /// Its name.
        name: String,
    },
    /// The container's resolver could not be set up.
    #[error("cannot {operation} the resolver of a container")]
    Resolver {
        /// What was tried.
        operation: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The container has a sandbox already.
    #[error("container {container_id} has a network namespace already")]
    SandboxExists {
        /// The container.
        container_id: String,
    },
    /// The container has no sandbox.
    #[error("container {container_id} has no network namespace")]
    NoSandbox {
        /// The container.
        container_id: String,
    },
    /// A network namespace could not be made or entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A namespace could not be pinned or unpinned.
    #[error("cannot {operation} {}", path.display())]
    Pin {
        /// What was tried.
        operation: &'static str,
        /// The file that stands for the namespace.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A kernel parameter could not be set.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// Another container or process has the port.
    #[error("Bind for {} failed: port is already allocated", SocketAddr::new(*address, *port))]
    PortInUse {
        /// The host's address.
        address: IpAddr,
        /// The host's port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
    },
    /// The host's address cannot be used.
    #[error("cannot reserve port {port}/{protocol} on {address}")]
    PortUnavailable {
        /// The host's address.
        address: IpAddr,
        /// The host's port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Every port that the kernel gives out by itself is in use.
    #[error("no free {protocol} port on {address} from {first} to {last}")]
    NoFreePort {
        /// The host's address.
        address: IpAddr,
        /// The protocol.
        protocol: Protocol,
        /// Where the range begins.
        first: u16,
        /// Where the range ends.
        last: u16,
    },
    /// The operation's thread ended without an answer, as when the program shuts down.
    #[error("the network operation was interrupted")]
    Interrupted,
}

impl NetworkError {
    pub(crate) fn link(
        operation: &'static str,
        subject: impl Into<String>,
    ) -> impl FnOnce(NetlinkError) -> Self {
        let subject = subject.into();
        move |source| Self::Link {
            operation,
            subject,
            source,
        }
    }

    pub(crate) fn firewall(operation: &'static str) -> impl FnOnce(NetlinkError) -> Self {
        move |source| Self::Firewall { operation, source }
    }
}
