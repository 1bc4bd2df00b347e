//! The mounts that a new container gets: its own, those of its image's volumes, and those of other containers.

use crate::container::Container;
use crate::create::random_id;
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::record::Unfinished;
use crate::user_namespace::as_root_of;
use crate::volume_mounts::has_own_file_system;
use crate::volumes::{self, VolumeSpec};
use muster_types::container::{ContainerConfig, MountKind, MountPoint, MountSpec};
use muster_types::id_map::IdMaps;
use muster_types::image::ImageConfig;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::path::{Component, Path};
use std::sync::Arc;

impl Inner {
    /// Makes a container's volumes, records its mounts, and fills volumes that are empty.
    pub(crate) async fn make_mounts(
        self: &Arc<Self>,
        container: &Arc<Container>,
        image: &ImageConfig,
    ) -> Result<()> {
        let config = container.with(|cell| cell.record.config.clone());
        let borrowed = self.borrowed_mounts(&config)?;
        let mut wanted = config.host.mounts.clone();
        for path in image.volumes.iter().chain(&config.volumes) {
            let plain = path.trim_end_matches('/');
            let covered = wanted
                .iter()
                .any(|mount| mount.target.trim_end_matches('/') == plain)
                || borrowed.iter().any(|point| point.target == plain);
            if !covered {
                wanted.push(MountSpec {
                    kind: MountKind::Volume,
                    target: path.clone(),
                    ..MountSpec::default()
                });
            }
        }
        let wanted: Vec<WantedMount> = wanted.into_iter().map(WantedMount::new).collect::<Result<_>>()?;
        let is_new = |mount: &&WantedMount| {
            mount.spec.kind == MountKind::Volume && self.volumes.get(&mount.volume).is_none()
        };
        let volumes: Vec<String> = wanted
            .iter()
            .filter(is_new)
            .map(|mount| mount.volume.clone())
            .collect();
        if !volumes.is_empty() {
            // Nothing else would tell whose they are, and that nobody has used them.
            self.record_as(container, Unfinished::Create { volumes }).await?;
        }
        let mut fresh = Vec::new();
        for mount in wanted {
            let no_copy = mount.spec.no_copy;
            let point = self.mount_point(container, mount).await?;
            if point.kind == MountKind::Volume && !no_copy && point.subpath.is_empty() {
                fresh.push(point.clone());
            }
            container.with(|cell| {
                if cell
                    .record
                    .mounts
                    .iter()
                    .any(|known| known.target == point.target)
                {
                    return Err(Error::invalid(format!("Duplicate mount point: {}", point.target)));
                }
                cell.record.mounts.push(point);
                Ok(())
            })?;
        }
        container.with(|cell| {
            let known = |point: &MountPoint| cell.record.mounts.iter().any(|own| own.target == point.target);
            let others: Vec<MountPoint> = borrowed.into_iter().filter(|point| !known(point)).collect();
            cell.record.mounts.extend(others);
        });
        self.fill_volumes(container, fresh).await
    }

    /// Copies the image's content into volumes that are empty.
    async fn fill_volumes(
        self: &Arc<Self>,
        container: &Arc<Container>,
        points: Vec<MountPoint>,
    ) -> Result<()> {
        if points.is_empty() {
            return Ok(());
        }
        let (id, user_host) = (
            container.id.to_string(),
            container.with(|cell| cell.record.config.host.user_host),
        );
        self.blocking(move |inner| {
            let own = inner
                .remap
                .as_ref()
                .filter(|_| !user_host)
                .map(|remap| &remap.maps);
            let user = format!("create-{id}");
            let _mounted = inner.hold_volumes(&points, &user)?;
            let empty: Vec<&MountPoint> = points
                .iter()
                .filter(|point| volumes::is_empty(point.source.as_ref()))
                .collect();
            if empty.is_empty() {
                return Ok(());
            }
            let rootfs = inner.images.mount(&id)?;
            empty
                .into_iter()
                .try_for_each(|point| match inner.volumes.get(&point.name) {
                    Some(volume) if !has_own_file_system(&volume) => {
                        crate::copy_up::fill(&rootfs, point, volume.ids.as_ref())
                    }
                    _ => crate::copy_up::fill(&rootfs, point, own),
                })
        })
        .await
    }

    /// The mounts of the containers that `--volumes-from` names.
    fn borrowed_mounts(&self, config: &ContainerConfig) -> Result<Vec<MountPoint>> {
        let mut borrowed: Vec<MountPoint> = Vec::new();
        for text in &config.host.volumes_from {
            let (reference, read_only) = volumes_from(text)?;
            let other = self
                .find(reference)
                .map_err(|error| Error::invalid(error.to_string()))?;
            for mut point in other.record().mounts {
                if point.kind == MountKind::Tmpfs {
                    continue;
                }
                point.writable &= !read_only;
                borrowed.retain(|known| known.target != point.target);
                borrowed.push(point);
            }
        }
        Ok(borrowed)
    }

