//! Where the layers of an image come from while they are unpacked.

use std::io::{self, Read};

use crate::digest::Digest;

/// Where the blobs of an image's layers come from while they are unpacked.
pub trait LayerFeed {
    /// What this layer, counted from the lowest, is read from. Blocks while none of it is there.
    fn open(&self, layer: usize) -> io::Result<LayerBytes>;

    /// Returns once all of what is read of this layer is here, verified.
    fn await_verified(&self, layer: usize) -> io::Result<()>;

    /// Makes what is read of this layer part of the store: the layer does not stand without it.
    fn keep(&self, layer: usize) -> io::Result<()>;

    /// The layer is unpacked, or was before, and its blob is asked for no more.
    fn unpacked(&self, layer: usize);
}

/// A form of a layer.
pub struct LayerBytes {
    /// Its digest: that of the blob that the manifest names, or that of the uncompressed content. By the time when the feed
    /// says that the layer is verified, this is what was read.
    pub digest: Digest,
    /// Its bytes.
    pub reader: Box<dyn Read>,
}
