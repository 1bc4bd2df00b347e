//! Blobs on their way from other nodes: each comes once, whoever waits for it, and is given on while it comes.

use crate::cluster::{ASKED_AT_ONCE, BlobStream, Cluster};
use crate::content::blocking;
use crate::failure::Outcome;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, Stream};
use muster_images::repository::StoredContent;
use muster_images::{BlobWriter, ComingBlob, Digest, ImageStore};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::task::TaskTracker;

/// How long a node may take to say whether it has a blob.
const HAS_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node may take to begin with a blob: it serves few at once.
const FIND_TIMEOUT: Duration = Duration::from_secs(10);
/// A transfer that brings less than [`PROGRESS_BYTES_MIN`] in this time has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);
/// As little as that is no progress: a byte now and then would never come to an end.
const PROGRESS_BYTES_MIN: usize = 16 << 10;
/// Pieces between the network and the disk.
const PIECES_BUFFERED: usize = 8;
/// Transfers at once: each takes a thread, of which the daemon has 512 for all that blocks.
const TRANSFERS_AT_ONCE: usize = 32;
/// Whoever did not give a blob that it says it has is asked for it last for so long.
const DISTRUSTED_FOR: Duration = Duration::from_secs(600);
/// Most that is remembered of such nodes; beyond, it is forgotten.
const DISTRUSTED_MAX: usize = 4096;

/// The transfers of a node. Clones are one.
#[derive(Clone)]
pub(crate) struct Transfers {
    images: ImageStore,
    cluster: Arc<dyn Cluster>,
    state: Arc<Mutex<State>>,
    places: Arc<Semaphore>,
    running: TaskTracker,
}

#[derive(Default)]
struct State {
    coming: HashMap<Digest, Coming>,
    distrusted: HashMap<(Digest, String), Instant>,
}

/// A blob that is coming. Clones follow the same one.
#[derive(Clone)]
pub(crate) struct Coming {
    blob: ComingBlob,
    bytes: u64,
    /// Told of each piece; closed once nothing more comes.
    progress: watch::Receiver<()>,
}

/// Content that can be read.
pub(crate) enum Content {
    /// Here, whole and verified.
    Stored(File),
    /// On its way from another node.
    Coming(Coming),
}

impl Coming {
    /// A reader of all of it, for what [`Coming::wait_beyond`] says is here.
    pub fn reader(&self) -> Box<dyn Read + Send> {
        Box::new(self.blob.reader())
    }

    /// Waits for bytes behind this position, and returns up to where the blob may be given on. The last byte may be only
    /// once all of them are verified: an answer with anything else never comes to its end.
    pub async fn wait_beyond(&mut self, position: u64) -> io::Result<u64> {
        loop {
            let here = self.blob.written().min(self.bytes.saturating_sub(1));
            if here > position {
                return Ok(here);
            }
            if self.progress.changed().await.is_err() {
                return self.blob.await_verified().map(|()| self.bytes);
            }
        }
    }

    /// Waits until all of it is stored, verified.
    pub async fn stored(mut self) -> io::Result<()> {
        while self.progress.changed().await.is_ok() {}
        self.blob.await_verified()
    }
}

