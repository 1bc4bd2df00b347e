//! Containers in lists.

use super::container::{Endpoint, MountPoint};
use super::is_default;
use muster_types::service::Labels;
use serde::Serialize;
use std::collections::BTreeMap;

/// An element of `list`. There may be thousands of them, so that they borrow what they tell.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ContainerSummary<'a> {
    pub id: &'a str,
    pub names: [String; 1],
    pub image: &'a str,
    #[serde(rename = "ImageID")]
    pub image_id: &'a str,
    pub command: String,
    pub created: i64,
    pub ports: Vec<Port>,
    #[serde(skip_serializing_if = "is_none_or_zero")]
    pub size_rw: Option<u64>,
    #[serde(skip_serializing_if = "is_none_or_zero")]
    pub size_root_fs: Option<u64>,
    pub labels: &'a Labels,
    pub state: &'static str,
    pub status: String,
    pub host_config: SummaryHost,
    pub network_settings: SummaryNetworks<'a>,
    pub mounts: Vec<MountPoint>,
}

fn is_none_or_zero(bytes: &Option<u64>) -> bool {
    bytes.unwrap_or(0) == 0
}

/// Host settings of an element of `list`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SummaryHost {
    pub network_mode: String,
}

/// Networks of an element of `list`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SummaryNetworks<'a> {
    pub networks: BTreeMap<&'a str, Endpoint>,
}

/// A port of an element of `list`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Port {
    #[serde(rename = "IP", skip_serializing_if = "is_default")]
    pub ip: String,
    pub private_port: u16,
    #[serde(skip_serializing_if = "is_default")]
    pub public_port: u16,
    pub r#type: String,
}
