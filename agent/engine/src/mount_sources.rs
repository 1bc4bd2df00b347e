//! What must be there before a container's mounts can be made: mounted volumes, attached images, existing subpaths.

use crate::container::Container;
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::layout::make_directory;
use crate::record::Record;
use crate::wanted_mounts::checked_target;
use muster_runtime::label::selinux::{Audience, relabel};
use muster_types::ContainerId;
use muster_types::container::{MountKind, MountPoint, Relabel};
use muster_types::event::EventKind;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags};
use std::path::PathBuf;
use std::sync::Arc;

/// Volumes that are kept mounted for one operation.
pub(crate) struct HeldVolumes<'a> {
    inner: &'a Inner,
    points: Vec<MountPoint>,
    user: String,
}

impl Drop for HeldVolumes<'_> {
    fn drop(&mut self) {
        self.inner.release_volumes(&self.points, &self.user);
    }
}

impl Inner {
    /// Mounts the volumes among these mounts until the result is dropped. Blocks.
    pub(crate) fn hold_volumes(&self, points: &[MountPoint], user: &str) -> Result<HeldVolumes<'_>> {
        let held = HeldVolumes {
            inner: self,
            points: points.to_vec(),
            user: user.to_owned(),
        };
        self.acquire_volumes(points, user)?;
        Ok(held)
    }

    /// Mounts the volumes among these mounts for a user. Blocks.
    pub(crate) fn acquire_volumes(&self, points: &[MountPoint], user: &str) -> Result<()> {
        for point in points.iter().filter(|point| point.kind == MountKind::Volume) {
            if let Some(volume) = self.volumes.get(&point.name) {
                self.volume_mounts.acquire(&volume, user)?;
            }
        }
        Ok(())
    }

    /// Lets go what a user had mounted. Blocks.
    pub(crate) fn release_volumes(&self, points: &[MountPoint], user: &str) {
        for point in points.iter().filter(|point| point.kind == MountKind::Volume) {
            let Some(volume) = self.volumes.get(&point.name) else {
                continue;
            };
            if let Err(error) = self.volume_mounts.release(&volume, user) {
                tracing::warn!(
                    volume = volume.name,
                    error = error.chain(),
                    "a volume stays mounted"
                );
            }
        }
    }

    /// Lets go the volumes of a run that ended.
    pub(crate) async fn release_mounts(self: &Arc<Self>, container: &Container) {
        let (id, points) = container.with(|cell| (cell.record.id.to_string(), cell.record.mounts.clone()));
        if points.iter().all(|point| point.kind != MountKind::Volume) {
            return;
        }
        // Only a shutdown takes the thread away, and the next opening looks again.
        let _ = self
            .blocking(move |inner| {
                inner.release_volumes(&points, &id);
                Ok(())
            })
            .await;
    }

    /// Makes every source of a container's mounts ready; returns the mounts with the sources that the runtime is told.
    /// Blocks.
    pub(crate) fn ready_sources(&self, record: &Record) -> Result<Vec<MountPoint>> {
        self.acquire_volumes(&record.mounts, record.id.as_str())?;
        let mut points = record.mounts.clone();
        for (number, point) in points.iter_mut().enumerate() {
            if point.kind == MountKind::Image {
                let place = self.image_mount(&record.id, number);
                self.attach_image(record, point, &place)?;
                point.source = place.to_string_lossy().into_owned();
            }
            check_subpath(point)?;
            if point.kind == MountKind::Bind {
                crate::propagation::check(&point.source, &point.propagation)?;
            }
        }
        Ok(points)
    }

    fn attach_image(&self, record: &Record, point: &MountPoint, place: &PathBuf) -> Result<()> {
        make_directory(place)?;
        let mount = match self.remap_of(&record.config.host) {
            Some(remap) => remap.shown(|shown| self.images.mount_image(&point.source, Some(shown)))?,
            None => self.images.mount_image(&point.source, None)?,
        };
        rustix::mount::move_mount(&mount, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|error| Error::io(format!("mount image {}", point.name), error.into()))
    }

    /// Detaches the images of a container from the host: its own namespace has them by now, or will never have them.
    /// Idempotent. Blocks.
    pub(crate) fn detach_images(&self, record: &Record) {
        for (number, point) in record.mounts.iter().enumerate() {
            if point.kind != MountKind::Image {
                continue;
            }
            let place = self.image_mount(&record.id, number);
            loop {
                match rustix::mount::unmount(&place, UnmountFlags::DETACH) {
                    // One that a daemon's end left may lie below another.
                    Ok(()) => {}
                    Err(Errno::INVAL | Errno::NOENT) => break,
                    Err(error) => {
                        tracing::warn!(image = point.name, %error, "an image stays mounted");
                        break;
                    }
                }
            }
        }
    }

    fn image_mount(&self, id: &ContainerId, number: usize) -> PathBuf {
        self.layout.run(id).join(format!("image-{number}"))
    }

    /// Publishes an event of a volume.
    pub(crate) fn volume_event(&self, action: &str, name: &str) {
        self.volume_event_with(action, name, &[]);
    }

    fn volume_event_with(&self, action: &str, name: &str, more: &[(&str, &str)]) {
        let driver = [("driver", "local")];
        let attributes = driver.iter().chain(more);
        let attributes = attributes.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        self.events
            .publish(EventKind::Volume, action, name, attributes.collect());
    }

    /// Tells that a container's run has its volumes.
    pub(crate) fn mounted_event(&self, record: &Record) {
        for point in volumes(record) {
            let more = [
                ("container", record.id.as_str()),
                ("destination", &point.target),
                ("propagation", &point.propagation),
                ("read/write", if point.writable { "true" } else { "false" }),
            ];
            self.volume_event_with("mount", &point.name, &more);
        }
    }

    /// Tells that it has them no more.
    pub(crate) fn unmounted_event(&self, record: &Record) {
        for point in volumes(record) {
            let more = [("container", record.id.as_str())];
            self.volume_event_with("unmount", &point.name, &more);
        }
    }
}

