//! A directory tree becomes a tar stream, read by descriptors only: nothing that changes the tree meanwhile leads the
//! reader out of it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::extract::Owner;
use crate::tar_stream::{EntryKind, ModifiedAt, TarEntry};
use crate::tar_writer::TarWriter;
use crate::whiteout;

/// Deepest directory that is packed; each level holds a descriptor and a frame.
const DEPTH_MAX: usize = 512;
/// Most files with several names that are remembered; later ones are archived whole once per name.
const LINKS_MAX: usize = 1_000_000;
const BUFFER_BYTES: usize = 128 << 10;
/// Longest list of names of extended attributes, and longest value: the kernel's own limits.
const XATTR_BYTES_MAX: usize = 64 << 10;
/// The attribute with a file's capabilities.
const CAPABILITIES: &[u8] = b"security.capability";
const FILE_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// File systems that the kernel makes up: proc, sysfs, control groups, terminals, message queues and the like. They are
/// mounted into a running container and are no content of it; their directories are archived empty.
const KERNEL_FILE_SYSTEMS: [i64; 16] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x1cd1,
    0x1980_0202,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
    0x6265_6570,
    0x0187,
    0x6e73_6673,
    0x4249_4e4d,
    0x6573_5543,
    0xf97c_ff8c,
];

/// Whether what is at `place` belongs to a file system that the kernel makes up.
pub fn is_kernel_file_system(place: impl AsFd) -> rustix::io::Result<bool> {
    let kind = rustix::fs::fstatfs(place)?.f_type;
    Ok(KERNEL_FILE_SYSTEMS.contains(&kind))
}

/// How the tree is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Plain,
    /// As an upper directory of overlayfs: whiteouts and opaque directories become the markers of the image format.
    Overlay,
}

/// The owner that an archive gives for one that a file has.
pub type OwnerTold<'a> = &'a dyn Fn(Owner) -> Owner;

/// Writes trees and files into one archive.
pub(crate) struct Packer<'a, W> {
    writer: TarWriter<W>,
    form: Form,
    /// Paths below the packed directory that are left out.
    leave_out: &'a dyn Fn(&[u8]) -> bool,
    /// Whose the archive says that a file is.
    told: OwnerTold<'a>,
    /// The path of the first name of a file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    /// Later times become this one, in seconds since 1970.
    modified_max: Option<i64>,
}

/// Archives the directory and all that is below it under `name`: `name/`, `name/file`. With the name `/` paths are
/// absolute; without a name there is no entry for the directory itself. Names come in order.
pub fn pack_directory(
    directory: BorrowedFd<'_>,
    name: Option<&[u8]>,
    told: OwnerTold<'_>,
    output: impl Write,
) -> io::Result<()> {
    let mut packer = Packer {
        told,
        ..Packer::new(output, Form::Plain, &|_| false)
    };
    packer.directory_as(directory, name)?;
    packer.finish().map(drop)
}

/// Archives what is at `name` in `parent`, no directory, under the name `as_name`.
pub fn pack_file(
    parent: BorrowedFd<'_>,
    name: &[u8],
    as_name: &[u8],
    told: OwnerTold<'_>,
    output: impl Write,
) -> io::Result<()> {
    let mut packer = Packer {
        told,
        ..Packer::new(output, Form::Plain, &|_| false)
    };
    packer.other(parent, name, as_name.to_vec())?;
    packer.finish().map(drop)
}

