//! Volumes with a file system of their own: mounted when the first user comes, unmounted when the last one leaves.

use crate::error::{Error, Result};
use crate::local_options::VolumeMount;
use crate::volumes::Volume;
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Who uses which volume. Users are named by whoever comes: a container's id, or a name for one operation.
#[derive(Debug, Default)]
pub(crate) struct VolumeMounts {
    /// Each volume has a lock of its own: a server that does not answer holds up its own volume only.
    volumes: Mutex<HashMap<String, Arc<Mutex<BTreeSet<String>>>>>,
}

impl VolumeMounts {
    /// Mounts a volume for a user, if it has a file system of its own. Idempotent. Blocks.
    pub fn acquire(&self, volume: &Volume, user: &str) -> Result<()> {
        let Some(mount) = VolumeMount::of(&volume.options) else {
            return Ok(());
        };
        let users = self.users(&volume.name);
        let mut users = users.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_mounted(&volume.mountpoint)? {
            attach(&mount, &volume.mountpoint, &volume.name)?;
        }
        users.insert(user.to_owned());
        Ok(())
    }

    /// Lets a user go, and unmounts with the last one. Idempotent. Blocks.
    pub fn release(&self, volume: &Volume, user: &str) -> Result<()> {
        if VolumeMount::of(&volume.options).is_none() {
            return Ok(());
        }
        let users = self.users(&volume.name);
        let mut users = users.lock().unwrap_or_else(PoisonError::into_inner);
        users.remove(user);
        if users.is_empty() {
            detach(&volume.mountpoint, &volume.name)?;
        }
        Ok(())
    }

    fn users(&self, volume: &str) -> Arc<Mutex<BTreeSet<String>>> {
        let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(volumes.entry(volume.to_owned()).or_default())
    }
}

/// Whether a volume is something that is mounted, and not a directory of the engine's.
pub(crate) fn has_own_file_system(volume: &Volume) -> bool {
    VolumeMount::of(&volume.options).is_some()
}

/// Unmounts what is mounted at a volume's place. Nothing there is no error.
pub(crate) fn detach(place: &Path, name: &str) -> Result<()> {
    if !is_mounted(place)? {
        return Ok(());
    }
    rustix::mount::unmount(place, UnmountFlags::empty())
        .map_err(|error| Error::io(format!("unmount volume {name}"), error.into()))
}

fn is_mounted(place: &Path) -> Result<bool> {
    let looked = rustix::fs::statx(CWD, place, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    match looked {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(Error::io(format!("look at {}", place.display()), error.into())),
    }
}

fn attach(mount: &VolumeMount, place: &Path, name: &str) -> Result<()> {
    let data = mount.resolved_data()?;
    let failed = |error: Errno| {
        Error::io(
            format!(
                "failed to mount local volume: mount {}:{}, data: {}",
                mount.device,
                place.display(),
                without_password(&data)
            ),
            error.into(),
        )
    };
    let text = std::ffi::CString::new(data.clone())
        .map_err(|_| Error::invalid(format!("the options of volume {name} contain a zero byte")))?;
    rustix::mount::mount(
        mount.device.as_str(),
        place,
        mount.kind.as_str(),
        mount.flags,
        text.as_c_str(),
    )
    .map_err(failed)?;
    let finished = finish(mount, place);
    if finished.is_err() {
        // What is half done must not be taken for the volume.
        let _ = rustix::mount::unmount(place, UnmountFlags::DETACH);
    }
    finished.map_err(failed)
}

fn finish(mount: &VolumeMount, place: &Path) -> rustix::io::Result<()> {
    if !mount.later_flags.is_empty() {
        rustix::mount::mount_remount(place, MountFlags::BIND | mount.later_flags, c"")?;
    }
    match mount.propagation {
        Some(propagation) => rustix::mount::mount_change(place, propagation),
        None => Ok(()),
    }
}

fn without_password(data: &str) -> String {
    let hidden = |word: &str| match word.split_once('=') {
        Some((key @ ("password" | "pass"), _)) => format!("{key}=********"),
        _ => word.to_owned(),
    };
    data.split(',').map(hidden).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use std::fs;

    fn volume(place: &Path, options: &[(&str, &str)]) -> Volume {
        Volume {
            name: "v".to_owned(),
            mountpoint: place.to_path_buf(),
            created: clock::now(),
            labels: Default::default(),
            anonymous: false,
            ids: None,
            options: options
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn a_volume_is_mounted_from_its_first_to_its_last_user() {
        let directory = tempfile::tempdir().unwrap();
        let (place, source) = (directory.path().join("place"), directory.path().join("source"));
        fs::create_dir(&place).unwrap();
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), "x").unwrap();
        let device = source.to_string_lossy().into_owned();
        let bound = volume(&place, &[("type", "none"), ("o", "bind,ro"), ("device", &device)]);
        let mounts = VolumeMounts::default();
        for user in ["a", "b", "a"] {
            mounts.acquire(&bound, user).unwrap();
        }
        assert!(place.join("file").exists() && fs::write(place.join("new"), "").is_err());
        mounts.release(&bound, "a").unwrap();
        assert!(is_mounted(&place).unwrap());
        mounts.release(&bound, "b").unwrap();
        mounts.release(&bound, "b").unwrap();
        assert!(!is_mounted(&place).unwrap() && source.join("file").exists());
        // A new engine finds it mounted and mounts nothing over it.
        mounts.acquire(&bound, "a").unwrap();
        let later = VolumeMounts::default();
        later.acquire(&bound, "a").unwrap();
        later.release(&bound, "a").unwrap();
        assert!(!is_mounted(&place).unwrap());
    }

    #[test]
    fn a_mount_that_fails_is_told_without_passwords() {
        let directory = tempfile::tempdir().unwrap();
        let bad = volume(
            directory.path(),
            &[
                ("type", "nosuchfs"),
                ("device", "x"),
                ("o", "password=secret,a=b"),
            ],
        );
        let error = VolumeMounts::default().acquire(&bad, "a").unwrap_err().chain();
        assert!(
            error.contains("failed to mount local volume") && error.contains("a=b"),
            "{error}"
        );
        assert!(!error.contains("secret"), "{error}");
    }
}
