//! Fills a new file system with what lies where it will be attached (`tmpcopyup`).
//!
//! Nothing here allocates. What is copied is the container's own and may be anything, so that no link is followed and
//! depth is bounded; how much is copied is bounded by the size of the new file system.

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, Stat, Uid};
use rustix::io::Errno;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How deep directories may nest: each level holds two descriptors and a buffer on the stack.
const DEPTH_MAX: usize = 64;

/// Names that are read at a time: at least one of the longest has to fit.
const NAMES_BYTES: usize = 1024;

const CONTENT_BYTES: usize = 16 << 10;

/// The longest target of a link, and the zero after it.
const LINK_BYTES: usize = 4096;

/// Copies everything below a directory into another one, which gets its mode and owner too.
pub(super) fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let from = open_directory(from, c".")?;
    let to = open_directory(to, c".")?;
    copy_owner(&rustix::fs::fstat(&from)?, to.as_fd())?;
    copy_entries(from.as_fd(), to.as_fd(), 0)
}

fn open_directory(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

fn copy_owner(status: &Stat, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    // After the owner, whose change takes special bits away.
    rustix::fs::fchmod(to, Mode::from_raw_mode(status.st_mode & 0o7777))
}

fn copy_entries(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
    if depth > DEPTH_MAX {
        return Err(Errno::LOOP);
    }
    let mut space = [MaybeUninit::uninit(); NAMES_BYTES];
    let mut entries = RawDir::new(from, &mut space);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<(), Errno> {
    let status = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            let (from, to) = (open_directory(from, name)?, open_directory(to, name)?);
            copy_owner(&status, to.as_fd())?;
            copy_entries(from.as_fd(), to.as_fd(), depth + 1)
        }
        FileType::RegularFile => copy_file(from, to, name),
        FileType::Symlink => {
            let mut space = [MaybeUninit::uninit(); LINK_BYTES];
            let (target, _) = rustix::fs::readlinkat_raw(from, name, &mut space[..LINK_BYTES - 1])?;
            let mut path = [0; LINK_BYTES];
            path[..target.len()].copy_from_slice(target);
            let target = CStr::from_bytes_until_nul(&path).map_err(|_| Errno::NAMETOOLONG)?;
            rustix::fs::symlinkat(target, to, name)?;
            let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
            rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        }
        // A socket is somebody's who is not there; nodes and pipes are made where they are needed.
        _ => Ok(()),
    }
}

fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let from = rustix::fs::openat(from, name, read, Mode::empty())?;
    // Looked at again: it may have become something else meanwhile.
    let status = rustix::fs::fstat(&from)?;
    if !FileType::from_raw_mode(status.st_mode).is_file() {
        return Err(Errno::INVAL);
    }
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = rustix::fs::openat(to, name, write, Mode::from_raw_mode(0o600))?;
    let mut content = [0; CONTENT_BYTES];
    loop {
        let count = rustix::io::read(&from, &mut content[..])?;
        if count == 0 {
            return copy_owner(&status, to.as_fd());
        }
        let mut rest = &content[..count];
        while !rest.is_empty() {
            let written = rustix::io::write(&to, rest)?;
            rest = &rest[written..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn files_directories_and_links_are_copied_as_they_are() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(from.path().join("a/b")).unwrap();
        std::fs::write(from.path().join("a/b/file"), vec![7; 100_000]).unwrap();
        std::os::unix::fs::chown(from.path().join("a/b/file"), Some(5), Some(6)).unwrap();
        std::fs::set_permissions(from.path().join("a/b/file"), PermissionsExt::from_mode(0o4711)).unwrap();
        symlink("/etc/passwd", from.path().join("link")).unwrap();
        for number in 0..100 {
            std::fs::write(from.path().join(format!("{number:0>200}")), "").unwrap();
        }
        let open = |path: &std::path::Path| std::fs::File::open(path).unwrap();
        copy_up(open(from.path()).as_fd(), open(to.path()).as_fd()).unwrap();
        let copied = to.path().join("a/b/file");
        assert_eq!(std::fs::read(&copied).unwrap(), vec![7; 100_000]);
        let status = std::fs::metadata(&copied).unwrap();
        assert_eq!(
            (status.uid(), status.gid(), status.mode() & 0o7777),
            (5, 6, 0o4711)
        );
        assert_eq!(
            std::fs::read_link(to.path().join("link")).unwrap().to_str(),
            Some("/etc/passwd")
        );
        assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 102);
    }

    #[test]
    fn endless_nesting_is_refused() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(from.path().join("d/".repeat(DEPTH_MAX + 3))).unwrap();
        let open = |path: &std::path::Path| std::fs::File::open(path).unwrap();
        assert!(copy_up(open(from.path()).as_fd(), open(to.path()).as_fd()).is_err());
    }
}
