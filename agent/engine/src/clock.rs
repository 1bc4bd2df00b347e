//! The wall clock, read in one place.

use muster_types::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// Now, by the wall clock.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX))
}

/// A time that the runtime reported.
pub fn from_runtime(unix_ns: i128) -> Timestamp {
    Timestamp(i64::try_from(unix_ns).unwrap_or(i64::MAX))
}
