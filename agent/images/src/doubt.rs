//! What may have been lost with the power, until it was looked at.
//!
//! After a machine stopped without warning, no byte of the store is trusted: each blob and layer is compared with its
//! digest once, before its first use or by a thread that looks at all of them, whichever comes first.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;
use crate::turns::Turns;

/// Blobs or layers that are not known to be whole.
#[derive(Debug, Default)]
pub(crate) struct Doubt {
    left: Mutex<HashSet<Digest>>,
    /// Whoever looks at one, or puts another in its place.
    pub(crate) turns: Turns,
}

impl Doubt {
    fn left(&self) -> MutexGuard<'_, HashSet<Digest>> {
        // A set is valid after every statement that changes it.
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the trust from all of these.
    pub(crate) fn begin(&self, all: impl IntoIterator<Item = Digest>) {
        self.left().extend(all);
    }

    pub(crate) fn is_in_doubt(&self, digest: &Digest) -> bool {
        self.left().contains(digest)
    }

    /// It was looked at, or replaced by what was verified.
    pub(crate) fn settle(&self, digest: &Digest) {
        self.left().remove(digest);
    }

    /// Those that were not looked at.
    pub(crate) fn all(&self) -> Vec<Digest> {
        self.left().iter().copied().collect()
    }
}
