//! Health checks.

use super::{Read, duration, non_negative, signed};
use crate::http::Failure;
use crate::wire::container::Health;
use muster_types::container::HealthCheck;

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
