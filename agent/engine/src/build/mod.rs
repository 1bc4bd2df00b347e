//! Builds: a context and its Dockerfile become an image, step by step.
//!
//! Begin at [`Engine::image_build`], then `run` (the stages side by side), `stage` (the steps of one), `step` (the cache)
//! and `transfer` (COPY and ADD). What a Dockerfile says is decided in `muster-build`.

mod cache;
mod context;
mod copy;
mod describe;
mod listed;
mod output;
mod run;
mod run_step;
mod source;
mod stage;
mod step;
mod step_mounts;
mod transfer;

use crate::engine::{Engine, Inner};
use crate::error::{Error, Result};
use crate::layout::{names, remove_directory};
use bytes::Bytes;
pub use cache::StepCache;
use context::Context;
use futures::future::BoxFuture;
use muster_build::{BuildArgs, Dockerfile, Plan};
use muster_images::Digest;
use muster_types::container::HostConfig;
use rand::Rng;
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
pub(crate) use step_mounts::StepCaches;
use tokio::sync::mpsc;

/// Pieces of output that wait for a slow client; then the build waits too.
const OUTPUT_WAITING_MAX: usize = 64;
/// What containers and root file systems of builds are called, before the build's own name.
const NAME_PREFIX: &str = "build-";
/// Bytes of a build's own name, which is their hex.
const ID_BYTES: usize = 6;

/// What to build, and how.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    /// Names of the image.
    pub tags: Vec<String>,
    /// Path of the Dockerfile in the context.
    pub dockerfile: String,
    /// The stage to build; the last one where `None`.
    pub target: Option<String>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Only steps of these images are taken from the cache, where some are named.
    pub cache_from: Vec<String>,
    /// Steps are not taken from the cache.
    pub no_cache: bool,
    /// Base images are fetched even if they are here.
    pub pull: bool,
    /// Remove a step's container when the step succeeded.
    pub remove: bool,
    /// Remove a step's container also when the step failed.
    pub force_remove: bool,
    /// `os[/architecture]` that is asked for; this machine's when empty.
    pub platform: String,
    /// Limits, network and the like of the steps' containers.
    pub host: HostConfig,
}

/// One piece of what a build tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildOutput {
    /// Text for the user; may begin or end within a character.
    Text(Bytes),
    /// The id of the image.
    Image(String),
}

/// What a build tells, in order; an error ends it.
pub type BuildStream = mpsc::Receiver<Result<BuildOutput>>;

/// Where base images come from that are not here.
pub trait BaseImages: Send + Sync + 'static {
    /// Brings an image here, or the newest of its name.
    fn fetch<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>>;
}

impl Engine {
    /// Receives a context and builds it. Returns once the context is here and its Dockerfile is understood; dropping the
    /// stream ends the build, and nothing of it is left.
    pub async fn image_build(
        &self,
        archive: impl Read + Send + 'static,
        request: BuildRequest,
        bases: Arc<dyn BaseImages>,
    ) -> Result<BuildStream> {
        let inner = Arc::clone(&self.inner);
        let build = self
            .carry("build-context", async move {
                inner.prepare_build(archive, request, bases).await
            })
            .await?;
        let (output, stream) = mpsc::channel(OUTPUT_WAITING_MAX);
        self.inner.tasks.spawn(Box::pin(run::run(build, output)));
        Ok(stream)
    }
}

/// A build whose context is here.
pub(crate) struct Build {
    pub inner: Arc<Inner>,
    /// Its own name.
    pub id: String,
    pub request: BuildRequest,
    pub dockerfile: Dockerfile,
    pub plan: Plan,
    pub args: BuildArgs,
    pub context: Arc<Context>,
    pub bases: Arc<dyn BaseImages>,
    /// Steps that were taken from the cache; their use is to be noted.
    pub used: Mutex<Vec<Digest>>,
    /// Some step was not.
    pub made_any: AtomicBool,
}

impl Build {
    /// Notes the uses of steps since the last time. Blocks.
    fn note_used(&self) -> Result<()> {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(self.inner.images.note_used(&used, step::now_s())?)
    }

    /// A name for a container, or a root file system, of this build.
    pub fn member(&self, number: usize) -> String {
        format!("{NAME_PREFIX}{}-{number}", self.id)
    }
}

/// The build that a container of this name belongs to; users give names too, which may be anything else.
fn build_of(name: &str) -> Option<&str> {
    let (id, number) = name.strip_prefix(NAME_PREFIX)?.split_once('-')?;
    let is_id = id.len() == 2 * ID_BYTES && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_id && number.parse::<usize>().is_ok()).then_some(id)
}

impl Inner {
    async fn prepare_build(
        self: &Arc<Self>,
        archive: impl Read + Send + 'static,
        request: BuildRequest,
        bases: Arc<dyn BaseImages>,
    ) -> Result<Build> {
        for tag in &request.tags {
            muster_images::Reference::parse(tag).map_err(muster_images::Error::from)?;
        }
        let mut bytes = [0; ID_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        // What `build_of` reads.
        let id = hex::encode(bytes);
        let (place, dockerfile) = (self.layout.builds().join(&id), request.dockerfile.clone());
        // A context takes its files away when it is dropped, also where its Dockerfile is refused.
        let inner = Arc::clone(self);
        self.blocking(move |_| {
            let context = Context::receive(&place, archive, &dockerfile)?;
            let invalid = |error: muster_build::Error| Error::invalid(error.to_string());
            let dockerfile = Dockerfile::parse(&context.dockerfile).map_err(invalid)?;
            let args = BuildArgs::new(request.args.clone(), &run::own_platform());
            let plan = Plan::of(&dockerfile, &args, request.target.as_deref()).map_err(invalid)?;
            Ok(Build {
                inner,
                id,
                request,
                dockerfile,
                plan,
                args,
                context: Arc::new(context),
                bases,
                used: Mutex::default(),
                made_any: AtomicBool::new(false),
            })
        })
        .await
    }

    /// Takes away what builds of an earlier engine left.
    pub(crate) async fn clear_builds(self: &Arc<Self>) {
        let containers = self.containers().all();
        for container in containers {
            let name = container.with(|cell| cell.record.name.clone());
            let is_member = build_of(&name).is_some_and(|id| self.layout.builds().join(id).is_dir());
            if is_member {
                run_step::remove(self, &container).await;
            }
        }
        let cleared = self
            .blocking(|inner| {
                for id in inner.images.prepared()? {
                    if id.starts_with(NAME_PREFIX) {
                        inner.images.release(&id)?;
                    }
                }
                for name in names(&inner.layout.builds()) {
                    remove_directory(&inner.layout.builds().join(name))?;
                }
                Ok(())
            })
            .await;
        if let Err(error) = cleared {
            tracing::warn!(
                error = error.chain(),
                "files of builds that were cut short are left over"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_builds_give_are_theirs() {
        assert_eq!(build_of("build-0123456789ab-17"), Some("0123456789ab"));
        let others = [
            "build--web-1",
            "build-.-x",
            "build-..-x",
            "build-0123456789ab",
            "build-0123456789ab-web",
            "build-0123456789AB-1",
            "build-0123456789abc-1",
            "rebuild-0123456789ab-1",
        ];
        for name in others {
            assert_eq!(build_of(name), None, "{name}");
        }
    }
}
