//! One blob that comes to this node.

use super::{Cluster, Feed, Found, REMEMBERED_MAX, Spread};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use muster_images::BlobDescriptor;
use muster_proto::node::{BlobPiece, FetchBlobRequest};
use muster_registry::sources::{
    Has, Offer, Rank, Rate, Registry, Seeker, Standing, WATCHED_FOR, Watched, choose, is_too_slow, rate_of,
};
use muster_registry::{PeerBlob, Pieces, Stall};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tonic::Status;

/// Who is going to ask the registry says so, and looks once more after this whether others say so, too.
const SETTLING: Duration = Duration::from_millis(50);
/// A peer serves few blobs at once; one whose turn does not come within this gives way to others.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without a piece after which a transfer has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Most choices for one blob between two pieces.
const CHOICES_MAX: usize = 12;
/// A rate is believed of no fewer bytes.
const RATED_BYTES_MIN: u64 = 1 << 20;

/// What was seen of peers on this blob.
type Standings = Arc<Mutex<HashMap<String, Standing>>>;

/// A blob that comes to this node.
pub(super) struct ComingHere {
    spread: Spread,
    blob: BlobDescriptor,
    registry: Option<String>,
    unbound: bool,
    claimed: bool,
    standings: Standings,
    /// Who gave of it.
    gave: BTreeSet<String>,
    verified: bool,
}

impl ComingHere {
    pub(super) fn new(spread: Spread, blob: BlobDescriptor, registry: Option<&str>) -> Self {
        Self {
            spread,
            blob,
            registry: registry.map(str::to_owned),
            unbound: true,
            claimed: false,
            standings: Arc::default(),
            gave: BTreeSet::new(),
            verified: false,
        }
    }

    fn registry(&self, brings: Option<Rate>) -> Registry {
        match (&self.registry, brings) {
            (None, _) => Registry::None,
            (Some(_), Some(rate)) => Registry::Brings(rate),
            (Some(name), None) => Registry::Waits(self.spread.rate(name)),
        }
    }

    fn offer(&self, found: &Found) -> Offer {
        let has = match found.reply.stored {
            true => Has::All,
            false => Has::Part {
                bytes: found.reply.bytes,
                first_hand: found.reply.first_hand,
            },
        };
        let standing = match self.spread.is_distrusted(&self.blob.digest, &found.address) {
            true => Standing::Failed,
            false => standing_of(&self.standings, &found.address),
        };
        Offer {
            rank: found.rank,
            has,
            readers: found.reply.readers,
            rate: self.spread.rate(&found.address),
            standing,
        }
    }

    async fn find(&mut self, from: u64, brings: Option<Rate>) -> Option<Pieces> {
        let cluster = self.spread.cluster()?;
        for _ in 0..CHOICES_MAX {
            let mut found = self.spread.ask(&cluster, &self.blob.digest).await;
            found.retain(|found| found.is_of_size(self.blob.bytes));
            let offers: Vec<Offer> = found.iter().map(|found| self.offer(found)).collect();
            let seeker = Seeker {
                rank: Rank::of(&self.blob.digest, &cluster.own.to_string()),
                done: from,
                unbound: self.unbound,
                claimed: self.claimed,
                registry: self.registry(brings),
            };
            let Some(chosen) = choose(&seeker, &offers) else {
                if self.claim(from, brings, &cluster) {
                    tokio::time::sleep(SETTLING).await;
                    continue;
                }
                self.unbound = false;
                return None;
            };
            let feed = match offers[chosen].has {
                Has::All => Feed::FirstHand,
                Has::Part { .. } => Feed::Follows,
            };
            self.spread.set_feed(&self.blob.digest, feed);
            self.unbound = false;
            let others = offers.iter().enumerate().filter(|(at, _)| *at != chosen);
            let best = others.filter_map(|(_, offer)| offer.rate).max();
            let address = &found[chosen].address;
            // The last one that is left is kept, however slow it is.
            let watched = offers[chosen].standing != Standing::Slow;
            if let Some(pieces) = self
                .connect(&cluster, address, from, best.filter(|_| watched), watched)
                .await
            {
                return Some(pieces);
            }
        }
        None
    }

    /// Says that this node is going to ask the registry, unless it said so before. Then others may follow it.
    fn claim(&mut self, from: u64, brings: Option<Rate>, cluster: &Cluster) -> bool {
        if self.registry.is_none() || brings.is_some() {
            return false;
        }
        self.spread.set_feed(&self.blob.digest, Feed::FirstHand);
        let first = !self.claimed && self.unbound && from == 0;
        self.claimed = true;
        first && !self.spread.peers_for(cluster, &self.blob.digest).is_empty()
    }

    async fn connect(
        &mut self,
        cluster: &Cluster,
        address: &str,
        from: u64,
        best: Option<Rate>,
        watched: bool,
    ) -> Option<Pieces> {
        let mut client = self.spread.client(cluster, address);
        let request = FetchBlobRequest {
            digest: self.blob.digest.to_string(),
            offset: from,
        };
        let standing = match tokio::time::timeout(TURN_TIMEOUT, client.fetch_blob(request)).await {
            Ok(Ok(pieces)) => {
                self.gave.insert(address.to_owned());
                let taking = Taking {
                    pieces: pieces.into_inner().boxed(),
                    stall: Stall::begin(),
                    spread: self.spread.clone(),
                    standings: self.standings.clone(),
                    address: address.to_owned(),
                    done: from,
                    bytes: self.blob.bytes,
                    watched,
                    best,
                    since: Instant::now(),
                    gained: 0,
                };
                return Some(taking.into_pieces());
            }
            Ok(Err(status)) => {
                tracing::debug!(peer = address, blob = %self.blob.digest, error = %status, "a node gives no blob");
                Standing::Failed
            }
            Err(_) => Standing::Slow,
        };
        set_standing(&self.standings, address, standing);
        None
    }
}

