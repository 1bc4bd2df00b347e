//! The production disk: files in one directory, locked against a second process.

use crate::disk::{Disk, DiskFile};
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Held open and locked as long as the disk is in use; not listed.
const LOCK_NAME: &str = "lock";
/// The log is secret even though it is encrypted.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A directory of the host's file system.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    directory: File,
    times: Arc<SyncClock>,
    _lock: File,
}

/// How long syncs of data took since the disk was opened; for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SyncTimes {
    /// Number of syncs.
    pub count: u64,
    /// All of them together, in nanoseconds.
    pub total_ns: u64,
    /// The longest, in nanoseconds.
    pub longest_ns: u64,
}

#[derive(Debug, Default)]
struct SyncClock {
    count: AtomicU64,
    total_ns: AtomicU64,
    longest_ns: AtomicU64,
}

impl SyncClock {
    fn add(&self, took: Duration) {
        let took_ns = took.as_nanos() as u64;
        self.count.fetch_add(1, Ordering::Relaxed);
        self.total_ns.fetch_add(took_ns, Ordering::Relaxed);
        self.longest_ns.fetch_max(took_ns, Ordering::Relaxed);
    }
}

impl RealDisk {
    /// How long syncs took.
    pub fn sync_times(&self) -> SyncTimes {
        SyncTimes {
            count: self.times.count.load(Ordering::Relaxed),
            total_ns: self.times.total_ns.load(Ordering::Relaxed),
            longest_ns: self.times.longest_ns.load(Ordering::Relaxed),
        }
    }

    /// Opens the directory, making it when needed, and locks it for this process.
    pub fn open(path: &Path) -> io::Result<RealDisk> {
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(path)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(FILE_MODE)
            .open(path.join(LOCK_NAME))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!(
                    "{} is in use by another process; stop that one first",
                    path.display()
                ),
            ),
            fs::TryLockError::Error(error) => error,
        })?;
        Ok(RealDisk {
            path: path.to_owned(),
            directory: File::open(path)?,
            times: Arc::default(),
            _lock: lock,
        })
    }
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if !entry.file_type()?.is_file() {
                continue;
            }
            match entry.file_name().into_string() {
                Ok(name) if name != LOCK_NAME => names.push(name),
                _ => {}
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path.join(name))?;
        Ok(Box::new(RealFile {
            file,
            times: Arc::clone(&self.times),
        }))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(self.path.join(name))?;
        reserve(&file, bytes)?;
        Ok(Box::new(RealFile {
            file,
            times: Arc::clone(&self.times),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

/// Reserves blocks; a file system that cannot reserve gets the length alone.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let length = i64::try_from(bytes).map_err(io::Error::other)?;
    match fallocate(file, FallocateFlags::empty(), 0, length) {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOSYS) => file.set_len(bytes),
        Err(errno) => Err(errno.into()),
    }
}

struct RealFile {
    file: File,
    times: Arc<SyncClock>,
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        let begun = Instant::now();
        let synced = self.file.sync_data();
        self.times.add(begun.elapsed());
        synced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_cannot_open_the_same_directory() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let disk = RealDisk::open(directory.path()).expect("first open");
        let error = RealDisk::open(directory.path()).expect_err("second open");
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        drop(disk);
        RealDisk::open(directory.path()).expect("open after release");
    }

    #[test]
    fn a_created_file_is_reserved_and_reads_as_zero() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let disk = RealDisk::open(directory.path()).expect("open");
        let file = disk.create("a", 4096).expect("create");
        assert_eq!(file.len().expect("length"), 4096);
        let mut bytes = [1u8; 4096];
        file.read_at(0, &mut bytes).expect("read");
        assert!(bytes.iter().all(|byte| *byte == 0));
        assert_eq!(disk.list().expect("list"), ["a"]);
        file.sync_data().expect("sync");
        assert_eq!(disk.sync_times().count, 1);
        assert!(disk.sync_times().longest_ns > 0);
    }
}
