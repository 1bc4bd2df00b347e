//! Puts the entries of an archive into a directory of a container, beside what is there and while its processes may
//! change it.
//!
//! Every operation is relative to a descriptor of the entry's parent, and parents are resolved below the destination
//! (`RESOLVE_BENEATH`): the kernel refuses a path that leads out of it by `..`, by a symbolic link or by a rename at the
//! same time. What stands at a name is never followed: it is removed, and the new thing is made exclusively.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use crate::compression::{ByteBudget, decompress};
use crate::error::{ArchiveError, Error, Result};
use crate::layer_path::{entry_error, split};
use crate::limits::{LoadLimits, NAME_BYTES_MAX, PATH_BYTES_MAX};
use crate::removal::remove_tree;
use crate::tar_stream::{EntryKind, ModifiedAt, TarEntry, TarStream};
use crate::unpack::{set_attributes, set_node_attributes, timestamps};

const BUFFER_BYTES: usize = 256 << 10;
/// Mode of directories that entries lie in and that the archive leaves out.
const IMPLIED_MODE: u32 = 0o755;
/// How often a path is resolved again that a rename at the same time disturbed.
const RESOLVE_ATTEMPTS_MAX: u32 = 64;
const CONFINED: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
const DIRECTORY_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// Who owns what is extracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// How an archive is extracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExtractOptions {
    /// Refuse to replace a directory by something else, and something else by a directory.
    pub keep_kinds: bool,
    /// The owner of everything; the archive's where `None`.
    pub owner: Option<Owner>,
}

/// The owner that a file gets for one that the archive gives; `None` where there is none.
pub type OwnerKept<'a> = &'a dyn Fn(Owner) -> Option<Owner>;

/// Extracts the archive, compressed or not, into the directory. What was extracted before an error stays, apart from a
/// half-written file.
pub fn extract(
    destination: BorrowedFd<'_>,
    destination_name: &str,
    reader: impl Read,
    options: &ExtractOptions,
    kept: OwnerKept<'_>,
    limits: &LoadLimits,
) -> Result<()> {
    let budget = ByteBudget::new("the unpacked size of the archive", limits.unpacked_bytes_max);
    let (_, stream) = decompress(reader, &budget, limits)?;
    let stream = BufReader::with_capacity(BUFFER_BYTES, stream);
    let mut stream = TarStream::new(stream, limits.layer_entries_max);
    let mut extraction = Extraction {
        destination,
        destination_name,
        options,
        directory_times: Vec::new(),
        buffer: vec![0; BUFFER_BYTES],
    };
    while let Some(mut entry) = stream.next_entry()? {
        let owner = options.owner.unwrap_or(Owner {
            uid: entry.uid,
            gid: entry.gid,
        });
        let owner = kept(owner).ok_or_else(|| {
            entry_error(
                &entry.path,
                "its owner is no user or group of the container's user namespace",
            )
        })?;
        (entry.uid, entry.gid) = (owner.uid, owner.gid);
        extraction.apply(&entry, &mut stream)?;
    }
    extraction.set_directory_times()?;
    // The client sends what follows the end mark, too.
    stream.drain()?;
    Ok(())
}

/// Whether a file is an archive with at least one entry, compressed or not. Reads its beginning; a compression that is
/// not supported is an error.
pub fn is_archive(reader: impl Read) -> Result<bool> {
    let limits = LoadLimits::default();
    let budget = ByteBudget::new("the beginning of the archive", limits.unpacked_bytes_max);
    let (_, stream) = match decompress(reader, &budget, &limits) {
        Err(error @ ArchiveError::UnsupportedCompression { .. }) => return Err(error.into()),
        Err(_) => return Ok(false),
        Ok(decompressed) => decompressed,
    };
    Ok(matches!(
        TarStream::new(stream, u64::MAX).next_entry(),
        Ok(Some(_))
    ))
}

struct Extraction<'a> {
    destination: BorrowedFd<'a>,
    destination_name: &'a str,
    options: &'a ExtractOptions,
    /// Set at the end, because making their content changes them.
    directory_times: Vec<(Vec<u8>, ModifiedAt)>,
    buffer: Vec<u8>,
}

