//! How often one peer may do something that costs every controller.

use std::time::Duration;

/// So many at once, then one per interval.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// At once, after a rest.
    pub burst: u32,
    /// Between two of them in the long run.
    pub interval: Duration,
}

/// What one peer has used of its limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// Everything that it did is paid for then.
    paid_at: Duration,
}

impl Pace {
    /// How long until the next one is within the limit; zero when it is now.
    pub fn wait(&self, limit: Limit, now: Duration) -> Duration {
        let ahead = limit.interval * limit.burst.saturating_sub(1);
        self.paid_at.saturating_sub(now + ahead)
    }

    /// Counts one.
    pub fn count(&mut self, limit: Limit, now: Duration) {
        self.paid_at = self.paid_at.max(now) + limit.interval;
    }

    /// It has rested for so long that nothing needs to be remembered of it.
    pub fn is_rested(&self, now: Duration) -> bool {
        self.paid_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_per_interval() {
        let limit = Limit {
            burst: 3,
            interval: Duration::from_secs(1),
        };
        let (mut pace, now) = (Pace::default(), Duration::from_secs(100));
        for _ in 0..3 {
            assert!(pace.wait(limit, now).is_zero());
            pace.count(limit, now);
        }
        assert_eq!(pace.wait(limit, now), Duration::from_secs(1));
        let later = now + Duration::from_secs(1);
        assert!(pace.wait(limit, later).is_zero());
        pace.count(limit, later);
        assert!(!pace.wait(limit, later).is_zero());
        assert!(pace.is_rested(now + Duration::from_secs(4)));
    }
}
