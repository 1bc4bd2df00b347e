//! Jobs: services whose tasks shall complete, each slot once in every run.

use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// Where a job stands: which run it is, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// The run, from 0. Every update of the service, and every rollback, begins the next one.
    pub iteration: u64,
    /// When it began.
    pub started_at: Timestamp,
}

impl JobStatus {
    /// The first run of a job.
    pub fn first(started_at: Timestamp) -> Self {
        Self {
            iteration: 0,
            started_at,
        }
    }

    /// The run after this one.
    #[must_use]
    pub fn next(self, started_at: Timestamp) -> Self {
        Self {
            iteration: self.iteration.saturating_add(1),
            started_at,
        }
    }
}
