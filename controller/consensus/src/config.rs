//! What a node is told when it is opened.

use crate::keys::{Entropy, SystemEntropy};
use std::sync::Arc;

/// Segments of this size are recycled; larger wastes disk on small clusters, smaller syncs directories more often.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Entries applied between two snapshots.
pub const SNAPSHOT_INTERVAL_ENTRIES: u64 = 10_000;
/// Entries kept behind a snapshot, so that a slow follower needs no snapshot.
pub const KEPT_ENTRIES: u64 = 500;
/// Bytes of entries in memory at which a snapshot is due before the interval has passed.
pub const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// One entry; a changeset is bounded to far less.
pub const ENTRY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// One message of another controller: an entry of the largest size fits with room to spare.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A leader's heartbeats on a LAN.
const HEARTBEAT_MS: u64 = 100;
/// Three heartbeats may be late; with the election itself a dead leader costs well under a second.
const ELECTION_MS: u64 = 300;
const CHUNK_RETRY_MS: u64 = 500;
const TRANSFER_TIMEOUT_MS: u64 = 3_000;

/// Configuration of a node.
#[derive(Clone)]
pub struct NodeConfig {
    /// This controller's Raft id; never 0, never one that was used before.
    pub raft_id: u64,
    /// The cluster; files of another one are refused.
    pub cluster_id: u128,
    /// Ticks without a leader before an election; the actual number is drawn between this and twice this, exclusive.
    pub election_ticks: usize,
    /// Ticks between two heartbeats of a leader.
    pub heartbeat_ticks: usize,
    /// Seeds the node's own random source for election timeouts: same seed and inputs, same trace.
    pub seed: u64,
    /// Size of a log segment.
    pub segment_bytes: u64,
    /// Applied entries after which a snapshot is due.
    pub snapshot_interval_entries: u64,
    /// Entries kept behind a snapshot.
    pub kept_entries: u64,
    /// Snapshots kept on disk beside the newest.
    pub old_snapshots: usize,
    /// Bytes of entries in memory at which a snapshot is due.
    pub log_bytes_max: u64,
    /// Entries that a learner may lack when it is promoted.
    pub promotion_lag_entries: u64,
    /// Ticks after which a chunk that did not come is asked for again.
    pub chunk_retry_ticks: u64,
    /// Ticks after which a leader takes a snapshot transfer that asks for nothing as failed.
    pub transfer_timeout_ticks: u64,
    /// Makes this controller the only voter when it opens, and everything in its log committed: the last resort when
    /// the quorum is lost for good. Entries that only other controllers held are lost.
    pub force_new_cluster: bool,
    /// Where bytes for keys come from.
    pub entropy: Arc<dyn Entropy>,
    /// A bug for the simulation to find.
    #[cfg(any(test, feature = "sim"))]
    pub planted_bug: crate::sim::PlantedBug,
}

impl NodeConfig {
    /// Sets everything that is counted in ticks for ticks of this length. Shorter ticks keep candidates apart better:
    /// 10 ms is good for a network, 50 ms for a simulation that must be fast.
    pub fn set_tick_ms(&mut self, tick_ms: u64) {
        let ticks = |ms: u64| (ms / tick_ms.max(1)).max(1);
        self.heartbeat_ticks = ticks(HEARTBEAT_MS) as usize;
        self.election_ticks = (ticks(ELECTION_MS) as usize).max(self.heartbeat_ticks + 1);
        self.chunk_retry_ticks = ticks(CHUNK_RETRY_MS);
        self.transfer_timeout_ticks = ticks(TRANSFER_TIMEOUT_MS);
    }

    /// The defaults, for ticks of 50 ms.
    pub fn new(raft_id: u64, cluster_id: u128, seed: u64) -> NodeConfig {
        NodeConfig {
            raft_id,
            cluster_id,
            election_ticks: 6,
            heartbeat_ticks: 2,
            seed,
            segment_bytes: SEGMENT_BYTES,
            snapshot_interval_entries: SNAPSHOT_INTERVAL_ENTRIES,
            kept_entries: KEPT_ENTRIES,
            old_snapshots: 0,
            log_bytes_max: LOG_BYTES_MAX,
            promotion_lag_entries: 64,
            chunk_retry_ticks: 10,
            transfer_timeout_ticks: 60,
            force_new_cluster: false,
            entropy: Arc::new(SystemEntropy::new()),
            #[cfg(any(test, feature = "sim"))]
            planted_bug: crate::sim::PlantedBug::None,
        }
    }
}
