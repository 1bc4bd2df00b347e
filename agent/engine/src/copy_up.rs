//! Fills a new volume with what the image has at its place.

use crate::error::{Error, Result};
use crate::user_namespace::outside_or_nobody;
use crate::volumes;
use muster_images::Owner;
use muster_types::container::MountPoint;
use muster_types::id_map::IdMaps;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Deepest directory that is copied: far beyond real trees, and it bounds the recursion.
const DEPTH_MAX: usize = 128;

/// Copies the image's directory below `rootfs` into an empty volume. An absent one, or one that is no directory, is
/// no error. Links in the image are resolved inside of its root. Blocks.
///
/// The image's ids are a container's; in the volume they become those of `ids`.
pub(crate) fn fill(rootfs: &OwnedFd, point: &MountPoint, ids: Option<&IdMaps>) -> Result<()> {
    let operation = || format!("copy the image's {} into volume {}", point.target, point.name);
    if !volumes::is_empty(point.source.as_ref()) {
        return Ok(());
    }
    let path = point.target.trim_start_matches('/');
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let Ok(from) = rustix::fs::openat2(rootfs, path, flags, Mode::empty(), resolve) else {
        return Ok(());
    };
    let to = rustix::fs::openat(CWD, point.source.as_str(), flags, Mode::empty());
    let to = to.map_err(|error| Error::io(operation(), error.into()))?;
    copy_directory(from.as_fd(), to.as_fd(), ids, 0).map_err(|error| Error::io(operation(), error))
}

fn copy_directory(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    ids: Option<&IdMaps>,
    depth: usize,
) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other("directories are nested too deeply"));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from, to, name, ids, depth)?;
        }
    }
    copy_owner_and_times(to, &rustix::fs::fstat(from)?, ids)
}

fn copy_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    ids: Option<&IdMaps>,
    depth: usize,
) -> io::Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let quiet = OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match kind {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | quiet;
            let below = rustix::fs::openat(from, name, flags, Mode::empty())?;
            let made = rustix::fs::openat(to, name, flags, Mode::empty())?;
            copy_directory(below.as_fd(), made.as_fd(), ids, depth + 1)
        }
        FileType::RegularFile => {
            let mut source = File::from(rustix::fs::openat(
                from,
                name,
                OFlags::RDONLY | quiet,
                Mode::empty(),
            )?);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | quiet;
            let mut made = File::from(rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
            io::copy(&mut source, &mut made)?;
            copy_owner_and_times(made.as_fd(), &stat, ids)
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target, to, name)?;
            let owner = owner_of(&stat, ids);
            Ok(rustix::fs::chownat(
                to,
                name,
                Some(owner.0),
                Some(owner.1),
                AtFlags::SYMLINK_NOFOLLOW,
            )?)
        }
        // Sockets and pipes of an image are left-overs; devices have no place in a volume.
        _ => Ok(()),
    }
}

fn owner_of(stat: &Stat, ids: Option<&IdMaps>) -> (Uid, Gid) {
    let owner = Owner {
        uid: stat.st_uid,
        gid: stat.st_gid,
    };
    let owner = outside_or_nobody(ids, owner);
    (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid))
}

fn copy_owner_and_times(made: BorrowedFd<'_>, stat: &Stat, ids: Option<&IdMaps>) -> io::Result<()> {
    let (uid, gid) = owner_of(stat, ids);
    rustix::fs::fchown(made, Some(uid), Some(gid))?;
    rustix::fs::fchmod(made, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = |seconds, nanos| Timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    };
    let times = Timestamps {
        last_access: time(stat.st_atime as _, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime as _, stat.st_mtime_nsec as _),
    };
    Ok(rustix::fs::futimens(made, &times)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_types::container::MountKind;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_tree_is_copied_with_owners_modes_and_links() {
        let directory = tempfile::tempdir().unwrap();
        let (root, volume) = (directory.path().join("root"), directory.path().join("volume"));
        std::fs::create_dir_all(root.join("srv/sub")).unwrap();
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(root.join("srv/sub/file"), "content").unwrap();
        std::fs::set_permissions(root.join("srv/sub/file"), PermissionsExt::from_mode(0o4750)).unwrap();
        std::os::unix::fs::chown(root.join("srv"), Some(7), Some(8)).unwrap();
        symlink("/etc/passwd", root.join("srv/link")).unwrap();
        // The way to the volume's place goes through a link that must stay inside of the root.
        symlink("/srv", root.join("data")).unwrap();
        let point = MountPoint {
            kind: MountKind::Volume,
            name: "v".into(),
            source: volume.to_string_lossy().into_owned(),
            target: "/data".into(),
            writable: true,
            propagation: String::new(),
            subpath: String::new(),
        };
        let rootfs = OwnedFd::from(File::open(&root).unwrap());
        fill(&rootfs, &point, None).unwrap();
        assert_eq!(
            std::fs::read_to_string(volume.join("sub/file")).unwrap(),
            "content"
        );
        let file = std::fs::metadata(volume.join("sub/file")).unwrap();
        assert_eq!(file.mode() & 0o7777, 0o4750);
        let top = std::fs::metadata(&volume).unwrap();
        assert_eq!((top.uid(), top.gid()), (7, 8));
        assert_eq!(
            std::fs::read_link(volume.join("link")).unwrap().to_string_lossy(),
            "/etc/passwd"
        );
        std::fs::write(root.join("srv/later"), "x").unwrap();
        fill(&rootfs, &point, None).unwrap();
        assert!(
            !volume.join("later").exists(),
            "a volume with content is left alone"
        );
    }
}
