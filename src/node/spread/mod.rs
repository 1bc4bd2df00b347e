//! Blobs of images between the nodes of a cluster: each node serves what it has, also of blobs that are still coming, and
//! takes what it lacks from those that have it. Who takes from whom is decided by `muster_registry::sources`.

mod blob;
mod serve;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use muster_agent::agent::AgentView;
use muster_images::{BlobDescriptor, Digest, ImageStore};
use muster_proto::node::node_client::NodeClient;
use muster_proto::node::{FindBlobReply, FindBlobRequest};
use muster_proto::transport::Dialer;
use muster_registry::sources::{Rank, Rate, is_worth_asking};
use muster_registry::{PeerBlob, Peers};
use muster_types::NodeId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tonic::transport::Channel;

/// Most peers that are asked for a blob: those nearest to the head of its chain, which is the same of every node.
const PEERS_ASKED_MAX: usize = 64;
/// A peer that does not answer within this is passed over.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Once one has the blob, the others are waited for no longer than this.
const OTHERS_TIMEOUT: Duration = Duration::from_millis(200);
/// A peer that did not answer is not asked again for so long.
const SILENT_FOR: Duration = Duration::from_secs(10);
/// Whoever gave what is false is not asked for the same blob for so long.
const DISTRUSTED_FOR: Duration = Duration::from_secs(600);
/// Most entries of what is remembered of others; beyond, it is forgotten.
const REMEMBERED_MAX: usize = 4096;
/// Stored blobs served at once; more wait, so that a rollout does not starve the node's own containers of disk.
const STORED_AT_ONCE: usize = 8;
/// Coming blobs served at once. They come no faster than they are received, and must not wait for the others' turns: who
/// follows may itself be followed.
const COMING_AT_ONCE: usize = 64;

/// The exchange of blobs of one node. Clones share one.
#[derive(Clone)]
pub struct Spread {
    inner: Arc<Inner>,
}

struct Inner {
    images: ImageStore,
    cluster: RwLock<Option<Cluster>>,
    state: Mutex<State>,
    served: AtomicU64,
    stored: Arc<Semaphore>,
    coming: Arc<Semaphore>,
}

/// The other nodes, as this one sees them.
#[derive(Clone)]
struct Cluster {
    own: NodeId,
    dialer: Dialer,
    view: watch::Receiver<AgentView>,
}

#[derive(Default)]
struct State {
    /// How blobs come that are coming.
    feeds: HashMap<Digest, Feed>,
    readers: HashMap<Digest, u32>,
    /// Of peers by address, of registries by name.
    rates: HashMap<String, Rate>,
    silent: HashMap<String, Instant>,
    /// Who gave of blobs that were not verified.
    doubtful: HashMap<Digest, BTreeSet<String>>,
    distrusted: HashMap<(Digest, String), Instant>,
    /// Connections, while any blob is coming.
    channels: HashMap<String, Channel>,
}

/// Where a blob comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Feed {
    Undecided,
    /// From the registry, or from one that has all of it.
    FirstHand,
    Follows,
}

/// The sizes that were told, the one that most told first. Nodes of earlier versions tell none.
fn sizes_told(told: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for size in told.filter(|size| *size > 0) {
        *counts.entry(size).or_default() += 1;
    }
    let mut sizes: Vec<(u64, usize)> = counts.into_iter().collect();
    sizes.sort_by_key(|(size, count)| (Reverse(*count), *size));
    sizes.into_iter().map(|(size, _)| size).collect()
}

/// What a peer said of a blob.
struct Found {
    address: String,
    rank: Rank,
    reply: FindBlobReply,
}

impl Found {
    /// Whether the peer tells the size that is expected; those of earlier versions tell none.
    fn is_of_size(&self, bytes: u64) -> bool {
        self.reply.size == 0 || self.reply.size == bytes
    }
}

impl Spread {
    /// The exchange of this store's blobs.
    pub fn new(images: ImageStore) -> Self {
        Self {
            inner: Arc::new(Inner {
                images,
                cluster: RwLock::default(),
                state: Mutex::default(),
                served: AtomicU64::new(0),
                stored: Arc::new(Semaphore::new(STORED_AT_ONCE)),
                coming: Arc::new(Semaphore::new(COMING_AT_ONCE)),
            }),
        }
    }

    /// From now on these nodes are asked.
    pub fn enter_cluster(&self, own: NodeId, dialer: Dialer, view: watch::Receiver<AgentView>) {
        *self.inner.cluster.write().unwrap_or_else(PoisonError::into_inner) =
            Some(Cluster { own, dialer, view });
    }

    /// From now on nobody is asked.
    pub fn leave_cluster(&self) {
        *self.inner.cluster.write().unwrap_or_else(PoisonError::into_inner) = None;
        *self.state() = State::default();
    }

