//! The Engine API's JSON, one file per object. Enumerations are plain strings here: clients send `""` for what they
//! leave out, and `convert` decides what a text means.
//!
//! Requests never hold `null`: it is taken out before they are read.

pub(crate) mod container;
pub(crate) mod container_list;
pub(crate) mod exec;
pub(crate) mod file;
pub(crate) mod image;
pub(crate) mod info;
pub(crate) mod mount;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod service;
pub(crate) mod service_container;
pub(crate) mod stats;
pub(crate) mod strict;
pub(crate) mod swarm;
pub(crate) mod task;
pub(crate) mod volume;

use serde::{Deserialize, Serialize};

/// `Version` of a cluster object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct ObjectVersion {
    pub index: u64,
}

/// Whether a field has its default and is left out, as Go's `omitempty` does.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
