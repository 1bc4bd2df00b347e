//! What the API needs of a node's builder of images.

use super::{BackendError, Result, UploadStream};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use muster_types::Timestamp;
use muster_types::container::HostConfig;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a build tells, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// Text for the user; may begin or end within a character.
    Text(Bytes),
    /// The id of the image.
    Image(String),
    /// It failed; nothing follows.
    Failed {
        /// For the user.
        message: String,
        /// What a step's command returned, where that is why.
        code: Option<i32>,
    },
}

/// What a build tells. Dropping it ends the build, and nothing of it is left.
pub type BuildStream = BoxStream<'static, BuildEvent>;

/// What to build, and how.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BuildRequest {
    /// Names of the image.
    pub tags: Vec<String>,
    /// Path of the Dockerfile in the context.
    pub dockerfile: String,
    /// The stage to build; the last one where `None`.
    pub target: Option<String>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Only steps of these images are taken from the cache, where some are named.
    pub cache_from: Vec<String>,
    /// Steps are not taken from the cache.
    pub no_cache: bool,
    /// Base images are fetched even if they are here.
    pub pull: bool,
    /// Remove a step's container when the step succeeded.
    pub remove: bool,
    /// Remove a step's container also when the step failed.
    pub force_remove: bool,
    /// `os[/architecture]` that is asked for; this machine's when empty.
    pub platform: String,
    /// Limits, network and the like of the steps' containers.
    pub host: HostConfig,
}

/// Where base images come from that are not on this node.
#[async_trait]
pub trait BaseImages: Send + Sync + 'static {
    /// Brings an image here, or the newest of its name. `NotFound` when nobody has it.
    async fn fetch(&self, name: &str) -> Result<()>;
}

/// A step of a build that can be used again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BuildCacheEntry {
    /// Its identity.
    pub id: String,
    /// The step, as a user reads it.
    pub description: String,
    /// A directory that steps mount, rather than what one made.
    pub is_mount: bool,
    /// An image that users see is made of it.
    pub is_used: bool,
    /// Its bytes are counted as an image's, too.
    pub is_shared: bool,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was made.
    pub created: Timestamp,
    /// When a build used it last.
    pub used: Timestamp,
    /// How often.
    pub uses: u64,
}

/// Which of them are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BuildPruning {
    /// Only those that no build used since.
    pub unused_since: Option<Timestamp>,
    /// Keep the newest ones up to this many bytes.
    pub keep_bytes: Option<u64>,
    /// Also directories that steps mount.
    pub all: bool,
}

/// The builder.
#[async_trait]
pub trait ImageBuilder: Send + Sync + 'static {
    /// Receives a context and builds it. Returns once the context is here and its Dockerfile is understood: `Invalid`
    /// where it is not.
    async fn image_build(
        &self,
        context: UploadStream,
        request: BuildRequest,
        bases: Arc<dyn BaseImages>,
    ) -> Result<BuildStream> {
        let _ = (context, request, bases);
        Err(BackendError::not_implemented("this engine builds no images"))
    }

    /// What builds can use again, the one used last first.
    async fn build_cache(&self) -> Result<Vec<BuildCacheEntry>> {
        Ok(Vec::new())
    }

    /// Removes it; returns what was removed, and how many bytes became free.
    async fn build_prune(&self, pruning: BuildPruning) -> Result<(Vec<String>, u64)> {
        let _ = pruning;
        Ok((Vec::new(), 0))
    }
}
