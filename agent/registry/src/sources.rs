//! From whom a blob is taken: decisions of one node on what the others say of the blob and on the rates that were seen.
//!
//! Who fetches a blob follows one that has all of it, or one that has more of it, and serves others meanwhile: a rollout
//! becomes a chain behind each blob's one way into the cluster, in which every node sends and receives the blob once.
//! Nobody follows in a circle: who is followed had more bytes when it was chosen, and among those that have none yet the
//! rank decides, or one that waits for nobody is followed.

use muster_images::Digest;
use std::time::Duration;

/// Bytes per second, as they were seen.
pub type Rate = u64;

/// What a node of the same network is taken to bring as long as nothing was seen of it: half a gigabit.
const PEER_RATE_ASSUMED: Rate = 64 << 20;
/// A source gives way to one that is so many times as fast: less would not pay for the change.
const FASTER_TIMES: u64 = 2;
/// A peer that is so many times slower than the best is left, or not chosen where there is another.
const SLOWER_TIMES: u64 = 8;
/// A peer below this is left in any case, if there is another.
const PEER_RATE_MIN: Rate = 256 << 10;
/// A peer is not slow while it has given nearly all that it has: then it waits itself.
const BEHIND_BYTES_MIN: u64 = 4 << 20;
/// How long a peer is watched before it is called slow.
pub const WATCHED_FOR: Duration = Duration::from_secs(3);

/// How near the head of a blob's chain a node stands when all begin at once; every node computes the same of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(Digest);

impl Rank {
    /// Rendezvous hashing: another order for each blob, so that each blob's way into the cluster is another node.
    pub fn of(blob: &Digest, node: &str) -> Self {
        Self(Digest::of(format!("{blob} {node}").as_bytes()))
    }
}

/// What a peer has of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Has {
    /// All of it, verified.
    All,
    /// It is coming there.
    Part {
        /// So much is there.
        bytes: u64,
        /// It comes from the registry or from one that has all of it, so that it waits for no other that fetches.
        first_hand: bool,
    },
}

/// What was seen of a peer on the same blob before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// Nothing that speaks against it.
    #[default]
    Good,
    /// It was left because it was slow.
    Slow,
    /// It failed, or what it gave was false.
    Failed,
}

/// A peer that has a blob or part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Its rank for the blob.
    pub rank: Rank,
    /// What it has.
    pub has: Has,
    /// How many take the blob from it.
    pub readers: u32,
    /// How fast it was.
    pub rate: Option<Rate>,
    /// What was seen of it.
    pub standing: Standing,
}

/// The registry, as a source of the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registry {
    /// It is not asked.
    None,
    /// It can be asked, and was as fast as this before.
    Waits(Option<Rate>),
    /// It brings the blob, as fast as this.
    Brings(Rate),
}

/// Who seeks a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seeker {
    /// Its rank for the blob.
    pub rank: Rank,
    /// Bytes that it has.
    pub done: u64,
    /// It follows nobody yet and never did.
    pub unbound: bool,
    /// It has told the others that it will ask the registry.
    pub claimed: bool,
    /// The registry.
    pub registry: Registry,
}

/// The peer to take the rest of the blob from; `None`: the registry, or nobody where that is not asked.
pub fn choose(seeker: &Seeker, offers: &[Offer]) -> Option<usize> {
    let best = offers.iter().filter_map(|offer| offer.rate).max().unwrap_or(0);
    let is_slow = |offer: &Offer| {
        let rate = offer.rate.unwrap_or(PEER_RATE_ASSUMED);
        offer.standing == Standing::Slow || rate.saturating_mul(SLOWER_TIMES) < best
    };
    let usable = offers.iter().enumerate().filter(|(_, offer)| {
        offer.standing != Standing::Failed
            && can_be_followed(seeker, offer)
            && beats_the_registry(seeker.registry, offer)
    });
    let chosen = usable.min_by_key(|(_, offer)| {
        // Who has all of it is left to those that find nobody else.
        let whole = offer.has == Has::All;
        (
            is_slow(offer),
            offer.readers,
            whole,
            offer.rank < seeker.rank,
            offer.rank,
        )
    });
    chosen.map(|(position, _)| position)
}

fn can_be_followed(seeker: &Seeker, offer: &Offer) -> bool {
    match offer.has {
        Has::All => true,
        Has::Part { bytes, .. } if bytes > seeker.done => true,
        Has::Part { bytes: 0, first_hand } if seeker.unbound && seeker.done == 0 => {
            let above = offer.rank > seeker.rank;
            match seeker.claimed {
                true => first_hand && above,
                false => first_hand || above,
            }
        }
        Has::Part { .. } => false,
    }
}

/// While nothing is known of rates, peers are preferred: the registry is asked about once for all.
fn beats_the_registry(registry: Registry, offer: &Offer) -> bool {
    let rate = offer.rate.unwrap_or(PEER_RATE_ASSUMED);
    match registry {
        Registry::None | Registry::Waits(None) => true,
        // Rather a slow peer than one that was left for being slow.
        Registry::Waits(registry) => {
            offer.standing == Standing::Good && is_worth_asking(offer.rate, registry)
        }
        // What others fetch themselves may come from the same registry.
        Registry::Brings(registry) => {
            offer.has == Has::All
                && offer.standing == Standing::Good
                && rate > registry.saturating_mul(FASTER_TIMES)
        }
    }
}

/// Whether a peer with this rate is asked beside a registry with that one.
pub fn is_worth_asking(peer: Option<Rate>, registry: Option<Rate>) -> bool {
    let rate = peer.unwrap_or(PEER_RATE_ASSUMED);
    registry.is_none_or(|registry| rate.saturating_mul(FASTER_TIMES) >= registry)
}

/// What a peer gave while it was watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    /// So many bytes.
    pub bytes: u64,
    /// In so long.
    pub within: Duration,
    /// So many more it had by then.
    pub behind: u64,
    /// The best rate of other peers.
    pub best: Option<Rate>,
}

/// Whether a peer holds a transfer up, so that another source is looked for.
pub fn is_too_slow(watched: &Watched) -> bool {
    let Some(rate) = rate_of(watched.bytes, watched.within) else {
        return false;
    };
    let enough = PEER_RATE_MIN.max(watched.best.unwrap_or(0) / SLOWER_TIMES);
    watched.within >= WATCHED_FOR && watched.behind >= BEHIND_BYTES_MIN && rate < enough
}

/// Bytes per second; `None` where the time is too short to tell.
pub fn rate_of(bytes: u64, within: Duration) -> Option<Rate> {
    let milliseconds = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    bytes.saturating_mul(1000).checked_div(milliseconds)
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
