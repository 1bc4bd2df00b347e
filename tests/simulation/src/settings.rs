//! What a run is like, drawn from its seed.

use crate::random::Dice;
use crate::world::SECOND;

/// What a run is like.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Controllers in the beginning.
    pub controllers: usize,
    /// Clients.
    pub clients: usize,
    /// Longest pause between two operations of a client.
    pub think_us_max: u64,
    /// Faults.
    pub faults: u64,
    /// Until when faults and writes go on.
    pub trouble_us: u64,
    /// By when the cluster must rest after that.
    pub rest_within_us: u64,
    /// Entries between two snapshots.
    pub snapshot_interval: u64,
    /// Entries kept behind a snapshot.
    pub kept_entries: u64,
    /// Shortest and longest sync of a disk.
    pub sync_us: (u64, u64),
    /// Assignment sets that arrive once more, late, in a thousand.
    pub late_assignments_permille: u64,
    /// Clients promote and demote nodes.
    pub membership_changes: bool,
    /// The cluster was made before there were networks.
    pub old_cluster: bool,
    /// Some services are jobs.
    pub jobs: bool,
    /// There are secrets and configs.
    pub files: bool,
}

/// Seeds that failed before there were jobs run as they did.
const BEFORE_JOBS: [u64; 3] = [4824, 9762, 9845];
/// And those from before there were secrets and configs.
const BEFORE_FILES: [u64; 3] = [168, 4824, 9762];

impl Settings {
    /// The settings of a seed.
    pub fn draw(seed: u64, dice: &mut Dice) -> Self {
        Self {
            controllers: if dice.permille(700) { 3 } else { 5 },
            clients: 3,
            think_us_max: 7 * SECOND,
            faults: dice.between(14, 26),
            trouble_us: 540 * SECOND,
            rest_within_us: 120 * SECOND,
            snapshot_interval: dice.between(30, 400),
            kept_entries: dice.between(5, 100),
            sync_us: (50, 900),
            late_assignments_permille: 30,
            membership_changes: dice.permille(600),
            old_cluster: dice.permille(150),
            jobs: [0, 6, 8].contains(&(seed % 9)) && !BEFORE_JOBS.contains(&seed),
            files: [0, 6].contains(&(seed % 9)) && !BEFORE_FILES.contains(&seed),
        }
    }
}
