//! One control group directory, held by descriptor.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::error::{CgroupError, Result};

/// The largest control file that is read: `memory.stat` of a large machine is about 8 KiB, `cgroup.procs` may list
/// every process of a pid namespace (4 million numbers of up to 8 bytes).
const FILE_BYTES_MAX: usize = 64 << 20;

/// A control group directory. Files are opened relative to it, so a later directory of the same name is never used.
#[derive(Debug)]
pub(super) struct Directory {
    descriptor: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens an existing directory by absolute path.
    pub fn open(path: &Path) -> Result<Directory> {
        let descriptor = rustix::fs::open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| CgroupError::io("open", path, errno))?;
        Ok(Directory {
            descriptor,
            path: path.to_owned(),
        })
    }

    /// Opens an existing directory below this one.
    pub fn open_below(&self, name: &str) -> Result<Directory> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let descriptor = rustix::fs::openat(&self.descriptor, name, flags, Mode::empty())
            .map_err(|errno| self.failed("open", name, errno))?;
        Ok(Directory {
            descriptor,
            path: self.path.join(name),
        })
    }

    /// Makes a directory below this one; false when it exists.
    pub fn make(&self, name: &str) -> Result<bool> {
        match rustix::fs::mkdirat(&self.descriptor, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(errno) => Err(self.failed("create", name, errno)),
        }
    }

    /// Removes a directory below this one.
    pub fn remove(&self, name: &OsStr) -> std::result::Result<(), rustix::io::Errno> {
        rustix::fs::unlinkat(&self.descriptor, name, AtFlags::REMOVEDIR)
    }

    /// Opens a control file with the given access.
    pub fn file(&self, name: &str, access: OFlags) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(
            &self.descriptor,
            name,
            access | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        )?)
    }

    /// Writes a value in one write, as control files want it.
    pub fn write(&self, name: &str, value: &str) -> io::Result<()> {
        let file = self.file(name, OFlags::WRONLY)?;
        rustix::io::write(&file, value.as_bytes())?;
        Ok(())
    }

    /// Reads a whole control file.
    pub fn read(&self, name: &str) -> io::Result<String> {
        let file = self.file(name, OFlags::RDONLY)?;
        let mut content = vec![0; 4096];
        let mut length = 0;
        loop {
            if length == content.len() {
                if length >= FILE_BYTES_MAX {
                    return Err(io::Error::new(
                        io::ErrorKind::FileTooLarge,
                        "control file is too large",
                    ));
                }
                content.resize(length * 2, 0);
            }
            match rustix::io::read(&file, &mut content[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        content.truncate(length);
        String::from_utf8(content).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Reads a whole control file, or nothing when it does not exist.
    pub fn read_if_there(&self, name: &str) -> Result<Option<String>> {
        match self.read(name) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(CgroupError::io("read", self.path.join(name), error)),
        }
    }

    /// The names of the groups directly below.
    pub fn children(&self) -> Result<Vec<std::ffi::OsString>> {
        use std::os::unix::ffi::OsStrExt;
        let listing = rustix::fs::openat(
            &self.descriptor,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .and_then(Dir::new)
        .map_err(|errno| CgroupError::io("list", &self.path, errno))?;
        let mut names = Vec::new();
        for entry in listing {
            let entry = entry.map_err(|errno| CgroupError::io("list", &self.path, errno))?;
            let name = entry.file_name().to_bytes();
            if entry.file_type() == FileType::Directory && name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    /// The processes of this group alone, as seen from this pid namespace (0 stands for one that is not visible).
    pub fn processes(&self) -> Result<Vec<i32>> {
        let listing = match self.read("cgroup.procs") {
            Ok(listing) => listing,
            // ENODEV: the group was removed. EOPNOTSUPP: a threaded group, whose processes its domain lists.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENODEV | libc::ENOENT | libc::EOPNOTSUPP)
                ) =>
            {
                return Ok(Vec::new());
            }
            Err(error) => return Err(CgroupError::io("read", self.path.join("cgroup.procs"), error)),
        };
        Ok(listing.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Where the directory was when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, operation: &str, name: &str, errno: rustix::io::Errno) -> CgroupError {
        CgroupError::io(operation, self.path.join(name), errno)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
