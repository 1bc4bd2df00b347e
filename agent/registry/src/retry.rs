//! When a request is made again, and how long after.

use std::time::Duration;

/// Most attempts without anything gained, as many as Docker's.
const ATTEMPTS_MAX: u32 = 5;
/// The first pause; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Attempts at one thing.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    failed: u32,
}

impl Attempts {
    /// Something was gained: the count begins anew.
    pub fn gained(&mut self) {
        self.failed = 0;
    }

    /// How long to wait before the next attempt; `None` when it was the last. `jitter` is from 0 to 1, so that nodes
    /// which failed together do not come back together.
    pub fn pause(&mut self, jitter: f64) -> Option<Duration> {
        self.failed += 1;
        if self.failed >= ATTEMPTS_MAX {
            return None;
        }
        let pause = FIRST_PAUSE * 2_u32.pow(self.failed - 1);
        Some(pause.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end_and_begin_anew_with_a_gain() {
        let mut attempts = Attempts::default();
        let pauses: Vec<_> = std::iter::from_fn(|| attempts.pause(0.0)).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000].map(Duration::from_millis));
        attempts.gained();
        assert_eq!(attempts.pause(1.0), Some(Duration::from_millis(750)));
    }
}
