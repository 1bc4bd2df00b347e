//! Layers that are here before they are unpacked: in the store, or staged and perhaps never to be part of it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;

use crate::blobs::StagedBlob;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer_feed::{LayerBytes, LayerFeed};
use crate::layout::Layout;
use crate::register::LayerStack;
use crate::store::ImageStore;

/// Layers that are all here: staged, or in the store as the blobs or as their uncompressed content.
pub(crate) struct StoredLayers<'a> {
    pub(crate) store: &'a ImageStore,
    pub(crate) layers: LayerStack<'a>,
    pub(crate) staged: Option<&'a StagedLayers>,
}

impl LayerFeed for StoredLayers<'_> {
    fn open(&self, layer: usize) -> io::Result<LayerBytes> {
        let (blob, content) = (self.layers.blobs[layer], self.layers.diff_ids[layer]);
        if let Some(file) = self.staged.and_then(|staged| staged.open(&blob)) {
            return Ok(LayerBytes {
                digest: blob,
                reader: Box::new(file?),
            });
        }
        let opened = match self.store.open_blob(&blob) {
            Err(missing @ Error::NoSuchBlob { .. }) => match self.store.open_blob(&content) {
                Err(Error::NoSuchBlob { .. }) => Err(missing),
                opened => opened.map(|opened| (content, opened)),
            },
            opened => opened.map(|opened| (blob, opened)),
        };
        let (digest, reader) = opened.map_err(io::Error::other)?;
        Ok(LayerBytes {
            digest,
            reader: Box::new(reader),
        })
    }

    fn await_verified(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn keep(&self, layer: usize) -> io::Result<()> {
        match self.staged {
            Some(staged) => staged
                .store(&self.layers.blobs[layer], &self.store.inner.layout)
                .map_err(io::Error::other),
            None => Ok(()),
        }
    }

    fn unpacked(&self, layer: usize) {
        if let Some(staged) = self.staged {
            staged.used(&self.layers.blobs[layer]);
        }
    }
}

/// Staged blobs; each is deleted once it was used as often as it is needed.
#[derive(Debug, Default)]
pub(crate) struct StagedLayers(RefCell<HashMap<Digest, Staged>>);

#[derive(Debug)]
struct Staged {
    blob: StagedBlob,
    uses_left: usize,
}

impl StagedLayers {
    /// Takes blobs over; `layers` are those of all images that are made of them.
    pub(crate) fn new(
        blobs: impl IntoIterator<Item = StagedBlob>,
        layers: impl Iterator<Item = Digest>,
    ) -> StagedLayers {
        let staged = blobs
            .into_iter()
            .map(|blob| (blob.digest, Staged { blob, uses_left: 0 }));
        let mut staged: HashMap<Digest, Staged> = staged.collect();
        for layer in layers {
            if let Some(staged) = staged.get_mut(&layer) {
                staged.uses_left += 1;
            }
        }
        StagedLayers(RefCell::new(staged))
    }

    /// Opens one that is here.
    pub(crate) fn open(&self, blob: &Digest) -> Option<io::Result<File>> {
        let staged = self.0.borrow();
        staged.get(blob).map(|staged| File::open(staged.blob.path()))
    }

    /// It was used once.
    pub(crate) fn used(&self, blob: &Digest) {
        let mut staged = self.0.borrow_mut();
        if let Some(found) = staged.get_mut(blob) {
            found.uses_left = found.uses_left.saturating_sub(1);
            if found.uses_left == 0 {
                staged.remove(blob);
            }
        }
    }

    /// Makes it part of the store, where it is here; it is used from there then.
    pub(crate) fn store(&self, blob: &Digest, layout: &Layout) -> Result<()> {
        let staged = self.0.borrow_mut().remove(blob);
        staged.map_or(Ok(()), |staged| staged.blob.store(layout))
    }
}
