//! The operations of the Engine API: one table, and one file of handlers per kind of object.

mod archive;
mod builds;
mod commit;
mod container_filters;
mod containers;
mod events;
mod exec;
mod hijack;
mod images;
mod logs;
mod networks;
mod nodes;
mod operations;
mod plugins;
mod policies;
mod port_filter;
mod prune;
mod pull;
mod secrets;
mod services;
mod stats;
mod swarm;
mod system;
mod tasks;
mod volumes;
mod wait;
mod websocket;

pub(crate) use hijack::Takeover;
pub(crate) use operations::{Found, find};
