//! Nodes.

use super::{ObjectVersion, is_default};
use muster_types::service::Labels;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the user wants of a node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct NodeSpec {
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    pub labels: Labels,
    pub role: String,
    pub availability: String,
}

/// A node in answers.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Node {
    #[serde(rename = "ID")]
    pub id: String,
    pub version: ObjectVersion,
    pub created_at: String,
    pub updated_at: String,
    pub spec: NodeSpec,
    pub description: Value,
    pub status: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manager_status: Option<ManagerStatus>,
}

/// A node's part in the Raft group.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ManagerStatus {
    #[serde(skip_serializing_if = "is_default")]
    pub leader: bool,
    pub reachability: &'static str,
    pub addr: String,
}
