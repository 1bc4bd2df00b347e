//! What builds can use again: steps, and directories that steps mount.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::layout::{names, remove_directory};
use muster_images::{BuildStep, StepPruning, file_bytes};
use muster_types::Timestamp;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// A directory that steps of builds mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepCache {
    /// Its name on disk.
    pub name: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// When something in it was last made or removed.
    pub changed: Timestamp,
}

impl Engine {
    /// The build cache: steps, the one used last first, and the directories that steps mount.
    pub async fn build_cache(&self) -> Result<(Vec<BuildStep>, Vec<StepCache>)> {
        self.inner
            .blocking(|inner| {
                let place = inner.layout.step_caches();
                let caches = names(&place).into_iter().map(|name| {
                    let path = place.join(&name);
                    let changed = std::fs::metadata(&path).map_or(0, |metadata| metadata.mtime());
                    StepCache {
                        bytes: file_bytes(&path),
                        changed: Timestamp::from_secs(changed),
                        name,
                    }
                });
                Ok((inner.images.steps()?, caches.collect()))
            })
            .await
    }

    /// Forgets steps, and with `mounts` removes directories that no step mounts now. Returns what went, and how many
    /// bytes became free.
    pub async fn build_prune(&self, pruning: StepPruning, mounts: bool) -> Result<(Vec<String>, u64)> {
        let inner = Arc::clone(&self.inner);
        self.carry("build-prune", async move {
            inner
                .blocking(move |inner| {
                    let in_use = inner.images_in_use();
                    inner.images.forget_unfinished()?;
                    let (mut removed, mut bytes) = inner.images.prune_steps(pruning, &in_use)?;
                    let place = inner.layout.step_caches();
                    for name in names(&place).into_iter().filter(|_| mounts) {
                        let path = place.join(&name);
                        if inner.is_mounted_by_a_step(&path.to_string_lossy()) {
                            continue;
                        }
                        let freed = file_bytes(&path);
                        match remove_directory(&path) {
                            Ok(()) => {
                                bytes += freed;
                                removed.push(name);
                            }
                            Err(error @ Error::Io { .. }) => {
                                tracing::warn!(error = error.chain(), "a cache of steps stays");
                            }
                            Err(error) => return Err(error),
                        }
                    }
                    Ok((removed, bytes))
                })
                .await
        })
        .await
    }
}

impl crate::engine::Inner {
    fn is_mounted_by_a_step(&self, source: &str) -> bool {
        self.containers().all().iter().any(|container| {
            container.with(|cell| cell.record.mounts.iter().any(|point| point.source == source))
        })
    }
}
