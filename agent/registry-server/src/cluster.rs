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
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A node that does not say within this what changed is passed over.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node that did not answer is left alone, so that it does not hold up every request.
const LEFT_ALONE: Duration = Duration::from_secs(5);
/// Nodes that are asked at once.
pub(crate) const ASKED_AT_ONCE: usize = 16;
/// Most answers of one node that are taken over at once: a node that never comes to an end is passed over.
const ANSWERS_MAX: usize = 10_000;

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
pub(crate) struct Followed(Mutex<HashMap<String, Node>>);

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    seen: Cursor,
    failed: Option<Instant>,
}

impl Followed {
    /// Takes over what changed on the nodes that answer.
    pub async fn catch_up(&self, cluster: &dyn Cluster, images: &ImageStore) {
        let others = cluster.others();
        let now = Instant::now();
        let due: Vec<(String, Cursor)> = {
            let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
            let outcome = follow(cluster, images, &node, seen).await;
            (node, outcome)
        });
        let mut answers = std::pin::pin!(asked.buffer_unordered(ASKED_AT_ONCE));
        while let Some((node, outcome)) = answers.next().await {
            let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let known = nodes.entry(node.clone()).or_default();
            match outcome {
                Ok(seen) => {
                    // Another request may have come further meanwhile.
                    if seen.store != known.seen.store || seen.sequence > known.seen.sequence {
                        known.seen = seen;
                    }
                    known.failed = None;
                }
                Err(error) => {
                    tracing::debug!(node, %error, "cannot follow the repositories of a node");
                    known.failed = Some(Instant::now());
                }
            }
        }
    }
}

async fn follow(cluster: &dyn Cluster, images: &ImageStore, node: &str, seen: Cursor) -> io::Result<Cursor> {
    let mut cursor = seen;
    for _ in 0..ANSWERS_MAX {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, cluster.changes(node, cursor));
        let answer = answer
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        cursor = answer.cursor;
        if !answer.changes.is_empty() {
            let images = images.clone();
            let merged = tokio::task::spawn_blocking(move || images.merge_changes(&answer.changes));
            merged
                .await
                .map_err(io::Error::other)?
                .map_err(io::Error::other)?;
        }
        if !answer.more {
            return Ok(cursor);
        }
    }
    Err(io::Error::other("its changes do not come to an end"))
}
