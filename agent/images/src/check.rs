//! Finding what is damaged, and making it whole from what is left; what cannot be is hidden until it is fetched again.
//!
//! Opening the store looks at what costs little: whether all is there, the sizes of blobs, the content of documents.
//! After the power was lost, content is compared with its digests, too (see `doubt`).

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::archived::Archived;
use crate::blobs;
use crate::compression::ByteBudget;
use crate::digest::{Digest, ImageId};
use crate::error::{Error, Result};
use crate::limits::{DOCUMENT_BYTES_MAX, LoadLimits};
use crate::manifest::Document;
use crate::records::{ImageRecord, Lookup, Persist};
use crate::reference::Reference;
use crate::register::LayerStack;
use crate::staged_layers::StoredLayers;
use crate::store::{ImageStore, Inner};
use crate::unpack::open_directory;
use crate::unpacked_layer::UnpackBounds;

/// How long what is left of a damaged image is kept, so that a fetch has to bring only what is missing.
const REST_KEPT_S: i64 = 7 * 24 * 3600;

/// An image that is hidden because something that it needs is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedImage {
    /// Its id.
    pub id: ImageId,
    /// The names by which it can be pulled or loaded again.
    pub names: Vec<String>,
}

/// How a layer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LayerState {
    Whole,
    /// It may be damaged, and its blob, which would tell, is not here.
    Unknown,
    Gone,
}

impl ImageStore {
    /// The images that are hidden until they are fetched again. Costs nothing where there are none.
    pub fn damaged(&self) -> Result<Vec<DamagedImage>> {
        if !self.inner.hides.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let view = self.inner.records.view()?;
        let hidden = view.images_and_rests()?.into_iter();
        let hidden = hidden.filter(|image| image.damaged_since_unix_s.is_some());
        hidden
            .map(|image| {
                Ok(DamagedImage {
                    id: image.id,
                    names: names(&view, &image.id)?,
                })
            })
            .collect()
    }

