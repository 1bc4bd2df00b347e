//! What came of images that did not come whole, because a registry or the others fell silent: kept for a while, so that
//! whoever begins such an image anew fetches only the rest.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::digest::Digest;
use crate::error::Result;
use crate::lease::Lease;
use crate::store::ImageStore;

/// How long the layers stay: long enough for a user, or a task, who tries again.
const KEPT_FOR: Duration = Duration::from_secs(15 * 60);
/// For so many images at once; each may be large.
const IMAGES_MAX: usize = 8;

/// The images, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Unfinished(Mutex<Vec<Image>>);

#[derive(Debug)]
struct Image {
    manifest: Digest,
    since: Instant,
    /// On what came of it.
    _lease: Lease,
}

impl Unfinished {
    fn lock(&self) -> MutexGuard<'_, Vec<Image>> {
        // The list is valid after every statement that changes it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of those that are too old; returns whether there were any.
    pub(crate) fn expire(&self, now: Instant) -> bool {
        let is_old = |image: &Image| now.saturating_duration_since(image.since) >= KEPT_FOR;
        let mut images = self.lock();
        let before = images.len();
        images.retain(|image| !is_old(image));
        images.len() < before
    }
}

impl ImageStore {
    /// Keeps what the lease is on, for whoever begins the image with this manifest anew within a quarter of an hour. It is
    /// given up for the images of later failures, by [`ImageStore::forget_unfinished`], and with the process.
    pub fn keep_unfinished(&self, manifest: Digest, lease: Lease) {
        let mut images = self.inner.unfinished.lock();
        images.retain(|image| image.manifest != manifest);
        if images.len() == IMAGES_MAX {
            images.remove(0);
        }
        images.push(Image {
            manifest,
            since: Instant::now(),
            _lease: lease,
        });
    }

    /// The image with this manifest came whole.
    pub fn finished(&self, manifest: &Digest) {
        let mut images = self.inner.unfinished.lock();
        images.retain(|image| image.manifest != *manifest);
    }

    /// Deletes what came of images that were not finished.
    pub fn forget_unfinished(&self) -> Result<()> {
        let images = std::mem::take(&mut *self.inner.unfinished.lock());
        match images.is_empty() {
            true => Ok(()),
            false => {
                drop(images);
                self.collect_garbage().map(drop)
            }
        }
    }

    /// Deletes what came of images that nobody finished for too long. To be called now and then.
    pub fn expire_unfinished(&self) -> Result<()> {
        match self.inner.unfinished.expire(Instant::now()) {
            true => self.collect_garbage().map(drop),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_finished_stays_for_a_while_and_for_few_images() {
        let place = tempfile::tempdir().unwrap();
        let store = ImageStore::open(place.path()).unwrap();
        let digest = |number: usize| Digest::of(number.to_string().as_bytes());
        for number in 0..=IMAGES_MAX {
            let blob = number.to_string();
            store.import_blob(&digest(number), None, blob.as_bytes()).unwrap();
            store.keep_unfinished(digest(number), store.lease([digest(number)]));
        }
        let here = |number: usize| store.has_blob(&digest(number)).unwrap();
        store.collect_garbage().unwrap();
        assert!(!here(0) && here(1) && here(2) && here(IMAGES_MAX));
        store.finished(&digest(1));
        store.expire_unfinished().unwrap();
        assert!(here(1), "nothing is old");
        store.collect_garbage().unwrap();
        assert!(!here(1) && here(2));
        let unfinished = &store.inner.unfinished;
        let now = Instant::now();
        assert!(!unfinished.expire(now));
        assert!(unfinished.expire(now + KEPT_FOR) && !unfinished.expire(now + KEPT_FOR));
        store.keep_unfinished(digest(2), store.lease([digest(2)]));
        store.forget_unfinished().unwrap();
        assert!(!here(2) && !here(3));
    }
}
