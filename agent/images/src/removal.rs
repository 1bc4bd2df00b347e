//! Deletes directory trees of any depth with few descriptors and no recursion.
//!
//! Containers can nest directories deeper than any path or stack allows. Each directory found is moved up next to its
//! parent before it is emptied, so the work is a flat queue.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, Result};

const DIRECTORY_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// Attempts at finding a free name for a directory that is moved up; names are numbered, so the first mostly fits.
const RENAME_ATTEMPTS_MAX: u32 = 1_000_000;

/// Deletes `name` in `parent` and everything below it; nothing there is no error. Symbolic links are not followed.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error),
    }
    let top = rustix::fs::openat(parent, name, DIRECTORY_FLAGS, Mode::empty())?;
    empty(&top)?;
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Deletes everything in `top`, all directories below it moved up into `top` as they are met.
fn empty(top: &OwnedFd) -> Result<()> {
    let mut next_number = 0;
    let mut waiting = unlink_files(top.as_fd(), None, &mut next_number)?;
    while let Some(name) = waiting.pop() {
        let directory = rustix::fs::openat(top, &name, DIRECTORY_FLAGS, Mode::empty())?;
        waiting.extend(unlink_files(
            directory.as_fd(),
            Some(top.as_fd()),
            &mut next_number,
        )?);
        rustix::fs::unlinkat(top, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Deletes the files of a directory; returns the names of its directories, after moving them into `up`.
fn unlink_files(
    directory: BorrowedFd<'_>,
    up: Option<BorrowedFd<'_>>,
    next_number: &mut u32,
) -> Result<Vec<Vec<u8>>> {
    let mut directories = Vec::new();
    let mut entries = Dir::read_from(directory)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if !is_directory(directory, name, entry.file_type())? {
            rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
            continue;
        }
        directories.push(match up {
            None => name.to_vec(),
            Some(up) => move_up(directory, name, up, next_number)?,
        });
    }
    Ok(directories)
}

fn is_directory(directory: BorrowedFd<'_>, name: &[u8], kind: FileType) -> Result<bool> {
    if kind != FileType::Unknown {
        return Ok(kind.is_dir());
    }
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode).is_dir())
}

fn move_up(from: BorrowedFd<'_>, name: &[u8], up: BorrowedFd<'_>, next_number: &mut u32) -> Result<Vec<u8>> {
    for _ in 0..RENAME_ATTEMPTS_MAX {
        let target = format!(".muster-removed-{next_number}").into_bytes();
        *next_number = next_number.wrapping_add(1);
        match rustix::fs::renameat_with(from, name, up, &target, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(target),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EXIST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn trees_deeper_than_any_path_are_removed() {
        let place = tempfile::tempdir().unwrap();
        let parent = rustix::fs::open(place.path(), DIRECTORY_FLAGS, Mode::empty()).unwrap();
        let mut current = parent.try_clone().unwrap();
        let name = "d".repeat(200);
        for _ in 0..3000 {
            rustix::fs::mkdirat(&current, &name, Mode::RWXU).unwrap();
            current = rustix::fs::openat(&current, &name, DIRECTORY_FLAGS, Mode::empty()).unwrap();
        }
        drop(current);
        remove_tree(parent.as_fd(), name.as_bytes()).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        let tree = place.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(tree.join(".muster-removed-0")).unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), tree.join("a/link")).unwrap();
        let parent = rustix::fs::open(place.path(), DIRECTORY_FLAGS, Mode::empty()).unwrap();
        remove_tree(parent.as_fd(), b"tree").unwrap();
        remove_tree(parent.as_fd(), b"tree").unwrap();
        assert!(!tree.exists() && outside.path().join("kept").exists());
    }
}
