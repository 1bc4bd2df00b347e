//! What the log needs from a disk. Production uses [`RealDisk`](crate::RealDisk), the simulator its own.

use std::io;

/// One flat directory of files. Names hold no slash.
///
/// Changes of the directory (create, rename, remove) survive a crash only after `sync_directory`, and become
/// durable in the order in which they were made.
pub trait Disk: Send + Sync {
    /// Names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens a file that exists, for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Makes an empty file (replacing one of that name) and reserves `bytes` for it; the reserved part reads as 0.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file a new name, replacing one of that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes all changes of the directory durable.
    fn sync_directory(&self) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// True when the file holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `buffer` from `offset`; fails when the file is shorter.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`, growing the file when needed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts or grows the file.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Returns when everything written so far survives a crash.
    fn sync_data(&self) -> io::Result<()>;
}
