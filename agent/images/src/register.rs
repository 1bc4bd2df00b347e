//! From a plan to an image: unpacks what is missing, verifies it, makes it durable, then records it.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::check::LayerState;
use crate::compression::{ByteBudget, Compression, decompress};
use crate::digest::{Digest, HashingReader, ImageId, digest_of};
use crate::error::{ArchiveError, Error, Result};
use crate::layout::{Layout, sync_directory};
use crate::lease::Lease;
use crate::limits::{LoadLimits, MANIFESTS_PER_IMAGE_MAX};
use crate::manifest::parse_config;
use crate::records::{Changes, ImageRecord, LayerRecord, Lookup, ManifestRecord, Persist};
use crate::reference::Reference;
use crate::staged_layers::{StagedLayers, StoredLayers};
use crate::store::ImageStore;
use crate::tar_split::{Split, SplitReader, SplitWriter};
use crate::tar_stream::TarStream;
use crate::turns::Turn;
use crate::unpack::{LayerWriter, open_directory};

const BUFFER_BYTES: usize = 256 << 10;
const SPLIT_EXTENSION: &str = "split";

/// An image whose documents are checked and whose blobs are at hand.
#[derive(Debug)]
pub(crate) struct PlannedImage {
    pub(crate) id: ImageId,
    pub(crate) manifest: Vec<u8>,
    pub(crate) manifest_digest: Digest,
    /// One blob per diff id, lowest first.
    pub(crate) layer_blobs: Vec<Digest>,
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) references: Vec<Reference>,
    /// The index that led to the manifest.
    pub(crate) index: Option<Digest>,
    /// A build made it on its way.
    pub(crate) is_step: bool,
}

/// Where the blobs of an image's layers come from while they are unpacked.
pub trait LayerFeed {
    /// A reader of the blob of this layer, counted from the lowest. Blocks while none of it is there.
    fn open(&self, layer: usize) -> io::Result<Box<dyn Read>>;

    /// Returns once all of the blob is here, verified.
    fn await_verified(&self, layer: usize) -> io::Result<()>;

    /// Makes the blob part of the store: the layer does not stand without it.
    fn keep(&self, layer: usize) -> io::Result<()>;

    /// The layer is unpacked, or was before, and its blob is asked for no more.
    fn unpacked(&self, layer: usize);
}

/// The layers of an image, lowest first.
#[derive(Clone, Copy)]
pub(crate) struct LayerStack<'a> {
    pub(crate) diff_ids: &'a [Digest],
    /// One for each.
    pub(crate) blobs: &'a [Digest],
}

impl PlannedImage {
    pub(crate) fn new(
        id: ImageId,
        config: &[u8],
        manifest: Vec<u8>,
        layer_blobs: Vec<Digest>,
        references: Vec<Reference>,
    ) -> Result<PlannedImage, ArchiveError> {
        let (_, diff_ids) = parse_config(&id, config)?;
        if diff_ids.len() != layer_blobs.len() {
            let problem = format!("{} diff ids for {} layers", diff_ids.len(), layer_blobs.len());
            return Err(ArchiveError::Inconsistent {
                what: format!("configuration {id}"),
                problem,
            });
        }
        let manifest_digest = Digest::of(&manifest);
        Ok(PlannedImage {
            id,
            manifest,
            manifest_digest,
            layer_blobs,
            diff_ids,
            references,
            index: None,
            is_step: false,
        })
    }

    fn layers(&self) -> LayerStack<'_> {
        LayerStack {
            diff_ids: &self.diff_ids,
            blobs: &self.layer_blobs,
        }
    }

    /// Every blob that the image needs.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = Digest> + '_ {
        self.layer_blobs
            .iter()
            .copied()
            .chain([self.id, self.manifest_digest])
            .chain(self.index)
    }
}

/// A layer in `tmp`; deleted unless it is moved into place.
struct UnpackedLayer<'a> {
    layout: &'a Layout,
    path: PathBuf,
    chain_id: Digest,
    record: LayerRecord,
}

impl UnpackedLayer<'_> {
    /// What its archive has beside its files, in `tmp` too.
    fn split(&self) -> PathBuf {
        self.path.with_extension(SPLIT_EXTENSION)
    }
}

