//! Wire types and services between the nodes of a cluster, generated from the `.proto` files at build time, and the
//! encoding of domain types inside them.
//!
//! RPC envelopes are protobuf; the domain objects within are MessagePack with field names, so that a field can be
//! added with a default and an older peer ignores it. This crate must hold no logic beyond encoding.

pub mod pack;
pub mod transport;

/// Raft messages and snapshot data between controllers.
#[allow(missing_docs, clippy::large_enum_variant)]
pub mod raft {
    tonic::include_proto!("muster.raft.v1");
}

/// Forwarded writes between controllers.
#[allow(missing_docs)]
pub mod control {
    tonic::include_proto!("muster.control.v1");
}

/// Sessions between agents and the leader.
#[allow(missing_docs)]
pub mod dispatcher {
    tonic::include_proto!("muster.dispatcher.v1");
}

/// The certificate authority.
#[allow(missing_docs)]
pub mod ca {
    tonic::include_proto!("muster.ca.v1");
}

/// Services between any two nodes.
#[allow(missing_docs)]
pub mod node {
    tonic::include_proto!("muster.node.v1");
}
