//! The files of one log, in the order in which they were written.

use super::file::LogFile;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Rotated files looked for; more are never kept (`max-file` is checked against it).
pub(crate) const FILES_MAX: u32 = 100;
/// Numbers in a row without a file after which no older one is looked for. A rotation under way leaves one free for a
/// moment, a second one right behind it another.
const HOLES_MAX: u32 = 2;

/// Opens every file of the log, oldest first. A file that is rotated or compressed meanwhile is opened once.
pub(super) fn open_all(path: &Path) -> io::Result<Vec<LogFile>> {
    let mut newest_first: Vec<LogFile> = Vec::new();
    let mut holes = 0;
    for number in 0..FILES_MAX {
        let Some(opened) = open(&numbered(path, number))? else {
            holes += 1;
            if holes > HOLES_MAX {
                break;
            }
            continue;
        };
        holes = 0;
        let mut is_known = false;
        for known in &newest_first {
            is_known = is_known || known.is_same(&opened)?;
        }
        if !is_known {
            newest_first.push(opened);
        }
    }
    newest_first.reverse();
    Ok(newest_first)
}

/// Opens what was written after this file, oldest first; everything, when it is gone.
pub(super) fn open_after(path: &Path, last: Option<&LogFile>) -> io::Result<Vec<LogFile>> {
    let mut files = open_all(path)?;
    let Some(last) = last else {
        return Ok(files);
    };
    for position in 0..files.len() {
        if last.is_same(&files[position])? {
            files.drain(..=position);
            break;
        }
    }
    Ok(files)
}

/// The inode of the current file, if there is one now.
pub(super) fn current_inode(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|metadata| metadata.ino())
}

/// Opens a file, plain or, where there is only that, compressed: the compressed one is there before the other goes.
fn open(path: &Path) -> io::Result<Option<LogFile>> {
    match LogFile::open_plain(path)? {
        Some(file) => Ok(Some(file)),
        None => LogFile::open_packed(&packed(path)),
    }
}

pub(super) fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    with_suffix(path, &format!(".{number}"))
}

/// The name of the compressed form of a file.
pub(super) fn packed(path: &Path) -> PathBuf {
    with_suffix(path, ".gz")
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
