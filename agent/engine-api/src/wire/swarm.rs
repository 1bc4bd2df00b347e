//! The cluster's object, and the bodies of `init`, `join` and `update`.

use super::{ObjectVersion, is_default};
use muster_types::service::Labels;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Body of `POST /swarm/init`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct InitBody {
    pub listen_addr: String,
    pub advertise_addr: String,
    pub data_path_addr: String,
    pub data_path_port: u32,
    pub force_new_cluster: bool,
    pub spec: Spec,
    pub auto_lock_managers: bool,
    pub availability: String,
    pub default_addr_pool: Vec<String>,
    pub subnet_size: u32,
}

/// Body of `POST /swarm/join`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct JoinBody {
    pub listen_addr: String,
    pub advertise_addr: String,
    pub data_path_addr: String,
    pub remote_addrs: Vec<String>,
    pub join_token: String,
    pub availability: String,
}

/// Cluster settings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Spec {
    pub name: String,
    pub labels: Labels,
    pub orchestration: Orchestration,
    pub raft: Raft,
    pub dispatcher: Dispatcher,
    #[serde(rename = "CAConfig")]
    pub ca_config: CaConfig,
    pub task_defaults: TaskDefaults,
    pub encryption_config: EncryptionConfig,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Orchestration {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_history_retention_limit: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Raft {
    #[serde(skip_serializing_if = "is_default")]
    pub snapshot_interval: u64,
    pub keep_old_snapshots: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub log_entries_for_slow_followers: u64,
    pub election_tick: i64,
    pub heartbeat_tick: i64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Dispatcher {
    #[serde(skip_serializing_if = "is_default")]
    pub heartbeat_period: i64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct CaConfig {
    #[serde(skip_serializing_if = "is_default")]
    pub node_cert_expiry: i64,
    #[serde(rename = "ExternalCAs", skip_serializing_if = "is_default")]
    pub external_cas: Vec<Value>,
    #[serde(rename = "SigningCACert", skip_serializing_if = "is_default")]
    pub signing_ca_cert: String,
    #[serde(rename = "SigningCAKey", skip_serializing_if = "is_default")]
    pub signing_ca_key: String,
    #[serde(skip_serializing_if = "is_default")]
    pub force_rotate: u64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct TaskDefaults {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_driver: Option<super::mount::Driver>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct EncryptionConfig {
    pub auto_lock_managers: bool,
}

/// The cluster's object without its tokens, as `GET /info` shows it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ClusterInfo {
    #[serde(rename = "ID")]
    pub id: String,
    pub version: ObjectVersion,
    pub created_at: String,
    pub updated_at: String,
    pub spec: Spec,
    #[serde(rename = "TLSInfo")]
    pub tls_info: Value,
    pub root_rotation_in_progress: bool,
    pub default_addr_pool: Vec<String>,
    pub subnet_size: u32,
    pub data_path_port: u32,
}

/// Answer of `GET /swarm`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Swarm {
    #[serde(flatten)]
    pub info: ClusterInfo,
    #[serde(rename = "JoinTokens")]
    pub join_tokens: JoinTokens,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct JoinTokens {
    pub worker: String,
    pub manager: String,
}
