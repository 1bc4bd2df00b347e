//! The build cache: images that builds make on their way, found again by what they were made of.
//!
//! A step's image is an image like any other, only that lists leave it out until it has a name or a build ends with it.
//! Pruning takes the images of steps that nobody uses; what named images share with them stays.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::blobs;
use crate::digest::{Digest, ImageId};
use crate::error::Result;
use crate::lease::Lease;
use crate::records::{ImageRecord, Lookup, Persist, StepRecord};
use crate::reference::Reference;
use crate::store::ImageStore;

/// Most steps that are remembered: the cache of hundreds of builds.
const STEPS_MAX: usize = 5_000;
/// Most bytes of layers that only steps have, and of their documents.
const STEP_BYTES_MAX: u64 = 20 << 30;

/// A step of a build that can be used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildStep {
    /// The digest of what it was made of.
    pub key: String,
    /// What it made.
    pub image_id: ImageId,
    /// The step, as a user reads it.
    pub description: String,
    /// Bytes of the files of its own layer; 0 where it made none.
    pub bytes: u64,
    /// Bytes of its configuration and manifests.
    pub document_bytes: u64,
    /// An image that users see has its layer, too.
    pub is_shared: bool,
    /// An image that users see has its files, or it is one.
    pub is_used: bool,
    /// When it was made, in seconds since 1970.
    pub created_unix_s: i64,
    /// When a build used it last.
    pub used_unix_s: i64,
    /// How often builds used it.
    pub uses: u64,
}

/// Which steps are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepPruning {
    /// Only those that no build used since, in seconds since 1970.
    pub unused_since_unix_s: Option<i64>,
    /// Keep the newest ones up to this many bytes.
    pub keep_bytes: Option<u64>,
}

impl ImageStore {
    /// The image that a step made of the same things, which the lease keeps. Its use is to be noted.
    pub fn cached_step(&self, key: &Digest) -> Result<Option<(ImageId, Lease)>> {
        let Some(step) = self.inner.records.view()?.step(key)? else {
            return Ok(None);
        };
        // Before the image is looked for: what is found then stays.
        let lease = self.lease([step.image_id]);
        let found = self.inner.records.view()?.image(&step.image_id)?;
        Ok(found.map(|image| (image.id, lease)))
    }