impl Transfers {
    pub fn new(images: ImageStore, cluster: Arc<dyn Cluster>, running: TaskTracker) -> Self {
        Transfers {
            images,
            cluster,
            state: Arc::default(),
            places: Arc::new(Semaphore::new(TRANSFERS_AT_ONCE)),
            running,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Both maps are valid after every statement that changes them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blob, if it is coming.
    fn coming(&self, digest: &Digest) -> Option<Coming> {
        self.state().coming.get(digest).cloned()
    }

    /// Whether a node that can be reached has a blob.
    pub async fn is_elsewhere(&self, digest: &Digest) -> bool {
        let mut holders = std::pin::pin!(self.holders(digest));
        holders.next().await.is_some()
    }

    /// The nodes that have a blob, as they say so; those that did not give it before come last.
    fn holders<'a>(&'a self, digest: &'a Digest) -> impl Stream<Item = String> + Send + 'a {
        let distrusted: Vec<String> = {
            let mut state = self.state();
            state
                .distrusted
                .retain(|_, since| since.elapsed() < DISTRUSTED_FOR);
            let of_blob = state.distrusted.keys().filter(|(of, _)| of == digest);
            of_blob.map(|(_, node)| node.clone()).collect()
        };
        let others = self.cluster.others().into_iter();
        let (last, first): (Vec<_>, Vec<_>) = others.partition(|node| distrusted.contains(node));
        let asked = |nodes| {
            let asked = stream::iter(nodes).map(|node| self.holder(node, digest));
            asked
                .buffer_unordered(ASKED_AT_ONCE)
                .filter_map(std::future::ready)
        };
        asked(first).chain(asked(last))
    }

    /// The node, if it says that it has a blob.
    async fn holder(&self, node: String, digest: &Digest) -> Option<String> {
        match tokio::time::timeout(HAS_TIMEOUT, self.cluster.has_blob(&node, digest)).await {
            Ok(Ok(has)) => has.then_some(node),
            Ok(Err(error)) => {
                tracing::debug!(node, %error, "a node cannot be asked for a blob");
                None
            }
            Err(_) => {
                tracing::debug!(node, "a node did not say in time whether it has a blob");
                None
            }
        }
    }

    /// Opens content: here, or as it comes from a node that has it; `None` when no node that can be reached gives it. A
    /// transfer that has begun goes on whatever happens to those who wait for it.
    pub async fn open(&self, content: StoredContent) -> Outcome<Option<Content>> {
        if let Some(found) = self.here(content).await? {
            return Ok(Some(found));
        }
        let Ok(place) = self.places.clone().acquire_owned().await else {
            return Ok(None);
        };
        // Another request may have brought it meanwhile, or begun to.
        if let Some(found) = self.here(content).await? {
            return Ok(Some(found));
        }
        let mut holders = std::pin::pin!(self.holders(&content.digest));
        while let Some(node) = holders.next().await {
            let found = tokio::time::timeout(FIND_TIMEOUT, self.cluster.blob(&node, &content.digest));
            match found.await {
                Ok(Ok(Some(pieces))) => {
                    let transfer = Transfer {
                        digest: content.digest,
                        node,
                        pieces,
                        place,
                    };
                    return self.begin(content, transfer).await.map(Some);
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::debug!(node, %error, "a node gives no blob"),
                Err(_) => tracing::debug!(node, "a node did not begin with a blob in time"),
            }
            self.distrust(content.digest, node);
        }
        Ok(None)
    }

    /// What is here of content. What ends coming is stored by then, and so looked for last.
    pub async fn here(&self, content: StoredContent) -> Outcome<Option<Content>> {
        match self.coming(&content.digest) {
            Some(coming) => Ok(Some(Content::Coming(coming))),
            None => Ok(self.stored(content).await?.map(Content::Stored)),
        }
    }

    /// Opens content that is here, whole. One that was cut short is taken away.
    pub async fn stored(&self, content: StoredContent) -> Outcome<Option<File>> {
        let images = self.images.clone();
        blocking("open a blob", move || {
            if !images.has_whole_blob(&content.digest, content.bytes)? {
                return Ok(None);
            }
            match images.open_blob_file(&content.digest) {
                Ok(file) => Ok(Some(file)),
                Err(muster_images::Error::NoSuchBlob { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Takes a blob over from another node, and keeps it.
    async fn begin(&self, content: StoredContent, transfer: Transfer) -> Outcome<Content> {
        let images = self.images.clone();
        let begun = blocking("begin a blob", move || {
            images.begin_blob(&content.digest, content.bytes)
        });
        let (writer, blob) = begun.await?;
        let (told, progress) = watch::channel(());
        let coming = Coming {
            blob,
            bytes: content.bytes,
            progress,
        };
        {
            let mut state = self.state();
            if let Some(other) = state.coming.get(&content.digest) {
                return Ok(Content::Coming(other.clone()));
            }
            state.coming.insert(content.digest, coming.clone());
        }
        let own = self.clone();
        self.running.spawn(async move {
            let (digest, node) = (transfer.digest, transfer.node.clone());
            // Who waits is told last: by then nobody finds what did not come.
            let _told = told.clone();
            if let Err(error) = own.run(transfer, writer, told).await {
                if error.is_of_the_node() {
                    own.distrust(digest, node.clone());
                }
                let error = &error as &dyn std::error::Error;
                tracing::warn!(blob = %digest, node, error, "a blob did not come from another node");
            }
            own.state().coming.remove(&digest);
        });
        Ok(Content::Coming(coming))
    }

    async fn run(
        &self,
        transfer: Transfer,
        writer: BlobWriter,
        told: watch::Sender<()>,
    ) -> Result<(), TransferError> {
        let (digest, images) = (transfer.digest, self.images.clone());
        let (sender, pieces) = mpsc::channel(PIECES_BUFFERED);
        let lease = images.lease([digest]);
        let stored = tokio::task::spawn_blocking(move || {
            let stored = store_pieces(writer, pieces, &told).and_then(|()| images.hold(&digest));
            drop(lease);
            stored
        });
        let read = read_pieces(transfer.pieces, sender, STALL_TIMEOUT).await;
        let stored = stored.await.map_err(TransferError::Ended)?;
        drop(transfer.place);
        match (read, stored) {
            (_, Ok(())) => Ok(()),
            (Err(error), Err(_)) => Err(TransferError::Node(error)),
            (Ok(()), Err(error)) => Err(TransferError::Store(error)),
        }
    }

    fn distrust(&self, digest: Digest, node: String) {
        let mut state = self.state();
        if state.distrusted.len() >= DISTRUSTED_MAX {
            state.distrusted.clear();
        }
        state.distrusted.insert((digest, node), Instant::now());
    }
}

/// A blob as another node gives it.
struct Transfer {
    digest: Digest,
    node: String,
    pieces: BlobStream,
    place: OwnedSemaphorePermit,
}

#[derive(Debug, thiserror::Error)]
enum TransferError {
    #[error("the node did not send all of it")]
    Node(#[source] io::Error),
    #[error("it cannot be stored")]
    Store(#[source] muster_images::Error),
    #[error("storing it was ended")]
    Ended(#[source] tokio::task::JoinError),
}

impl TransferError {
    /// Whether another node may give what this one did not.
    fn is_of_the_node(&self) -> bool {
        match self {
            TransferError::Node(_) => true,
            TransferError::Store(error) => error.kind() == muster_images::ErrorKind::Invalid,
            TransferError::Ended(_) => false,
        }
    }
}

/// Hands pieces on until they end, fail or hardly come any more.
async fn read_pieces(
    mut pieces: BlobStream,
    sender: mpsc::Sender<Bytes>,
    stall_timeout: Duration,
) -> io::Result<()> {
    let (mut until, mut gained) = (tokio::time::Instant::now() + stall_timeout, 0);
    loop {
        let Some(piece) = tokio::time::timeout_at(until, pieces.next()).await? else {
            return Ok(());
        };
        let piece = piece?;
        gained += piece.len();
        // A closed channel means that the store gave up, and says why itself.
        if sender.send(piece).await.is_err() {
            return Ok(());
        }
        if gained >= PROGRESS_BYTES_MIN {
            (until, gained) = (tokio::time::Instant::now() + stall_timeout, 0);
        }
    }
}

/// Writes pieces, and verifies what came when no more come.
fn store_pieces(
    mut writer: BlobWriter,
    mut pieces: mpsc::Receiver<Bytes>,
    told: &watch::Sender<()>,
) -> muster_images::Result<()> {
    while let Some(piece) = pieces.blocking_recv() {
        writer.write(&piece)?;
        told.send_replace(());
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a transfer of so many pieces of so many bytes ends.
    async fn read(pieces: usize, bytes: usize, stall_timeout: Duration) -> io::Result<()> {
        let pieces = stream::iter(0..pieces).then(move |_| async move {
            tokio::task::yield_now().await;
            Ok(Bytes::from(vec![0; bytes]))
        });
        let (sender, mut received) = mpsc::channel(PIECES_BUFFERED);
        let taking = async { while received.recv().await.is_some() {} };
        futures::join!(read_pieces(pieces.boxed(), sender, stall_timeout), taking).0
    }

    #[tokio::test]
    async fn a_transfer_that_hardly_comes_has_failed() {
        read(100, PROGRESS_BYTES_MIN / 10, STALL_TIMEOUT).await.unwrap();
        let ended = read(usize::MAX, 0, Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }
}
