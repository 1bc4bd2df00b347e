//! Files of a source become files of an image's root file system.
//!
//! What is made is made exclusively, by the descriptor of its directory; links of the image are followed for the
//! destination only, below its root.

use super::source::{DEPTH_MAX, names, open_directory, open_file};
use crate::error::{Error, Result};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Mode of directories that no source has.
const DIRECTORY_MODE: u32 = 0o755;
/// Longest value of an attribute: the kernel's limit.
const XATTR_BYTES_MAX: usize = 64 << 10;

/// Copies with the same owner and mode for everything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copier {
    pub uid: u32,
    pub gid: u32,
    pub mode: Option<u32>,
}

impl Copier {
    /// The directory at an absolute path of the image, made where it is missing.
    pub fn directory(&self, root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
        let at = |error: Errno| match error {
            Errno::NOTDIR => Error::invalid(format!("{path} is not a directory")),
            error => Error::io(format!("make the directory {path}"), error.into()),
        };
        let path_in = path.trim_matches('/');
        let ends = path_in
            .match_indices('/')
            .map(|(end, _)| end)
            .chain([path_in.len()]);
        let mut here = open_in(root, ".").map_err(at)?;
        for end in ends.filter(|end| *end > 0) {
            here = match open_in(root, &path_in[..end]) {
                Err(Errno::NOENT) => {
                    let name = path_in[..end].rsplit('/').next().unwrap_or_default();
                    rustix::fs::mkdirat(&here, name, Mode::from_raw_mode(DIRECTORY_MODE)).map_err(at)?;
                    let made = open_in(root, &path_in[..end]).map_err(at)?;
                    rustix::fs::fchown(
                        &made,
                        Some(Uid::from_raw(self.uid)),
                        Some(Gid::from_raw(self.gid)),
                    )
                    .and_then(|()| rustix::fs::fchmod(&made, Mode::from_raw_mode(DIRECTORY_MODE)))
                    .map_err(at)?;
                    made
                }
                opened => opened.map_err(at)?,
            };
        }
        Ok(here)
    }

    /// Whether there is a directory at an absolute path of the image.
    pub fn is_directory(root: BorrowedFd<'_>, path: &str) -> bool {
        open_in(root, path.trim_matches('/')).is_ok()
    }

