//! Builds behind the Engine API's trait: nothing but conversions.

use super::engine::{EngineBackend, failed};
use async_trait::async_trait;
use futures::StreamExt;
use futures::future::BoxFuture;
use muster_engine as own;
use muster_engine_api::backend::{
    BaseImages, BuildCacheEntry, BuildEvent, BuildPruning, BuildRequest, BuildStream, ErrorKind,
    ImageBuilder, Result, UploadStream,
};
use muster_types::Timestamp;
use std::sync::Arc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::{StreamReader, SyncIoBridge};

/// The API's source of base images, as the engine asks it.
struct Bases(Arc<dyn BaseImages>);

impl own::BaseImages for Bases {
    fn fetch<'a>(&'a self, name: &'a str) -> BoxFuture<'a, own::Result<()>> {
        Box::pin(async move {
            self.0.fetch(name).await.map_err(|error| own::Error::NoBaseImage {
                is_missing: error.kind == ErrorKind::NotFound,
                message: error.message,
            })
        })
    }
}

fn event(output: own::Result<own::BuildOutput>) -> BuildEvent {
    match output {
        Ok(own::BuildOutput::Text(text)) => BuildEvent::Text(text),
        Ok(own::BuildOutput::Image(id)) => BuildEvent::Image(id),
        Err(error) => BuildEvent::Failed {
            code: match &error {
                own::Error::StepFailed { code, .. } => Some(*code),
                _ => None,
            },
            message: error.chain(),
        },
    }
}

#[async_trait]
impl ImageBuilder for EngineBackend {
    async fn image_build(
        &self,
        context: UploadStream,
        request: BuildRequest,
        bases: Arc<dyn BaseImages>,
    ) -> Result<BuildStream> {
        let request = own::BuildRequest {
            tags: request.tags,
            dockerfile: request.dockerfile,
            target: request.target,
            args: request.args,
            labels: request.labels,
            cache_from: request.cache_from,
            no_cache: request.no_cache,
            pull: request.pull,
            remove: request.remove,
            force_remove: request.force_remove,
            platform: request.platform,
            host: request.host,
        };
        let reader = SyncIoBridge::new(StreamReader::new(context));
        let outputs = self
            .engine
            .image_build(reader, request, Arc::new(Bases(bases)))
            .await
            .map_err(failed)?;
        Ok(ReceiverStream::new(outputs).map(event).boxed())
    }

    async fn build_cache(&self) -> Result<Vec<BuildCacheEntry>> {
        let (steps, mounts) = self.engine.build_cache().await.map_err(failed)?;
        let steps = steps.into_iter().map(|step| BuildCacheEntry {
            id: step.key.trim_start_matches("sha256:").to_owned(),
            description: step.description,
            is_mount: false,
            is_used: step.is_used,
            is_shared: step.is_shared,
            bytes: step.bytes,
            created: Timestamp::from_secs(step.created_unix_s),
            used: Timestamp::from_secs(step.used_unix_s),
            uses: step.uses,
        });
        let mounts = mounts.into_iter().map(|mount| BuildCacheEntry {
            description: "cache that steps mount".to_owned(),
            id: mount.name,
            is_mount: true,
            bytes: mount.bytes,
            created: mount.changed,
            used: mount.changed,
            ..BuildCacheEntry::default()
        });
        Ok(steps.chain(mounts).collect())
    }

    async fn build_prune(&self, pruning: BuildPruning) -> Result<(Vec<String>, u64)> {
        let steps = own::StepPruning {
            unused_since_unix_s: pruning.unused_since.map(|time| time.0 / 1_000_000_000),
            keep_bytes: pruning.keep_bytes,
        };
        let (removed, bytes) = self
            .engine
            .build_prune(steps, pruning.all)
            .await
            .map_err(failed)?;
        let ids = removed
            .iter()
            .map(|key| key.trim_start_matches("sha256:").to_owned());
        Ok((ids.collect(), bytes))
    }
}
