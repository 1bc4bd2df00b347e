//! Health checks of containers, and what they found.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A health check.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`.
    pub test: Vec<String>,
    /// Wait between probes; 30 s when zero.
    pub interval: Duration,
    /// Longest probe; 30 s when zero.
    pub timeout: Duration,
    /// Failures in a row until unhealthy; 3 when zero.
    pub retries: u64,
    /// Start-up time in which failures do not count.
    pub start_period: Duration,
    /// Wait between probes during start-up; 5 s when zero.
    pub start_interval: Duration,
}

/// Health of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HealthState {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: String,
    /// Failures in a row.
    pub failing_streak: u64,
    /// The last probes, oldest first.
    pub log: Vec<HealthProbe>,
}

/// One run of a health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthProbe {
    /// Began.
    pub start: Timestamp,
    /// Ended.
    pub end: Timestamp,
    /// Exit code.
    pub exit_code: i32,
    /// Output, at most 4096 bytes.
    pub output: String,
}
