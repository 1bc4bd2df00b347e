//! The layers of an image that is pulled: downloaded side by side, unpacked from the lowest up as they come.

use crate::progress::{Pace, Report};
use muster_images::{
    BlobDescriptor, ComingBlob, Digest, ImageStore, LayerBytes, LayerFeed, LayerHere, VerifiedBlob,
};
use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Where each blob stands; shared by the downloads and the thread that unpacks.
pub(crate) struct Layers {
    store: ImageStore,
    layers: Vec<BlobDescriptor>,
    /// Blobs that were here before: their lines say so to the end.
    had: HashSet<Digest>,
    board: Arc<Board>,
    report: Report,
}

/// Where each blob stands.
#[derive(Default)]
pub(crate) struct Board {
    states: Mutex<States>,
    changed: Condvar,
}

#[derive(Default)]
struct States {
    blobs: HashMap<Digest, BlobState>,
    /// What came here and is no part of the store.
    verified: HashMap<Digest, VerifiedBlob>,
    given_up: bool,
}

#[derive(Clone)]
enum BlobState {
    Coming(ComingBlob),
    /// All of it came.
    Verified(ComingBlob),
    Stored(Arc<LayerHere>),
}

impl BlobState {
    fn is_whole(&self) -> bool {
        match self {
            BlobState::Coming(_) => false,
            BlobState::Verified(_) | BlobState::Stored(_) => true,
        }
    }
}

/// While held, the pull goes on; dropping it ends the thread that unpacks.
pub(crate) struct Going(pub Arc<Board>);

impl Drop for Going {
    fn drop(&mut self) {
        self.0.lock().given_up = true;
        self.0.changed.notify_all();
    }
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A download began.
    pub fn coming(&self, digest: Digest, blob: ComingBlob) {
        self.lock().blobs.insert(digest, BlobState::Coming(blob));
        self.changed.notify_all();
    }

    /// A download ended. The blob is another's, if none is given.
    pub fn verified(&self, digest: Digest, blob: ComingBlob, verified: Option<VerifiedBlob>) {
        let mut states = self.lock();
        states.blobs.insert(digest, BlobState::Verified(blob));
        if let Some(verified) = verified {
            states.verified.insert(digest, verified);
        }
        drop(states);
        self.changed.notify_all();
    }

    /// Makes what came, and was not unpacked yet, part of the store, for whoever begins anew.
    pub fn store_all(&self) -> muster_images::Result<()> {
        let verified = std::mem::take(&mut self.lock().verified);
        verified.into_values().try_for_each(VerifiedBlob::store)
    }

    /// What the blob stands for is in the store.
    pub fn stored(&self, digest: Digest, here: LayerHere) {
        self.lock()
            .blobs
            .insert(digest, BlobState::Stored(Arc::new(here)));
        self.changed.notify_all();
    }

    fn is_whole(&self, digest: &Digest) -> bool {
        self.lock().blobs.get(digest).is_some_and(BlobState::is_whole)
    }

    /// Waits until the blob stands as `enough` asks.
    fn await_state(&self, digest: &Digest, enough: impl Fn(&BlobState) -> bool) -> io::Result<BlobState> {
        let waiting =
            |states: &mut States| !states.given_up && !states.blobs.get(digest).is_some_and(&enough);
        let states = self
            .changed
            .wait_while(self.lock(), waiting)
            .unwrap_or_else(PoisonError::into_inner);
        match states.blobs.get(digest) {
            Some(state) if !states.given_up => Ok(state.clone()),
            _ => Err(io::Error::other("the pull was given up")),
        }
    }
}

impl Layers {
    pub fn new(
        layers: Vec<BlobDescriptor>,
        had: HashSet<Digest>,
        board: Arc<Board>,
        store: ImageStore,
        report: Report,
    ) -> Self {
        Self {
            store,
            layers,
            had,
            board,
            report,
        }
    }

    fn id(&self, layer: usize) -> String {
        self.layers[layer].digest.short()
    }
}

fn failed(error: muster_images::Error) -> io::Error {
    io::Error::other(error.full_message())
}

impl LayerFeed for Layers {
    fn open(&self, layer: usize) -> io::Result<LayerBytes> {
        let blob = self.layers[layer];
        let (digest, inner): (Digest, Box<dyn Read>) = match self.board.await_state(&blob.digest, |_| true)? {
            BlobState::Coming(coming) | BlobState::Verified(coming) => {
                (coming.digest(), Box::new(coming.reader()))
            }
            BlobState::Stored(here) => {
                let stored = self.store.open_blob(&here.digest);
                (here.digest, Box::new(stored.map_err(failed)?))
            }
        };
        let reader = Box::new(Unpacking {
            inner,
            blob,
            id: self.id(layer),
            done: 0,
            pace: Pace::new(),
            board: self.board.clone(),
            report: self.report.clone(),
        });
        Ok(LayerBytes { digest, reader })
    }

    fn await_verified(&self, layer: usize) -> io::Result<()> {
        self.board
            .await_state(&self.layers[layer].digest, BlobState::is_whole)?;
        Ok(())
    }

    fn keep(&self, layer: usize) -> io::Result<()> {
        let blob = self.layers[layer];
        let verified = self.board.lock().verified.remove(&blob.digest);
        let kept = match verified {
            Some(verified) => verified.store(),
            None if self.store.has_blob(&blob.digest).map_err(failed)? => Ok(()),
            // Another pull brought it, and may not keep it.
            None => {
                let state = self.board.await_state(&blob.digest, |_| true)?;
                match state {
                    BlobState::Coming(coming) | BlobState::Verified(coming) => {
                        self.store
                            .import_blob(&coming.digest(), Some(coming.size()), coming.reader())
                    }
                    BlobState::Stored(_) => Ok(()),
                }
            }
        };
        kept.map_err(failed)
    }

    fn unpacked(&self, layer: usize) {
        let digest = self.layers[layer].digest;
        if !self.layers[layer + 1..]
            .iter()
            .any(|above| above.digest == digest)
        {
            drop(self.board.lock().verified.remove(&digest));
        }
        if self.had.contains(&self.layers[layer].digest) {
            return;
        }
        self.report.of(&self.id(layer), "Pull complete");
    }
}

/// Counts what is unpacked of a layer. While it is still being downloaded, its line says that.
struct Unpacking {
    inner: Box<dyn Read>,
    blob: BlobDescriptor,
    id: String,
    done: u64,
    pace: Pace,
    board: Arc<Board>,
    report: Report,
}

impl Read for Unpacking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.done += read as u64;
        if self.pace.is_due() && self.board.is_whole(&self.blob.digest) {
            self.report
                .bytes(&self.id, "Extracting", self.done, self.blob.bytes);
        }
        Ok(read)
    }
}
