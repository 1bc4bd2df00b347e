//! The whole server on a unix socket, over an engine and a cluster that live in memory: driven by raw requests and by
//! the real docker CLI.

mod attach;
mod cli;
mod client;
mod cluster;
mod engine;
mod overlay_cli;
mod registry;
mod requests;
mod secret_cli;
mod swarm_cli;