    async fn mount_point(
        self: &Arc<Self>,
        container: &Arc<Container>,
        mount: WantedMount,
    ) -> Result<MountPoint> {
        let WantedMount { spec, target, volume } = mount;
        let mut point = MountPoint {
            kind: spec.kind,
            name: String::new(),
            source: spec.source.clone(),
            subpath: spec.subpath.clone(),
            target,
            writable: !spec.read_only,
            propagation: spec.propagation.clone(),
        };
        match spec.kind {
            MountKind::Tmpfs => Ok(point),
            MountKind::Bind => {
                let host = container.with(|cell| cell.record.config.host.clone());
                check_bind_source(&spec, self.maps_of(&host))?;
                Ok(point)
            }
            MountKind::Image => {
                let reference = spec.source.clone();
                let image = self
                    .blocking(move |inner| Ok(inner.images.resolve(&reference)?))
                    .await?;
                point.name.clone_from(&spec.source);
                point.source = image.id.to_string();
                point.writable = false;
                Ok(point)
            }
            MountKind::Volume => {
                let wanted = VolumeSpec {
                    name: spec.source.clone(),
                    labels: spec.volume_labels.clone(),
                    options: spec.volume_options.clone(),
                };
                let (made, is_new) = self.volumes.ensure(&volume, &wanted).await?;
                if is_new {
                    self.volume_event("create", &volume);
                }
                if wanted.name.is_empty() {
                    container.with(|cell| cell.record.anonymous_volumes.push(volume.clone()));
                }
                point.name = volume;
                point.source = made.mountpoint.to_string_lossy().into_owned();
                Ok(point)
            }
        }
    }
}

/// A mount that was asked for, with what it does not say itself.
struct WantedMount {
    spec: MountSpec,
    /// Its place in the container, in its plain form.
    target: String,
    /// The volume's name, where it is a volume: one without a name gets one.
    volume: String,
}

impl WantedMount {
    fn new(spec: MountSpec) -> Result<Self> {
        let volume = match spec.source.as_str() {
            "" => random_id().to_string(),
            name => name.to_owned(),
        };
        Ok(Self {
            target: checked_target(&spec.target)?,
            spec,
            volume,
        })
    }
}

/// The container and the access of `container[:ro|rw]`.
fn volumes_from(text: &str) -> Result<(&str, bool)> {
    let invalid = |why: String| Err(Error::invalid(why));
    let (reference, mode) = text.split_once(':').unwrap_or((text, "rw"));
    if reference.is_empty() {
        return invalid(format!("invalid volumes-from specification: '{text}'"));
    }
    match mode {
        "rw" | "z" | "Z" => Ok((reference, false)),
        "ro" => Ok((reference, true)),
        other => invalid(format!("invalid mode for volumes-from: {other}")),
    }
}

/// A mount's target in its plain form: absolute, without `..`, not the root.
pub(crate) fn checked_target(target: &str) -> Result<String> {
    let path = Path::new(target);
    let refused = |why: &str| Error::invalid(format!("invalid mount path: '{target}' {why}"));
    if !path.is_absolute() {
        return Err(refused("mount path must be absolute"));
    }
    let mut plain = String::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                plain.push('/');
                plain.push_str(&name.to_string_lossy());
            }
            Component::ParentDir | Component::Prefix(_) => return Err(refused("must not contain '..'")),
        }
    }
    if plain.is_empty() {
        return Err(refused("destination can't be '/'"));
    }
    Ok(plain)
}

fn check_bind_source(spec: &MountSpec, ids: Option<&IdMaps>) -> Result<()> {
    let source = Path::new(&spec.source);
    if !source.is_absolute() {
        return Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": invalid mount path: '{}' mount path must be absolute",
            spec.source
        )));
    }
    if source.exists() {
        return Ok(());
    }
    if !spec.create_source {
        return Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            spec.source
        )));
    }
    as_root_of(ids, || {
        make_missing(source)
            .map_err(|error| Error::io(format!("make the bind source {}", spec.source), error.into()))
    })
}

/// Makes a directory and its missing parents, one below the other: whoever owns one of them leads it nowhere else by a link.
fn make_missing(path: &Path) -> rustix::io::Result<()> {
    let there = path.ancestors().find(|parent| parent.exists()).unwrap_or(path);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut parent = rustix::fs::openat(CWD, there, flags, Mode::empty())?;
    for component in path.strip_prefix(there).unwrap_or(path).components() {
        match rustix::fs::mkdirat(&parent, component.as_os_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let below = flags | OFlags::NOFOLLOW;
        parent = rustix::fs::openat(&parent, component.as_os_str(), below, Mode::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_from_names_a_container_and_an_access() {
        assert_eq!(volumes_from("web").unwrap(), ("web", false));
        assert_eq!(volumes_from("web:ro").unwrap(), ("web", true));
        for bad in ["", ":ro", "web:", "web:what"] {
            assert!(volumes_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn missing_sources_are_made_below_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        std::fs::create_dir_all(at("real")).unwrap();
        std::os::unix::fs::symlink("real", at("link")).unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", at("dangling")).unwrap();
        make_missing(&at("link/a/./b//c")).unwrap();
        assert!(at("real/a/b/c").is_dir());
        make_missing(&at("real/a/d")).unwrap();
        assert!(at("real/a/d").is_dir());
        make_missing(&at("dangling/a")).unwrap_err();
    }

    #[test]
    fn mount_targets_are_plain_absolute_paths() {
        assert_eq!(checked_target("/a//b/./c/").unwrap(), "/a/b/c");
        for bad in ["", "a", "/", "/..", "/a/../b"] {
            assert!(checked_target(bad).is_err(), "{bad}");
        }
    }
}
