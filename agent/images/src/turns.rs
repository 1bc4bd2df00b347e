//! Turns: work on one digest is done by one at a time.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::digest::Digest;

/// The digests that are worked on.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    taken: Mutex<HashSet<Digest>>,
    freed: Condvar,
}

/// The right to work on a digest, until it is dropped.
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    digest: Digest,
}

impl Turns {
    /// Waits until nobody else works on it.
    pub(crate) fn take(&self, digest: Digest) -> Turn<'_> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = self
            .freed
            .wait_while(taken, |taken| taken.contains(&digest))
            .unwrap_or_else(PoisonError::into_inner);
        taken.insert(digest);
        Turn { turns: self, digest }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.digest);
        self.turns.freed.notify_all();
    }
}
