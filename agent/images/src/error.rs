//! Errors of the image store: what failed, why, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::{Digest, DigestError, ImageId};
use crate::reference::ReferenceError;

/// The result of an image store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation of the image store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No image has this name or id.
    #[error("No such image: {reference}")]
    NoSuchImage { reference: String },
    /// An id prefix fits several images.
    #[error("image id prefix {prefix:?} fits {count} images; give more digits")]
    AmbiguousId { prefix: String, count: usize },
    /// A name is not a valid image reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A digest is malformed.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A tag may not name a digest.
    #[error("refusing to create a tag with a digest reference: {reference}")]
    TagWithDigest { reference: String },
    /// A tag that reads like a digest.
    #[error("refusing to create an ambiguous tag using digest algorithm as name: {reference}")]
    TagLooksLikeDigest { reference: String },
    /// A name cannot be removed because a container needs the image.
    #[error(
        "conflict: unable to remove repository reference {reference:?} (must force) - container {container} is \
         using its referenced image {image}"
    )]
    ReferenceInUse {
        reference: String,
        container: String,
        image: String,
    },
    /// An image cannot be removed.
    #[error("conflict: unable to delete {image} ({remedy}) - {reason}")]
    ImageInUse {
        image: String,
        remedy: &'static str,
        reason: String,
    },
    /// The archive, or content from another node, is not acceptable.
    #[error("invalid image")]
    Archive(#[from] ArchiveError),
    /// A blob that the operation needs is not in the store.
    #[error("blob {digest} is not in the image store; pull or load its image again")]
    NoSuchBlob { digest: Digest },
    /// A layer of a container's image is not there any more.
    #[error("layer {layer} is missing or damaged; pull or load image {image} again, then try once more")]
    LayerLost { layer: Digest, image: ImageId },
    /// The container has no root filesystem prepared.
    #[error("container {container_id} has no root filesystem prepared; prepare it first")]
    NoSnapshot { container_id: String },
    /// The container already has a root filesystem.
    #[error("container {container_id} already has a root filesystem; release it first")]
    SnapshotExists { container_id: String },
    /// A container id that cannot be a directory name.
    #[error(
        "invalid container id {container_id:?}: 1 to 128 letters, digits, '-', '_' or '.', not starting with '.'"
    )]
    InvalidContainerId { container_id: String },
    /// The data directory cannot carry overlay mounts.
    #[error(
        "{} cannot hold images: {problem} (file system {filesystem}); put the data directory on ext4, xfs (with \
         ftype=1) or btrfs, and run the daemon as root with CAP_SYS_ADMIN", path.display()
    )]
    UnfitFilesystem {
        path: PathBuf,
        filesystem: String,
        problem: String,
    },
    /// The overlay mount of a container's root filesystem failed.
    #[error("cannot mount the root filesystem of container {container_id}: {step}")]
    Mount {
        container_id: String,
        step: &'static str,
        #[source]
        source: io::Error,
    },
    /// The store is full.
    #[error("no space left in {} while trying to {operation}; free space or move the data directory", path.display())]
    NoSpace {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A file operation failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Another process holds the store.
    #[error("the image store at {} is in use by another daemon; stop it or use another data directory", path.display())]
    StoreInUse { path: PathBuf },
    /// The store was written by a newer version.
    #[error("the image store has format {found}, this version knows {known}; run a newer version")]
    NewerFormat { found: u64, known: u64 },
    /// The metadata database failed.
    #[error("image metadata: cannot {operation}")]
    Database {
        operation: &'static str,
        #[source]
        source: Box<redb::Error>,
    },
    /// A record or document of the store does not parse.
    #[error("image metadata: {what} is damaged")]
    Damaged {
        what: String,
        #[source]
        source: serde_json::Error,
    },
}

