//! Our own binary in a form that nothing can write to.
//!
//! A container's process that finds a way to `/proc/PID/exe` of the launcher, a monitor or a process that enters the container could
//! otherwise overwrite the binary on the host's disk (CVE-2019-5736).

use rustix::fs::{CWD, MemfdFlags, SealFlags};
use rustix::mount::OpenTreeFlags;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::sys::{self, MountAttributes};

/// A protected executable; the path is valid in this process and until exec in its children.
#[derive(Debug)]
pub(crate) struct Executable {
    file: OwnedFd,
}

impl Executable {
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// A read-only mount of the binary, which shares its pages with every other process that runs it; or where the kernel or
/// the file system refuses that, a sealed copy in memory.
pub(crate) fn protected(path: &Path) -> io::Result<Executable> {
    let file = match read_only_mount(path).or_else(|_| read_only_mount(&same_file(path)?)) {
        Ok(file) => file,
        Err(_) => sealed_copy(path)?,
    };
    Ok(Executable { file })
}

/// Where the file that a link of /proc leads to lies in this mount namespace: the link itself leads to the namespace that
/// the program was started from, whose mounts cannot be copied here.
fn same_file(link: &Path) -> io::Result<PathBuf> {
    let path = std::fs::read_link(link)?;
    let (here, there) = (std::fs::metadata(&path)?, std::fs::metadata(link)?);
    if (here.dev(), here.ino()) == (there.dev(), there.ino()) {
        Ok(path)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn read_only_mount(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = rustix::mount::open_tree(CWD, path, flags)?;
    let attributes = MountAttributes {
        set: libc::MOUNT_ATTR_RDONLY,
        propagation: libc::MS_PRIVATE,
        ..MountAttributes::default()
    };
    sys::mount_setattr(mount.as_fd(), false, attributes)?;
    Ok(mount)
}

fn sealed_copy(path: &Path) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut copy = File::from(rustix::fs::memfd_create(c"muster", flags)?);
    io::copy(&mut File::open(path)?, &mut copy)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn write_through(path: &Path) -> io::Result<()> {
        std::fs::OpenOptions::new()
            .write(true)
            .open(path)?
            .write_all_at(b"#!", 0)
    }

    #[test]
    fn neither_form_can_be_written_to() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let binary = directory.path().join("binary");
        std::fs::write(&binary, "content").expect("the directory is writable");
        write_through(&binary).expect("the file itself is writable");
        let mounted = Executable {
            file: read_only_mount(&binary).expect("root may bind"),
        };
        let error = write_through(&mounted.path()).expect_err("the mount is read-only");
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        let sealed = Executable {
            file: sealed_copy(&binary).expect("memory files exist"),
        };
        let error = write_through(&sealed.path()).expect_err("the copy is sealed");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert_eq!(std::fs::read(sealed.path()).expect("it is readable"), b"#!ntent");
    }
}
