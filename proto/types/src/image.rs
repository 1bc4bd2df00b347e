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
    /// What a build on it does first.
    pub on_build: Vec<String>,
    /// What runs commands of a build that are no lists; empty for `/bin/sh -c`.
    pub shell: Vec<String>,
    /// The comment of its last step.
    pub comment: String,
    /// The image that it was made on, where that is here, too.
    pub parent: String,
    /// The container that it was made from; empty where it does not say.
    pub container: String,
    /// What that container was, as Docker's `Config`.
    pub container_config: Option<serde_json::Value>,
    /// Where its layers lie, when one image is asked for.
    pub directories: Option<OverlayDirectories>,
}

/// The directories of the host that a file system is stacked of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OverlayDirectories {
    /// The layers below, topmost first.
    pub lower: Vec<String>,
    /// What is on top of them: what a container wrote, or an image's last layer.
    pub upper: String,
    /// Overlayfs's own; empty for an image.
    pub work: String,
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