/// What is wrong with an archive or a blob.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The stream ended in the middle.
    #[error("the archive is truncated")]
    Truncated,
    /// The stream cannot be read or decompressed.
    #[error("the stream cannot be read or decompressed")]
    Stream(#[source] io::Error),
    /// Compressed with something else.
    #[error("{format} compression is not supported; use gzip, zstd or none")]
    UnsupportedCompression { format: &'static str },
    /// A tar header does not parse.
    #[error("tar header at byte {offset}: {problem}")]
    TarHeader { offset: u64, problem: &'static str },
    /// An entry has a path, link target or type that is refused.
    #[error("entry {path:?}: {problem}")]
    Entry { path: String, problem: &'static str },
    /// An entry would put something that is no directory in place of a directory, or the other way round.
    #[error("cannot overwrite {standing} {path:?} with {wanted} {destination:?}")]
    Overwrite {
        path: String,
        standing: &'static str,
        wanted: &'static str,
        destination: String,
    },
    /// A bound was exceeded.
    #[error("{what} exceeds the limit of {limit}")]
    Limit { what: &'static str, limit: u64 },
    /// The stream grows too much on decompression.
    #[error("decompression bomb: {unpacked} bytes from {packed} (limit {ratio_max} to 1)")]
    Bomb {
        unpacked: u64,
        packed: u64,
        ratio_max: u64,
    },
    /// Content does not have the digest it was announced with.
    #[error("{what} has digest {actual}, expected {expected}")]
    DigestMismatch {
        what: String,
        expected: Digest,
        actual: Digest,
    },
    /// Content does not have the size it was announced with.
    #[error("{what} has {actual} bytes, expected {expected}")]
    SizeMismatch {
        what: String,
        expected: u64,
        actual: u64,
    },
    /// What is wrong is in this layer.
    #[error("layer {digest}")]
    Layer {
        digest: Digest,
        #[source]
        source: Box<ArchiveError>,
    },
    /// An entry of the outer archive appears twice.
    #[error("{path:?} appears twice in the archive")]
    Duplicate { path: String },
    /// A file that the archive refers to is missing.
    #[error("{name:?} is missing from the archive")]
    Missing { name: String },
    /// Neither a docker archive nor an OCI layout.
    #[error(
        "neither manifest.json nor index.json found: not an archive of docker save or an OCI image layout"
    )]
    UnknownFormat,
    /// A JSON document does not parse.
    #[error("{what} is not valid")]
    Document {
        what: String,
        #[source]
        source: serde_json::Error,
    },
    /// A document is well formed but inconsistent.
    #[error("{what}: {problem}")]
    Inconsistent { what: String, problem: String },
    /// No manifest for this machine.
    #[error("no image for platform {wanted} (found: {found})")]
    NoPlatform { wanted: String, found: String },
    /// A name in the archive is not a reference.
    #[error("reference {text:?}")]
    Reference {
        text: String,
        #[source]
        source: ReferenceError,
    },
}

/// Coarse class of an error, for status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The thing named does not exist.
    NotFound,
    /// The request or its content is unacceptable.
    Invalid,
    /// In conflict with what uses the image.
    Conflict,
    /// The disk is full.
    NoSpace,
    /// Anything else.
    Internal,
}

impl Error {
    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NoSuchImage { .. } | Error::NoSuchBlob { .. } | Error::NoSnapshot { .. } => {
                ErrorKind::NotFound
            }
            Error::AmbiguousId { .. }
            | Error::Reference(_)
            | Error::Digest(_)
            | Error::TagWithDigest { .. }
            | Error::TagLooksLikeDigest { .. }
            | Error::Archive(_)
            | Error::InvalidContainerId { .. } => ErrorKind::Invalid,
            Error::ReferenceInUse { .. } | Error::ImageInUse { .. } | Error::SnapshotExists { .. } => {
                ErrorKind::Conflict
            }
            Error::NoSpace { .. } => ErrorKind::NoSpace,
            Error::UnfitFilesystem { .. }
            | Error::Mount { .. }
            | Error::Io { .. }
            | Error::LayerLost { .. }
            | Error::StoreInUse { .. }
            | Error::NewerFormat { .. }
            | Error::Database { .. }
            | Error::Damaged { .. } => ErrorKind::Internal,
        }
    }

    /// The message with all its causes, for users.
    pub fn full_message(&self) -> String {
        let mut message = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            // Transparent wrappers repeat their cause's text.
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        message
    }

    /// Wraps a failed file operation; a full disk becomes [`Error::NoSpace`].
    pub(crate) fn io(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Error {
        let (path, source) = (path.to_path_buf(), source.into());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace {
                operation,
                path,
                source,
            },
            _ => Error::Io {
                operation,
                path,
                source,
            },
        }
    }

    /// Wraps a database error; a full disk becomes [`Error::NoSpace`].
    pub(crate) fn database(operation: &'static str, source: impl Into<redb::Error>) -> Error {
        match source.into() {
            redb::Error::Io(error) => match Error::io(operation, Path::new("the image metadata"), error) {
                full @ Error::NoSpace { .. } => full,
                Error::Io { source, .. } => Error::Database {
                    operation,
                    source: Box::new(redb::Error::Io(source)),
                },
                other => other,
            },
            source => Error::Database {
                operation,
                source: Box::new(source),
            },
        }
    }
}

impl ArchiveError {
    /// The archive error behind a reader's error: readers of this crate pass theirs through [`io::Error`].
    pub(crate) fn from_read(error: io::Error) -> ArchiveError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return ArchiveError::Truncated;
        }
        error
            .downcast::<ArchiveError>()
            .unwrap_or_else(ArchiveError::Stream)
    }

    /// Carries this error through a reader.
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_errors_survive_the_passage_through_a_reader() {
        let limit = ArchiveError::Limit {
            what: "entries",
            limit: 3,
        };
        assert!(matches!(
            ArchiveError::from_read(limit.into_io()),
            ArchiveError::Limit { limit: 3, .. }
        ));
        let eof = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert!(matches!(ArchiveError::from_read(eof), ArchiveError::Truncated));
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let full = Error::io(
            "write",
            Path::new("/x"),
            io::Error::from_raw_os_error(libc::ENOSPC),
        );
        assert_eq!(full.kind(), ErrorKind::NoSpace);
        assert!(full.to_string().contains("free space"));
        let denied = Error::io(
            "write",
            Path::new("/x"),
            io::Error::from_raw_os_error(libc::EACCES),
        );
        assert_eq!(denied.kind(), ErrorKind::Internal);
    }
}