impl Drop for UnpackedLayer<'_> {
    fn drop(&mut self) {
        for path in [&self.path, &self.split()] {
            if let Err(error) = self.layout.discard(path) {
                tracing::warn!(path = %path.display(), error = %error.full_message(), "layer left in tmp");
            }
        }
    }
}

/// What bounds an unpacking.
#[derive(Clone, Copy)]
pub(crate) struct UnpackBounds<'a> {
    pub(crate) budget: &'a ByteBudget,
    pub(crate) limits: &'a LoadLimits,
}

impl ImageStore {
    /// Unpacks the layers of pinned images, which are stored or staged, and records them, all or none.
    pub(crate) fn register(
        &self,
        images: &[PlannedImage],
        staged: Option<&StagedLayers>,
        limits: &LoadLimits,
        lease: &mut Lease,
    ) -> Result<()> {
        let budget = ByteBudget::new("the unpacked size of the layers", limits.unpacked_bytes_max);
        let bounds = UnpackBounds {
            budget: &budget,
            limits,
        };
        for image in images {
            let feed = StoredLayers {
                store: self,
                layers: image.layers(),
                staged,
            };
            self.ensure_layers(image.layers(), &feed, bounds, lease)?;
        }
        self.inner.records.change(Persist::Now, |changes| {
            images.iter().try_for_each(|image| record_image(changes, image))
        })
    }

    /// Unpacks the layers of a pinned image as its blobs come, and records it.
    pub(crate) fn register_coming(
        &self,
        image: &PlannedImage,
        feed: &dyn LayerFeed,
        limits: &LoadLimits,
        lease: &mut Lease,
    ) -> Result<()> {
        let budget = ByteBudget::new("the unpacked size of the layers", limits.unpacked_bytes_max);
        let bounds = UnpackBounds {
            budget: &budget,
            limits,
        };
        self.ensure_layers(image.layers(), feed, bounds, lease)?;
        self.inner
            .records
            .change(Persist::Now, |changes| record_image(changes, image))
    }

    /// Returns once every layer is unpacked, and the blobs are stored of those whose archives cannot be made again.
    pub(crate) fn ensure_layers(
        &self,
        layers: LayerStack<'_>,
        feed: &dyn LayerFeed,
        bounds: UnpackBounds<'_>,
        lease: &mut Lease,
    ) -> Result<()> {
        let chain_ids = Digest::chain_ids(layers.diff_ids);
        lease.extend(chain_ids.iter().copied());
        // Chains are trees and are taken from the root, so that waits cannot form a circle.
        let _turns: Vec<Turn<'_>> = chain_ids
            .iter()
            .map(|id| self.inner.layer_turns.take(*id))
            .collect();
        let layout = &self.inner.layout;
        // Opened before anything is written: a descriptor is told of the failures since.
        let file_system = open_directory(layout.root())?;
        let mut below: Vec<OwnedFd> = Vec::new();
        let mut unpacked: Vec<UnpackedLayer<'_>> = Vec::new();
        for (index, chain_id) in chain_ids.iter().enumerate() {
            let (blob, diff_id) = (layers.blobs[index], layers.diff_ids[index]);
            let source = || {
                let reader = feed.open(index).map_err(ArchiveError::from_read)?;
                Ok::<_, Error>(LayerSource {
                    blob,
                    diff_id,
                    reader,
                })
            };
            let path = match self.layer_state(chain_id)? {
                LayerState::Whole => {
                    if !self.is_known_form(&blob, &diff_id)? {
                        check_blob(source()?, bounds).map_err(in_layer(diff_id))?;
                    }
                    layout.layer(chain_id)
                }
                LayerState::Unknown | LayerState::Gone => {
                    let layer = unpack_layer(layout, *chain_id, source()?, &below, bounds)?;
                    unpacked.push(layer);
                    unpacked[unpacked.len() - 1].path.clone()
                }
            };
            // Before the next layer is begun: what is not what it was announced as is not built upon.
            feed.await_verified(index).map_err(ArchiveError::from_read)?;
            let stands_alone = match unpacked.last().filter(|layer| layer.chain_id == *chain_id) {
                Some(layer) => layer.record.archive_bytes.is_some(),
                None => {
                    let layer = self.inner.records.view()?.layer(chain_id)?;
                    layer.is_some_and(|layer| self.stands_alone(chain_id, &layer))
                }
            };
            if !stands_alone {
                feed.keep(index).map_err(ArchiveError::from_read)?;
            }
            feed.unpacked(index);
            below.insert(0, open_directory(&path)?);
        }
        if unpacked.is_empty() {
            return Ok(());
        }
        // One sync of the file system costs less than one per file.
        rustix::fs::syncfs(&file_system).map_err(|error| Error::io("sync", layout.root(), error))?;
        self.adopt(&unpacked)
    }