impl<'a, W: Write> Packer<'a, W> {
    pub(crate) fn new(output: W, form: Form, leave_out: &'a dyn Fn(&[u8]) -> bool) -> Packer<'a, W> {
        Packer {
            writer: TarWriter::new(output),
            form,
            leave_out,
            told: &|owner| owner,
            links: HashMap::new(),
            buffer: vec![0; BUFFER_BYTES],
            modified_max: None,
        }
    }

    /// Writes later modification times as this one, in seconds since 1970, where there is one.
    pub(crate) fn with_modified_max(self, modified_max: Option<i64>) -> Self {
        Packer { modified_max, ..self }
    }

    fn described(&self, path: Vec<u8>, kind: EntryKind, stat: &Stat) -> TarEntry {
        let seconds = self
            .modified_max
            .map_or(stat.st_mtime, |latest| stat.st_mtime.min(latest));
        let owner = (self.told)(Owner {
            uid: stat.st_uid,
            gid: stat.st_gid,
        });
        TarEntry {
            uid: owner.uid,
            gid: owner.gid,
            modified_at: ModifiedAt {
                seconds,
                nanoseconds: 0,
            },
            ..described(path, kind, stat)
        }
    }

    /// An empty file that marks a deletion.
    fn marker_entry(&self, path: Vec<u8>, stat: &Stat) -> TarEntry {
        TarEntry {
            mode: 0,
            ..self.described(path, EntryKind::File, stat)
        }
    }

    pub(crate) fn finish(self) -> io::Result<W> {
        self.writer.finish()
    }

    pub(crate) fn directory_as(&mut self, directory: BorrowedFd<'_>, name: Option<&[u8]>) -> io::Result<()> {
        let directory = reopen(directory)?;
        let prefix = match name {
            None => Vec::new(),
            Some(name) => {
                self.directory_entry(&directory, name.to_vec())?;
                let mut prefix = name.to_vec();
                if prefix.last() != Some(&b'/') {
                    prefix.push(b'/');
                }
                prefix
            }
        };
        self.children(&directory, &prefix, prefix.len(), 0)
    }

    fn children(
        &mut self,
        directory: &OwnedFd,
        prefix: &[u8],
        root_bytes: usize,
        depth: usize,
    ) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other("directories are nested too deeply"));
        }
        for name in sorted_names(directory)? {
            let path = [prefix, &name].concat();
            if (self.leave_out)(&path[root_bytes..]) {
                continue;
            }
            // What vanishes while the tree is read is left out.
            match self.child(directory, &name, path, root_bytes, depth) {
                Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
                done => done?,
            }
        }
        Ok(())
    }

    fn child(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: Vec<u8>,
        root_bytes: usize,
        depth: usize,
    ) -> io::Result<()> {
        let flags = FILE_FLAGS | OFlags::DIRECTORY;
        let directory = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOTDIR | Errno::LOOP) => return self.other(parent.as_fd(), name, path),
            Err(error) => return Err(error.into()),
        };
        self.directory_entry(&directory, path.clone())?;
        let prefix = [path.as_slice(), b"/"].concat();
        if self.form == Form::Overlay && whiteout::is_opaque(&directory)? {
            let stat = rustix::fs::fstat(&directory)?;
            let marker = [prefix.as_slice(), whiteout::OPAQUE_MARKER].concat();
            let marker = self.marker_entry(marker, &stat);
            self.writer.entry(&marker)?;
        }
        if is_kernel_file_system(&directory)? {
            return Ok(());
        }
        self.children(&directory, &prefix, root_bytes, depth + 1)
    }

    fn directory_entry(&mut self, directory: &OwnedFd, path: Vec<u8>) -> io::Result<()> {
        let stat = rustix::fs::fstat(directory)?;
        let xattrs = self.xattrs(directory)?;
        let entry = TarEntry {
            xattrs,
            ..self.described(path, EntryKind::Directory, &stat)
        };
        self.writer.entry(&entry)
    }

    /// Anything but a directory.
    fn other(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: Vec<u8>) -> io::Result<()> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return self.file(parent, name, path),
            FileType::CharacterDevice if self.form == Form::Overlay && stat.st_rdev == 0 => {
                let marker = self.marker_entry(whiteout::marked(&path), &stat);
                return self.writer.entry(&marker);
            }
            FileType::Symlink => EntryKind::Symlink,
            FileType::CharacterDevice => EntryKind::CharDevice,
            FileType::BlockDevice => EntryKind::BlockDevice,
            FileType::Fifo => EntryKind::Fifo,
            // It became a directory, or it is a socket, which no archive can hold.
            _ => return Ok(()),
        };
        let mut entry = self.described(path, kind, &stat);
        if kind == EntryKind::Symlink {
            entry.link = rustix::fs::readlinkat(parent, name, Vec::new())?.into_bytes();
        }
        if matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
            entry.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        }
        self.link_to_first_name(&mut entry, &stat);
        self.writer.entry(&entry)
    }

    fn file(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: Vec<u8>) -> io::Result<()> {
        let file = rustix::fs::openat(parent, name, FILE_FLAGS, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            // Something else took its place; what is opened is not read.
            return Ok(());
        }
        let mut entry = self.described(path, EntryKind::File, &stat);
        self.link_to_first_name(&mut entry, &stat);
        if entry.kind == EntryKind::HardLink {
            return self.writer.entry(&entry);
        }
        entry.size = u64::try_from(stat.st_size).unwrap_or(0);
        entry.xattrs = self.xattrs(&file)?;
        self.writer.file(&entry, File::from(file), &mut self.buffer)
    }

    fn xattrs(&self, file: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut found = xattrs(file)?;
        for (name, value) in &mut found {
            if name == CAPABILITIES {
                for_any_namespace(value, self.told);
            }
        }
        Ok(found)
    }

    fn link_to_first_name(&mut self, entry: &mut TarEntry, stat: &Stat) {
        if stat.st_nlink < 2 {
            return;
        }
        let identity = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.links.get(&identity) {
            entry.link.clone_from(first);
            entry.kind = EntryKind::HardLink;
        } else if self.links.len() < LINKS_MAX {
            self.links.insert(identity, entry.path.clone());
        }
    }
}

