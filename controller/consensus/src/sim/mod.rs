//! Twins of the outside world for simulation: a disk that crashes, and key bytes from a seed.

mod disk;
mod file_state;

pub use disk::SimDisk;

use crate::error::FatalError;
use crate::keys::Entropy;
use crate::seeded::SeededSource;
use std::sync::{Mutex, PoisonError};

/// Bytes from a seed. Share one over all restarts of a node, so that no restart repeats the bytes of another.
pub struct SeededEntropy(Mutex<SeededSource>);

impl SeededEntropy {
    /// A source that gives the same bytes for the same seed.
    pub fn new(seed: u64) -> SeededEntropy {
        SeededEntropy(Mutex::new(SeededSource::new(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), FatalError> {
        let mut source = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&source.draw().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// A bug that a simulation must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlantedBug {
    /// None: the production code.
    #[default]
    None,
    /// A controller votes for every candidate of a term.
    DoubleVote,
    /// A controller answers reads from what it has, without asking a leader or a quorum.
    StaleReads,
}
