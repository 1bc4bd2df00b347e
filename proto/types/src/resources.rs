//! Amounts that tasks reserve and nodes offer.

use serde::{Deserialize, Serialize};

/// CPU and memory. Zero means "none asked for" in a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Billionths of a CPU.
    pub nano_cpus: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Largest number of processes; a limit only, never reserved.
    pub pids: u64,
}

impl Resources {
    /// The sum of both, saturating.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            nano_cpus: self.nano_cpus.saturating_add(other.nano_cpus),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            pids: self.pids.saturating_add(other.pids),
        }
    }

    /// What is left after taking `other` away, never below zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            nano_cpus: self.nano_cpus.saturating_sub(other.nano_cpus),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            pids: self.pids.saturating_sub(other.pids),
        }
    }
}
