//! Files that are given to a container for one start: secrets and configs of a task. They lie in memory only, in a file
//! system of the container's own that the kernel does not swap out where it can be told so.

use crate::engine::{Engine, Inner};
use crate::error::{Error, Result};
use crate::joined::remove_mounted;
use crate::layout::make_directory;
use crate::record::Record;
use crate::user_namespace::{outside, root_of};
use muster_images::Owner;
use muster_types::ContainerId;
use muster_types::file::FileData;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What one file costs beside its content, at most: pages of the content's end and of the directory.
const OVERHEAD_BYTES: usize = 16 << 10;

/// A file that is given for one start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenFile {
    /// Absolute path in the container.
    pub target: String,
    /// The owner, as the container numbers users.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// The content.
    pub data: FileData,
}

impl Engine {
    /// Gives a container files for its next start, in place of what it was given before. They are not kept: another
    /// start needs them again.
    pub fn give_files(&self, container: &ContainerId, files: Vec<GivenFile>) -> Result<()> {
        let found = self.inner.find(container.as_str())?;
        found.with(|cell| cell.given_files = files);
        Ok(())
    }
}

impl Inner {
    /// Writes the files where only the container will see them, and says for each target where it lies. Blocking.
    pub(crate) fn place_given(
        &self,
        record: &Record,
        files: &[GivenFile],
        label: Option<&str>,
    ) -> Result<Vec<(String, PathBuf)>> {
        if record.config.needs_files && files.is_empty() {
            return Err(Error::wrong_state(
                "the container needs secrets or configs of the cluster: it starts when its task does, not by hand",
            ));
        }
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let path = self.layout.given(&record.id);
        // A start that was cut short may have left some.
        remove_mounted(&path)?;
        make_directory(&path)?;
        let maps = self.maps_of(&record.config.host);
        let owner = root_of(maps);
        let bytes: usize = files
            .iter()
            .map(|file| file.data.bytes().len() + OVERHEAD_BYTES)
            .sum();
        let context = label
            .map(|label| format!(",context=\"{label}\""))
            .unwrap_or_default();
        let (uid, gid) = (owner.uid, owner.gid);
        mount_unswapped(
            &path,
            &format!("mode=0700,uid={uid},gid={gid},size={bytes}{context}"),
        )?;
        let mut placed = Vec::new();
        for (number, file) in files.iter().enumerate() {
            let (uid, gid) = (file.uid, file.gid);
            let owner = outside(maps, Owner { uid, gid }).ok_or_else(|| {
                Error::invalid(format!(
                    "{}: the container has no user {uid} or group {gid}",
                    file.target
                ))
            })?;
            let at = path.join(number.to_string());
            write(&at, file, owner).map_err(|error| {
                Error::io(
                    format!("write the file for {} in memory", file.target),
                    error.into(),
                )
            })?;
            placed.push((file.target.clone(), at));
        }
        Ok(placed)
    }

    /// Takes away the files that a container was given and that does not run any more. Idempotent. Blocking.
    pub(crate) fn clear_given(&self, id: &ContainerId) {
        if let Err(error) = remove_mounted(&self.layout.given(id)) {
            tracing::warn!(
                container = id.short(),
                error = error.chain(),
                "files that were given to a container are left over"
            );
        }
    }
}

/// Mounts a tmpfs, kept out of swap where the kernel knows how (6.4).
fn mount_unswapped(path: &Path, options: &str) -> Result<()> {
    let flags = MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
    let with = |options: String| -> Result<std::result::Result<(), Errno>> {
        let options =
            CString::new(options).map_err(|_| Error::invalid("the SELinux label contains a zero byte"))?;
        Ok(mount("tmpfs", path, "tmpfs", flags, Some(options.as_c_str())))
    };
    let mounted = match with(format!("{options},noswap"))? {
        Err(Errno::INVAL) => with(options.to_owned())?,
        mounted => mounted,
    };
    mounted.map_err(|error| {
        Error::io(
            format!("mount a file system in memory at {}", path.display()),
            error.into(),
        )
    })
}

/// The owner is set before the mode, which it would take bits from.
fn write(path: &Path, file: &GivenFile, owner: Owner) -> std::result::Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut written = File::from(rustix::fs::open(path, flags, Mode::RUSR)?);
    written
        .write_all(file.data.bytes())
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(owner.uid),
        rustix::fs::Gid::from_raw(owner.gid),
    );
    rustix::fs::fchown(&written, Some(uid), Some(gid))?;
    rustix::fs::fchmod(&written, Mode::from_raw_mode(file.mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn files_lie_in_memory_with_owner_and_mode_until_they_are_taken_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("given");
        std::fs::create_dir(&path).unwrap();
        mount_unswapped(&path, "mode=0700,size=32768").unwrap();
        let file = GivenFile {
            target: "/run/secrets/key".to_owned(),
            uid: 7,
            gid: 8,
            mode: 0o4440,
            data: b"swordfish".to_vec().into(),
        };
        write(&path.join("0"), &file, Owner { uid: 7, gid: 8 }).unwrap();
        let metadata = std::fs::metadata(path.join("0")).unwrap();
        assert_eq!(
            (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777),
            (7, 8, 0o4440)
        );
        assert_eq!(std::fs::read(path.join("0")).unwrap(), b"swordfish");
        let outside = std::fs::metadata(directory.path()).unwrap().dev();
        assert_ne!(metadata.dev(), outside, "it is not on the disk");
        remove_mounted(&path).unwrap();
        assert!(!path.exists());
        remove_mounted(&path).unwrap();
    }
}
