//! Pins that keep content from being collected while no record names it yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;

/// How often each digest (of a blob or a layer chain) is pinned.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    counts: Mutex<HashMap<Digest, usize>>,
}

/// Keeps blobs and layers from being collected until it is dropped.
#[derive(Debug)]
pub struct Lease {
    pins: Arc<Pins>,
    digests: Vec<Digest>,
}

/// While held, nothing can be pinned: the collector decides and deletes under it.
pub(crate) struct PinsHeld<'a>(MutexGuard<'a, HashMap<Digest, usize>>);

impl Pins {
    pub(crate) fn lease(self: &Arc<Pins>, digests: impl IntoIterator<Item = Digest>) -> Lease {
        let mut lease = Lease {
            pins: self.clone(),
            digests: Vec::new(),
        };
        lease.extend(digests);
        lease
    }

    pub(crate) fn hold(&self) -> PinsHeld<'_> {
        // The map is valid after every statement that changes it, so a panic elsewhere leaves nothing half done.
        PinsHeld(self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl PinsHeld<'_> {
    pub(crate) fn is_pinned(&self, digest: &Digest) -> bool {
        self.0.contains_key(digest)
    }

    /// Whether others than this lease pin it.
    pub(crate) fn is_pinned_beside(&self, digest: &Digest, own: Option<&Lease>) -> bool {
        let own = own.map_or(0, |lease| {
            lease.digests.iter().filter(|pinned| *pinned == digest).count()
        });
        self.0.get(digest).is_some_and(|count| *count > own)
    }
}

impl Lease {
    /// Pins more.
    pub fn extend(&mut self, digests: impl IntoIterator<Item = Digest>) {
        let pins = self.pins.clone();
        let mut held = pins.hold();
        for digest in digests {
            *held.0.entry(digest).or_default() += 1;
            self.digests.push(digest);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut held = self.pins.hold();
        for digest in &self.digests {
            if let Some(count) = held.0.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    held.0.remove(digest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_pinned_until_the_last_lease_ends() {
        let pins = Arc::new(Pins::default());
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let first = pins.lease([a, b]);
        let second = pins.lease([a]);
        drop(first);
        assert!(pins.hold().is_pinned(&a) && !pins.hold().is_pinned(&b));
        assert!(!pins.hold().is_pinned_beside(&a, Some(&second)));
        let third = pins.lease([a]);
        assert!(pins.hold().is_pinned_beside(&a, Some(&second)));
        drop(third);
        drop(second);
        assert!(!pins.hold().is_pinned(&a));
    }
}