    /// Copies what is in a directory, but what `leave_out` names.
    pub fn content(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        prefix: &str,
        leave_out: &dyn Fn(&str) -> bool,
        depth: usize,
    ) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(Error::invalid("directories are nested too deeply"));
        }
        let reading = |error: Errno| Error::io(format!("read {prefix}"), error.into());
        for name in names(from).map_err(reading)? {
            let path = format!("{prefix}{}", String::from_utf8_lossy(&name));
            if leave_out(&path) {
                continue;
            }
            let failed = |error: Errno| Error::io(format!("copy {path}"), error.into());
            let stat =
                rustix::fs::statat(from, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let below = open_directory(from, &name).map_err(failed)?;
                    let made = self.make_directory(to, &name, &path)?;
                    self.content(&below, &made, &format!("{path}/"), leave_out, depth + 1)?;
                    copy_xattrs(below.as_fd(), made.as_fd()).map_err(failed)?;
                    self.attributes(&made, &stat).map_err(failed)?;
                }
                FileType::RegularFile => {
                    let file = open_file(from, &name).map_err(failed)?;
                    self.file(file, to, &name, &path)?;
                }
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(from, name.as_slice(), Vec::new()).map_err(failed)?;
                    make_room(to, &name, &path)?;
                    rustix::fs::symlinkat(&target, to, name.as_slice())
                        .and_then(|()| self.link_attributes(to, &name, &stat))
                        .map_err(failed)?;
                }
                FileType::Fifo => {
                    make_room(to, &name, &path)?;
                    let mode = Mode::from_raw_mode(self.mode.unwrap_or(stat.st_mode & 0o7777));
                    rustix::fs::mknodat(to, name.as_slice(), FileType::Fifo, mode, 0)
                        .and_then(|()| self.link_attributes(to, &name, &stat))
                        .map_err(failed)?;
                }
                FileType::Socket => {}
                _ => {
                    return Err(Error::invalid(format!(
                        "{path} is a device, which a build does not copy"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Copies one file.
    pub fn file(&self, mut from: File, to: &OwnedFd, name: &[u8], path: &str) -> Result<()> {
        let failed = |error: Errno| Error::io(format!("copy {path}"), error.into());
        let stat = rustix::fs::fstat(&from).map_err(failed)?;
        let mut made = self.create(to, name, path)?;
        std::io::copy(&mut from, &mut made).map_err(|error| Error::io(format!("copy {path}"), error))?;
        copy_xattrs(from.as_fd(), made.as_fd()).map_err(failed)?;
        self.attributes(&OwnedFd::from(made), &stat).map_err(failed)
    }

    /// Writes a file that the Dockerfile itself holds.
    pub fn inline(&self, content: &str, to: &OwnedFd, name: &[u8], path: &str) -> Result<()> {
        let mut made = self.create(to, name, path)?;
        made.write_all(content.as_bytes())
            .map_err(|error| Error::io(format!("write {path}"), error))?;
        let mode = Mode::from_raw_mode(self.mode.unwrap_or(0o644));
        rustix::fs::fchown(
            &made,
            Some(Uid::from_raw(self.uid)),
            Some(Gid::from_raw(self.gid)),
        )
        .and_then(|()| rustix::fs::fchmod(&made, mode))
        .map_err(|error| Error::io(format!("write {path}"), error.into()))
    }

    fn create(&self, to: &OwnedFd, name: &[u8], path: &str) -> Result<File> {
        make_room(to, name, path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|error| Error::io(format!("create {path}"), error.into()))
    }

    fn make_directory(&self, to: &OwnedFd, name: &[u8], path: &str) -> Result<OwnedFd> {
        check_name(name, path)?;
        match rustix::fs::mkdirat(to, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(Error::io(format!("make the directory {path}"), error.into())),
        }
        open_directory(to, name).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => Error::invalid(format!("cannot copy to non-directory: {path}")),
            error => Error::io(format!("open {path}"), error.into()),
        })
    }

    fn attributes(&self, made: &OwnedFd, stat: &Stat) -> rustix::io::Result<()> {
        rustix::fs::fchown(made, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        // After the owner, whose change takes special bits away.
        rustix::fs::fchmod(
            made,
            Mode::from_raw_mode(self.mode.unwrap_or(stat.st_mode & 0o7777)),
        )?;
        rustix::fs::futimens(made, &times(stat))
    }

    fn link_attributes(&self, parent: &OwnedFd, name: &[u8], stat: &Stat) -> rustix::io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::utimensat(parent, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
    }
}

fn open_in(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

/// What is made stands in its directory itself: the kernel would follow links on the way to anything else.
fn check_name(name: &[u8], path: &str) -> Result<()> {
    match matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
        true => Err(Error::invalid(format!("{path:?} is not the name of a file"))),
        false => Ok(()),
    }
}

/// Takes away what stands at a name, unless it is a directory.
fn make_room(parent: &OwnedFd, name: &[u8], path: &str) -> Result<()> {
    check_name(name, path)?;
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(Error::invalid(format!("cannot copy to directory: {path}"))),
        Err(error) => Err(Error::io(format!("replace {path}"), error.into())),
    }
}

fn times(stat: &Stat) -> Timestamps {
    let modified = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec as _,
    };
    Timestamps {
        last_access: modified,
        last_modification: modified,
    }
}

/// Capabilities and the user's own attributes go along.
fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let mut list = Vec::with_capacity(XATTR_BYTES_MAX);
    match rustix::fs::flistxattr(from, rustix::buffer::spare_capacity(&mut list)) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(()),
        Ok(_) => {}
        Err(error) => return Err(error),
    }
    let travels = |name: &&[u8]| *name == b"security.capability" || name.starts_with(b"user.");
    for name in list.split(|byte| *byte == 0).filter(travels) {
        let mut value = Vec::with_capacity(XATTR_BYTES_MAX);
        match rustix::fs::fgetxattr(from, name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => rustix::fs::fsetxattr(to, name, &value, XattrFlags::empty())?,
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_made_in_their_directory_only() {
        let place = tempfile::tempdir().unwrap();
        let image = place.path().join("image");
        std::fs::create_dir(&image).unwrap();
        std::os::unix::fs::symlink(place.path(), image.join("link")).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let to = rustix::fs::open(&image, flags, Mode::empty()).unwrap();
        let copier = Copier {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            mode: None,
        };
        for bad in ["link/out", "../out", "..", ".", "", "/tmp/out"] {
            let error = copier.inline("x", &to, bad.as_bytes(), bad).unwrap_err();
            assert!(error.to_string().contains("is not the name of a file"), "{error}");
        }
        assert!(!place.path().join("out").exists());
        copier.inline("x", &to, b"in", "in").unwrap();
        assert!(image.join("in").exists());
    }
}