impl Extraction<'_> {
    fn failed(&self, operation: &'static str, path: &[u8], error: impl Into<io::Error>) -> Error {
        let place = Path::new(self.destination_name).join(OsStr::from_bytes(path));
        Error::io(operation, &place, error)
    }

    fn apply(&mut self, entry: &TarEntry, content: &mut impl Read) -> Result<()> {
        let path = inside(&entry.path)?;
        let (directory, name) = split(&path);
        if name.is_empty() {
            // The destination itself keeps what it has.
            return Ok(());
        }
        if entry.kind == EntryKind::CharDevice && entry.device == (0, 0) {
            // To overlayfs this would be a deletion.
            return Ok(());
        }
        let parent = self.parent(directory)?;
        let is_directory = self.make_room(&parent, &path, name, entry)?;
        match entry.kind {
            EntryKind::Directory => self.directory(&parent, &path, name, entry, is_directory),
            EntryKind::File => self.file(&parent, &path, name, entry, content),
            EntryKind::HardLink => self.hard_link(&parent, &path, name, entry),
            EntryKind::Symlink => rustix::fs::symlinkat(entry.link.as_slice(), &parent, name)
                .and_then(|()| set_node_attributes(&parent, name, &without_xattrs(entry)))
                .map_err(|error| self.failed("make a symbolic link at", &path, error)),
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                self.node(&parent, &path, name, entry)
            }
        }
    }

    /// Removes what stands at the name, unless a directory meets a directory; tells whether one does.
    fn make_room(&self, parent: &OwnedFd, path: &[u8], name: &[u8], entry: &TarEntry) -> Result<bool> {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(self.failed("look at", path, error)),
        };
        let stands = FileType::from_raw_mode(stat.st_mode).is_dir();
        let comes = entry.kind == EntryKind::Directory;
        if stands && comes {
            return Ok(true);
        }
        if self.options.keep_kinds && stands != comes {
            let name_of = |is_directory| {
                if is_directory {
                    "directory"
                } else {
                    "non-directory"
                }
            };
            return Err(ArchiveError::Overwrite {
                path: String::from_utf8_lossy(path).into_owned(),
                standing: name_of(stands),
                wanted: name_of(comes),
                destination: self.destination_name.to_string(),
            }
            .into());
        }
        remove_tree(parent.as_fd(), name).map_err(|error| self.failed("replace", path, error))?;
        Ok(false)
    }

    fn directory(
        &mut self,
        parent: &OwnedFd,
        path: &[u8],
        name: &[u8],
        entry: &TarEntry,
        exists: bool,
    ) -> Result<()> {
        let made = if exists {
            Ok(())
        } else {
            rustix::fs::mkdirat(parent, name, Mode::RWXU)
        };
        made.and_then(|()| {
            rustix::fs::openat(parent, name, DIRECTORY_FLAGS | OFlags::NOFOLLOW, Mode::empty())
        })
        .and_then(|directory| set_attributes(directory.as_fd(), entry))
        .map_err(|error| self.failed("make directory", path, error))?;
        self.directory_times.push((path.to_vec(), entry.modified_at));
        Ok(())
    }

    fn file(
        &mut self,
        parent: &OwnedFd,
        path: &[u8],
        name: &[u8],
        entry: &TarEntry,
        content: &mut impl Read,
    ) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| self.failed("create", path, error))?;
        let mut file = File::from(file);
        let written = self.fill(&mut file, path, entry, content).and_then(|()| {
            set_attributes(file.as_fd(), entry)
                .and_then(|()| rustix::fs::futimens(&file, &timestamps(entry.modified_at)))
                .map_err(|error| self.failed("set attributes of", path, error))
        });
        if written.is_err() {
            // Best effort: the first error is told.
            let _ = rustix::fs::unlinkat(parent, name, AtFlags::empty());
        }
        written
    }

    fn fill(
        &mut self,
        file: &mut File,
        path: &[u8],
        entry: &TarEntry,
        content: &mut impl Read,
    ) -> Result<()> {
        let mut left = entry.size;
        while left > 0 {
            let wanted = left.min(BUFFER_BYTES as u64) as usize;
            let read = content
                .read(&mut self.buffer[..wanted])
                .map_err(ArchiveError::from_read)?;
            if read == 0 {
                return Err(ArchiveError::Truncated.into());
            }
            file.write_all(&self.buffer[..read])
                .map_err(|error| self.failed("write", path, error))?;
            left -= read as u64;
        }
        Ok(())
    }

    fn hard_link(&self, parent: &OwnedFd, path: &[u8], name: &[u8], entry: &TarEntry) -> Result<()> {
        let target = inside(&entry.link)?;
        let (target_directory, target_name) = split(&target);
        if target_name.is_empty() {
            return Err(entry_error(&entry.path, "a hard link to the root of the archive").into());
        }
        let target_parent = self
            .existing(target_directory)
            .map_err(|error| self.unresolved(target_directory, error))?;
        rustix::fs::linkat(&target_parent, target_name, parent, name, AtFlags::empty())
            .map_err(|error| self.failed("make a hard link at", path, error))
    }

    fn node(&self, parent: &OwnedFd, path: &[u8], name: &[u8], entry: &TarEntry) -> Result<()> {
        let kind = match entry.kind {
            EntryKind::CharDevice => FileType::CharacterDevice,
            EntryKind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        rustix::fs::mknodat(parent, name, kind, Mode::empty(), device)
            .and_then(|()| set_special_attributes(parent, name, entry, kind))
            .map_err(|error| self.failed("make a special file at", path, error))
    }

    fn set_directory_times(&self) -> Result<()> {
        for (path, modified_at) in self.directory_times.iter().rev() {
            let set = self
                .existing(path)
                .and_then(|directory| rustix::fs::futimens(directory, &timestamps(*modified_at)));
            match set {
                // Something else was put at this path.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {}
                Err(error) => return Err(self.failed("set the time of", path, error)),
            }
        }
        Ok(())
    }

    /// The directory of an entry, made where it is missing.
    fn parent(&self, path: &[u8]) -> Result<OwnedFd> {
        match self.existing(path) {
            Err(Errno::NOENT) => self.make_parents(path),
            opened => opened,
        }
        .map_err(|error| self.unresolved(path, error))
    }

    fn existing(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let mut attempts = 0;
        loop {
            attempts += 1;
            match rustix::fs::openat2(self.destination, path, DIRECTORY_FLAGS, Mode::empty(), CONFINED) {
                Err(Errno::AGAIN) if attempts < RESOLVE_ATTEMPTS_MAX => {}
                opened => return opened,
            }
        }
    }

    fn make_parents(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for end in slashes.map(|(at, _)| at).chain([path.len()]) {
            let (directory, name) = split(&path[..end]);
            let parent = self.existing(directory)?;
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(IMPLIED_MODE)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        self.existing(path)
    }

    fn unresolved(&self, path: &[u8], error: Errno) -> Error {
        match error {
            Errno::XDEV | Errno::LOOP => entry_error(
                path,
                "the path leads out of the destination through a symbolic link",
            )
            .into(),
            Errno::NOTDIR => entry_error(path, "not a directory").into(),
            error => self.failed("open", path, error),
        }
    }
}

/// Symbolic links are attributed by name, and another file may stand there by now: it must not get capabilities.
fn without_xattrs(entry: &TarEntry) -> TarEntry {
    TarEntry {
        xattrs: Vec::new(),
        ..entry.clone()
    }
}

/// Opens what was made and sets its attributes, unless something of another kind stands there by now.
fn set_special_attributes(
    parent: &OwnedFd,
    name: &[u8],
    entry: &TarEntry,
    kind: FileType,
) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&made)?.st_mode) != kind {
        return Err(Errno::STALE);
    }
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(&made, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    let place = format!("/proc/self/fd/{}", made.as_raw_fd());
    rustix::fs::chmodat(CWD, &place, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
    rustix::fs::utimensat(CWD, &place, &timestamps(entry.modified_at), AtFlags::empty())
}

/// An entry's path below the destination, without a leading slash, `.` and `..`; one that leads out is refused.
fn inside(path: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    if path.len() > PATH_BYTES_MAX {
        return Err(entry_error(path, "the path is too long"));
    }
    let mut components: Vec<&[u8]> = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if components.pop().is_none() => {
                return Err(entry_error(path, "\"..\" leads out of the destination"));
            }
            b".." => {}
            _ if component.len() > NAME_BYTES_MAX => {
                return Err(entry_error(path, "a name in the path is too long"));
            }
            _ if component.contains(&0) => return Err(entry_error(path, "the path contains a zero byte")),
            _ => components.push(component),
        }
    }
    Ok(components.join(&b'/'))
}

#[cfg(test)]
#[path = "extract_tests.rs"]
mod tests;
