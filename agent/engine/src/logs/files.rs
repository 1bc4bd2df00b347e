//! The files of one log, in the order in which they were written.

use crate::log_forward::{HEAD_BYTES, Position};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Rotated files looked for; more are never kept (`max-file` is checked against it).
pub(crate) const FILES_MAX: u32 = 100;

/// An open file of the log and its identity, by which it is found again after a rotation.
#[derive(Debug)]
pub(super) struct LogFile {
    pub file: File,
    pub inode: u64,
}

impl LogFile {
    /// How the file begins.
    pub fn head(&self) -> io::Result<Vec<u8>> {
        let mut head = vec![0; HEAD_BYTES];
        let length = self.file.read_at(&mut head, 0)?;
        head.truncate(length);
        Ok(head)
    }
}

impl Position {
    /// Whether it is in this file.
    pub(super) fn is_in(&self, file: &LogFile) -> bool {
        self.inode == file.inode && file.head().is_ok_and(|head| head.starts_with(&self.head))
    }
}

/// Opens every file of the log, oldest first. A file that is rotated meanwhile is opened once.
pub(super) fn open_all(path: &Path) -> io::Result<Vec<LogFile>> {
    let mut newest_first: Vec<LogFile> = Vec::new();
    for number in 0..FILES_MAX {
        let Some(opened) = open(&numbered(path, number))? else {
            // The current file is missing for a moment while it is rotated.
            if number == 0 {
                continue;
            }
            break;
        };
        if newest_first.iter().all(|known| known.inode != opened.inode) {
            newest_first.push(opened);
        }
    }
    newest_first.reverse();
    Ok(newest_first)
}

/// Opens what was written after the file with this inode, oldest first; everything, when that file is gone.
pub(super) fn open_after(path: &Path, inode: u64) -> io::Result<Vec<LogFile>> {
    let mut files = open_all(path)?;
    if let Some(position) = files.iter().position(|file| file.inode == inode) {
        files.drain(..=position);
    }
    Ok(files)
}

/// The inode of the current file, if there is one now.
pub(super) fn current_inode(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|metadata| metadata.ino())
}

fn open(path: &Path) -> io::Result<Option<LogFile>> {
    match File::open(path) {
        Ok(file) => {
            let inode = file.metadata()?.ino();
            Ok(Some(LogFile { file, inode }))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}
