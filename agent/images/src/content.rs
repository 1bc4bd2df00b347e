//! Blobs for reading: the file of a blob, or the archive of a layer, made again of its directory.
//!
//! A layer that is unpacked and synced, and whose archive can be made again, is not kept as a blob beside it. What was
//! compressed elsewhere is no longer there then; its content is. What is made again is compared with its digest while it is read,
//! for the directory may have been damaged since.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use crate::blobs;
use crate::check::LayerState;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::records::{ImageRecord, LayerRecord, Lookup, REPOSITORY_HELD};
use crate::store::ImageStore;
use crate::tar_split::JoinedArchive;
use crate::unpack::open_directory;
use sha2::{Digest as _, Sha256};

/// A blob that is read. It stays readable when it is removed meanwhile.
pub struct BlobReader {
    source: Source,
    bytes: u64,
}

enum Source {
    File(File),
    Layer {
        archive: Box<JoinedArchive>,
        /// `None` once it is compared, or where only a part is read.
        comparing: Option<Comparing>,
        /// The layer stays.
        _lease: Lease,
    },
}

struct Comparing {
    hasher: Sha256,
    left: u64,
    expected: Digest,
}

impl Comparing {
    /// Takes what was read; at the end, whether it is what it should be.
    fn take(&mut self, read: &[u8]) -> io::Result<()> {
        self.hasher.update(read);
        self.left = self.left.saturating_sub(read.len() as u64);
        let is_end = self.left == 0 || read.is_empty();
        if is_end && Digest::of_hashed(self.hasher.clone()) != self.expected {
            let message = format!(
                "the layer {} was damaged on the disk: pull or load its image again",
                self.expected
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(())
    }
}

/// The content of a layer's blob, which stays while this is held.
#[derive(Debug)]
pub struct LayerHere {
    /// The digest of the blob itself or of its uncompressed content, whichever [`ImageStore::open_blob`] gives.
    pub digest: Digest,
    _lease: Lease,
}

impl BlobReader {
    /// The size of the blob.
    pub fn size(&self) -> u64 {
        self.bytes
    }

    /// Leaves out so many of the next bytes. An error where there are not so many may also come from the next read.
    pub fn skip(&mut self, bytes: u64) -> io::Result<()> {
        match &mut self.source {
            Source::File(file) => {
                file.seek(SeekFrom::Current(i64::try_from(bytes).unwrap_or(i64::MAX)))?;
                Ok(())
            }
            Source::Layer {
                archive, comparing, ..
            } => {
                if bytes > 0 {
                    *comparing = None;
                }
                archive.skip(bytes)
            }
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.source {
            Source::File(file) => file.read(buffer),
            Source::Layer {
                archive, comparing, ..
            } => {
                let read = archive.read(buffer)?;
                if let Some(under_way) = comparing
                    && !buffer.is_empty()
                {
                    under_way.take(&buffer[..read])?;
                    if under_way.left == 0 {
                        *comparing = None;
                    }
                }
                Ok(read)
            }
        }
    }
}

impl ImageStore {
    /// Whether the blob is here, whole and verified.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool> {
        Ok(self.blob_size(digest)?.is_some())
    }

    /// The blob's size, `None` where it is not here.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        match blobs::size(&self.inner.layout, digest)? {
            Some(bytes) => Ok(Some(bytes)),
            None => Ok(self.layer_of_content(digest)?.map(|(_, bytes)| bytes)),
        }
    }

    /// As [`has_blob`](Self::has_blob); one that is not of the size it is announced with is compared with its digest, and
    /// taken away if it was damaged.
    pub fn has_whole_blob(&self, digest: &Digest, bytes: u64) -> Result<bool> {
        match blobs::size(&self.inner.layout, digest)? {
            Some(actual) if actual == bytes => Ok(true),
            Some(_) => blobs::discard_unless_whole(&self.inner.layout, digest),
            None => Ok(self
                .layer_of_content(digest)?
                .is_some_and(|(_, here)| here == bytes)),
        }
    }

