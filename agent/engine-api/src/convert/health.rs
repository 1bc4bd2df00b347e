//! Health checks.

use super::{Read, duration, non_negative, signed};
use crate::http::Failure;
use crate::wire::container::Health;
use muster_types::container::HealthCheck;

/// Shortest time of a health check; Docker's.
const NANOSECONDS_MIN: i64 = 1_000_000;

/// Reads a health check; one that says nothing means the image's own (`None`).
pub(crate) fn read(wire: Option<Health>) -> Read<Option<HealthCheck>> {
    let Some(wire) = wire.filter(|wire| *wire != Health::default()) else {
        return Ok(None);
    };
    match wire.test.first().map(String::as_str) {
        None | Some("" | "NONE" | "CMD" | "CMD-SHELL") => {}
        Some(kind) => {
            return Err(Failure::invalid(format!(
                "Unknown healthcheck type {kind:?} (expected 'CMD')"
            )));
        }
    }
    for (field, nanoseconds) in [
        ("Interval", wire.interval),
        ("Timeout", wire.timeout),
        ("StartPeriod", wire.start_period),
        ("StartInterval", wire.start_interval),
    ] {
        if nanoseconds != 0 && nanoseconds < NANOSECONDS_MIN {
            return Err(Failure::invalid(format!(
                "{field} in Healthcheck cannot be less than 1ms"
            )));
        }
    }
    if wire.retries < 0 {
        return Err(Failure::invalid("Retries in Healthcheck cannot be negative"));
    }
    Ok(Some(HealthCheck {
        interval: duration::read("Healthcheck.Interval", wire.interval)?,
        timeout: duration::read("Healthcheck.Timeout", wire.timeout)?,
        retries: non_negative("Healthcheck.Retries", wire.retries)?,
        start_period: duration::read("Healthcheck.StartPeriod", wire.start_period)?,
        start_interval: duration::read("Healthcheck.StartInterval", wire.start_interval)?,
        test: wire.test,
    }))
}

/// Writes a health check.
pub(crate) fn write(check: &HealthCheck) -> Health {
    Health {
        test: check.test.clone(),
        interval: duration::write(check.interval),
        timeout: duration::write(check.timeout),
        start_period: duration::write(check.start_period),
        start_interval: duration::write(check.start_interval),
        retries: signed(check.retries),
    }
}
