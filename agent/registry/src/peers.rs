//! Others that may have blobs beside the registry: the nodes of a cluster.

use crate::sources::Rate;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use muster_images::{BlobDescriptor, Digest};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The rest of a blob, in pieces. It ends with an error when its peer fails, stalls or holds the transfer up.
pub type Pieces = BoxStream<'static, io::Result<Bytes>>;

/// Other nodes. What they give is verified like all else.
pub trait Peers: Send + Sync + 'static {
    /// A blob begins to come. The registry's name is given where it may be asked.
    fn begin(&self, blob: &BlobDescriptor, registry: Option<&str>) -> Box<dyn PeerBlob>;

    /// The sizes that others tell of a layer's uncompressed content, if they have that, none of them has the blob in its size, and asking
    /// them is worth it beside the registry. The one that most of them tell comes first.
    fn content<'a>(
        &'a self,
        blob: &'a BlobDescriptor,
        content: &'a Digest,
        registry: Option<&'a str>,
    ) -> BoxFuture<'a, Vec<u64>>;

    /// What came of one of these blobs was false, or what was made of it: whoever gave of it unverified is not asked
    /// for it again. Returns whether anybody did.
    fn distrust(&self, blobs: &[Digest]) -> bool;
}

/// One blob that comes. Dropped before it was verified, whoever gave of it stays in doubt.
pub trait PeerBlob: Send + Sync {
    /// The rest of the blob from this byte on, of the peer that is best now; `None` when none is. While the registry
    /// brings it, the rate is given, and a peer is given only if it is faster.
    fn open(&mut self, from: u64, registry: Option<Rate>) -> BoxFuture<'_, Option<Pieces>>;

    /// The registry brought so many bytes in this time.
    fn registry_brought(&mut self, bytes: u64, within: Duration);

    /// The blob is here and verified.
    fn verified(&mut self);
}

/// Bytes of blobs that came here.
#[derive(Debug, Default)]
pub struct Traffic {
    registries: AtomicU64,
    peers: AtomicU64,
}

impl Traffic {
    /// From registries.
    pub fn registry_bytes(&self) -> u64 {
        self.registries.load(Ordering::Relaxed)
    }

    /// From other nodes.
    pub fn peer_bytes(&self) -> u64 {
        self.peers.load(Ordering::Relaxed)
    }

    pub(crate) fn came_from_registry(&self, bytes: usize) {
        self.registries.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn came_from_peer(&self, bytes: usize) {
        self.peers.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