    /// Bytes of blobs that other nodes took from here.
    pub fn served(&self) -> u64 {
        self.inner.served.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every statement leaves it as it may be.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cluster(&self) -> Option<Cluster> {
        let cluster = self.inner.cluster.read();
        cluster.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_feed(&self, blob: &Digest, feed: Feed) {
        self.state().feeds.insert(*blob, feed);
    }

    /// The blob comes no longer.
    fn ended(&self, blob: &Digest) {
        let mut state = self.state();
        state.feeds.remove(blob);
        if state.feeds.is_empty() {
            state.channels.clear();
        }
    }

    fn client(&self, cluster: &Cluster, address: &str) -> NodeClient<Channel> {
        let mut state = self.state();
        let dial = || cluster.dialer.node(address);
        let channel = state.channels.entry(address.to_owned()).or_insert_with(dial);
        NodeClient::new(channel.clone())
    }

    /// The mean of what was seen, with more weight on what was seen last.
    fn note_rate(&self, whose: &str, rate: Rate) {
        let mut state = self.state();
        if state.rates.len() >= REMEMBERED_MAX {
            state.rates.clear();
        }
        let known = state.rates.entry(whose.to_owned()).or_insert(rate);
        *known = *known / 2 + rate / 2;
    }

    fn rate(&self, whose: &str) -> Option<Rate> {
        self.state().rates.get(whose).copied()
    }

    /// The peers that may have the blob, the first of its chain first.
    fn peers_for(&self, cluster: &Cluster, blob: &Digest) -> Vec<(Rank, String)> {
        let peers: Vec<(NodeId, String)> = cluster.view.borrow().peers.clone();
        let mut state = self.state();
        state.silent.retain(|_, since| since.elapsed() < SILENT_FOR);
        let mut asked: Vec<(Rank, String)> = peers
            .into_iter()
            .filter(|(node, address)| *node != cluster.own && !state.silent.contains_key(address))
            .map(|(node, address)| (Rank::of(blob, &node.to_string()), address))
            .collect();
        asked.sort();
        asked.reverse();
        asked.truncate(PEERS_ASKED_MAX);
        asked
    }

    fn is_distrusted(&self, blob: &Digest, address: &str) -> bool {
        let state = self.state();
        state.distrusted.contains_key(&(*blob, address.to_owned()))
    }

    /// Who has the blob or a part of it.
    async fn ask(&self, cluster: &Cluster, blob: &Digest) -> Vec<Found> {
        let peers = self.peers_for(cluster, blob);
        let mut silent: BTreeSet<String> = peers.iter().map(|(_, address)| address.clone()).collect();
        let asking: FuturesUnordered<_> = peers
            .into_iter()
            .map(|(rank, address)| {
                let mut client = self.client(cluster, &address);
                let digest = blob.to_string();
                async move {
                    let reply = client.find_blob(FindBlobRequest { digest }).await;
                    (rank, address, reply)
                }
            })
            .collect();
        let mut found: Vec<Found> = Vec::new();
        let end = tokio::time::Instant::now() + ASK_TIMEOUT;
        let mut until = end;
        tokio::pin!(asking);
        while let Ok(Some((rank, address, reply))) = tokio::time::timeout_at(until, asking.next()).await {
            match reply {
                Ok(reply) => {
                    silent.remove(&address);
                    let reply = reply.into_inner();
                    if reply.stored || reply.coming {
                        until = until.min(tokio::time::Instant::now() + OTHERS_TIMEOUT);
                        found.push(Found { address, rank, reply });
                    }
                }
                Err(status) => {
                    tracing::debug!(peer = address, error = %status, "a node does not say what it has");
                }
            }
        }
        if found.is_empty() || tokio::time::Instant::now() >= end {
            let now = Instant::now();
            let silent = silent.into_iter().map(|address| (address, now));
            self.state().silent.extend(silent);
        }
        found
    }
}

impl Peers for Spread {
    fn begin(&self, blob: &BlobDescriptor, registry: Option<&str>) -> Box<dyn PeerBlob> {
        self.set_feed(&blob.digest, Feed::Undecided);
        Box::new(blob::ComingHere::new(self.clone(), *blob, registry))
    }

    fn content<'a>(
        &'a self,
        blob: &'a BlobDescriptor,
        content: &'a Digest,
        registry: Option<&'a str>,
    ) -> BoxFuture<'a, Vec<u64>> {
        Box::pin(async move {
            let Some(cluster) = self.cluster() else {
                return Vec::new();
            };
            let with_blob = self.ask(&cluster, &blob.digest).await;
            let gives = |found: &Found| {
                found.is_of_size(blob.bytes) && !self.is_distrusted(&blob.digest, &found.address)
            };
            if with_blob.iter().any(gives) {
                return Vec::new();
            }
            let registry = registry.and_then(|name| self.rate(name));
            let found = self.ask(&cluster, content).await;
            let asked = |found: &&Found| {
                is_worth_asking(self.rate(&found.address), registry)
                    && !self.is_distrusted(content, &found.address)
            };
            sizes_told(found.iter().filter(asked).map(|found| found.reply.size))
        })
    }

    fn distrust(&self, blobs: &[Digest]) -> bool {
        let mut state = self.state();
        state
            .distrusted
            .retain(|_, since| since.elapsed() < DISTRUSTED_FOR);
        let mut any = false;
        for blob in blobs {
            for address in state.doubtful.remove(blob).unwrap_or_default() {
                any |= state
                    .distrusted
                    .insert((*blob, address), Instant::now())
                    .is_none();
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_that_most_nodes_tell_comes_first_and_none_of_those_that_tell_none() {
        let told = [0, 1 << 60, 500, 500, 0, 7];
        assert_eq!(sizes_told(told.into_iter()), [500, 7, 1 << 60]);
        assert!(sizes_told([0, 0].into_iter()).is_empty());
    }
}
