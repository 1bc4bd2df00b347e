//! Durations: nanoseconds in JSON.

use super::Read;
use crate::http::Failure;
use std::time::Duration;

/// Reads nanoseconds.
pub(crate) fn read(field: &str, nanoseconds: i64) -> Read<Duration> {
    u64::try_from(nanoseconds)
        .map(Duration::from_nanos)
        .map_err(|_| Failure::invalid(format!("invalid {field}: a duration must not be negative")))
}

/// Writes nanoseconds, saturating.
pub(crate) fn write(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Docker's words for how long something lasts: `About a minute`, `3 hours`, `5 weeks`.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (.., 1) => "About an hour".to_owned(),
        (.., 2..48) => format!("{hours} hours"),
        (.., 48..336) => format!("{} days", hours / 24),
        (.., 336..1440) => format!("{} weeks", hours / 24 / 7),
        (.., 1440..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_docker_prints_them() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (3 * 3600, "3 hours"),
            (3 * 86_400, "3 days"),
            (21 * 86_400, "3 weeks"),
            (100 * 86_400, "3 months"),
            (800 * 86_400, "2 years"),
        ] {
            assert_eq!(human(Duration::from_secs(seconds)), text);
        }
    }
}