    /// Opens a blob for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<BlobReader> {
        let missing = match self.open_blob_file(digest) {
            Err(error @ Error::NoSuchBlob { .. }) => error,
            file => {
                let file = file?;
                let metadata = file.metadata();
                let failed = |error| Error::io("look at blob", &self.inner.layout.blob(digest), error);
                return Ok(BlobReader {
                    bytes: metadata.map_err(failed)?.len(),
                    source: Source::File(file),
                });
            }
        };
        // Before it is looked for: what is found then stays.
        let mut lease = self.lease([*digest]);
        let Some((chain_id, bytes)) = self.layer_of_content(digest)? else {
            return Err(missing);
        };
        lease.extend([chain_id]);
        let source = Source::Layer {
            archive: Box::new(self.joined_archive(&chain_id)?),
            comparing: Some(Comparing {
                hasher: Sha256::new(),
                left: bytes,
                expected: *digest,
            }),
            _lease: lease,
        };
        Ok(BlobReader { source, bytes })
    }

    /// As [`ImageStore::open_blob`], for whoever compares what is read with its digest itself, as other nodes do.
    pub fn open_blob_uncompared(&self, digest: &Digest) -> Result<BlobReader> {
        let mut blob = self.open_blob(digest)?;
        if let Source::Layer { comparing, .. } = &mut blob.source {
            *comparing = None;
        }
        Ok(blob)
    }

    /// Opens the file of a blob, for what needs one.
    pub fn open_blob_file(&self, digest: &Digest) -> Result<File> {
        blobs::open(&self.inner.layout, digest)
    }

    /// A layer, if it is here in any form: the blob, announced with this size, or the uncompressed content. Where no content
    /// is named, it is what the blob was found to have.
    pub fn layer_here(
        &self,
        blob: &Digest,
        bytes: u64,
        content: Option<&Digest>,
    ) -> Result<Option<LayerHere>> {
        let mut lease = self.lease([*blob]);
        if self.has_whole_blob(blob, bytes)? {
            return Ok(Some(LayerHere {
                digest: *blob,
                _lease: lease,
            }));
        }
        let contents = match content {
            Some(content) => vec![*content],
            None => self.known_contents(blob)?,
        };
        for content in contents {
            lease.extend([content]);
            if self.has_blob(&content)? {
                return Ok(Some(LayerHere {
                    digest: content,
                    _lease: lease,
                }));
            }
        }
        Ok(None)
    }

    /// The diff ids of the layers that images have this blob for.
    fn known_contents(&self, blob: &Digest) -> Result<Vec<Digest>> {
        let mut contents = Vec::new();
        for image in self.inner.records.view()?.images_and_rests()? {
            for (index, diff_id) in image.diff_ids.iter().enumerate() {
                if diff_id != blob && !contents.contains(diff_id) && image.has_form(index, blob) {
                    contents.push(*diff_id);
                }
            }
        }
        Ok(contents)
    }

    /// A layer with this content that stands whole and whose archive can be made again, with the size of that.
    fn layer_of_content(&self, diff_id: &Digest) -> Result<Option<(Digest, u64)>> {
        let layers = self.inner.records.view()?.layers()?;
        let fitting = layers.into_iter().filter(|(_, layer)| layer.diff_id == *diff_id);
        for (key, layer) in fitting {
            let (Ok(chain_id), Some(bytes)) = (key.parse::<Digest>(), layer.archive_bytes) else {
                continue;
            };
            if self.layer_state(&chain_id)? == LayerState::Whole
                && self.inner.layout.split(&chain_id).is_file()
            {
                return Ok(Some((chain_id, bytes)));
            }
        }
        Ok(None)
    }

    /// The archive of a layer, made again.
    pub(crate) fn joined_archive(&self, chain_id: &Digest) -> Result<JoinedArchive> {
        let layout = &self.inner.layout;
        let place = layout.split(chain_id);
        let layer = open_directory(&layout.layer(chain_id))?;
        File::open(&place)
            .and_then(|split| JoinedArchive::new(split, layer))
            .map_err(|error| Error::io("open", &place, error))
    }

    /// Deletes the files of those of these blobs that are layers which stand unpacked, and that nobody else needs: no lease
    /// holds them but this one. To be called once an image is made of them; what is left over goes with the next collection.
    pub fn discard_unpacked(&self, blobs: &[Digest], own: Option<&Lease>) {
        if let Err(error) = self.try_discard_unpacked(blobs, own) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "blobs that are not needed any more are left over"
            );
        }
    }

    fn try_discard_unpacked(&self, blobs: &[Digest], own: Option<&Lease>) -> Result<()> {
        if blobs.is_empty() {
            return Ok(());
        }
        let layout = &self.inner.layout;
        // Under the pins nobody begins to need one of them as a file.
        let pins = self.inner.pins.hold();
        let view = self.inner.records.view()?;
        let mut needed = HashSet::new();
        let has_one = |image: &ImageRecord| {
            let layers = image.manifests.iter().flat_map(|manifest| &manifest.layer_blobs);
            let mut forms = layers.chain(&image.diff_ids);
            forms.any(|form| blobs.contains(form))
        };
        for image in view.images_and_rests()?.into_iter().filter(has_one) {
            needed.extend(self.blob_files_needed(&view, &image)?);
        }
        for blob in blobs {
            let is_held = view.value(REPOSITORY_HELD, &blob.to_string())?.is_some();
            if !needed.contains(blob) && !is_held && !pins.is_pinned_beside(blob, own) {
                layout.discard(&layout.blob(blob))?;
            }
        }
        Ok(())
    }

    /// The blobs of an image without which something of it would be lost.
    pub(crate) fn blob_files_needed(
        &self,
        records: &impl Lookup,
        image: &ImageRecord,
    ) -> Result<Vec<Digest>> {
        let mut stands = Vec::new();
        for chain_id in &image.chain_ids {
            let layer = records.layer(chain_id)?;
            stands.push(layer.is_some_and(|layer| self.stands_alone(chain_id, &layer)));
        }
        let mut needed: Vec<Digest> = image.documents().collect();
        for manifest in &image.manifests {
            for (index, blob) in manifest.layer_blobs.iter().enumerate() {
                let is_own = manifest.is_packed && Some(blob) != image.diff_ids.get(index);
                let stands = stands.get(index).copied().unwrap_or(false);
                if is_own || !stands {
                    needed.push(*blob);
                }
                // In whose place the content may have come.
                if !stands {
                    needed.extend(image.diff_ids.get(index));
                }
            }
        }
        Ok(needed)
    }

    /// Whether the layer needs no blob: its archive can be made again, and nobody doubts it.
    pub(crate) fn stands_alone(&self, chain_id: &Digest, layer: &LayerRecord) -> bool {
        let layout = &self.inner.layout;
        layer.archive_bytes.is_some()
            && !layout.layer_doubt().is_in_doubt(chain_id)
            && layout.layer(chain_id).is_dir()
            && layout.split(chain_id).is_file()
    }
}