fn volumes(record: &Record) -> impl Iterator<Item = &MountPoint> {
    let points = record.mounts.iter();
    points.filter(|point| point.kind == MountKind::Volume)
}

/// Gives the sources of a container's mounts the labels that were asked for (`z`, `Z`). Blocks.
pub(crate) fn relabel_sources(record: &Record, label: &str) -> Result<()> {
    for spec in &record.config.host.mounts {
        let audience = match spec.relabel {
            Relabel::No => continue,
            Relabel::Containers => Audience::Containers,
            Relabel::Own => Audience::Own,
        };
        let target = checked_target(&spec.target)?;
        let Some(point) = record.mounts.iter().find(|point| point.target == target) else {
            continue;
        };
        let relabelled = relabel(point.source.as_ref(), label, audience);
        relabelled.map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidInput => Error::invalid(error.to_string()),
            _ => Error::io(format!("SELinux relabeling of {}", point.source), error),
        })?;
    }
    Ok(())
}

/// Refuses a subpath that is not there or leads out of its source, with a better message than the runtime's.
fn check_subpath(point: &MountPoint) -> Result<()> {
    if point.subpath.is_empty() {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let opened = rustix::fs::openat(
        CWD,
        point.source.as_str(),
        flags | OFlags::DIRECTORY,
        Mode::empty(),
    )
    .and_then(|source| rustix::fs::openat2(source, point.subpath.as_str(), flags, Mode::empty(), resolve));
    let problem = match opened {
        Ok(_) => return Ok(()),
        Err(Errno::XDEV | Errno::LOOP) => "it leads out of it through a symbolic link".to_owned(),
        Err(error) => std::io::Error::from(error).to_string(),
    };
    Err(Error::invalid(format!(
        "failed to mount subpath {:?} of {} {}: {problem}",
        point.subpath,
        if point.kind == MountKind::Image {
            "image"
        } else {
            "volume"
        },
        point.name
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_subpath_stays_in_its_volume() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        std::fs::create_dir_all(at("volume/sub/deep")).unwrap();
        std::fs::create_dir(at("outside")).unwrap();
        symlink("../outside", at("volume/out")).unwrap();
        symlink("/etc", at("volume/absolute")).unwrap();
        symlink("sub", at("volume/alias")).unwrap();
        let point = |subpath: &str| MountPoint {
            kind: MountKind::Volume,
            name: "v".into(),
            source: at("volume").to_string_lossy().into_owned(),
            subpath: subpath.into(),
            target: "/t".into(),
            writable: true,
            propagation: String::new(),
        };
        for good in ["", "sub", "sub/deep", "alias/deep"] {
            check_subpath(&point(good)).unwrap();
        }
        for (bad, why) in [
            ("out", "leads out"),
            ("absolute", "leads out"),
            ("nosuch", "No such file"),
        ] {
            let error = check_subpath(&point(bad)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