    /// Notes that a build used these steps.
    pub fn note_used(&self, keys: &[Digest], now_unix_s: i64) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        // Their loss costs nothing but the order in which steps are forgotten.
        self.inner.records.change(Persist::Later, |changes| {
            for key in keys {
                let Some(step) = changes.step(key)? else { continue };
                let used = StepRecord {
                    used_unix_s: now_unix_s,
                    uses: step.uses.saturating_add(1),
                    ..step
                };
                changes.put_step(key, &used)?;
            }
            Ok(())
        })
    }

    /// Remembers what a step made.
    pub fn remember_step(
        &self,
        key: &Digest,
        image_id: ImageId,
        description: &str,
        now_unix_s: i64,
    ) -> Result<()> {
        let step = StepRecord {
            image_id,
            description: description.to_string(),
            created_unix_s: now_unix_s,
            used_unix_s: now_unix_s,
            uses: 0,
        };
        // Its loss costs one step.
        self.inner
            .records
            .change(Persist::Later, |changes| changes.put_step(key, &step))
    }

    /// Makes what a build ended with an image that users see, under these names.
    pub fn finish_build(&self, id: &ImageId, names: &[String]) -> Result<()> {
        let names = names
            .iter()
            .map(|name| Ok(Reference::parse(name)?.with_default_tag()))
            .collect::<Result<Vec<_>>>()?;
        if is_finished(&self.inner.records.view()?, id, &names)? {
            return Ok(());
        }
        self.inner.records.change(Persist::Now, |changes| {
            let image = crate::store::find(changes, &id.to_string())?;
            if image.is_step {
                changes.put_image(&ImageRecord {
                    is_step: false,
                    ..image
                })?;
            }
            names
                .iter()
                .try_for_each(|name| changes.put_reference(&name.to_string(), id))
        })
    }

    /// The images of steps that have no name.
    pub(crate) fn step_images(&self) -> Result<HashSet<ImageId>> {
        let view = self.inner.records.view()?;
        let named: HashSet<ImageId> = view.references()?.into_iter().map(|(_, id)| id).collect();
        let images = view.images()?.into_iter();
        Ok(images
            .filter(|image| image.is_step && !named.contains(&image.id))
            .map(|image| image.id)
            .collect())
    }

    /// The build cache, the one used last first.
    pub fn steps(&self) -> Result<Vec<BuildStep>> {
        let hidden = self.step_images()?;
        let view = self.inner.records.view()?;
        let images: HashMap<ImageId, ImageRecord> = view
            .images()?
            .into_iter()
            .map(|image| (image.id, image))
            .collect();
        let seen = images.values().filter(|image| !hidden.contains(&image.id));
        let shared: HashSet<Digest> = seen.flat_map(|image| image.chain_ids.iter().copied()).collect();
        let mut counted = HashSet::new();
        let mut steps = Vec::new();
        for (key, step) in view.steps()? {
            let Some(image) = images.get(&step.image_id) else {
                continue;
            };
            // A step without a layer of its own has the top layer of the one before it.
            let top = image.chain_ids.last();
            let own = top.filter(|top| counted.insert(**top));
            let bytes = own
                .map_or(Ok(None), |top| view.layer(top))?
                .map_or(0, |layer| layer.content_bytes);
            let manifests = image.manifests.iter().map(|manifest| manifest.digest);
            let mut document_bytes = 0;
            for document in manifests.chain([image.id]) {
                document_bytes += blobs::size_on_disk(&self.inner.layout, &document)?.unwrap_or(0);
            }
            steps.push(BuildStep {
                key,
                image_id: step.image_id,
                description: step.description,
                bytes,
                document_bytes,
                is_shared: top.is_some_and(|top| shared.contains(top)),
                is_used: !hidden.contains(&image.id),
                created_unix_s: step.created_unix_s,
                used_unix_s: step.used_unix_s,
                uses: step.uses,
            });
        }
        steps.sort_by_key(|step| std::cmp::Reverse((step.used_unix_s, step.created_unix_s)));
        Ok(steps)
    }

    /// Forgets steps, and deletes the images that only they had; none of `in_use`. Returns the keys of the forgotten
    /// ones, and how many bytes became free.
    pub fn prune_steps(
        &self,
        pruning: StepPruning,
        in_use: &BTreeSet<ImageId>,
    ) -> Result<(Vec<String>, u64)> {
        let mut kept_bytes = 0_u64;
        let forgotten: Vec<BuildStep> = self
            .steps()?
            .into_iter()
            .filter(|step| {
                let old = pruning
                    .unused_since_unix_s
                    .is_none_or(|since| step.used_unix_s < since);
                let fits = pruning
                    .keep_bytes
                    .is_some_and(|keep| kept_bytes.saturating_add(step.bytes + step.document_bytes) <= keep);
                let keeps = !old || fits || in_use.contains(&step.image_id);
                if keeps {
                    kept_bytes += step.document_bytes + if step.is_shared { 0 } else { step.bytes };
                }
                !keeps
            })
            .collect();
        self.forget(&forgotten, in_use)
    }

    /// Keeps the cache within its bounds.
    pub fn trim_steps(&self, in_use: &BTreeSet<ImageId>) -> Result<()> {
        let mut bytes = 0_u64;
        let excess: Vec<BuildStep> = self
            .steps()?
            .into_iter()
            .enumerate()
            .filter(|(index, step)| {
                bytes += step.document_bytes + if step.is_shared { 0 } else { step.bytes };
                *index >= STEPS_MAX || bytes > STEP_BYTES_MAX
            })
            .map(|(_, step)| step)
            .collect();
        match excess.is_empty() {
            true => Ok(()),
            false => self.forget(&excess, in_use).map(drop),
        }
    }

    fn forget(&self, steps: &[BuildStep], in_use: &BTreeSet<ImageId>) -> Result<(Vec<String>, u64)> {
        let forgotten: BTreeSet<&str> = steps.iter().map(|step| step.key.as_str()).collect();
        // As the collector does: the pins first, then the records.
        let pins = self.inner.pins.hold();
        self.inner.records.change(Persist::Now, |changes| {
            let named: HashSet<ImageId> = changes.references()?.into_iter().map(|(_, id)| id).collect();
            let mut kept = BTreeSet::new();
            for (key, step) in changes.steps()? {
                match forgotten.contains(key.as_str()) {
                    true => changes.remove_step(&key)?,
                    false => drop(kept.insert(step.image_id)),
                }
            }
            for image in changes.images_and_rests()? {
                let needed = named.contains(&image.id)
                    || in_use.contains(&image.id)
                    || kept.contains(&image.id)
                    || pins.is_pinned(&image.id);
                if image.is_step && !needed {
                    changes.remove_image(&image.id)?;
                }
            }
            Ok(())
        })?;
        drop(pins);
        let collected = self.collect_garbage()?;
        Ok((
            steps.iter().map(|step| step.key.clone()).collect(),
            collected.layer_bytes,
        ))
    }
}

/// Whether an image is seen under all of these names: every change that made it so was persisted.
fn is_finished(records: &impl Lookup, id: &ImageId, names: &[Reference]) -> Result<bool> {
    if records.image(id)?.is_none_or(|image| image.is_step) {
        return Ok(false);
    }
    for name in names {
        if records.reference(&name.to_string())? != Some(*id) {
            return Ok(false);
        }
    }
    Ok(true)
}
