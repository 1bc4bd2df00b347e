//! What repositories hold, on this node or another, and the way to its content.

use crate::cluster::{BlobStream, Cluster, Followed};
use crate::failure::{Code, Failure, Outcome};
use futures::StreamExt;
use muster_images::repository::{ContentDigest, Entered, EntryKey, ManifestEntry, StoredContent};
use muster_images::{BlobWriter, ComingBlob, Digest, ImageStore};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// How long a node may take to say whether it has a blob: it serves few at once.
const FIND_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without a piece after which a transfer has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Pieces between the network and the disk.
const PIECES_BUFFERED: usize = 8;

/// The repositories of the cluster, as this node serves them. Clones are one.
#[derive(Clone)]
pub(crate) struct Repositories {
    pub images: ImageStore,
    cluster: Arc<dyn Cluster>,
    followed: Arc<Followed>,
    coming: Arc<Mutex<HashMap<Digest, ComingBlob>>>,
    /// Transfers from other nodes.
    transfers: TaskTracker,
}

/// Content that can be read.
pub(crate) enum Content {
    /// Here, whole and verified.
    Stored(File),
    /// On its way from another node.
    Coming(ComingBlob),
}

impl Content {
    /// A reader of all of it. It may block while content comes.
    pub fn reader(self) -> Box<dyn Read + Send> {
        match self {
            Content::Stored(file) => Box::new(file),
            Content::Coming(coming) => Box::new(coming.reader()),
        }
    }
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
    pub fn new(images: ImageStore, cluster: Arc<dyn Cluster>, transfers: TaskTracker) -> Self {
        Repositories {
            images,
            cluster,
            followed: Arc::default(),
            coming: Arc::default(),
            transfers,
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

    /// Opens content of a repository: here, or as it comes from the first node that has it.
    pub async fn open(&self, content: StoredContent) -> Outcome<Content> {
        if let Some(file) = self.open_here(content).await? {
            return Ok(Content::Stored(file));
        }
        if let Some(coming) = self.coming_now(&content.digest) {
            return Ok(Content::Coming(coming));
        }
        for node in self.cluster.others() {
            let found = tokio::time::timeout(FIND_TIMEOUT, self.cluster.blob(&node, &content.digest));
            match found.await {
                Ok(Ok(Some(pieces))) => return self.begin_transfer(content, pieces).await,
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::debug!(node, %error, "a node cannot be asked for a blob"),
                Err(_) => tracing::debug!(node, "a node did not say in time whether it has a blob"),
            }
        }
        Err(Failure::not_found(
            Code::BlobUnknown,
            format!(
                "no node that can be reached has {}: the one that it was pushed to may be down",
                content.digest
            ),
        ))
    }

    /// Opens content once all of it is here.
    pub async fn open_whole(&self, content: StoredContent) -> Outcome<File> {
        if let Content::Coming(coming) = self.open(content).await? {
            let stored = tokio::task::spawn_blocking(move || coming.await_stored()).await;
            let stored = stored.map_err(|error| Failure::internal("wait for a blob", &error))?;
            stored.map_err(|_| {
                Failure::not_found(Code::BlobUnknown, "the node that has the blob stopped sending it")
            })?;
        }
        match self.open_here(content).await? {
            Some(file) => Ok(file),
            None => Err(Failure::not_found(Code::BlobUnknown, "the blob was deleted")),
        }
    }

    /// A small document.
    pub async fn document(&self, content: StoredContent) -> Outcome<Vec<u8>> {
        let mut file = self.open_whole(content).await?;
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            let bytes_max = muster_images::limits::DOCUMENT_BYTES_MAX;
            (&mut file).take(bytes_max).read_to_end(&mut bytes).map(|_| bytes)
        });
        let read = read
            .await
            .map_err(|error| Failure::internal("read a manifest", &error))?;
        read.map_err(|error| Failure::internal("read a manifest", &error))
    }

    async fn open_here(&self, content: StoredContent) -> Outcome<Option<File>> {
        let images = self.images.clone();
        blocking("open a blob", move || match images.open_blob(&content.digest) {
            Ok(file) => Ok(Some(file)),
            Err(muster_images::Error::NoSuchBlob { .. }) => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    fn coming_now(&self, digest: &Digest) -> Option<ComingBlob> {
        let coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        coming.get(digest).cloned()
    }

    /// Takes a blob over from another node, and keeps it.
    async fn begin_transfer(&self, content: StoredContent, pieces: BlobStream) -> Outcome<Content> {
        let images = self.images.clone();
        let begun = blocking("begin a blob", move || {
            images.begin_blob(&content.digest, content.bytes)
        });
        let (writer, coming) = begun.await?;
        {
            let mut all = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(other) = all.get(&content.digest) {
                return Ok(Content::Coming(other.clone()));
            }
            all.insert(content.digest, coming.clone());
        }
        let own = self.clone();
        self.transfers.spawn(async move {
            if let Err(error) = own.transfer(content.digest, writer, pieces).await {
                tracing::warn!(blob = %content.digest, %error, "a blob did not come from another node");
            }
            let mut all = own.coming.lock().unwrap_or_else(PoisonError::into_inner);
            all.remove(&content.digest);
        });
        Ok(Content::Coming(coming))
    }

    async fn transfer(&self, digest: Digest, writer: BlobWriter, mut pieces: BlobStream) -> io::Result<()> {
        let (sender, receiver) = mpsc::channel(PIECES_BUFFERED);
        let images = self.images.clone();
        let lease = images.lease([digest]);
        let stored = tokio::task::spawn_blocking(move || {
            store_pieces(writer, receiver)?;
            images.hold(&digest).map_err(io::Error::other)
        });
        loop {
            let piece = match tokio::time::timeout(STALL_TIMEOUT, pieces.next()).await {
                Ok(Some(piece)) => piece.map(Some),
                Ok(None) => Ok(None),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            let last = !matches!(&piece, Ok(Some(_)));
            // A closed channel means that the store gave up, and says why itself.
            if sender.send(piece).await.is_err() || last {
                break;
            }
        }
        drop(sender);
        let stored = stored.await.map_err(io::Error::other)?;
        drop(lease);
        stored
    }
}

/// Writes pieces until `None` says that they were all.
fn store_pieces(
    mut writer: BlobWriter,
    mut pieces: mpsc::Receiver<io::Result<Option<bytes::Bytes>>>,
) -> io::Result<()> {
    while let Some(piece) = pieces.blocking_recv() {
        match piece? {
            Some(piece) => writer.write(&piece).map_err(io::Error::other)?,
            None => return writer.finish().map_err(io::Error::other),
        }
    }
    Err(io::Error::other("the transfer was ended"))
}
