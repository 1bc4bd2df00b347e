//! Puts one layer's entries into its own directory, whatever the archive says.
//!
//! Every operation is relative to a descriptor of the entry's parent directory, and parents are resolved with
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`: no entry reaches outside, by `..`, by an absolute path, or through a
//! symbolic link made by an earlier entry. A directory that the archive does not mention takes its owner and mode
//! from the layers below, as it would if the layer were applied to a mounted root filesystem.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{
    Advice, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use crate::error::{ArchiveError, Error, Result};
use crate::layer_path::{check_symlink_target, entry_error, relative, split};
use crate::limits::UNNAMED_DIRECTORIES_MAX;
use crate::removal::remove_tree;
use crate::tar_split::SharedSplit;
use crate::tar_stream::{EntryKind, ModifiedAt, TarEntry, TarStream};
use crate::whiteout::{self, Marker, Standing};

const COPY_BUFFER_BYTES: usize = 256 << 10;
/// Smaller files are left for the sync at the end, which finds places for many at once.
const FLUSHED_BYTES_MIN: u64 = 128 << 10;
const DIRECTORY_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const CONFINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// One layer while it is unpacked.
pub(crate) struct LayerWriter<'a> {
    directory: PathBuf,
    root: Rc<OwnedFd>,
    /// Roots of the layers below, topmost first, for the attributes of directories that the archive leaves out.
    below: &'a [OwnedFd],
    /// The parent of the last entry: archives list a directory's files one after the other.
    last_parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Times of directories are set at the end, because making their content changes them.
    directory_times: Vec<(Vec<u8>, ModifiedAt)>,
    content_bytes: u64,
    /// Directories that may still be made without an entry of their own.
    pub(crate) unnamed_left: u64,
    buffer: Vec<u8>,
    /// Told where the content of each file goes.
    split: Option<SharedSplit>,
}

impl<'a> LayerWriter<'a> {
    /// Starts with the empty `directory`.
    pub(crate) fn new(directory: &Path, below: &'a [OwnedFd]) -> Result<LayerWriter<'a>> {
        let root = open_directory(directory)?;
        let writer = LayerWriter {
            directory: directory.to_path_buf(),
            root: Rc::new(root),
            below,
            last_parent: None,
            directory_times: Vec::new(),
            content_bytes: 0,
            unnamed_left: UNNAMED_DIRECTORIES_MAX,
            buffer: vec![0; COPY_BUFFER_BYTES],
            split: None,
        };
        writer
            .inherit(&writer.root.clone(), b"")
            .map_err(|error| writer.failed("set up", b"", error))?;
        Ok(writer)
    }

    /// The archive that is read is written down there.
    pub(crate) fn with_split(mut self, split: SharedSplit) -> Self {
        self.split = Some(split);
        self
    }

    /// Unpacks every entry of the stream.
    pub(crate) fn unpack(&mut self, stream: &mut TarStream<impl Read>) -> Result<()> {
        while let Some(entry) = stream.next_entry()? {
            self.apply(&entry, stream)?;
        }
        Ok(())
    }

    /// Sets the times of directories; returns the root and the bytes of all files.
    pub(crate) fn finish(self) -> Result<(Rc<OwnedFd>, u64)> {
        for (path, modified_at) in self.directory_times.iter().rev() {
            let path = if path.is_empty() { b"." } else { path.as_slice() };
            let times = timestamps(*modified_at);
            let set = rustix::fs::openat2(&*self.root, path, DIRECTORY_FLAGS, Mode::empty(), CONFINED)
                .and_then(|directory| rustix::fs::futimens(directory, &times));
            match set {
                // A later entry put something else at this path.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(self.failed("set the time of", path, error)),
            }
        }
        Ok((self.root, self.content_bytes))
    }

    fn failed(&self, operation: &'static str, path: &[u8], error: impl Into<io::Error>) -> Error {
        Error::io(operation, &self.directory.join(OsStr::from_bytes(path)), error)
    }

    fn apply(&mut self, entry: &TarEntry, content: &mut impl Read) -> Result<()> {
        let path = relative(&entry.path)?;
        let (directory, name) = split(&path);
        if name.is_empty() {
            return self.apply_root(entry);
        }
        match Marker::of(name) {
            Marker::Ignored => return Ok(()),
            Marker::Malformed => return Err(entry_error(&entry.path, "a whiteout of nothing").into()),
            Marker::Opaque => {
                let parent = self.parent(directory)?;
                return whiteout::set_opaque(&*parent).map_err(|e| self.failed("make opaque", directory, e));
            }
            Marker::Whiteout(deleted) => {
                let parent = self.parent(directory)?;
                return self
                    .apply_whiteout(&parent, deleted)
                    .map_err(|e| self.failed("delete", &path, e));
            }
            Marker::None => {}
        }
        if entry.kind == EntryKind::CharDevice && entry.device == (0, 0) {
            // To overlayfs this would be a deletion, which only whiteouts may ask for.
            return Ok(());
        }
        let parent = self.parent(directory)?;
        match entry.kind {
            EntryKind::Directory => self.apply_directory(&parent, &path, name, entry),
            EntryKind::File => self.apply_file(&parent, &path, name, entry, content),
            EntryKind::HardLink => self.apply_hard_link(&parent, &path, name, entry),
            EntryKind::Symlink => self.apply_symlink(&parent, &path, name, entry),
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                self.apply_node(&parent, &path, name, entry)
            }
        }
    }

    fn apply_root(&mut self, entry: &TarEntry) -> Result<()> {
        if entry.kind != EntryKind::Directory {
            return Err(entry_error(&entry.path, "the root of the image is not a directory").into());
        }
        let root = self.root.clone();
        set_attributes(root.as_fd(), entry).map_err(|e| self.failed("set attributes of", b"", e))?;
        self.directory_times.push((Vec::new(), entry.modified_at));
        Ok(())
    }

    /// A whiteout deletes from lower layers only: what this layer itself has at the name stays, opaque.
    fn apply_whiteout(&mut self, parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
        match whiteout::standing(parent, name)? {
            Standing::Nothing => whiteout::create(parent, name),
            Standing::Directory => {
                whiteout::set_opaque(rustix::fs::openat(parent, name, DIRECTORY_FLAGS, Mode::empty())?)
            }
            Standing::Whiteout | Standing::Other => Ok(()),
        }
    }

    fn apply_directory(
        &mut self,
        parent: &OwnedFd,
        path: &[u8],
        name: &[u8],
        entry: &TarEntry,
    ) -> Result<()> {
        if whiteout::standing(parent, name).map_err(|e| self.failed("look at", path, e))? == Standing::Other {
            self.clear(parent, path, name)?;
        }
        let directory = make_directory(parent, name).map_err(|e| self.failed("make directory", path, e))?;
        set_attributes(directory.as_fd(), entry).map_err(|e| self.failed("set attributes of", path, e))?;
        self.directory_times.push((path.to_vec(), entry.modified_at));
        Ok(())
    }

    fn apply_file(
        &mut self,
        parent: &OwnedFd,
        path: &[u8],
        name: &[u8],
        entry: &TarEntry,
        content: &mut impl Read,
    ) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(self.create(parent, path, name, create)?);
        if let Some(split) = &self.split {
            split.borrow_mut().content_at(path, entry.size);
        }
        let mut left = entry.size;
        while left > 0 {
            let wanted = left.min(COPY_BUFFER_BYTES as u64) as usize;
            let read = content
                .read(&mut self.buffer[..wanted])
                .map_err(ArchiveError::from_read)?;
            if read == 0 {
                return Err(ArchiveError::Truncated.into());
            }
            file.write_all(&self.buffer[..read])
                .map_err(|e| self.failed("write", path, e))?;
            left -= read as u64;
        }
        self.content_bytes += entry.size;
        if entry.size >= FLUSHED_BYTES_MIN {
            // The disk begins to write it, so that the sync at the end has less to wait for. A hint: nobody needs it.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        }
        set_attributes(file.as_fd(), entry)
            .and_then(|()| rustix::fs::futimens(&file, &timestamps(entry.modified_at)))
            .map_err(|e| self.failed("set attributes of", path, e))
    }

    fn apply_hard_link(
        &mut self,
        parent: &OwnedFd,
        path: &[u8],
        name: &[u8],
        entry: &TarEntry,
    ) -> Result<()> {
        let target = relative(&entry.link)?;
        let (target_directory, target_name) = split(&target);
        if target_name.is_empty() || target == path {
            return Err(entry_error(&entry.path, "a hard link to itself or to the root").into());
        }
        let target_parent = self
            .existing_directory(target_directory)
            .map_err(|error| match error {
                Errno::NOENT | Errno::NOTDIR => missing_target(entry),
                Errno::LOOP | Errno::XDEV => through_symlink(&entry.path),
                error => self.failed("open the target of", path, error),
            })?;
        match whiteout::standing(&target_parent, target_name).map_err(|e| self.failed("look at", path, e))? {
            Standing::Other => {}
            Standing::Nothing | Standing::Whiteout => return Err(missing_target(entry)),
            Standing::Directory => return Err(entry_error(&entry.path, "a hard link to a directory").into()),
        }
        let link = || rustix::fs::linkat(&target_parent, target_name, parent, name, AtFlags::empty());
        self.create(parent, path, name, link)
    }

    fn apply_symlink(&mut self, parent: &OwnedFd, path: &[u8], name: &[u8], entry: &TarEntry) -> Result<()> {
        check_symlink_target(path, &entry.link)?;
        self.create(parent, path, name, || {
            rustix::fs::symlinkat(entry.link.as_slice(), parent, name)
        })?;
        set_node_attributes(parent, name, entry).map_err(|e| self.failed("set attributes of", path, e))
    }

    fn apply_node(&mut self, parent: &OwnedFd, path: &[u8], name: &[u8], entry: &TarEntry) -> Result<()> {
        let kind = match entry.kind {
            EntryKind::CharDevice => FileType::CharacterDevice,
            EntryKind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        self.create(parent, path, name, || {
            rustix::fs::mknodat(parent, name, kind, Mode::empty(), device)
        })?;
        // The mode goes by name: the node was made just now and is not a symbolic link.
        set_node_attributes(parent, name, entry)
            .and_then(|()| {
                rustix::fs::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            })
            .map_err(|e| self.failed("set attributes of", path, e))
    }

    /// Runs `make` and, where the name is taken, once more after removing what stands there: the last entry wins.
    fn create<T>(
        &mut self,
        parent: &OwnedFd,
        path: &[u8],
        name: &[u8],
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T> {
        match make() {
            Err(Errno::EXIST) => self.clear(parent, path, name)?,
            made => return made.map_err(|e| self.failed("create", path, e)),
        }
        make().map_err(|e| self.failed("create", path, e))
    }

    fn clear(&mut self, parent: &OwnedFd, path: &[u8], name: &[u8]) -> Result<()> {
        self.last_parent = None;
        if let Some(split) = &self.split {
            split.borrow_mut().replaced();
        }
        remove_tree(parent.as_fd(), name).map_err(|e| self.failed("replace", path, e))
    }

    /// The directory of an entry; made, with the attributes it has below, where the archive left it out.
    fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some((_, directory)) = self.last_parent.as_ref().filter(|(last, _)| last == path) {
            return Ok(directory.clone());
        }
        let directory = match self.existing_directory(path) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_parents(path)?,
            Err(Errno::LOOP | Errno::XDEV) => return Err(through_symlink(path)),
            Err(error) => return Err(self.failed("open", path, error)),
        };
        let directory = Rc::new(directory);
        self.last_parent = Some((path.to_vec(), directory.clone()));
        Ok(directory)
    }

    fn existing_directory(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        rustix::fs::openat2(&*self.root, path, DIRECTORY_FLAGS, Mode::empty(), CONFINED)
    }

    fn make_parents(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let mut current =
            rustix::io::fcntl_dupfd_cloexec(&*self.root, 0).map_err(|e| self.failed("open", path, e))?;
        let ends = path
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(end, _)| end);
        for end in ends.chain([path.len()]) {
            let so_far = &path[..end];
            let name = split(so_far).1;
            let operation = "make directory";
            let standing =
                whiteout::standing(&current, name).map_err(|e| self.failed(operation, so_far, e))?;
            let is_new = match standing {
                Standing::Directory => false,
                Standing::Nothing | Standing::Whiteout => true,
                Standing::Other => return Err(through_symlink(path)),
            };
            if is_new {
                take_unnamed(&mut self.unnamed_left)?;
            }
            let next = make_directory(&current, name).map_err(|e| self.failed(operation, so_far, e))?;
            if is_new {
                self.inherit(&next, so_far)
                    .map_err(|e| self.failed(operation, so_far, e))?;
            }
            current = next;
        }
        Ok(current)
    }

    /// Gives a directory the owner and mode it has in the layers below, else root's and 0755.
    fn inherit(&self, directory: &OwnedFd, path: &[u8]) -> rustix::io::Result<()> {
        let (uid, gid, mode) = match self.attributes_below(path) {
            Some(stat) => (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777),
            None => (0, 0, 0o755),
        };
        rustix::fs::fchown(directory, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        rustix::fs::fchmod(directory, Mode::from_raw_mode(mode))
    }

    fn attributes_below(&self, path: &[u8]) -> Option<Stat> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = self
            .below
            .iter()
            .find_map(|lower| rustix::fs::openat2(lower, path, flags, Mode::empty(), CONFINED).ok())?;
        rustix::fs::fstat(found)
            .ok()
            .filter(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
    }
}

/// Owner first, because changing it drops set-id bits and capabilities.
pub(crate) fn set_attributes(file: BorrowedFd<'_>, entry: &TarEntry) -> rustix::io::Result<()> {
    rustix::fs::fchown(
        file,
        Some(Uid::from_raw(entry.uid)),
        Some(Gid::from_raw(entry.gid)),
    )?;
    set_xattrs(entry, |name, value| {
        rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())
    })?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))
}

/// For what cannot be opened: symbolic links, devices and fifos.
pub(crate) fn set_node_attributes(parent: &OwnedFd, name: &[u8], entry: &TarEntry) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if !entry.xattrs.is_empty() {
        // There is no lsetxattrat before Linux 6.13: the parent goes by its descriptor, the name is not followed.
        let path =
            PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(OsStr::from_bytes(name));
        set_xattrs(entry, |name, value| {
            rustix::fs::lsetxattr(&path, name, value, XattrFlags::empty())
        })?;
    }
    rustix::fs::utimensat(
        parent,
        name,
        &timestamps(entry.modified_at),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

/// Opens a directory that the store itself made.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, DIRECTORY_FLAGS, Mode::empty()).map_err(|e| Error::io("open", path, e))
}

/// Makes or opens a directory; in place of a whiteout it becomes opaque, so that the deletion below stands.
fn make_directory(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let was_whiteout = whiteout::standing(parent, name)? == Standing::Whiteout;
    if was_whiteout {
        rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
    }
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let directory = rustix::fs::openat(parent, name, DIRECTORY_FLAGS, Mode::empty())?;
    if was_whiteout {
        whiteout::set_opaque(&directory)?;
    }
    Ok(directory)
}

/// Sets the entry's attributes but overlayfs's own; `user.` ones are dropped where the kind of file has none.
fn set_xattrs(
    entry: &TarEntry,
    set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    for (name, value) in entry
        .xattrs
        .iter()
        .filter(|(name, _)| !whiteout::is_overlay_xattr(name))
    {
        match set(name, value) {
            Err(Errno::NOTSUP | Errno::PERM) if name.starts_with(b"user.") => {}
            result => result?,
        }
    }
    Ok(())
}

/// Sets the modification time only.
pub(crate) fn timestamps(modified_at: ModifiedAt) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: modified_at.seconds,
            tv_nsec: modified_at.nanoseconds.into(),
        },
    }
}

/// Takes one of the directories that may be left without an entry of their own.
pub(crate) fn take_unnamed(left: &mut u64) -> Result<(), ArchiveError> {
    *left = left.checked_sub(1).ok_or(ArchiveError::Limit {
        what: "the number of directories that the archive does not name",
        limit: UNNAMED_DIRECTORIES_MAX,
    })?;
    Ok(())
}

fn through_symlink(path: &[u8]) -> Error {
    entry_error(
        path,
        "the path leads through something that is not a directory of this layer",
    )
    .into()
}

fn missing_target(entry: &TarEntry) -> Error {
    entry_error(&entry.path, "the target of the hard link is not in this layer").into()
}
