//! What `COPY` and `ADD` take: found below the context or an image's root, and told by its content.
//!
//! Paths are resolved below that root by the kernel: no link of a context or an image leads out of it.

use crate::error::{Error, Result};
use muster_build::Pattern;
use muster_images::{Digest, digest_of};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use tokio_util::sync::CancellationToken;

/// Deepest directory that is read; each level holds a descriptor.
pub(super) const DEPTH_MAX: usize = 512;
/// Largest file: what a layer can hold when it is loaded again.
const FILE_BYTES_MAX: u64 = 64 << 30;
/// Longest value of an attribute: the kernel's limit.
const XATTR_BYTES_MAX: usize = 64 << 10;
/// Most files that one pattern may name.
const MATCHES_MAX: usize = 100_000;

/// Opens a path below a root, as a place.
pub(super) fn open(root: &OwnedFd, path: &str) -> Result<OwnedFd> {
    let inside = match path.trim_matches('/') {
        "" => ".",
        inside => inside,
    };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(root, inside, flags, Mode::empty(), resolve).map_err(|error| match error {
        Errno::NOENT | Errno::NOTDIR => missing(path),
        error => Error::io(format!("open {path}"), error.into()),
    })
}

fn missing(path: &str) -> Error {
    Error::invalid(format!(
        "file not found in build context or excluded by .dockerignore: stat {}: file does not exist",
        path.trim_start_matches('/')
    ))
}

/// The paths below a root that a source means; patterns may mean several.
pub(super) fn select(root: &OwnedFd, source: &str) -> Result<Vec<String>> {
    let clean = inside(source)?;
    if !Pattern::is_wild(&clean) {
        return Ok(vec![clean]);
    }
    let pattern = Pattern::parse(&clean).map_err(|error| Error::invalid(format!("{error}: {source}")))?;
    let literal = literal_directory(&clean);
    let depth = clean[literal.len()..].matches('/').count();
    let mut found = Vec::new();
    // What is no pattern is a path like any other: it may lead through links.
    match open(root, literal) {
        Ok(place) if is_directory(&place)? => {
            matching(&reopened(&place)?, literal, depth, &pattern, &mut found)?
        }
        Ok(_) | Err(Error::InvalidConfig { .. }) => {}
        Err(error) => return Err(error),
    }
    match found.is_empty() {
        true => Err(Error::invalid("no source files were specified")),
        false => {
            found.sort_unstable();
            Ok(found)
        }
    }
}

/// The directories of a pattern before the first that is one, with a slash behind each.
pub(super) fn literal_directory(pattern: &str) -> &str {
    let ends = pattern.match_indices('/').map(|(end, _)| end + 1);
    let literal = ends.take_while(|end| !Pattern::is_wild(&pattern[..*end])).last();
    &pattern[..literal.unwrap_or(0)]
}

fn is_directory(place: &OwnedFd) -> Result<bool> {
    let stat = rustix::fs::fstat(place).map_err(reading)?;
    Ok(FileType::from_raw_mode(stat.st_mode).is_dir())
}

/// A source without `.` and `..`, relative to its root.
pub(super) fn inside(source: &str) -> Result<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in source.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => {
                return Err(Error::invalid(format!(
                    "forbidden path outside the build context: {source} ()"
                )));
            }
            ".." => {}
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Patterns match no slash, so that only directories of their own depth are looked into.
fn matching(
    directory: &OwnedFd,
    prefix: &str,
    depth: usize,
    pattern: &Pattern,
    found: &mut Vec<String>,
) -> Result<()> {
    for name in names(directory).map_err(reading)? {
        // A name that is no text cannot be written in a Dockerfile either.
        let Ok(text) = std::str::from_utf8(&name) else {
            continue;
        };
        let path = format!("{prefix}{text}");
        if depth == 0 {
            if pattern.matches(&path) {
                if found.len() == MATCHES_MAX {
                    return Err(Error::invalid(format!(
                        "a pattern names more than {MATCHES_MAX} files"
                    )));
                }
                found.push(path);
            }
            continue;
        }
        match open_directory(directory, &name) {
            Ok(below) => matching(&below, &format!("{path}/"), depth - 1, pattern, found)?,
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(reading(error)),
        }
    }
    Ok(())
}

fn reading(error: Errno) -> Error {
    Error::io("read a directory", error.into())
}

/// Fails once the build is cancelled.
pub(super) fn go_on(cancel: &CancellationToken) -> Result<()> {
    match cancel.is_cancelled() {
        true => Err(Error::BuildCancelled),
        false => Ok(()),
    }
}

/// The digest of everything at a path: names, kinds, modes, attributes that are copied, and contents, but no times.
pub(super) fn digest_at(root: &OwnedFd, path: &str, cancel: &CancellationToken) -> Result<Digest> {
    let place = open(root, path)?;
    let stat = rustix::fs::fstat(&place).map_err(reading)?;
    let mut listing = Vec::new();
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => digest_tree(&reopened(&place)?, b"", &mut listing, 0, cancel)?,
        _ => {
            // Reopened by its place: it is a file of the tree, and links were followed.
            let file = reopened_file(&place, path)?;
            push(&mut listing, b"", &stat, &content_of(file, cancel)?);
        }
    }
    Ok(Digest::of(&listing))
}

