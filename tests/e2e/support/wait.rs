//! Waiting for conditions. Nothing here waits for a time to pass.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Enough for anything a cluster does, on a machine that is busy with other things.
pub const LONG: Duration = Duration::from_secs(60);
/// Wait between two looks.
const POLL: Duration = Duration::from_millis(100);

/// Looks until there is an answer, and returns it. Fails with the newest complaint when the deadline passes.
#[track_caller]
pub fn eventually<T, E: Debug>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + within;
    loop {
        match look() {
            Ok(found) => return found,
            Err(complaint) if Instant::now() >= deadline => {
                panic!("{what}: not within {within:?}: {complaint:?}")
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}
