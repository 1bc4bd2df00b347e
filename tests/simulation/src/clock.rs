//! The clocks of one machine: neither runs at the right speed, and the wall clock jumps.

use muster_types::Timestamp;
use std::time::Duration;

/// Wall time at the beginning of every run: 2026-01-01T00:00:00Z.
const EPOCH_US: i64 = 1_767_225_600_000_000;

/// One machine's clocks.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Parts per million that the machine's clocks are fast; negative when slow.
    pub drift_ppm: i64,
    /// How far the wall clock is off.
    pub wall_offset_us: i64,
}

impl Clock {
    fn local_us(self, now_us: u64) -> i64 {
        let now = i64::try_from(now_us).unwrap_or(i64::MAX);
        now + now / 1000 * self.drift_ppm / 1000
    }

    /// Monotonic time that passed between two moments.
    pub fn elapsed(self, since_us: u64, now_us: u64) -> Duration {
        let elapsed = self.local_us(now_us) - self.local_us(since_us);
        Duration::from_micros(u64::try_from(elapsed).unwrap_or(0))
    }

    /// What the wall clock shows.
    pub fn wall(self, now_us: u64) -> Timestamp {
        Timestamp((EPOCH_US + self.local_us(now_us) + self.wall_offset_us) * 1000)
    }

    /// How long a wait of this machine really takes.
    pub fn real_us(self, wait: Duration) -> u64 {
        let wait = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX / 2_000_000);
        u64::try_from(wait - wait / 1000 * self.drift_ppm / 1000).unwrap_or(0)
    }
}
