//! Files of a source become files of an image's root file system.
//!
//! What is made is made exclusively, by the descriptor of its directory; links of the image are followed for the
//! destination only, below its root.

use super::source::{DEPTH_MAX, go_on, names, open_directory, open_file, xattrs};
use crate::error::{Error, Result};
use muster_images::Owner;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio_util::sync::CancellationToken;

/// Mode of directories that no source has.
const DIRECTORY_MODE: u32 = 0o755;
/// Bytes that are copied before the next look whether the build goes on.
const PART_BYTES: u64 = 64 << 20;
/// Who owns what no source does.
pub(super) const ROOT: Owner = Owner { uid: 0, gid: 0 };

/// Copies with the same owner and mode for everything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copier<'a> {
    /// The sources' own where there is none.
    pub owner: Option<Owner>,
    /// The sources' own where there is none.
    pub mode: Option<u32>,
    pub cancel: &'a CancellationToken,
}

impl Copier<'_> {
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
                    let (uid, gid) = self.owner_of_new();
                    rustix::fs::fchown(&made, uid, gid)
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
            go_on(self.cancel)?;
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
                    self.attributes(below.as_fd(), &made, &stat).map_err(failed)?;
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
        loop {
            go_on(self.cancel)?;
            let copied = std::io::copy(&mut (&mut from).take(PART_BYTES), &mut made)
                .map_err(|error| Error::io(format!("copy {path}"), error))?;
            if copied == 0 {
                break;
            }
        }
        self.attributes(from.as_fd(), &OwnedFd::from(made), &stat)
            .map_err(failed)
    }

    /// Writes a file that the Dockerfile itself holds.
    pub fn inline(&self, content: &str, to: &OwnedFd, name: &[u8], path: &str) -> Result<()> {
        let mut made = self.create(to, name, path)?;
        made.write_all(content.as_bytes())
            .map_err(|error| Error::io(format!("write {path}"), error))?;
        let mode = Mode::from_raw_mode(self.mode.unwrap_or(0o644));
        let (uid, gid) = self.owner_of_new();
        rustix::fs::fchown(&made, uid, gid)
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

    /// The owner of what no source has.
    fn owner_of_new(&self) -> (Option<Uid>, Option<Gid>) {
        ids(self.owner.unwrap_or(ROOT))
    }

    fn owner_of(&self, stat: &Stat) -> (Option<Uid>, Option<Gid>) {
        ids(self.owner.unwrap_or(Owner {
            uid: stat.st_uid,
            gid: stat.st_gid,
        }))
    }

    fn attributes(&self, from: BorrowedFd<'_>, made: &OwnedFd, stat: &Stat) -> rustix::io::Result<()> {
        let (uid, gid) = self.owner_of(stat);
        rustix::fs::fchown(made, uid, gid)?;
        // After the owner, whose change takes special bits and capabilities away.
        for (name, value) in xattrs(from)? {
            rustix::fs::fsetxattr(made, name.as_slice(), &value, XattrFlags::empty())?;
        }
        rustix::fs::fchmod(
            made,
            Mode::from_raw_mode(self.mode.unwrap_or(stat.st_mode & 0o7777)),
        )?;
        rustix::fs::futimens(made, &times(stat))
    }

    fn link_attributes(&self, parent: &OwnedFd, name: &[u8], stat: &Stat) -> rustix::io::Result<()> {
        let (uid, gid) = self.owner_of(stat);
        rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::utimensat(parent, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
    }
}

fn ids(owner: Owner) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn files_are_made_in_their_directory_only() {
        let place = tempfile::tempdir().unwrap();
        let image = place.path().join("image");
        std::fs::create_dir(&image).unwrap();
        std::os::unix::fs::symlink(place.path(), image.join("link")).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let to = rustix::fs::open(&image, flags, Mode::empty()).unwrap();
        let copier = Copier {
            owner: None,
            mode: None,
            cancel: &CancellationToken::new(),
        };
        for bad in ["link/out", "../out", "..", ".", "", "/tmp/out"] {
            let error = copier.inline("x", &to, bad.as_bytes(), bad).unwrap_err();
            assert!(error.to_string().contains("is not the name of a file"), "{error}");
        }
        assert!(!place.path().join("out").exists());
        copier.inline("x", &to, b"in", "in").unwrap();
        assert!(image.join("in").exists());
    }

    #[test]
    fn owners_and_capabilities_stay_unless_another_owner_is_asked_for() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        std::fs::create_dir_all(at("from/d")).unwrap();
        std::fs::write(at("from/d/tool"), "x").unwrap();
        std::os::unix::fs::chown(at("from/d/tool"), Some(7), Some(8)).unwrap();
        // CAP_NET_BIND_SERVICE, as VFS_CAP_REVISION_2 writes it.
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let flags = XattrFlags::empty();
        rustix::fs::setxattr(at("from/d/tool"), "security.capability", &capability, flags).unwrap();
        let directory = |path: &str| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(at(path), flags, Mode::empty()).unwrap()
        };
        let cancel = CancellationToken::new();
        for (to, owner, expected) in [("kept", None, (7, 8)), ("owned", Some(ROOT), (0, 0))] {
            std::fs::create_dir(at(to)).unwrap();
            let copier = Copier {
                owner,
                mode: None,
                cancel: &cancel,
            };
            copier
                .content(&directory("from"), &directory(to), "", &|_| false, 0)
                .unwrap();
            let tool = at(to).join("d/tool");
            let metadata = std::fs::metadata(&tool).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), expected);
            let mut value = [0; 64];
            let length = rustix::fs::getxattr(&tool, "security.capability", &mut value[..]).unwrap();
            assert_eq!(value[..length], capability);
        }
        cancel.cancel();
        let copier = Copier {
            owner: None,
            mode: None,
            cancel: &cancel,
        };
        let copied = copier.content(&directory("from"), &directory("kept"), "", &|_| false, 0);
        assert!(matches!(copied, Err(Error::BuildCancelled)));
    }
}
