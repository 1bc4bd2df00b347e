//! The Docker Engine API over HTTP: routes, conversions, version negotiation, hijacked streams.
//!
//! It must never decide anything about containers or the cluster: handlers convert and call the traits in
//! [`backend`], which it owns and others implement. Docker's names (`manager`, `swarm`) become Muster's words only in
//! `convert`. Start reading at [`backend`], then `routes/operations.rs`, the table of everything that the API has.

pub mod backend;
mod convert;
mod http;
mod routes;
mod server;
mod wire;

pub use backend::{BackendError, Backends, ClusterBackend, ErrorKind, LocalEngine};
pub use server::{Listen, ListenError, Server, ServerConfig, serve};
