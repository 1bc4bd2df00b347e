//! One step's image: found in the cache, or made.

use super::describe;
use super::stage::{StageRun, State};
use crate::clock;
use crate::commit::value;
use crate::error::{Error, Result};
use crate::working_dir;
use muster_build::Instruction;
use muster_images::{Digest, Image, ImageId, ImageStore, Lease, NewImage};
use muster_types::Timestamp;
use serde_json::json;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Raised when steps make other images of the same things.
const FORMAT: u32 = 2;

/// What a step made.
pub(super) struct Made {
    pub image: ImageId,
    /// Keeps it, which nothing else may do yet.
    pub lease: Lease,
    pub is_cached: bool,
}

impl StageRun {
    /// The digest of everything that a step's image depends on.
    pub fn key(&self, state: &State, description: &str, more: &[String]) -> Result<Digest> {
        let parts = json!([
            FORMAT,
            state.image.to_string(),
            description,
            value(state.config.clone())?,
            state.author,
            self.build.args.source_date(),
            more,
        ]);
        Ok(Digest::of(parts.to_string().as_bytes()))
    }

    /// What the same step made before, unless the request wants no cache.
    pub async fn cached(&self, key: Digest) -> Result<Option<Made>> {
        if self.build.request.no_cache {
            return Ok(None);
        }
        let sources = self.build.request.cache_from.clone();
        let found = self
            .build
            .inner
            .blocking(move |inner| {
                let found = inner.images.cached_step(&key)?;
                Ok(match found {
                    Some((id, _)) if !sources.is_empty() && !is_step_of(&inner.images, &id, &sources)? => {
                        None
                    }
                    found => found,
                })
            })
            .await?;
        if found.is_some() {
            let mut used = self.build.used.lock().unwrap_or_else(PoisonError::into_inner);
            used.push(key);
        }
        Ok(found.map(|(image, lease)| Made {
            image,
            lease,
            is_cached: true,
        }))
    }

    /// A step that changes the configuration only.
    pub async fn configured(&self, state: &State, description: &str) -> Result<Made> {
        let key = self.key(state, description, &[])?;
        if let Some(made) = self.cached(key).await? {
            return Ok(made);
        }
        let (parent, image) = (state.image, self.new_image(state, description)?);
        self.make(
            key,
            description,
            move |images| Ok(images.derive(&parent, &image)?),
        )
        .await
    }

    /// Makes a step's image and remembers it. Blocks within.
    async fn make(
        &self,
        key: Digest,
        description: &str,
        make: impl FnOnce(&ImageStore) -> Result<(ImageId, Lease)> + Send + 'static,
    ) -> Result<Made> {
        let description = description.to_owned();
        self.build.made_any.store(true, Ordering::Relaxed);
        let (image, lease) = self
            .build
            .inner
            .blocking(move |inner| {
                let (id, lease) = make(&inner.images)?;
                inner.images.remember_step(&key, id, &description, now_s())?;
                Ok((id, lease))
            })
            .await?;
        Ok(Made {
            image,
            lease,
            is_cached: false,
        })
    }

    /// A step that writes files, which `work` does in the root file system. Blocks within.
    pub async fn with_files(
        &self,
        state: &State,
        key: Digest,
        description: &str,
        work: impl FnOnce(BorrowedFd<'_>) -> Result<()> + Send + 'static,
    ) -> Result<Made> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = self.build.member(NUMBER.fetch_add(1, Ordering::Relaxed));
        let (parent, image) = (state.image.to_string(), self.new_image(state, description)?);
        self.make(key, description, move |images| {
            images.prepare(&name, &parent)?;
            let committed = images
                .mount(&name)
                .map_err(Error::from)
                .and_then(|root| work(root.as_fd()))
                .and_then(|()| Ok(images.commit(&name, &image)?));
            images.release(&name)?;
            committed
        })
        .await
    }

    /// `WORKDIR`, which makes the directory where the image has none.
    pub async fn working_dir(&self, state: &State, instruction: &Instruction) -> Result<Made> {
        let words = describe::words(instruction, &state.config);
        let description = describe::described(&state.config.shell(), &words);
        let key = self.key(state, &description, &[])?;
        if let Some(made) = self.cached(key).await? {
            return Ok(made);
        }
        let path = state.config.working_dir.clone().unwrap_or_default();
        self.with_files(state, key, &description, move |root| {
            working_dir::make(root, &path);
            Ok(())
        })
        .await
    }

    /// What a step's image says of itself.
    pub fn new_image(&self, state: &State, description: &str) -> Result<NewImage> {
        let source_date = self.build.args.source_date();
        let created = source_date.map_or_else(clock::now, Timestamp::from_secs);
        Ok(NewImage {
            config: value(state.config.clone())?,
            created: created.to_string(),
            author: state.author.clone(),
            created_by: description.to_owned(),
            is_step: true,
            modified_max: source_date,
            ..NewImage::default()
        })
    }
}

/// Whether an image is what one of these was when it was built: it has the first layers of it.
fn is_step_of(images: &ImageStore, step: &ImageId, sources: &[String]) -> Result<bool> {
    let step = images.resolve(&step.to_string())?;
    let history = |image: &Image| image.config.history().clone().unwrap_or_default();
    let own = history(&step);
    for source in sources {
        let Ok(source) = images.resolve(source) else {
            continue;
        };
        if source.diff_ids.starts_with(&step.diff_ids) && history(&source).starts_with(&own) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Now, in seconds since 1970.
pub(super) fn now_s() -> i64 {
    clock::now().0 / 1_000_000_000
}
