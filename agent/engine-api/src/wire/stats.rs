//! `GET /containers/{id}/stats`.

use super::is_default;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// One reading, with the one before it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stats {
    pub name: String,
    pub id: String,
    pub read: String,
    pub preread: String,
    pub pids_stats: Value,
    pub blkio_stats: Value,
    pub num_procs: u32,
    pub storage_stats: Value,
    pub cpu_stats: Value,
    pub precpu_stats: Value,
    pub memory_stats: Value,
    #[serde(skip_serializing_if = "is_default")]
    pub networks: BTreeMap<String, Value>,
}
