//! A blob while it comes from elsewhere: written and hashed piece by piece, and readable meanwhile, so that a layer is
//! unpacked beside its download.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use crate::blobs::Expected;
use crate::coming_place::{Came, Place, Taken};
use crate::digest::Digest;
use crate::error::{ArchiveError, Error, Result};
use crate::lease::Lease;
use crate::store::ImageStore;
use sha2::{Digest as _, Sha256};

/// Takes the pieces of one blob. Dropped before [`BlobWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    store: StoreHandle,
    place: Place,
    hasher: Sha256,
    written: u64,
    expected: Expected,
    bytes: u64,
    shared: Producer,
    /// Pins the blob until the writer is gone; the caller's own lease takes over.
    _lease: Lease,
}

/// The writer's side of what readers wait for: they are told when it goes.
#[derive(Debug)]
struct Producer(Arc<Shared>);

impl Drop for Producer {
    fn drop(&mut self) {
        self.0.end(End::Abandoned);
    }
}

/// The store, which has no debug form of its own.
#[derive(Clone)]
struct StoreHandle(ImageStore);

impl std::fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ImageStore")
    }
}

/// A blob that is coming. Clones follow the same one.
#[derive(Debug, Clone)]
pub struct ComingBlob {
    shared: Arc<Shared>,
}

/// The blobs that are coming into a store, by digest.
pub(crate) type ComingBlobs = Mutex<HashMap<Digest, Weak<Shared>>>;

#[derive(Debug)]
pub(crate) struct Shared {
    digest: Digest,
    file: File,
    /// Where the file is in memory.
    _memory: Option<Taken>,
    bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy)]
struct State {
    written: u64,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Coming,
    /// All of it is here and is what was announced. It is no part of the store.
    Verified,
    Stored,
    Abandoned,
}

impl ImageStore {
    /// Begins a blob of this digest and size.
    pub fn begin_blob(&self, digest: &Digest, bytes: u64) -> Result<(BlobWriter, ComingBlob)> {
        let temporary = self.inner.layout.temporary();
        let failed = |error: io::Error| Error::io("write a blob in", &temporary, error);
        let (place, memory) = Place::begin(&temporary, bytes, &self.inner.in_memory).map_err(failed)?;
        let shared = Arc::new(Shared {
            digest: *digest,
            file: place.file().try_clone().map_err(failed)?,
            _memory: memory,
            bytes,
            state: Mutex::new(State {
                written: 0,
                end: End::Coming,
            }),
            changed: Condvar::new(),
        });
        {
            let mut coming = lock(&self.inner.coming);
            coming.retain(|_, blob| blob.strong_count() > 0);
            coming.insert(*digest, Arc::downgrade(&shared));
        }
        let writer = BlobWriter {
            store: StoreHandle(self.clone()),
            place,
            hasher: Sha256::new(),
            written: 0,
            expected: Expected {
                digest: *digest,
                bytes: Some(bytes),
            },
            bytes,
            shared: Producer(shared.clone()),
            _lease: self.lease([*digest]),
        };
        Ok((writer, ComingBlob { shared }))
    }

    /// The blob of this digest that is coming, if one is: what is here of it can be given on, unverified.
    pub fn coming_blob(&self, digest: &Digest) -> Option<ComingBlob> {
        let shared = lock(&self.inner.coming).get(digest)?.upgrade()?;
        let coming = shared.lock().end != End::Abandoned;
        coming.then_some(ComingBlob { shared })
    }
}

fn lock(coming: &ComingBlobs) -> MutexGuard<'_, HashMap<Digest, Weak<Shared>>> {
    // The map is valid after every statement that changes it.
    coming.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BlobWriter {
    /// Appends a piece. One that reaches beyond the announced size is refused.
    pub fn write(&mut self, piece: &[u8]) -> Result<()> {
        if self.written + piece.len() as u64 > self.bytes {
            return Err(ArchiveError::SizeMismatch {
                what: format!("blob {}", self.expected.digest),
                expected: self.bytes,
                actual: self.written + piece.len() as u64,
            }
            .into());
        }
        let failed = |error| Error::io("write a blob in", self.store.0.inner.layout.root(), error);
        self.place.file().write_all(piece).map_err(failed)?;
        self.hasher.update(piece);
        self.written += piece.len() as u64;
        self.shared.0.lock().written = self.written;
        self.shared.0.changed.notify_all();
        Ok(())
    }

    /// Makes the blob part of the store, if it is what was announced: *verified before visible*.
    pub fn finish(self) -> Result<()> {
        let store = self.store.clone();
        let _lease = store.0.lease([self.expected.digest]);
        let (came, shared) = self.checked()?;
        came.store(&store.0.inner.layout)?;
        shared.0.end(End::Stored);
        Ok(())
    }

    /// Ends the blob, if it is what was announced. It is deleted with the result, unless that is stored.
    pub fn verify(self) -> Result<VerifiedBlob> {
        let store = self.store.clone();
        let lease = store.0.lease([self.expected.digest]);
        let (came, shared) = self.checked()?;
        shared.0.end(End::Verified);
        Ok(VerifiedBlob {
            store,
            came,
            _shared: shared,
            _lease: lease,
        })
    }

    fn checked(self) -> Result<(Came, Producer)> {
        let digest = Digest::from_hash(self.hasher.finalize().into());
        let what = || format!("blob {}", self.expected.digest);
        self.expected.check(&digest, self.written, what)?;
        let came = Came {
            place: self.place,
            digest,
            bytes: self.written,
        };
        Ok((came, self.shared))
    }
}

