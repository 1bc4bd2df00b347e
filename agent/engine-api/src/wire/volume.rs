//! Volumes.

use muster_types::service::Labels;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Body of `POST /volumes/create`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct CreateBody {
    pub name: String,
    pub driver: String,
    pub driver_opts: BTreeMap<String, String>,
    pub labels: Labels,
    pub cluster_volume_spec: Option<serde_json::Value>,
}

/// A volume in answers.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Volume {
    pub name: String,
    pub driver: String,
    pub mountpoint: String,
    pub created_at: String,
    pub labels: Option<Labels>,
    pub scope: &'static str,
    pub options: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_data: Option<UsageData>,
}

/// What a volume takes.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct UsageData {
    pub size: i64,
    pub ref_count: usize,
}
