//! The other nodes: their changes are taken over before something is looked up, and their blobs fetched when they are
//! asked for.

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use muster_images::Digest;
use muster_images::ImageStore;
use muster_images::repository::{Changes, Cursor};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A node that does not say within this what changed is passed over.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node that did not answer is left alone, so that it does not hold up every request.
const LEFT_ALONE: Duration = Duration::from_secs(5);
/// Nodes that are asked at once.
pub(crate) const ASKED_AT_ONCE: usize = 16;
/// How long changes of one node are taken over at once: the rest, of a node that has much to tell, comes the next time.
const FOLLOWED_FOR: Duration = Duration::from_secs(5);

/// Pieces of a blob.
pub type BlobStream = BoxStream<'static, io::Result<Bytes>>;

/// The other nodes of the cluster.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Their addresses.
    fn others(&self) -> Vec<String>;

    /// What changed in the repositories of a node since the cursor.
    async fn changes(&self, node: &str, seen: Cursor) -> io::Result<Changes>;

    /// Whether a node has a blob, whole.
    async fn has_blob(&self, node: &str, digest: &Digest) -> io::Result<bool>;

    /// A blob of a node; `None` where it has none.
    async fn blob(&self, node: &str, digest: &Digest) -> io::Result<Option<BlobStream>>;
}

/// A node in no cluster.
#[derive(Debug, Clone, Copy)]
pub struct Alone;

#[async_trait]
impl Cluster for Alone {
    fn others(&self) -> Vec<String> {
        Vec::new()
    }

    async fn changes(&self, _: &str, _: Cursor) -> io::Result<Changes> {
        Err(io::ErrorKind::NotFound.into())
    }

    async fn has_blob(&self, _: &str, _: &Digest) -> io::Result<bool> {
        Ok(false)
    }

    async fn blob(&self, _: &str, _: &Digest) -> io::Result<Option<BlobStream>> {
        Ok(None)
    }
}

/// How far each node was followed.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    nodes: Mutex<HashMap<String, Node>>,
    /// Rounds that have begun.
    begun: AtomicU64,
    /// The last round that came to its end; whoever holds it goes round.
    ended: tokio::sync::Mutex<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    seen: Cursor,
    failed: Option<Instant>,
}

impl Followed {
    /// Takes over what changed on the nodes that answer, until now. However many ask for it, one round goes on at a time.
    pub async fn catch_up(&self, cluster: &dyn Cluster, images: &ImageStore) {
        // A round that begins from now on brings all that was said before.
        let enough = self.begun.load(Ordering::SeqCst) + 1;
        let mut ended = self.ended.lock().await;
        if *ended >= enough {
            return;
        }
        let round = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.go_round(cluster, images).await;
        *ended = round;
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<String, Node>> {
        // The map is valid after every statement that changes it.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn go_round(&self, cluster: &dyn Cluster, images: &ImageStore) {
        let others = cluster.others();
        let now = Instant::now();
        let due: Vec<(String, Cursor)> = {
            let mut nodes = self.nodes();
            nodes.retain(|node, _| others.contains(node));
            let state = |node: String| {
                let known = nodes.get(&node).copied().unwrap_or_default();
                let rests = known
                    .failed
                    .is_some_and(|failed| now.duration_since(failed) < LEFT_ALONE);
                (!rests).then_some((node, known.seen))
            };
            others.into_iter().filter_map(state).collect()
        };
        let asked = stream::iter(due).map(|(node, seen)| async move {
            let (seen, outcome) = follow(cluster, images, &node, seen).await;
            (node, seen, outcome)
        });
        let mut answers = std::pin::pin!(asked.buffer_unordered(ASKED_AT_ONCE));
        while let Some((node, seen, outcome)) = answers.next().await {
            let failed = outcome.err().map(|error| {
                tracing::debug!(node, %error, "cannot follow the repositories of a node");
                Instant::now()
            });
            self.nodes().insert(node, Node { seen, failed });
        }
    }
}

/// Takes over changes of a node, and returns how far it came, also when the node failed.
async fn follow(
    cluster: &dyn Cluster,
    images: &ImageStore,
    node: &str,
    seen: Cursor,
) -> (Cursor, io::Result<()>) {
    let began = Instant::now();
    let mut cursor = seen;
    while began.elapsed() < FOLLOWED_FOR {
        match next_changes(cluster, images, node, cursor).await {
            Err(error) => return (cursor, Err(error)),
            Ok((next, true)) if next == cursor => {
                return (cursor, Err(io::Error::other("its changes do not come to an end")));
            }
            Ok((next, true)) => cursor = next,
            Ok((next, false)) => return (next, Ok(())),
        }
    }
    (cursor, Ok(()))
}

/// Takes over one answer of a node; where to go on, and whether there is more.
async fn next_changes(
    cluster: &dyn Cluster,
    images: &ImageStore,
    node: &str,
    seen: Cursor,
) -> io::Result<(Cursor, bool)> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, cluster.changes(node, seen));
    let answer = answer
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    if !answer.changes.is_empty() {
        let images = images.clone();
        let merged = tokio::task::spawn_blocking(move || images.merge_changes(&answer.changes));
        merged
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
    }
    Ok((answer.cursor, answer.more))
}