/// A blob that came whole and is no part of the store.
#[derive(Debug)]
pub struct VerifiedBlob {
    store: StoreHandle,
    came: Came,
    _shared: Producer,
    _lease: Lease,
}

impl VerifiedBlob {
    /// Makes it part of the store.
    pub fn store(self) -> Result<()> {
        self.came.store(&self.store.0.inner.layout)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Both fields are valid after every statement that changes them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first end that is told stays.
    fn end(&self, end: End) {
        {
            let mut state = self.lock();
            if state.end == End::Coming {
                state.end = end;
            }
        }
        self.changed.notify_all();
    }

    /// Waits until something else than this many bytes and no end is known.
    fn wait_beyond(&self, read: u64) -> State {
        let unchanged = |state: &mut State| state.end == End::Coming && state.written <= read;
        *self
            .changed
            .wait_while(self.lock(), unchanged)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl ComingBlob {
    /// Reads the blob from its beginning, waiting for pieces. What it gives is verified only once all of it came.
    pub fn reader(&self) -> impl Read + use<> {
        self.reader_from(0)
    }

    /// As [`ComingBlob::reader`], from this byte on.
    pub fn reader_from(&self, position: u64) -> impl Read + use<> {
        ComingReader {
            shared: self.shared.clone(),
            position,
        }
    }

    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.shared.digest
    }

    /// The size that it was announced with.
    pub fn size(&self) -> u64 {
        self.shared.bytes
    }

    /// How many bytes of it are here.
    pub fn written(&self) -> u64 {
        self.shared.lock().written
    }

    /// Whether all of it is here and was verified.
    pub fn is_verified(&self) -> bool {
        self.shared.lock().end == End::Verified
    }

    /// Waits until all of the blob is verified, and stored, if it is to be.
    pub fn await_verified(&self) -> io::Result<()> {
        match self.shared.wait_beyond(u64::MAX).end {
            End::Verified | End::Stored => Ok(()),
            End::Coming | End::Abandoned => Err(stopped()),
        }
    }
}

fn stopped() -> io::Error {
    io::Error::other("the blob stopped coming")
}

struct ComingReader {
    shared: Arc<Shared>,
    position: u64,
}

impl Read for ComingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.shared.wait_beyond(self.position);
        if state.end == End::Abandoned {
            return Err(stopped());
        }
        let left = state.written.saturating_sub(self.position);
        if left == 0 {
            return Ok(0);
        }
        let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = self.shared.file.read_at(&mut buffer[..wanted], self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    fn store() -> (tempfile::TempDir, ImageStore) {
        let place = tempfile::tempdir().unwrap();
        let store = ImageStore::open(place.path()).unwrap();
        (place, store)
    }

    #[test]
    fn a_reader_follows_the_writer_to_the_end() {
        let (_place, store) = store();
        let content = b"0123456789".repeat(100);
        let digest = Digest::of(&content);
        let (mut writer, coming) = store.begin_blob(&digest, content.len() as u64).unwrap();
        let mut reader = coming.reader();
        let follower = std::thread::spawn(move || {
            let mut read = Vec::new();
            reader.read_to_end(&mut read).map(|_| read)
        });
        for piece in content.chunks(7) {
            writer.write(piece).unwrap();
        }
        let found = store.coming_blob(&digest).unwrap();
        assert_eq!(found.written(), 1000);
        let mut rest = Vec::new();
        found.reader_from(990).take(10).read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"0123456789");
        assert!(!store.has_blob(&digest).unwrap());
        writer.finish().unwrap();
        coming.await_verified().unwrap();
        assert_eq!(follower.join().unwrap().unwrap(), content);
        assert!(store.has_blob(&digest).unwrap());
        let in_memory = &store.inner.in_memory;
        assert_eq!(in_memory.load(Ordering::Relaxed), 1000, "it can still be read");
        drop((found, coming));
        assert_eq!(in_memory.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_not_as_announced_is_refused_and_readers_are_told() {
        let (_place, store) = store();
        let digest = Digest::of(b"content");
        for content in [&b"CONTENT"[..], b"conten"] {
            let (mut writer, coming) = store.begin_blob(&digest, 7).unwrap();
            writer.write(content).unwrap();
            writer.finish().unwrap_err();
            coming.reader().read_to_end(&mut Vec::new()).unwrap_err();
        }
        let (mut writer, coming) = store.begin_blob(&digest, 7).unwrap();
        writer.write(b"content!").unwrap_err();
        drop(writer);
        assert!(store.coming_blob(&digest).is_none());
        coming.reader().read_to_end(&mut Vec::new()).unwrap_err();
        coming.await_verified().unwrap_err();
        assert!(!store.has_blob(&digest).unwrap());
        let left = std::fs::read_dir(store.inner.layout.temporary()).unwrap().count();
        assert_eq!(left, 0);
    }
}
