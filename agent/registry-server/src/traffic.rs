//! How many bytes of content clients sent and took.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of blobs and manifests since the start. They are counted as they come and go, also those of requests that fail.
#[derive(Debug, Default)]
pub struct Traffic {
    received: AtomicU64,
    served: AtomicU64,
}

impl Traffic {
    /// What clients sent.
    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// What clients took.
    pub fn served_bytes(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn served(&self, bytes: usize) {
        self.served.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