    /// Whether the blob was compared with the layer's content before: it is the content, or an image has it for that.
    fn is_known_form(&self, blob: &Digest, diff_id: &Digest) -> Result<bool> {
        if blob == diff_id {
            return Ok(true);
        }
        let images = self.inner.records.view()?.images_and_rests()?;
        Ok(images.iter().any(|image| {
            let mut positions = (0..image.diff_ids.len()).filter(|index| image.diff_ids[*index] == *diff_id);
            positions.any(|index| image.has_form(index, blob))
        }))
    }

    /// Moves synced layers into place and records them.
    fn adopt(&self, unpacked: &[UnpackedLayer<'_>]) -> Result<()> {
        let layout = &self.inner.layout;
        // Who compares what was there with its archive must not take what comes for it.
        let _turns: Vec<Turn<'_>> = unpacked
            .iter()
            .map(|layer| layout.layer_doubt().turns.take(layer.chain_id))
            .collect();
        for layer in unpacked {
            let place = layout.layer(&layer.chain_id);
            // From a change that failed to commit, or in doubt; then containers may have it mounted.
            match layout.layer_doubt().is_in_doubt(&layer.chain_id) {
                true => layout.retire(&place)?,
                false => layout.discard(&place)?,
            }
            std::fs::rename(&layer.path, &place).map_err(|error| Error::io("store layer", &place, error))?;
            let split = layout.split(&layer.chain_id);
            match layer.record.archive_bytes {
                Some(_) => std::fs::rename(layer.split(), &split)
                    .map_err(|error| Error::io("store layer", &split, error))?,
                None => layout.discard(&split)?,
            }
        }
        sync_directory(&layout.layers())?;
        sync_directory(&layout.splits())?;
        self.inner.records.change(Persist::Now, |changes| {
            unpacked
                .iter()
                .try_for_each(|layer| changes.put_layer(&layer.chain_id, &layer.record))
        })?;
        for layer in unpacked {
            layout.layer_doubt().settle(&layer.chain_id);
        }
        Ok(())
    }
}

/// The content of a layer that is to be unpacked.
struct LayerSource {
    blob: Digest,
    diff_id: Digest,
    reader: Box<dyn Read>,
}

fn unpack_layer<'a>(
    layout: &'a Layout,
    chain_id: Digest,
    source: LayerSource,
    below: &[OwnedFd],
    bounds: UnpackBounds<'_>,
) -> Result<UnpackedLayer<'a>> {
    let path = layout.temporary().join(format!("layer-{}", chain_id.hex()));
    let diff_id = source.diff_id;
    layout.discard(&path)?;
    std::fs::create_dir(&path).map_err(|error| Error::io("make directory", &path, error))?;
    let mut layer = UnpackedLayer {
        layout,
        path,
        chain_id,
        record: LayerRecord {
            diff_id,
            content_bytes: 0,
            archive_bytes: None,
        },
    };
    let split = layer.split();
    let unpacked = unpack_blob(source, &layer.path, &split, below, bounds).map_err(in_layer(diff_id))?;
    layer.record.content_bytes = unpacked.content_bytes;
    layer.record.archive_bytes = match unpacked.split {
        Split::Complete { archive_bytes } => Some(archive_bytes),
        Split::Incomplete => None,
    };
    Ok(layer)
}

fn in_layer(digest: Digest) -> impl FnOnce(Error) -> Error {
    move |error| match error {
        Error::Archive(source) => ArchiveError::Layer {
            digest,
            source: Box::new(source),
        }
        .into(),
        error => error,
    }
}

