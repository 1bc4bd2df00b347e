//! What the API needs of a container's files and of images that are made of them.

use super::{BackendError, Result, UploadStream};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use muster_types::Timestamp;

/// A tar archive on its way; an error in it ends it.
pub type ArchiveStream = BoxStream<'static, std::io::Result<Bytes>>;

/// What is at a path of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PathStat {
    /// Last name of the path.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Kind and permissions as the bits of Go's `os.FileMode`, which Docker's clients read.
    pub go_mode: u32,
    /// When it was modified.
    pub modified: Timestamp,
    /// Where a symbolic link leads to in the end; empty for everything else.
    pub link_target: String,
}

/// How an archive is put into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PutOptions {
    /// Refuse to replace a directory by something else, and something else by a directory.
    pub keep_kinds: bool,
    /// Everything belongs to the container's user.
    pub own_by_user: bool,
}

/// How a path of a container changed against its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Something in it or of it.
    Modified,
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
}

/// One changed path of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// Absolute, as the container sees it.
    pub path: String,
    /// How.
    pub kind: ChangeKind,
}

/// How a container becomes an image.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CommitRequest {
    /// The image's name; none leaves it without one.
    pub reference: Option<String>,
    /// For the user.
    pub comment: String,
    /// Author.
    pub author: String,
    /// Freeze the container meanwhile.
    pub pause: bool,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// The image's configuration in Docker's form, which wins over the container's.
    pub config: Option<serde_json::Value>,
}

/// How an archive becomes an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportRequest {
    /// The image's name; none leaves it without one.
    pub reference: Option<String>,
    /// For the user.
    pub message: String,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// `os[/architecture]`; this machine's when empty.
    pub platform: String,
}

fn unbuilt<T>(what: &str) -> Result<T> {
    Err(BackendError::not_implemented(format!(
        "{what} is not implemented yet"
    )))
}

/// A container's files. References are those of [`super::LocalEngine`].
#[async_trait]
pub trait ContainerFiles: Send + Sync + 'static {
    /// What is at a path. `NotFound` when there is nothing.
    async fn archive_stat(&self, reference: &str, path: &str) -> Result<PathStat> {
        let _ = (reference, path);
        unbuilt("looking at a container's files")
    }

    /// What is at a path, and an archive of it.
    async fn archive_get(&self, reference: &str, path: &str) -> Result<(PathStat, ArchiveStream)> {
        let _ = (reference, path);
        unbuilt("copying from a container")
    }

    /// Extracts an archive into a directory. `Invalid` when the place is no directory or read-only, or the archive is
    /// refused.
    async fn archive_put(
        &self,
        reference: &str,
        path: &str,
        options: PutOptions,
        archive: UploadStream,
    ) -> Result<()> {
        let _ = (reference, path, options, archive);
        unbuilt("copying to a container")
    }

    /// An archive of the root file system without its mounts.
    async fn container_export(&self, reference: &str) -> Result<ArchiveStream> {
        let _ = reference;
        unbuilt("exporting a container")
    }

    /// What it changed in its image's files, by path.
    async fn container_changes(&self, reference: &str) -> Result<Vec<FileChange>> {
        let _ = reference;
        unbuilt("comparing a container with its image")
    }

    /// Makes an image of it; returns the image's id.
    async fn container_commit(&self, reference: &str, request: CommitRequest) -> Result<String> {
        let _ = (reference, request);
        unbuilt("committing a container")
    }

    /// Makes an image of an archive of a root file system; returns the image's id.
    async fn image_import(&self, archive: UploadStream, request: ImportRequest) -> Result<String> {
        let _ = (archive, request);
        unbuilt("importing an image")
    }

    /// An archive of images by name or id, as of `docker save`.
    async fn image_save(&self, names: Vec<String>) -> Result<ArchiveStream> {
        let _ = names;
        unbuilt("saving images")
    }
}
