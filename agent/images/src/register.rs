//! From a plan to an image: unpacks what is missing, verifies it, makes it durable, then records it.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use crate::check::LayerState;
use crate::compression::ByteBudget;
use crate::digest::{Digest, ImageId};
use crate::error::{ArchiveError, Error, Result};
use crate::layer_feed::LayerFeed;
use crate::layout::sync_directory;
use crate::lease::Lease;
use crate::limits::{LoadLimits, MANIFESTS_PER_IMAGE_MAX};
use crate::manifest::parse_config;
use crate::records::{Changes, ImageRecord, Lookup, ManifestRecord, Persist};
use crate::reference::Reference;
use crate::staged_layers::{StagedLayers, StoredLayers};
use crate::store::ImageStore;
use crate::turns::Turn;
use crate::unpack::open_directory;
use crate::unpacked_layer::{LayerSource, UnpackBounds, UnpackedLayer, check_blob, in_layer, unpack_layer};

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
        let mut unseen = Vec::new();
        for image in images {
            let feed = StoredLayers {
                store: self,
                layers: image.layers(),
                staged,
            };
            unseen.push(self.ensure_layers(image.layers(), &feed, bounds, lease)?);
        }
        self.inner.records.change(Persist::Now, |changes| {
            let mut images = images.iter().zip(&unseen);
            images.try_for_each(|(image, unseen)| record_image(changes, image, unseen))
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
        let unseen = self.ensure_layers(image.layers(), feed, bounds, lease)?;
        self.inner
            .records
            .change(Persist::Now, |changes| record_image(changes, image, &unseen))
    }

    /// Returns once every layer is unpacked, and the blobs are stored of those whose archives cannot be made again: with the
    /// layers whose blobs nobody has compared with their content. What was unpacked before an error stands, for whoever
    /// begins anew; else it is collected.
    pub(crate) fn ensure_layers(
        &self,
        layers: LayerStack<'_>,
        feed: &dyn LayerFeed,
        bounds: UnpackBounds<'_>,
        lease: &mut Lease,
    ) -> Result<BTreeSet<usize>> {
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
        let mut unpacked = Unpacked::default();
        let outcome = self.unpack_missing(layers, &chain_ids, feed, bounds, &mut unpacked);
        let Unpacked { mut layers, whole } = unpacked;
        layers.truncate(whole);
        if layers.is_empty() {
            return outcome;
        }
        // One sync of the file system costs less than one per file.
        let synced =
            rustix::fs::syncfs(&file_system).map_err(|error| Error::io("sync", layout.root(), error));
        match (outcome, synced.and_then(|()| self.adopt(&layers))) {
            (Ok(unseen), adopted) => adopted.map(|()| unseen),
            (Err(error), adopted) => {
                if let Err(beside) = adopted {
                    tracing::warn!(error = %beside.full_message(), "layers of an image that failed are not kept");
                }
                Err(error)
            }
        }
    }

    /// Unpacks every layer that is not here. Returns those whose blobs nobody has compared with their content.
    fn unpack_missing<'a>(
        &'a self,
        layers: LayerStack<'_>,
        chain_ids: &[Digest],
        feed: &dyn LayerFeed,
        bounds: UnpackBounds<'_>,
        unpacked: &mut Unpacked<'a>,
    ) -> Result<BTreeSet<usize>> {
        let layout = &self.inner.layout;
        let mut below: Vec<OwnedFd> = Vec::new();
        let mut unseen = BTreeSet::new();
        for (index, chain_id) in chain_ids.iter().enumerate() {
            let (blob, diff_id) = (layers.blobs[index], layers.diff_ids[index]);
            let is_known = self.is_known_form(&blob, &diff_id)?;
            let source = || {
                let bytes = feed.open(index).map_err(ArchiveError::from_read)?;
                Ok::<_, Error>(LayerSource { blob, diff_id, bytes })
            };
            let mut is_content = false;
            let path = match self.layer_state(chain_id)? {
                LayerState::Whole => {
                    if !is_known {
                        let source = source()?;
                        is_content = source.is_content();
                        if !is_content {
                            check_blob(source, bounds).map_err(in_layer(diff_id))?;
                        }
                    }
                    layout.layer(chain_id)
                }
                LayerState::Unknown | LayerState::Gone => {
                    let source = source()?;
                    is_content = source.is_content();
                    let layer = unpack_layer(layout, *chain_id, source, &below, bounds)?;
                    let path = layer.path.clone();
                    unpacked.layers.push(layer);
                    path
                }
            };
            if is_content && !is_known {
                unseen.insert(index);
            }
            // Before the next layer is begun: what is not what it was announced as is not built upon.
            feed.await_verified(index).map_err(ArchiveError::from_read)?;
            let own = unpacked.layers.last().filter(|layer| layer.chain_id == *chain_id);
            let stands_alone = match own {
                Some(layer) => layer.record.archive_bytes.is_some(),
                None => {
                    let layer = self.inner.records.view()?.layer(chain_id)?;
                    layer.is_some_and(|layer| self.stands_alone(chain_id, &layer))
                }
            };
            if !stands_alone {
                feed.keep(index).map_err(ArchiveError::from_read)?;
            }
            unpacked.whole = unpacked.layers.len();
            feed.unpacked(index);
            below.insert(0, open_directory(&path)?);
        }
        Ok(unseen)
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

/// Layers in `tmp`.
#[derive(Default)]
struct Unpacked<'a> {
    layers: Vec<UnpackedLayer<'a>>,
    /// So many of them are verified, and can be read as blobs.
    whole: usize,
}

/// Records an image, or one more manifest of it, and points its references at it. Nobody has compared the blobs of the
/// `unseen` layers with their content.
fn record_image(changes: &Changes, image: &PlannedImage, unseen: &BTreeSet<usize>) -> Result<()> {
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
    let mut known = manifests.iter_mut();
    if let Some(known) = known.find(|manifest| manifest.digest == image.manifest_digest) {
        known.unseen.retain(|layer| unseen.contains(layer));
    } else {
        manifests.push(ManifestRecord {
            digest: image.manifest_digest,
            layer_blobs: image.layer_blobs.clone(),
            is_packed: false,
            unseen: unseen.clone(),
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