/// What came of a blob.
struct UnpackedBlob {
    /// Bytes of its files.
    content_bytes: u64,
    split: Split,
}

/// Decompresses, hashes, unpacks and writes down a blob in one pass.
fn unpack_blob(
    source: LayerSource,
    directory: &Path,
    split_path: &Path,
    below: &[OwnedFd],
    bounds: UnpackBounds<'_>,
) -> Result<UnpackedBlob> {
    let LayerSource {
        blob,
        diff_id,
        reader,
    } = source;
    let (compression, stream) = decompress(reader, bounds.budget, bounds.limits)?;
    let failed = |error| Error::io("write", split_path, error);
    let split = File::create(split_path)
        .and_then(SplitWriter::new)
        .map_err(failed)?;
    let split = Rc::new(RefCell::new(split));
    let mut writer = LayerWriter::new(directory, below)?.with_split(split.clone());
    let entries_max = bounds.limits.layer_entries_max;
    if compression == Compression::None && blob == diff_id {
        // Here the blob is the layer, and it was verified when it was written, or is compared while it is read.
        let buffered = BufReader::with_capacity(BUFFER_BYTES, stream);
        let mut stream = TarStream::new(SplitReader::new(buffered, split.clone()), entries_max);
        writer.unpack(&mut stream)?;
        stream.drain()?;
    } else {
        let hashing = BufReader::with_capacity(BUFFER_BYTES, HashingReader::new(stream));
        let mut stream = TarStream::new(SplitReader::new(hashing, split.clone()), entries_max);
        writer.unpack(&mut stream)?;
        let (actual, _) = stream.drain()?.into_inner().into_inner().finish();
        expect_content(&blob, diff_id, actual)?;
    }
    let content_bytes = writer.finish()?.1;
    let split = Rc::into_inner(split).expect("reader and writer of the archive are gone");
    Ok(UnpackedBlob {
        content_bytes,
        split: split.into_inner().finish().map_err(failed)?,
    })
}

/// Refuses a blob that is not a form of the layer it stands for.
fn check_blob(source: LayerSource, bounds: UnpackBounds<'_>) -> Result<()> {
    let (_, stream) = decompress(source.reader, bounds.budget, bounds.limits)?;
    let actual = digest_of(stream).map_err(ArchiveError::from_read)?;
    Ok(expect_content(&source.blob, source.diff_id, actual)?)
}

fn expect_content(blob: &Digest, expected: Digest, actual: Digest) -> Result<(), ArchiveError> {
    if actual == expected {
        return Ok(());
    }
    let what = format!("the content of blob {blob}");
    Err(ArchiveError::DigestMismatch {
        what,
        expected,
        actual,
    })
}

/// Records an image, or one more manifest of it, and points its references at it.
fn record_image(changes: &Changes, image: &PlannedImage) -> Result<()> {
    let chain_ids = Digest::chain_ids(&image.diff_ids);
    let mut content_bytes = 0;
    for chain_id in &chain_ids {
        content_bytes += changes.layer(chain_id)?.map_or(0, |layer| layer.content_bytes);
    }
    let known = changes.image_or_rest(&image.id)?;
    let is_step = image.is_step && known.as_ref().is_none_or(|known| known.is_step);
    let (mut manifests, indexes) = known
        .map(|known| (known.manifests, known.indexes))
        .unwrap_or_default();
    if manifests
        .iter()
        .all(|manifest| manifest.digest != image.manifest_digest)
    {
        manifests.push(ManifestRecord {
            digest: image.manifest_digest,
            layer_blobs: image.layer_blobs.clone(),
            is_packed: false,
        });
        // The first stays preferred, the oldest of the others goes.
        if manifests.len() > MANIFESTS_PER_IMAGE_MAX {
            manifests.remove(1);
        }
    }
    let diff_ids = image.diff_ids.clone();
    let mut record = ImageRecord {
        id: image.id,
        manifests,
        indexes,
        diff_ids,
        chain_ids,
        content_bytes,
        is_step,
        damaged_since_unix_s: None,
    };
    record.note_index(image.index);
    changes.put_image(&record)?;
    image
        .references
        .iter()
        .try_for_each(|reference| changes.put_reference(&reference.to_string(), &image.id))
}
