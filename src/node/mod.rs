//! This node's place in a cluster: its files, its certificate, and what runs because of it (cluster server, agent,
//! controller). Decisions about services and nodes are elsewhere; here they are only wired together.

pub mod address;
mod anew;
pub mod attach;
pub mod backend;
pub mod events;
mod failing_networks;
pub mod fetch;
pub mod files;
pub mod host;
mod join;
pub mod member;
pub mod networks;
mod own_writes;
mod refusals;
pub mod registry;
mod roles;
mod root;
mod routes;
mod server;
pub mod service;
#[cfg(test)]
mod service_rights;
pub mod spread;
mod task_container;
mod task_files;
mod task_image;
mod task_logs;
pub mod tasks;
mod templates;
mod upkeep;
mod views;

pub use host::NodeHost;