fn standing_of(standings: &Standings, address: &str) -> Standing {
    let standings = standings.lock().unwrap_or_else(PoisonError::into_inner);
    standings.get(address).copied().unwrap_or_default()
}

fn set_standing(standings: &Standings, address: &str, standing: Standing) {
    let mut standings = standings.lock().unwrap_or_else(PoisonError::into_inner);
    standings.insert(address.to_owned(), standing);
}

impl PeerBlob for ComingHere {
    fn open(&mut self, from: u64, registry: Option<Rate>) -> BoxFuture<'_, Option<Pieces>> {
        Box::pin(self.find(from, registry))
    }

    fn registry_brought(&mut self, bytes: u64, within: Duration) {
        if let Some(name) = &self.registry
            && bytes >= RATED_BYTES_MIN
            && let Some(rate) = rate_of(bytes, within)
        {
            self.spread.note_rate(name, rate);
        }
    }

    fn verified(&mut self) {
        self.verified = true;
    }
}

impl Drop for ComingHere {
    fn drop(&mut self) {
        let digest = self.blob.digest;
        let mut state = self.spread.state();
        if self.verified || state.doubtful.len() >= REMEMBERED_MAX {
            state.doubtful.remove(&digest);
        } else if !self.gave.is_empty() {
            state.doubtful.insert(digest, std::mem::take(&mut self.gave));
        }
        drop(state);
        self.spread.ended(&digest);
    }
}

/// A blob as one peer gives it.
struct Taking {
    pieces: BoxStream<'static, Result<BlobPiece, Status>>,
    stall: Stall,
    spread: Spread,
    standings: Standings,
    address: String,
    done: u64,
    bytes: u64,
    watched: bool,
    /// The best rate of the others.
    best: Option<Rate>,
    since: Instant,
    gained: u64,
}

impl Taking {
    fn into_pieces(self) -> Pieces {
        let pieces = stream::unfold(Some(self), |taking| async {
            let mut taking = taking?;
            match taking.next().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(taking))),
                Ok(None) => None,
                Err((standing, error)) => {
                    set_standing(&taking.standings, &taking.address, standing);
                    Some((Err(error), None))
                }
            }
        });
        pieces.boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, (Standing, io::Error)> {
        let failed = |why: String| (Standing::Failed, io::Error::other(why));
        let until = self
            .stall
            .until()
            .min(tokio::time::Instant::now() + STALL_TIMEOUT);
        let piece = match tokio::time::timeout_at(until, self.pieces.next()).await {
            // There is no need to send one, and no end to them.
            Ok(Some(Ok(piece))) if piece.data.is_empty() => {
                return Err(failed(format!("{} sent a piece of nothing", self.address)));
            }
            Ok(Some(Ok(piece))) => piece,
            Ok(None) if self.done >= self.bytes => {
                self.rate(self.bytes);
                return Ok(None);
            }
            Ok(None) => return Err(failed(format!("{} ended early", self.address))),
            Ok(Some(Err(status))) => return Err(failed(format!("{}: {}", self.address, status.message()))),
            Err(_) => return Err(failed(format!("{} stopped sending", self.address))),
        };
        self.stall.took(piece.data.len());
        self.done += piece.data.len() as u64;
        self.gained += piece.data.len() as u64;
        let within = self.since.elapsed();
        if within >= WATCHED_FOR {
            let watched = Watched {
                bytes: self.gained,
                within,
                behind: piece.here.saturating_sub(self.done),
                best: self.best,
            };
            self.rate(piece.here);
            if self.watched && is_too_slow(&watched) {
                let why = format!("{} is too slow", self.address);
                return Err((Standing::Slow, io::Error::other(why)));
            }
            (self.since, self.gained) = (Instant::now(), 0);
        }
        Ok(Some(piece.data))
    }

    /// Notes how fast the peer is, unless it waits for the blob itself.
    fn rate(&self, here: u64) {
        let rate = rate_of(self.gained, self.since.elapsed());
        if let Some(rate) = rate.filter(|_| self.gained >= RATED_BYTES_MIN && here >= self.bytes) {
            self.spread.note_rate(&self.address, rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_images::ImageStore;

    #[tokio::test]
    async fn a_peer_that_sends_pieces_of_nothing_is_left() {
        let place = tempfile::tempdir().unwrap();
        let standings = Standings::default();
        let nothing = BlobPiece {
            data: Bytes::new(),
            here: 0,
        };
        let taking = Taking {
            pieces: stream::repeat_with(move || Ok(nothing.clone())).boxed(),
            stall: Stall::begin(),
            spread: Spread::new(ImageStore::open(place.path()).unwrap()),
            standings: standings.clone(),
            address: "peer".to_owned(),
            done: 0,
            bytes: 1 << 30,
            watched: true,
            best: None,
            since: Instant::now(),
            gained: 0,
        };
        let came: Vec<_> = taking.into_pieces().take(1000).collect().await;
        assert!(matches!(&came[..], [Err(_)]), "{} pieces", came.len());
        assert_eq!(standing_of(&standings, "peer"), Standing::Failed);
    }
}
