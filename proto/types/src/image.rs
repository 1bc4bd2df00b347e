//! What the engine says of an image.

use crate::Timestamp;
use crate::container::HealthCheck;
use crate::service::Labels;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// An image of the local store.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSummary {
    /// `sha256:…`, the digest of its configuration.
    pub id: String,
    /// `name:tag` references, familiar form.
    pub repo_tags: Vec<String>,
    /// `name@sha256:…` references.
    pub repo_digests: Vec<String>,
    /// When it was built.
    pub created: Timestamp,
    /// Bytes of its unpacked layers.
    pub size_bytes: u64,
    /// Architecture.
    pub architecture: String,
    /// Operating system.
    pub os: String,
    /// Author.
    pub author: String,
    /// Digests of the uncompressed layers, lowest first.
    pub layers: Vec<String>,
    /// What its containers run by default.
    pub config: ImageConfig,
}

/// Who asks a registry, as clients encode it; empty for nobody. It is never printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RegistryAuth(pub String);

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "nobody" } else { "(redacted)" })
    }
}

/// Defaults that an image gives its containers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `user[:group]`.
    pub user: String,
    /// `KEY=value` entries.
    pub env: Vec<String>,
    /// Entrypoint.
    pub entrypoint: Vec<String>,
    /// Command.
    pub cmd: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// Labels.
    pub labels: Labels,
    /// `port/protocol` entries.
    pub exposed_ports: Vec<String>,
    /// Volume paths.
    pub volumes: Vec<String>,
    /// Stop signal.
    pub stop_signal: Option<String>,
    /// Stop grace, where the image names one.
    pub stop_grace: Option<Duration>,
    /// Health check.
    pub health: Option<HealthCheck>,
}
