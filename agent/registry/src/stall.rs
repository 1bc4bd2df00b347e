//! Whether a blob still comes.

use std::time::Duration;
use tokio::time::Instant;

/// A source that brings less than [`PROGRESS_BYTES_MIN`] in this time has stopped.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// As little as that is no progress: a blob of one byte now and then would never end.
pub(crate) const PROGRESS_BYTES_MIN: u64 = 16 << 10;

/// Watches that enough of a blob comes.
#[derive(Debug)]
pub struct Stall {
    within: Duration,
    until: Instant,
    bytes: u64,
}

impl Stall {
    /// Watches from now on.
    pub fn begin() -> Self {
        Self::within(STALL_TIMEOUT)
    }

    /// As [`Stall::begin`], of a source that may take so long for a little.
    pub fn within(within: Duration) -> Self {
        Self {
            within,
            until: Instant::now() + within,
            bytes: 0,
        }
    }

    /// When the source has stopped, unless enough comes.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// So much came.
    pub fn took(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.bytes >= PROGRESS_BYTES_MIN {
            *self = Self::within(self.within);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_enough_is_progress() {
        let mut stall = Stall::begin();
        let first = stall.until();
        for bytes in [0, 1, 1000] {
            stall.took(bytes);
            assert_eq!(stall.until(), first, "{bytes}");
        }
        stall.took(16 << 10);
        assert!(stall.until() > first);
    }
}
