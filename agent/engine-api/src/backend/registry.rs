//! What the API needs of a client of registries.

use super::{BackendError, Result};
use async_trait::async_trait;
use futures::stream::BoxStream;
use muster_types::image::RegistryAuth;

/// Pulling, pushing and asking at registries.
///
/// A registry that cannot be reached gives [`ErrorKind::Unavailable`](super::ErrorKind::Unavailable) within seconds.
#[async_trait]
pub trait RegistryClient: Send + Sync + 'static {
    /// Begins a pull: returns once the registry gave the manifest. The pull goes on while its lines are read; a stream
    /// that is dropped ends it, and leaves nothing behind.
    async fn image_pull(&self, request: PullRequest) -> Result<ProgressStream> {
        let _ = request;
        Err(BackendError::not_implemented("this engine pulls no images"))
    }

    /// Begins a push, as [`RegistryClient::image_pull`]. `NotFound` when nothing here has the name.
    async fn image_push(&self, request: PushRequest) -> Result<ProgressStream> {
        let _ = request;
        Err(BackendError::not_implemented("this engine pushes no images"))
    }

    /// Checks who asks at a registry; returns what its token server gave in place of the password, if anything.
    async fn registry_login(&self, server: &str, auth: RegistryAuth) -> Result<Option<String>> {
        let _ = auth;
        Err(BackendError::not_implemented(format!(
            "this engine does not log in to {server}"
        )))
    }

    /// What a registry has under a name.
    async fn registry_inspect(&self, reference: &str, auth: RegistryAuth) -> Result<RemoteImage> {
        let _ = auth;
        Err(BackendError::not_implemented(format!(
            "this engine does not look {reference} up in a registry"
        )))
    }
}

/// How registries are reached, for those who ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryFacts {
    /// Networks whose registries need no verified TLS, in CIDR form.
    pub insecure_networks: Vec<String>,
    /// Other registries that need none.
    pub insecure_hosts: Vec<String>,
    /// URLs of Docker Hub's mirrors.
    pub hub_mirrors: Vec<String>,
}

/// What is to be pulled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullRequest {
    /// Name with tag or digest, or without either for all tags.
    pub reference: String,
    /// All tags of the repository.
    pub all_tags: bool,
    /// `os[/architecture[/variant]]`; this machine's when empty.
    pub platform: String,
    /// Who asks.
    pub auth: RegistryAuth,
}

/// What is to be pushed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushRequest {
    /// Name with a tag, or without one for all tags.
    pub reference: String,
    /// All tags of the repository.
    pub all_tags: bool,
    /// Who asks.
    pub auth: RegistryAuth,
}

/// One line of a pull or push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageProgress {
    /// A line about the whole.
    Status(String),
    /// A line with an id in front.
    Of {
        /// A tag or the beginning of a digest.
        id: String,
        /// What happens to it.
        status: String,
        /// Bytes done and to do.
        bytes: Option<(u64, u64)>,
    },
    /// A tag was pushed.
    Pushed {
        /// The tag.
        tag: String,
        /// Its manifest's digest.
        digest: String,
        /// The manifest's bytes.
        size: u64,
    },
}

/// Lines of a pull or push.
pub type ProgressStream = BoxStream<'static, Result<ImageProgress>>;

/// What a registry has under a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteImage {
    /// Media type of the manifest or index.
    pub media_type: String,
    /// Its digest.
    pub digest: String,
    /// Its bytes.
    pub size: u64,
    /// What it is for.
    pub platforms: Vec<RemotePlatform>,
}

/// A platform of a remote image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemotePlatform {
    /// `linux`.
    pub os: String,
    /// `amd64`.
    pub architecture: String,
    /// `v8` and the like.
    pub variant: Option<String>,
}
