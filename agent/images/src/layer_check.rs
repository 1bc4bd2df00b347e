//! Whether a layer's directory still holds what its archive put there.
//!
//! The archive is read again as when it was unpacked, only that what each entry leaves is remembered instead of written;
//! then the directory is compared with that. More in the directory is no damage.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Bound;
use std::os::fd::OwnedFd;

use flate2::Crc;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::doubt::is_loss;
use crate::error::{ArchiveError, Result};
use crate::layer_path::{relative, split};
use crate::limits::UNNAMED_DIRECTORIES_MAX;
use crate::tar_stream::{EntryKind, TarEntry, TarStream};
use crate::unpack::take_unnamed;
use crate::whiteout::{self, Marker};

const BUFFER_BYTES: usize = 256 << 10;
/// What lets a program do more than who starts it.
const CAPABILITIES: &str = "security.capability";
/// Their bytes where they are not those of a user namespace.
const CAPABILITIES_BYTES: usize = 20;
const CONFINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// What is to be at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    Directory {
        /// Of an entry, where it has one.
        attributes: Option<Attributes>,
        /// It hides what lower layers have below it.
        is_opaque: bool,
    },
    File {
        bytes: u64,
        checksum: u32,
        attributes: Attributes,
        capabilities: Option<Box<[u8]>>,
    },
    Symlink(Vec<u8>),
    Node(FileKind),
    Whiteout,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
}

/// The kinds that have no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    CharDevice(u64),
    BlockDevice(u64),
    Fifo,
}

/// What an archive leaves in a directory.
#[derive(Debug)]
pub(crate) struct Outcome {
    paths: BTreeMap<Vec<u8>, Expected>,
    /// Directories that may still be without an entry of their own.
    unnamed_left: u64,
    content_bytes: u64,
}

impl Attributes {
    fn of(entry: &TarEntry) -> Attributes {
        Attributes {
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
        }
    }

    fn fit(self, stat: &Stat) -> bool {
        (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777) == (self.uid, self.gid, self.mode)
    }
}

impl Outcome {
    /// Reads the whole archive.
    pub(crate) fn of(stream: &mut TarStream<impl Read>) -> Result<Outcome, ArchiveError> {
        let mut outcome = Outcome {
            paths: BTreeMap::new(),
            unnamed_left: UNNAMED_DIRECTORIES_MAX,
            content_bytes: 0,
        };
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Some(entry) = stream.next_entry()? {
            outcome.add(&entry, stream, &mut buffer)?;
        }
        Ok(outcome)
    }

    fn add(
        &mut self,
        entry: &TarEntry,
        content: &mut impl Read,
        buffer: &mut [u8],
    ) -> Result<(), ArchiveError> {
        let path = relative(&entry.path)?;
        let (directory, name) = split(&path);
        match Marker::of(name) {
            _ if name.is_empty() => {
                self.put_directory(path, entry);
                return Ok(());
            }
            Marker::Ignored | Marker::Malformed => return Ok(()),
            Marker::Opaque => {
                self.make_parents(&path)?;
                self.make_opaque(directory);
                return Ok(());
            }
            Marker::Whiteout(deleted) => {
                self.make_parents(&path)?;
                let mut hidden = directory.to_vec();
                if !hidden.is_empty() {
                    hidden.push(b'/');
                }
                hidden.extend_from_slice(deleted);
                self.hide(hidden);
                return Ok(());
            }
            Marker::None => {}
        }
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        let expected = match entry.kind {
            EntryKind::CharDevice if device == 0 => return Ok(()),
            EntryKind::CharDevice => Expected::Node(FileKind::CharDevice(device)),
            EntryKind::BlockDevice => Expected::Node(FileKind::BlockDevice(device)),
            EntryKind::Fifo => Expected::Node(FileKind::Fifo),
            EntryKind::Symlink => Expected::Symlink(entry.link.clone()),
            EntryKind::Directory => {
                self.make_parents(&path)?;
                self.put_directory(path, entry);
                return Ok(());
            }
            EntryKind::File => {
                let (bytes, checksum) = checksum(content.take(entry.size), buffer)?;
                self.content_bytes += bytes;
                Expected::File {
                    bytes,
                    checksum,
                    attributes: Attributes::of(entry),
                    capabilities: capabilities(entry),
                }
            }
            EntryKind::HardLink => match self.paths.get(&relative(&entry.link)?) {
                Some(target) => target.clone(),
                None => return Ok(()),
            },
        };
        self.make_parents(&path)?;
        self.clear_below(&path);
        self.paths.insert(path, expected);
        Ok(())
    }