    /// Waits until all that is in doubt after a loss of power was looked at.
    pub fn await_checked(&self) {
        let checking = self
            .inner
            .checking
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if checking.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that checks the image store panicked");
        }
    }

    /// Has a thread look at all that is in doubt.
    pub(crate) fn check_in_background(&self) -> Result<()> {
        let store = Arc::downgrade(&self.inner);
        let thread = std::thread::Builder::new()
            .name("image-check".to_string())
            .spawn(move || {
                if let Err(error) = check_all(&store) {
                    tracing::error!(error = %error.full_message(), "the image store cannot be checked");
                }
            })
            .map_err(|error| Error::io("start the checking thread for", self.inner.layout.root(), error))?;
        *self.inner.checking.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Looks at every image: mends those that miss something, or hides them.
    pub(crate) fn look_over(&self) -> Result<()> {
        self.forget_damaged_before(unix_now() - REST_KEPT_S)?;
        let mut documents = HashMap::new();
        for image in self.inner.records.view()?.images_and_rests()? {
            let missing = self.missing_parts(&image, &mut documents)?;
            let unusable = missing.iter().any(|part| part.is_needed_to_run);
            if unusable || image.damaged_since_unix_s.is_some() {
                self.mend_or_hide(&image)?;
            } else if !missing.is_empty() {
                let missing: Vec<String> = missing.iter().map(|part| part.digest.to_string()).collect();
                tracing::error!(
                    image = %image.id,
                    names = ?names(&self.inner.records.view()?, &image.id)?,
                    ?missing,
                    "blobs of an image are lost: it runs, but cannot be saved, pushed or given to other nodes until \
                     it is pulled or loaded again"
                );
            }
        }
        Ok(())
    }

    /// Makes sure that the layers of an image can be mounted; those of a container are mounted even when nobody can tell
    /// whether they are whole, so that what it wrote can be reached.
    pub(crate) fn ensure_usable(
        &self,
        image_id: &ImageId,
        chain_ids: &[Digest],
        worst: LayerState,
    ) -> Result<()> {
        if self.first_beyond(chain_ids, worst)?.is_none() {
            return Ok(());
        }
        if let Some(image) = self.inner.records.view()?.image_or_rest(image_id)? {
            self.mend_or_hide(&image)?;
        }
        match self.first_beyond(chain_ids, worst)? {
            None => Ok(()),
            Some(layer) => Err(Error::LayerLost {
                layer,
                image: *image_id,
            }),
        }
    }

    fn first_beyond(&self, chain_ids: &[Digest], worst: LayerState) -> Result<Option<Digest>> {
        for chain_id in chain_ids {
            if self.layer_state(chain_id)? > worst {
                return Ok(Some(*chain_id));
            }
        }
        Ok(None)
    }

    /// How a layer stands, after a look at one that is in doubt.
    pub(crate) fn layer_state(&self, chain_id: &Digest) -> Result<LayerState> {
        let layout = &self.inner.layout;
        let stands = || -> Result<LayerState> {
            let is_recorded = self.inner.records.view()?.layer(chain_id)?.is_some();
            Ok(match is_recorded && layout.layer(chain_id).is_dir() {
                true => LayerState::Whole,
                false => LayerState::Gone,
            })
        };
        let doubt = layout.layer_doubt();
        if !doubt.is_in_doubt(chain_id) {
            return stands();
        }
        // A collection does not take it away meanwhile.
        let _lease = self.lease([*chain_id]);
        let _turn = doubt.turns.take(*chain_id);
        if stands()? == LayerState::Gone || !doubt.is_in_doubt(chain_id) {
            return stands();
        }
        let place = layout.layer(chain_id);
        let difference = match self.archived(chain_id)? {
            Archived::Nowhere => {
                tracing::error!(layer = %chain_id, "a layer may be damaged, and nothing is left that would tell");
                self.note_without_archive(chain_id)?;
                return Ok(LayerState::Unknown);
            }
            Archived::Differs => Some(Vec::new()),
            Archived::As(outcome, _) => outcome
                .first_difference(&open_directory(&place)?)
                .map_err(|error| Error::io("read", &place, error))?,
        };
        if let Some(path) = &difference {
            let users = self.containers_over(chain_id)?;
            let path = String::from_utf8_lossy(path);
            tracing::error!(layer = %chain_id, %path, containers = ?users, "a layer is damaged");
            let key = chain_id.to_string();
            self.inner
                .records
                .change(Persist::Now, |changes| changes.remove_layer(&key))?;
            layout.retire(&place)?;
        }
        doubt.settle(chain_id);
        Ok(match difference {
            None => LayerState::Whole,
            Some(_) => LayerState::Gone,
        })
    }

    /// Unpacks what is missing of an image once more, from the blobs that are here; an image for which they do not
    /// suffice is hidden.
    pub(crate) fn mend_or_hide(&self, image: &ImageRecord) -> Result<()> {
        let error = match self.mend(image) {
            Ok(()) => return self.show(image),
            Err(error) => error,
        };
        if !self.hide(image)? {
            return Ok(());
        }
        self.inner.hides.store(true, Ordering::Relaxed);
        let view = self.inner.records.view()?;
        let named = names(&view, &image.id)?;
        let snapshots = view.snapshots()?.into_iter();
        let users: Vec<String> = snapshots
            .filter(|(_, snapshot)| snapshot.image_id == image.id)
            .map(|(container_id, _)| container_id)
            .collect();
        tracing::error!(
            image = %image.id,
            names = ?named,
            containers = ?users,
            error = %error.full_message(),
            "an image is damaged and hidden until it is pulled or loaded again"
        );
        Ok(())
    }

    /// Hides an image, unless a fetch made it whole meanwhile: returns whether it is hidden.
    pub(crate) fn hide(&self, image: &ImageRecord) -> Result<bool> {
        let layout = &self.inner.layout;
        self.inner.records.change(Persist::Now, |changes| {
            let Some(known) = changes.image_or_rest(&image.id)? else {
                return Ok(false);
            };
            let mut stands = blobs::size_on_disk(layout, &image.id)?.is_some();
            for chain_id in &image.chain_ids {
                let is_known = changes.layer(chain_id)?.is_some() && layout.layer(chain_id).is_dir();
                stands &= is_known && !layout.layer_doubt().is_in_doubt(chain_id);
            }
            if !stands {
                changes.put_image(&ImageRecord {
                    damaged_since_unix_s: known.damaged_since_unix_s.or_else(|| Some(unix_now())),
                    ..known
                })?;
            }
            Ok(!stands)
        })
    }

    fn mend(&self, image: &ImageRecord) -> Result<()> {
        if !blobs::discard_unless_whole(&self.inner.layout, &image.id)? {
            return Err(Error::NoSuchBlob { digest: image.id });
        }
        let limits = LoadLimits::default();
        let budget = ByteBudget::new("the unpacked size of the layers", limits.unpacked_bytes_max);
        let bounds = UnpackBounds {
            budget: &budget,
            limits: &limits,
        };
        let mut outcome = Ok(());
        for manifest in &image.manifests {
            let stack = LayerStack {
                diff_ids: &image.diff_ids,
                blobs: &manifest.layer_blobs,
            };
            let mut lease = self.lease(manifest.layer_blobs.iter().copied());
            let feed = StoredLayers {
                store: self,
                layers: stack,
                staged: None,
            };
            outcome = self.ensure_layers(stack, &feed, bounds, &mut lease).map(drop);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Shows an image that was hidden.
    fn show(&self, image: &ImageRecord) -> Result<()> {
        if image.damaged_since_unix_s.is_none() {
            return Ok(());
        }
        self.inner.records.change(Persist::Now, |changes| {
            let Some(image) = changes.image_or_rest(&image.id)? else {
                return Ok(());
            };
            let mut content_bytes = 0;
            for chain_id in &image.chain_ids {
                content_bytes += changes.layer(chain_id)?.map_or(0, |layer| layer.content_bytes);
            }
            changes.put_image(&ImageRecord {
                damaged_since_unix_s: None,
                content_bytes,
                ..image
            })
        })
    }

    fn forget_damaged_before(&self, unix_s: i64) -> Result<()> {
        let old = |image: &ImageRecord| image.damaged_since_unix_s.is_some_and(|since| since < unix_s);
        let images = self.inner.records.view()?.images_and_rests()?;
        let old: BTreeSet<ImageId> = images.into_iter().filter(old).map(|image| image.id).collect();
        if old.is_empty() {
            return Ok(());
        }
        self.inner.records.change(Persist::Now, |changes| {
            for (name, id) in changes.references()? {
                if old.contains(&id) {
                    changes.remove_reference(&name)?;
                }
            }
            old.iter().try_for_each(|id| changes.remove_image(id))
        })
    }

    fn containers_over(&self, chain_id: &Digest) -> Result<Vec<String>> {
        let snapshots = self.inner.records.view()?.snapshots()?.into_iter();
        Ok(snapshots
            .filter(|(_, snapshot)| snapshot.chain_ids.contains(chain_id))
            .map(|(container_id, _)| container_id)
            .collect())
    }

    /// What the image has records of but not the content. `documents` remembers which of them are whole.
    fn missing_parts(
        &self,
        image: &ImageRecord,
        documents: &mut HashMap<Digest, bool>,
    ) -> Result<Vec<MissingPart>> {
        let layout = &self.inner.layout;
        let mut is_whole = |digest: &Digest| -> Result<bool> {
            if let Some(known) = documents.get(digest) {
                return Ok(*known);
            }
            let is_whole = blobs::discard_unless_whole(layout, digest)?;
            documents.insert(*digest, is_whole);
            Ok(is_whole)
        };
        let mut missing = Vec::new();
        let mut miss = |digest: Digest, is_needed_to_run: bool| {
            missing.push(MissingPart {
                digest,
                is_needed_to_run,
            });
        };
        if !is_whole(&image.id)? {
            miss(image.id, true);
        }
        let mut stands = Vec::new();
        for (index, chain_id) in image.chain_ids.iter().enumerate() {
            let layer = self.inner.records.view()?.layer(chain_id)?;
            let is_recorded = layer.is_some();
            let has_archive = layer.is_some_and(|layer| layer.archive_bytes.is_some())
                && layout.layer(chain_id).is_dir()
                && layout.split(chain_id).is_file();
            let content = image.diff_ids.get(index);
            let content_bytes = content.map_or(Ok(None), |content| blobs::size_on_disk(layout, content))?;
            stands.push(has_archive || content_bytes.is_some());
            let blobs = image.manifests.iter();
            let blobs = blobs.filter_map(|manifest| manifest.layer_blobs.get(index));
            let mut blobs = blobs.chain(content);
            // Nobody can tell whether it is whole.
            let is_lost = !has_archive
                && layout.layer_doubt().is_in_doubt(chain_id)
                && blobs.try_fold(true, |none, blob| {
                    Ok::<_, Error>(none && blobs::size_on_disk(layout, blob)?.is_none())
                })?;
            if !is_recorded || !layout.layer(chain_id).is_dir() || is_lost {
                miss(*chain_id, true);
            }
        }
        for index in &image.indexes {
            if !is_whole(index)? {
                miss(*index, false);
            }
        }
        for manifest in &image.manifests {
            let sizes = match is_whole(&manifest.digest)? {
                true => self.layer_sizes(&manifest.digest)?,
                false => {
                    miss(manifest.digest, false);
                    HashMap::new()
                }
            };
            for (index, blob) in manifest.layer_blobs.iter().enumerate() {
                let stands = match (blobs::size_on_disk(layout, blob)?, sizes.get(blob)) {
                    (None, _) => stands.get(index) == Some(&true),
                    (Some(actual), Some(expected)) if actual == *expected => true,
                    // Of another size, or of none that is known.
                    (Some(_), _) => is_whole(blob)?,
                };
                if !stands {
                    miss(*blob, false);
                }
            }
        }
        Ok(missing)
    }

    fn layer_sizes(&self, manifest: &Digest) -> Result<HashMap<Digest, u64>> {
        let layout = &self.inner.layout;
        let path = layout.blob(manifest);
        let file = blobs::open(layout, manifest)?;
        let bytes = blobs::read_document(file, &path, "the size of a manifest", DOCUMENT_BYTES_MAX)?;
        Ok(match Document::parse(&bytes, "a stored manifest")? {
            Document::Manifest(manifest) => {
                let sizes = manifest.layers.iter().map(|layer| (layer.digest, layer.size));
                sizes.collect()
            }
            Document::Index(_) => HashMap::new(),
        })
    }
}

struct MissingPart {
    /// Of the blob, or the layer's chain id.
    digest: Digest,
    is_needed_to_run: bool,
}

/// Looks at all that is in doubt, as long as somebody has the store open.
fn check_all(store: &Weak<Inner>) -> Result<()> {
    let Some((blobs, layers)) = store.upgrade().map(|inner| {
        let layout = &inner.layout;
        (layout.blob_doubt().all(), layout.layer_doubt().all())
    }) else {
        return Ok(());
    };
    tracing::warn!(
        blobs = blobs.len(),
        layers = layers.len(),
        "the machine stopped without warning: the image store is checked"
    );
    let mut is_checked = true;
    let mut note = |outcome: Result<()>| {
        if let Err(error) = outcome {
            is_checked = false;
            tracing::error!(error = %error.full_message(), "a part of the image store cannot be checked");
        }
    };
    for digest in blobs {
        let Some(inner) = store.upgrade() else {
            return Ok(());
        };
        note(blobs::settle(&inner.layout, &digest));
    }
    for chain_id in layers {
        let Some(inner) = store.upgrade() else {
            return Ok(());
        };
        note(ImageStore { inner }.layer_state(&chain_id).map(drop));
    }
    let Some(inner) = store.upgrade() else {
        return Ok(());
    };
    let store = ImageStore { inner };
    store.look_over()?;
    // Else the next process looks at all of it again.
    if is_checked {
        store.inner.session.note_checked();
        tracing::info!("the image store is checked");
    }
    Ok(())
}

fn names(records: &impl Lookup, id: &ImageId) -> Result<Vec<String>> {
    let named = records.references()?.into_iter().filter(|(_, image)| image == id);
    Ok(named
        .filter_map(|(name, _)| Some(Reference::parse(&name).ok()?.familiar()))
        .collect())
}

pub(crate) fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}
