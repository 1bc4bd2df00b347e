//! How long a container waits before its engine starts it again.

use std::time::Duration;

/// Wait before the first restart.
const FIRST: Duration = Duration::from_millis(100);
/// Longest wait; Docker's.
const LONGEST: Duration = Duration::from_secs(60);
/// A run this long counts as healthy, and the next wait is the first one again; Docker's.
const HEALTHY_RUN: Duration = Duration::from_secs(10);

/// The waits of one container: 100 ms, doubling to one minute, from the start again after a run of ten seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// The wait before the next start, after a run that lasted this long.
    pub fn next(&mut self, run: Duration) -> Duration {
        let wait = match self.last {
            Some(last) if run < HEALTHY_RUN => (last * 2).min(LONGEST),
            Some(_) | None => FIRST,
        };
        self.last = Some(wait);
        wait
    }

    /// Forgets earlier failures: a user started it.
    pub fn reset(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_minute_and_reset_after_a_healthy_run() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(1);
        let waits: Vec<u64> = (0..12)
            .map(|_| u64::try_from(backoff.next(short).as_millis()).unwrap())
            .collect();
        assert_eq!(
            waits,
            [
                100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000
            ]
        );
        assert_eq!(backoff.next(HEALTHY_RUN), FIRST);
        assert_eq!(backoff.next(short), FIRST * 2);
        backoff.reset();
        assert_eq!(backoff.next(short), FIRST);
    }
}