/// The same directory, open for reading.
fn reopen(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        directory,
        ".",
        FILE_FLAGS | OFlags::DIRECTORY,
        Mode::empty(),
    )?)
}

fn sorted_names(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut entries = Dir::read_from(directory)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn described(path: Vec<u8>, kind: EntryKind, stat: &Stat) -> TarEntry {
    TarEntry {
        path,
        link: Vec::new(),
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: 0,
        modified_at: ModifiedAt::default(),
        device: (0, 0),
        xattrs: Vec::new(),
    }
}

/// The attributes that travel with a file: its capabilities, access lists and the user's own. Those of overlayfs and of
/// the host's security modules belong to this machine.
fn xattrs(file: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    match rustix::fs::flistxattr_query(file) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let mut names = Vec::with_capacity(XATTR_BYTES_MAX);
    rustix::fs::flistxattr(file, rustix::buffer::spare_capacity(&mut names))?;
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| travels(name)) {
        let mut value = Vec::with_capacity(XATTR_BYTES_MAX);
        match rustix::fs::fgetxattr(file, name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => found.push((name.to_vec(), value)),
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Turns the capabilities of a file that hold in one user namespace into such that hold wherever the archive is
/// extracted, if that namespace's root is root to the archive's reader. See capabilities(7), "file capability extended
/// attribute versioning".
fn for_any_namespace(value: &mut Vec<u8>, told: OwnerTold<'_>) {
    const REVISION_2: u8 = 2;
    const REVISION_3: u8 = 3;
    const REVISION_2_BYTES: usize = 20;
    let Some((&root, _)) = value
        .get(REVISION_2_BYTES..)
        .and_then(<[u8]>::split_first_chunk::<4>)
    else {
        return;
    };
    let root = told(Owner {
        uid: u32::from_le_bytes(root),
        gid: 0,
    });
    if value[3] == REVISION_3 && root.uid == 0 {
        value[3] = REVISION_2;
        value.truncate(REVISION_2_BYTES);
    }
}

fn travels(name: &[u8]) -> bool {
    let own = name == CAPABILITIES || name.starts_with(b"system.posix_acl_") || name.starts_with(b"user.");
    own && !whiteout::is_overlay_xattr(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_of_a_user_namespace_become_anybodys() {
        let told = |owner: Owner| Owner {
            uid: owner.uid.wrapping_sub(100_000),
            ..owner
        };
        let body = [1, 0, 0, 3, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let of_namespace = |root: u32| [&body[..], &root.to_le_bytes()].concat();
        let mut value = of_namespace(100_000);
        for_any_namespace(&mut value, &told);
        assert_eq!(value[..4], [1, 0, 0, 2]);
        assert_eq!(value[4..], body[4..]);
        let again = value.clone();
        for_any_namespace(&mut value, &told);
        assert_eq!(value, again);
        let mut others = of_namespace(5);
        for_any_namespace(&mut others, &told);
        assert_eq!(others, of_namespace(5));
        let mut empty = Vec::new();
        for_any_namespace(&mut empty, &told);
    }
}