    /// A directory that was there stays as opaque as it was; one in the place of a whiteout hides what that hid.
    fn put_directory(&mut self, path: Vec<u8>, entry: &TarEntry) {
        let is_opaque = match self.paths.get(&path) {
            Some(Expected::Directory { is_opaque, .. }) => *is_opaque,
            Some(Expected::Whiteout) => true,
            _ => false,
        };
        let attributes = Some(Attributes::of(entry));
        self.paths.insert(
            path,
            Expected::Directory {
                attributes,
                is_opaque,
            },
        );
    }

    fn make_opaque(&mut self, directory: &[u8]) {
        // Of the root there may be no entry.
        let unnamed = Expected::Directory {
            attributes: None,
            is_opaque: true,
        };
        let found = self.paths.entry(directory.to_vec()).or_insert(unnamed);
        if let Expected::Directory { is_opaque, .. } = found {
            *is_opaque = true;
        }
    }

    /// Hides a path of lower layers; what the layer itself has there stays.
    fn hide(&mut self, path: Vec<u8>) {
        match self.paths.entry(path).or_insert(Expected::Whiteout) {
            Expected::Directory { is_opaque, .. } => *is_opaque = true,
            Expected::File { .. } | Expected::Symlink(_) | Expected::Node(_) | Expected::Whiteout => {}
        }
    }

