//! Tasks in answers.

use super::ObjectVersion;
use super::service::TaskSpec;
use muster_types::service::Labels;
use serde::Serialize;
use serde_json::Value;

/// A task.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Task {
    #[serde(rename = "ID")]
    pub id: String,
    pub version: ObjectVersion,
    pub created_at: String,
    pub updated_at: String,
    pub labels: Labels,
    pub spec: TaskSpec,
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<u64>,
    #[serde(rename = "NodeID", skip_serializing_if = "super::is_default")]
    pub node_id: String,
    pub status: Value,
    pub desired_state: &'static str,
    #[serde(skip_serializing_if = "super::is_default")]
    pub networks_attachments: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_iteration: Option<ObjectVersion>,
}
