//! The replicated brain of the cluster.
//!
//! [`core`] is synchronous and deterministic: Raft node, proposer, leadership scope with reconcile loop, leases,
//! dispatcher and membership. The shell around it owns one thread for the core, the sockets and the certificates.
//! Decisions about services and placement live in muster-orchestration, never here. Start reading at
//! [`core::Controller`].

pub mod authority;
pub mod authorize;
pub mod control;
pub use muster_orchestration::networks;
pub mod core;
pub mod leases;
pub mod membership;
pub mod metrics;
pub mod opening;
mod pace;
#[cfg(test)]
mod sample;
pub mod shell;
