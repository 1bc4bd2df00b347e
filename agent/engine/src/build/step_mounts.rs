//! `RUN --mount`: what a step sees beside its image.

use super::source;
use super::stage::StageRun;
use crate::error::{Error, Result};
use crate::layout::make_directory;
use crate::user_namespace::outside_or_nobody;
use muster_build::{Mount, MountKind as Kind, Run, Sharing};
use muster_images::{Digest, Owner};
use muster_types::container::{MountKind, MountSpec};
use std::collections::{BTreeSet, HashMap};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OwnedMutexGuard;

/// Who uses which cache alone.
#[derive(Debug, Default)]
pub(crate) struct StepCaches {
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl StepCaches {
    fn lock_of(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds or waits for are not needed.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(name.to_owned()).or_default())
    }
}

/// The mounts of one step.
#[derive(Default)]
pub(super) struct StepMounts {
    pub list: Vec<MountSpec>,
    /// What of them makes the step another one.
    pub key: Vec<String>,
    /// Caches that nobody else may use meanwhile.
    _locks: Vec<OwnedMutexGuard<()>>,
}

impl StepMounts {
    /// Where they were in the root file system, the deepest first.
    pub fn places(&self) -> Vec<String> {
        let targets = self
            .list
            .iter()
            .map(|mount| mount.target.trim_matches('/').to_owned());
        // Deeper ones may lie behind links.
        let shallow = |target: &String| !target.is_empty() && target.matches('/').count() <= 1;
        let mut places: Vec<String> = targets.filter(shallow).collect();
        places.sort_by_key(|target| std::cmp::Reverse(target.matches('/').count()));
        places
    }
}

impl StageRun {
    /// What a step sees; caches that it uses alone are not locked yet.
    pub async fn step_mounts(&self, run: &Run) -> Result<StepMounts> {
        let mut mounts = StepMounts::default();
        for mount in &run.mounts {
            match &mount.kind {
                Kind::Bind { from, source } => {
                    self.bind(&mut mounts, mount, from.as_deref(), source).await?;
                }
                Kind::Cache { .. } => self.cache(&mut mounts, mount)?,
                Kind::Tmpfs { bytes } => mounts.list.push(MountSpec {
                    kind: MountKind::Tmpfs,
                    target: mount.target.clone(),
                    read_only: mount.read_only,
                    tmpfs_bytes: *bytes,
                    ..MountSpec::default()
                }),
            }
            mounts.key.push(format!("{mount:?}"));
        }
        if let Some(script) = &run.script {
            let digest = Digest::of(script.content.as_bytes());
            // Stages side by side may have the same one, and one must not write what another executes.
            let name = format!("script-{}-{}", self.index, digest.hex());
            let path = self.build.context.scratch().join(name);
            let failed = |error| Error::io("write a here-document", error);
            std::fs::write(&path, &script.content).map_err(failed)?;
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).map_err(failed)?;
            mounts
                .list
                .push(read_only_bind(path, format!("/dev/pipes/{}", script.name)));
            mounts.key.push(digest.to_string());
        }
        for mount in &mut mounts.list {
            if !mount.target.starts_with('/') {
                return Err(Error::invalid(format!(
                    "the target {:?} of --mount is no absolute path",
                    mount.target
                )));
            }
        }
        Ok(mounts)
    }

    /// Waits until nobody else uses the caches that the step uses alone.
    pub async fn lock_caches(&self, mounts: &mut StepMounts, run: &Run) -> Result<()> {
        for name in locked_caches(&run.mounts) {
            let lock = self.build.inner.step_caches.lock_of(&name);
            let locked = tokio::select! {
                locked = lock.lock_owned() => locked,
                () = self.cancel.cancelled() => return Err(Error::BuildCancelled),
            };
            mounts._locks.push(locked);
        }
        Ok(())
    }

    async fn bind(
        &self,
        mounts: &mut StepMounts,
        mount: &Mount,
        from: Option<&str>,
        path: &str,
    ) -> Result<()> {
        let Some(from) = from else {
            let (context, path) = (Arc::clone(&self.build.context), path.to_owned());
            let cancel = self.cancel.clone();
            let (place, digest) = self
                .build
                .inner
                .blocking(move |_| {
                    let root = context.root()?;
                    let file = source::open(&root, &path)?;
                    let digest = source::digest_at(&root, &path, &cancel)?;
                    // The context does not change, so that the path stays what it is.
                    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
                    let place =
                        std::fs::read_link(link).map_err(|error| Error::io("resolve a mount", error))?;
                    Ok((place, digest))
                })
                .await?;
            mounts.list.push(read_only_bind(place, mount.target.clone()));
            mounts.key.push(digest.to_string());
            return Ok(());
        };
        let image = self.origin(from).await?;
        mounts.key.push(image.to_string());
        mounts.list.push(MountSpec {
            kind: MountKind::Image,
            source: image.to_string(),
            subpath: path.trim_matches('/').to_owned(),
            target: mount.target.clone(),
            read_only: true,
            ..MountSpec::default()
        });
        Ok(())
    }

    fn cache(&self, mounts: &mut StepMounts, mount: &Mount) -> Result<()> {
        let Kind::Cache { mode, uid, gid, .. } = mount.kind else {
            return Ok(());
        };
        let inner = &self.build.inner;
        let place = inner.layout.step_caches().join(cache_name(mount));
        if !place.is_dir() {
            make_directory(&place)?;
            let failed = |error| Error::io("make a cache for a step", error);
            // The step's users may stand for others of the host.
            let maps = inner.maps_of(&self.build.request.host);
            let owner = outside_or_nobody(maps, Owner { uid, gid });
            chown(&place, Some(owner.uid), Some(owner.gid)).map_err(failed)?;
            std::fs::set_permissions(&place, PermissionsExt::from_mode(mode)).map_err(failed)?;
        }
        mounts.list.push(MountSpec {
            kind: MountKind::Bind,
            source: place.to_string_lossy().into_owned(),
            target: mount.target.clone(),
            read_only: mount.read_only,
            ..MountSpec::default()
        });
        Ok(())
    }
}

