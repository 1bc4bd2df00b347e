//! What may have been lost with the power, until it was looked at.
//!
//! After a machine stopped without warning, no byte of the store is trusted: each blob and layer is compared with its
//! digest once, before its first use or by a thread that looks at all of them, whichever comes first.

use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

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

/// Whether the error is what a disk or file system gives back for what it lost.
pub(crate) fn is_loss(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| matches!(errno, Errno::IO | Errno::UCLEAN | Errno::BADMSG | Errno::ISDIR))
}

#[cfg(test)]
mod tests {
    use crate::check::LayerState;
    use crate::commit::NewImage;
    use crate::digest::Digest;
    use crate::limits::LoadLimits;
    use crate::records::{Lookup, Persist};
    use crate::store::ImageStore;
    use crate::tar_writer::TarWriter;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn a_layer_that_comes_waits_for_who_looks_at_the_old_one_and_what_is_whole_is_not_hidden() {
        let place = tempfile::tempdir().unwrap();
        let store = ImageStore::open(place.path()).unwrap();
        let archive = TarWriter::new(Vec::new()).finish().unwrap();
        // The layer can be unpacked once more.
        let digest = Digest::of(&archive);
        let _blob = store.lease([digest]);
        store.import_blob(&digest, None, archive.as_slice()).unwrap();
        let new = NewImage {
            reference: Some("app:1".to_owned()),
            ..NewImage::default()
        };
        let id = store
            .import_rootfs(archive.as_slice(), &new, &LoadLimits::default())
            .unwrap();
        let image = store.inner.records.view().unwrap().image(&id).unwrap().unwrap();
        let chain_id = image.chain_ids[0];
        let lost = |changes: &crate::records::Changes| changes.remove_layer(&chain_id.to_string());
        store.inner.records.change(Persist::Now, lost).unwrap();
        assert_eq!(store.layer_state(&chain_id).unwrap(), LayerState::Gone);

        let turn = store.inner.layout.layer_doubt().turns.take(chain_id);
        let (ended, ending) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| ended.send(store.mend_or_hide(&image)).unwrap());
            ending
                .recv_timeout(Duration::from_millis(200))
                .expect_err("it waits for its turn");
            drop(turn);
            ending.recv().unwrap().unwrap();
        });
        assert_eq!(store.layer_state(&chain_id).unwrap(), LayerState::Whole);
        // As after a repair that failed while a fetch brought what it missed.
        assert!(!store.hide(&image).unwrap());
        assert!(store.resolve("app:1").is_ok());
        store.inner.records.change(Persist::Now, lost).unwrap();
        assert!(store.hide(&image).unwrap());
        assert!(store.resolve("app:1").is_err());
    }
}