    /// Directories that the archive leaves out, or that it deleted before.
    fn make_parents(&mut self, path: &[u8]) -> Result<(), ArchiveError> {
        for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let is_opaque = match self.paths.get(&path[..end]) {
                Some(Expected::Directory { .. }) => continue,
                standing => standing == Some(&Expected::Whiteout),
            };
            take_unnamed(&mut self.unnamed_left)?;
            let directory = Expected::Directory {
                attributes: None,
                is_opaque,
            };
            self.paths.insert(path[..end].to_vec(), directory);
        }
        Ok(())
    }

    fn clear_below(&mut self, path: &[u8]) {
        let (mut first, mut last) = (path.to_vec(), path.to_vec());
        first.push(b'/');
        last.push(b'/' + 1);
        let range = (Bound::Included(first), Bound::Excluded(last));
        let below: Vec<Vec<u8>> = self.paths.range(range).map(|(path, _)| path.clone()).collect();
        for path in below {
            self.paths.remove(&path);
        }
    }

    /// Bytes of all files, as they are counted when they are unpacked.
    pub(crate) fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// The first path of the directory that is not as the archive has it.
    pub(crate) fn first_difference(&self, root: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; BUFFER_BYTES];
        for (path, expected) in &self.paths {
            match expected.stands(root, path, &mut buffer) {
                Ok(true) => {}
                Ok(false) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {
                    return Ok(Some(path.clone()));
                }
                Err(error) if is_loss(&error.into()) => return Ok(Some(path.clone())),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

impl Expected {
    fn stands(&self, root: &OwnedFd, path: &[u8], buffer: &mut [u8]) -> rustix::io::Result<bool> {
        let path = if path.is_empty() { b"." } else { path };
        if let Expected::File {
            bytes,
            checksum: expected,
            attributes,
            capabilities,
        } = self
        {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::openat2(root, path, flags, Mode::empty(), CONFINED)?;
            let stat = rustix::fs::fstat(&file)?;
            let looks_right = FileType::from_raw_mode(stat.st_mode).is_file()
                && u64::try_from(stat.st_size) == Ok(*bytes)
                && attributes.fit(&stat)
                && capabilities
                    .as_ref()
                    .is_none_or(|capabilities| has_capabilities(&file, capabilities));
            return Ok(
                looks_right && checksum(File::from(file), buffer).map_err(errno)? == (*bytes, *expected)
            );
        }
        let flags = match self {
            Expected::Directory { .. } => OFlags::RDONLY | OFlags::DIRECTORY,
            _ => OFlags::PATH,
        };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat2(root, path, flags, Mode::empty(), CONFINED)?;
        let stat = rustix::fs::fstat(&found)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        Ok(match self {
            Expected::Directory {
                attributes,
                is_opaque,
            } => {
                attributes.is_none_or(|attributes| attributes.fit(&stat))
                    && (!is_opaque || whiteout::is_opaque(&found)?)
            }
            Expected::Symlink(target) => {
                kind.is_symlink()
                    && rustix::fs::readlinkat(&found, c"", Vec::new())?.as_bytes() == target.as_slice()
            }
            Expected::Node(FileKind::CharDevice(device)) => kind.is_char_device() && stat.st_rdev == *device,
            Expected::Node(FileKind::BlockDevice(device)) => {
                kind.is_block_device() && stat.st_rdev == *device
            }
            Expected::Node(FileKind::Fifo) => kind.is_fifo(),
            Expected::Whiteout => kind.is_char_device() && stat.st_rdev == 0,
            Expected::File { .. } => false,
        })
    }
}

fn capabilities(entry: &TarEntry) -> Option<Box<[u8]>> {
    let mut xattrs = entry.xattrs.iter();
    let (_, value) = xattrs.find(|(name, _)| name == CAPABILITIES.as_bytes())?;
    Some(value.as_slice().into())
}

/// Those of a user namespace are given back in another form.
fn has_capabilities(file: &OwnedFd, expected: &[u8]) -> bool {
    let mut found = [0; 64];
    match rustix::fs::fgetxattr(file, CAPABILITIES, &mut found[..]) {
        Ok(bytes) => expected.len() != CAPABILITIES_BYTES || found[..bytes] == *expected,
        Err(_) => false,
    }
}

fn checksum(mut content: impl Read, buffer: &mut [u8]) -> Result<(u64, u32), ArchiveError> {
    let mut crc = Crc::new();
    let mut bytes = 0;
    loop {
        match content.read(buffer) {
            Ok(0) => return Ok((bytes, crc.sum())),
            Ok(read) => {
                crc.update(&buffer[..read]);
                bytes += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ArchiveError::from_read(error)),
        }
    }
}

fn errno(error: ArchiveError) -> Errno {
    match error {
        ArchiveError::Stream(error) => Errno::from_io_error(&error).unwrap_or(Errno::IO),
        _ => Errno::IO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpack::{LayerWriter, open_directory};
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    /// A program may open raw sockets.
    const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    /// An archive with everything that an entry can be, some of it twice.
    fn layer() -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let add = |archive: &mut tar::Builder<Vec<u8>>,
                   path: &str,
                   kind: tar::EntryType,
                   content: &[u8],
                   link: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o754);
            header.set_uid(7);
            header.set_gid(8);
            header.set_mtime(1);
            header.set_size(content.len() as u64);
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
            let old = header.as_old_mut();
            old.name[..path.len()].copy_from_slice(path.as_bytes());
            old.linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            archive.append(&header, content).unwrap();
        };
        use tar::EntryType as Kind;
        add(&mut archive, "./", Kind::Directory, b"", "");
        add(&mut archive, "dir/", Kind::Directory, b"", "");
        add(&mut archive, "dir/file", Kind::Regular, b"first", "");
        add(&mut archive, "dir/same", Kind::Link, b"", "dir/file");
        add(&mut archive, "dir/file", Kind::Regular, b"content", "");
        add(&mut archive, "deep/er/file", Kind::Regular, b"", "");
        add(&mut archive, "link", Kind::Symlink, b"", "dir/file");
        add(&mut archive, "null", Kind::Char, b"", "");
        add(&mut archive, "pipe", Kind::Fifo, b"", "");
        add(&mut archive, ".wh.gone", Kind::Regular, b"", "");
        add(&mut archive, ".wh.again", Kind::Regular, b"", "");
        add(&mut archive, "again/file", Kind::Regular, b"x", "");
        add(&mut archive, "dir/.wh..wh..opq", Kind::Regular, b"", "");
        add(&mut archive, ".wh.back", Kind::Regular, b"", "");
        add(&mut archive, "back/", Kind::Directory, b"", "");
        add(&mut archive, "was/a/tree", Kind::Regular, b"y", "");
        add(&mut archive, "was", Kind::Regular, b"now a file", "");
        let capabilities = ("SCHILY.xattr.security.capability", &NET_RAW[..]);
        archive.append_pax_extensions([capabilities]).unwrap();
        add(&mut archive, "ping", Kind::Regular, b"z", "");
        archive.into_inner().unwrap()
    }

    fn difference(archive: &[u8], directory: &Path) -> Option<String> {
        let outcome = Outcome::of(&mut TarStream::new(archive, 100)).unwrap();
        let found = outcome
            .first_difference(&open_directory(directory).unwrap())
            .unwrap();
        found.map(|path| String::from_utf8(path).unwrap())
    }

    #[test]
    fn every_kind_of_damage_to_an_unpacked_layer_is_found() {
        let archive = layer();
        let unpacked = || {
            let place = tempfile::tempdir().unwrap();
            let mut writer = LayerWriter::new(place.path(), &[]).unwrap();
            writer
                .unpack(&mut TarStream::new(archive.as_slice(), 100))
                .unwrap();
            writer.finish().unwrap();
            place
        };
        assert_eq!(difference(&archive, unpacked().path()), None);
        type Damage = fn(&Path) -> io::Result<()>;
        fn unset(path: &Path, name: &str) -> io::Result<()> {
            Ok(rustix::fs::removexattr(path, name)?)
        }
        const OPAQUE: &str = "trusted.overlay.opaque";
        let damages: [(&str, Damage); 17] = [
            ("dir/file", |root| fs::remove_file(root.join("dir/file"))),
            ("dir/file", |root| {
                fs::File::options()
                    .write(true)
                    .open(root.join("dir/file"))?
                    .set_len(3)
            }),
            ("dir/file", |root| fs::write(root.join("dir/file"), [0; 7])),
            ("dir/file", |root| {
                fs::set_permissions(root.join("dir/file"), fs::Permissions::from_mode(0o0))
            }),
            ("dir/same", |root| fs::write(root.join("dir/same"), "")),
            ("deep", |root| fs::remove_dir_all(root.join("deep"))),
            ("deep/er/file", |root| {
                fs::write(root.join("deep/er/file"), "more")
            }),
            ("link", |root| {
                fs::remove_file(root.join("link")).and_then(|()| symlink("else", root.join("link")))
            }),
            ("null", |root| {
                fs::remove_file(root.join("null")).and_then(|()| fs::write(root.join("null"), ""))
            }),
            ("pipe", |root| fs::remove_file(root.join("pipe"))),
            ("gone", |root| fs::remove_file(root.join("gone"))),
            ("again", |root| fs::remove_dir_all(root.join("again"))),
            ("again", |root| unset(&root.join("again"), OPAQUE)),
            ("back", |root| unset(&root.join("back"), OPAQUE)),
            ("dir", |root| unset(&root.join("dir"), OPAQUE)),
            ("ping", |root| unset(&root.join("ping"), CAPABILITIES)),
            ("", |root| std::os::unix::fs::chown(root, Some(0), Some(0))),
        ];
        for (path, damage) in damages {
            let place = unpacked();
            damage(place.path()).unwrap();
            assert_eq!(difference(&archive, place.path()).as_deref(), Some(path));
        }
    }

    #[test]
    fn few_directories_are_made_that_the_archive_does_not_name() {
        let archive = layer();
        let stream = || TarStream::new(archive.as_slice(), 100);
        for (left, is_enough) in [(4, false), (5, true)] {
            let place = tempfile::tempdir().unwrap();
            let mut writer = LayerWriter::new(place.path(), &[]).unwrap();
            writer.unnamed_left = left;
            assert_eq!(writer.unpack(&mut stream()).is_ok(), is_enough, "{left}");
            let mut outcome = Outcome {
                paths: BTreeMap::new(),
                unnamed_left: left,
                content_bytes: 0,
            };
            let mut stream = stream();
            let mut buffer = vec![0; 100];
            let mut add_all = || {
                while let Some(entry) = stream.next_entry()? {
                    outcome.add(&entry, &mut stream, &mut buffer)?;
                }
                Ok::<_, ArchiveError>(())
            };
            assert_eq!(add_all().is_ok(), is_enough, "{left}");
        }
    }
}