fn digest_tree(
    directory: &OwnedFd,
    prefix: &[u8],
    listing: &mut Vec<u8>,
    depth: usize,
    cancel: &CancellationToken,
) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(Error::invalid("directories are nested too deeply"));
    }
    for name in names(directory).map_err(reading)? {
        go_on(cancel)?;
        let path = [prefix, &name].concat();
        let stat =
            rustix::fs::statat(directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map_err(reading)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let below = open_directory(directory, &name).map_err(reading)?;
                push(listing, &path, &stat, &attributes_of(below.as_fd())?);
                digest_tree(
                    &below,
                    &[path.as_slice(), b"/"].concat(),
                    listing,
                    depth + 1,
                    cancel,
                )?;
            }
            FileType::RegularFile => {
                let file = open_file(directory, &name).map_err(reading)?;
                push(listing, &path, &stat, &content_of(file, cancel)?);
            }
            FileType::Symlink => {
                let target =
                    rustix::fs::readlinkat(directory, name.as_slice(), Vec::new()).map_err(reading)?;
                push(listing, &path, &stat, &target.to_string_lossy());
            }
            _ => push(listing, &path, &stat, ""),
        }
    }
    Ok(())
}

/// The digest of a file's content, and its attributes.
fn content_of(file: File, cancel: &CancellationToken) -> Result<String> {
    let bytes = file.metadata().map_err(io_reading)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(Error::invalid(format!(
            "a file of {bytes} bytes is too large to copy: at most {FILE_BYTES_MAX} bytes are allowed"
        )));
    }
    let attributes = attributes_of(file.as_fd())?;
    let digest = digest_of(Watched { file, cancel });
    // The build's end shows as a failed reading.
    go_on(cancel)?;
    Ok(format!("{}{attributes}", digest.map_err(io_reading)?))
}

/// Reads a file until its build is cancelled.
pub(super) struct Watched<'a> {
    pub file: File,
    pub cancel: &'a CancellationToken,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.cancel.is_cancelled() {
            true => Err(io::Error::other("the build is cancelled")),
            false => self.file.read(buffer),
        }
    }
}

/// The attributes that are copied, as one word each.
fn attributes_of(file: BorrowedFd<'_>) -> Result<String> {
    let word = |(name, value): (Vec<u8>, Vec<u8>)| format!(" {}={}", Digest::of(&name), Digest::of(&value));
    Ok(xattrs(file).map_err(reading)?.into_iter().map(word).collect())
}

/// Capabilities and the user's own attributes, by their names' order: they go along when a file is copied.
pub(super) fn xattrs(file: BorrowedFd<'_>) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = Vec::with_capacity(XATTR_BYTES_MAX);
    match rustix::fs::flistxattr(file, rustix::buffer::spare_capacity(&mut list)) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(error) => return Err(error),
    }
    let travels = |name: &&[u8]| *name == b"security.capability" || name.starts_with(b"user.");
    let mut found = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(travels) {
        let mut value = Vec::with_capacity(XATTR_BYTES_MAX);
        match rustix::fs::fgetxattr(file, name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => found.push((name.to_vec(), value.as_slice().into())),
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Kinds of files that a context can hold.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Directory,
    File,
    Symlink,
}

/// What a digest tells of a file beside its name and content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traits {
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Kind {
    /// A file of a context.
    pub fn owned_by_root(self, permissions: u32) -> Traits {
        let kind = match self {
            Self::Directory => FileType::Directory,
            Self::File => FileType::RegularFile,
            Self::Symlink => FileType::Symlink,
        };
        Traits {
            mode: kind.as_raw_mode() | permissions,
            uid: 0,
            gid: 0,
        }
    }
}

impl From<&Stat> for Traits {
    fn from(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
        }
    }
}

/// Adds one file to what a digest is made of.
pub(super) fn push(listing: &mut Vec<u8>, path: &[u8], traits: impl Into<Traits>, content: &str) {
    let Traits { mode, uid, gid } = traits.into();
    // Lengths first: no name can look like the next entry.
    let line = format!("{} {} {mode:o} {uid} {gid} ", path.len(), content.len());
    listing.extend_from_slice(line.as_bytes());
    listing.extend_from_slice(path);
    listing.extend_from_slice(content.as_bytes());
}

fn io_reading(error: io::Error) -> Error {
    Error::io("read a file", error)
}

/// The same directory, to be listed.
pub(super) fn reopened(place: &OwnedFd) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(place, ".", flags, Mode::empty()).map_err(reading)
}

/// The same file, to be read.
pub(super) fn reopened_file(place: &OwnedFd, path: &str) -> Result<File> {
    let stat = rustix::fs::fstat(place).map_err(reading)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(Error::invalid(format!(
            "{path} is neither a file nor a directory"
        )));
    }
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(place));
    File::open(link).map_err(io_reading)
}

pub(super) fn open_directory(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent.as_fd(), OsStr::from_bytes(name), flags, Mode::empty())
}

pub(super) fn open_file(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(parent.as_fd(), OsStr::from_bytes(name), flags, Mode::empty()).map(File::from)
}

/// The names in a directory, in order.
pub(super) fn names(directory: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
