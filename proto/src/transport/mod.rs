//! Mutual TLS 1.3 between the nodes of a cluster: who a peer is comes from its certificate, never from what it says.

mod client;
mod identity;
mod server;
mod trust;

pub use client::{Dialer, dial_unverified};
pub use identity::{
    CertificateError, Identity, NodeCertificate, PeerIdentity, SAN_CONTROLLER, SAN_NODE, issuer_of,
    root_digest,
};
pub use server::{TlsConnection, accept_tls};
pub use trust::verify_controller;

use std::time::Duration;

/// A peer that has not finished its handshake by then is dropped.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Most connections of one listener; a cluster of a thousand nodes keeps a few each.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Time for a TCP connection to a peer.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