/// The caches that a step uses alone, each once, and in one order so that no two steps wait for each other.
fn locked_caches(mounts: &[Mount]) -> BTreeSet<String> {
    let is_locked = |mount: &&Mount| {
        matches!(
            mount.kind,
            Kind::Cache {
                sharing: Sharing::Locked,
                ..
            }
        )
    };
    mounts.iter().filter(is_locked).map(cache_name).collect()
}

/// The directory of a cache: its identity may be any text.
fn cache_name(mount: &Mount) -> String {
    match &mount.kind {
        Kind::Cache { id, .. } => Digest::of(id.as_bytes()).hex(),
        Kind::Bind { .. } | Kind::Tmpfs { .. } => String::new(),
    }
}

fn read_only_bind(source: PathBuf, target: String) -> MountSpec {
    MountSpec {
        kind: MountKind::Bind,
        source: source.to_string_lossy().into_owned(),
        target,
        read_only: true,
        ..MountSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_build::{Dockerfile, Instruction};

    #[test]
    fn a_cache_that_is_mounted_twice_is_locked_once() {
        let dockerfile = Dockerfile::parse(
            "FROM scratch\n\
             RUN --mount=type=cache,id=b,target=/one,sharing=locked \\\n\
             --mount=type=cache,id=a,target=/two,sharing=locked \\\n\
             --mount=type=cache,id=b,target=/three,sharing=locked \\\n\
             --mount=type=cache,id=c,target=/four --mount=type=tmpfs,target=/five true\n",
        );
        let Instruction::Run(run) = &dockerfile.unwrap().stages[0].steps[0].instruction else {
            panic!("no RUN");
        };
        assert_eq!(run.mounts.len(), 5);
        let expected = BTreeSet::from(["a", "b"].map(|id| Digest::of(id.as_bytes()).hex()));
        assert_eq!(locked_caches(&run.mounts), expected);
    }
}
