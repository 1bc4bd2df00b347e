//! What repositories hold, on this node or another, and the way to its content.

use crate::cluster::{Cluster, Followed};
use crate::failure::{Code, Failure, Outcome};
use crate::transfer::{Content, Transfers};
use muster_images::repository::{ContentDigest, Entered, EntryKey, ManifestEntry, StoredContent};
use muster_images::{Digest, ImageStore};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio_util::task::TaskTracker;

/// The repositories of the cluster, as this node serves them. Clones are one.
#[derive(Clone)]
pub(crate) struct Repositories {
    pub images: ImageStore,
    cluster: Arc<dyn Cluster>,
    followed: Arc<Followed>,
    transfers: Transfers,
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Runs what blocks.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> muster_images::Result<T> + Send + 'static,
) -> Outcome<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| Failure::of_store(what, &error)),
        Err(error) => Err(Failure::internal(what, &error)),
    }
}

impl Repositories {
    /// Transfers from other nodes run on the tracker.
    pub fn new(images: ImageStore, cluster: Arc<dyn Cluster>, running: TaskTracker) -> Self {
        Repositories {
            transfers: Transfers::new(images.clone(), cluster.clone(), running),
            images,
            cluster,
            followed: Arc::default(),
        }
    }

    /// Takes over what other nodes know.
    pub async fn catch_up(&self) {
        self.followed.catch_up(&*self.cluster, &self.images).await;
    }

    /// Deletes what nobody needs, by what all nodes know.
    pub async fn expire(&self) {
        self.catch_up().await;
        let images = self.images.clone();
        // A failure is in the log, and the next time tries again.
        let _ = blocking("look for unused blobs", move || {
            images.expire_repositories(now_ms())
        })
        .await;
    }

    /// What a name stands for, as far as this node knows.
    pub async fn known(&self, name: &str, key: EntryKey) -> Outcome<Option<Entered>> {
        let (images, name) = (self.images.clone(), name.to_owned());
        blocking("look up an entry", move || images.entry(&name, &key)).await
    }

    /// What a name stands for, also when only another node knows.
    async fn find(&self, name: &str, key: EntryKey) -> Outcome<Option<Entered>> {
        match self.known(name, key.clone()).await? {
            Some(entered) => Ok(Some(entered)),
            None => {
                self.catch_up().await;
                self.known(name, key).await
            }
        }
    }

    /// A blob of a repository.
    pub async fn blob(&self, name: &str, digest: &ContentDigest) -> Outcome<Option<StoredContent>> {
        match self.find(name, EntryKey::Blob(digest.clone())).await? {
            Some(Entered::Blob(content)) => Ok(Some(content)),
            Some(Entered::Manifest(_) | Entered::Tag(_)) | None => Ok(None),
        }
    }

    /// A manifest of a repository.
    pub async fn manifest(&self, name: &str, digest: &ContentDigest) -> Outcome<Option<ManifestEntry>> {
        match self.find(name, EntryKey::Manifest(digest.clone())).await? {
            Some(Entered::Manifest(manifest)) => Ok(Some(manifest)),
            Some(Entered::Blob(_) | Entered::Tag(_)) | None => Ok(None),
        }
    }

    /// The manifest that a tag leads to, after all nodes that answer were asked.
    pub async fn tagged(&self, name: &str, tag: &str) -> Outcome<Option<ContentDigest>> {
        self.catch_up().await;
        match self.known(name, EntryKey::Tag(tag.to_owned())).await? {
            Some(Entered::Tag(digest)) => Ok(Some(digest)),
            Some(Entered::Blob(_) | Entered::Manifest(_)) | None => Ok(None),
        }
    }

    /// Says what names stand for. The caller holds leases on content that is new.
    pub async fn enter(
        &self,
        name: &str,
        entries: Vec<(EntryKey, Option<Entered>)>,
        held: Vec<Digest>,
    ) -> Outcome<()> {
        let (images, name) = (self.images.clone(), name.to_owned());
        blocking("record an entry", move || {
            images.enter(&name, entries, &held, now_ms())
        })
        .await
    }

    /// Whether content can be given: it is here, coming, or on a node that can be reached. What is not, clients are to
    /// push again.
    pub async fn can_be_given(&self, content: StoredContent) -> Outcome<bool> {
        Ok(self.transfers.here(content).await?.is_some()
            || self.transfers.is_elsewhere(&content.digest).await)
    }

    /// Opens content of a repository: here, or as it comes from a node that has it.
    pub async fn open(&self, content: StoredContent) -> Outcome<Content> {
        let opened = self.transfers.open(content).await?;
        opened.ok_or_else(|| out_of_reach(&content))
    }

    /// Opens content once all of it is here.
    pub async fn open_whole(&self, content: StoredContent) -> Outcome<File> {
        let coming = match self.open(content).await? {
            Content::Stored(file) => return Ok(file),
            Content::Coming(coming) => coming,
        };
        coming.stored().await.map_err(|_| {
            Failure::not_found(Code::BlobUnknown, "the node that has the blob stopped sending it")
        })?;
        let stored = self.transfers.stored(content).await?;
        stored.ok_or_else(|| Failure::not_found(Code::BlobUnknown, "the blob was deleted"))
    }

    /// A small document.
    pub async fn document(&self, content: StoredContent) -> Outcome<Vec<u8>> {
        let mut file = self.open_whole(content).await?;
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            let bytes_max = muster_images::limits::DOCUMENT_BYTES_MAX;
            (&mut file).take(bytes_max).read_to_end(&mut bytes)?;
            match bytes.len() as u64 == content.bytes {
                true => Ok(bytes),
                false => Err(io::Error::other("it is not of the size that a node said")),
            }
        });
        let read = read
            .await
            .map_err(|error| Failure::internal("read a manifest", &error))?;
        read.map_err(|error| Failure::internal("read a manifest", &error))
    }
}

/// Refuses what only nodes have that cannot be reached.
pub(crate) fn out_of_reach(content: &StoredContent) -> Failure {
    Failure::not_found(
        Code::BlobUnknown,
        format!(
            "no node that can be reached has {}: the one that it was pushed to may be down",
            content.digest
        ),
    )
}
