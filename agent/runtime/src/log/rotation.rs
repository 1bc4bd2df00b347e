//! Names of a log's files: `path` is written, `path.1` was written before it, and so on. `path.N.gz` is `path.N`, compressed
//! by the engine, which puts it beside the plain file before it takes that away. Where both are, the plain one counts.
//!
//! Who changes names of rotated files holds a lock on their directory, which a process that is killed gives back. A monitor
//! never waits for it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

/// Takes the lock; `None` while somebody else has it or it cannot be opened.
pub(super) fn try_lock(path: &Path) -> Option<File> {
    let directory = path.parent()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty()).ok()?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(File::from(directory))
}

/// Renames every file one further, so that no file is at `path`. The oldest is dropped; that is the only one where one file
/// is all there may be, and it goes rather than being emptied, so that readers notice. What was done when it failed need
/// not be done again: without a file at `path` there is nothing to do.
pub(super) fn shift(path: &Path, max_files: u32) -> io::Result<()> {
    if max_files <= 1 {
        return absent_is_fine(std::fs::remove_file(path));
    }
    if !path.try_exists()? {
        return Ok(());
    }
    for number in (0..max_files - 1).rev() {
        advance(path, number)?;
    }
    Ok(())
}

/// Renames one file, plain or compressed or both, over what has the next number. A plain file that is left there would
/// hide a compressed one, so it goes before; a compressed one that is left is hidden, and goes after.
fn advance(path: &Path, number: u32) -> io::Result<()> {
    let (from, to) = (numbered(path, number), numbered(path, number + 1));
    let (packed_from, packed_to) = (packed(&from), packed(&to));
    let has_packed = packed_from.try_exists()?;
    match std::fs::rename(&from, &to) {
        Ok(()) if has_packed => std::fs::rename(packed_from, packed_to),
        Ok(()) => absent_is_fine(std::fs::remove_file(packed_to)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Err(_) if has_packed => {
            absent_is_fine(std::fs::remove_file(to))?;
            std::fs::rename(packed_from, packed_to)
        }
        Err(_) => Ok(()),
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn packed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files by name; each holds its first name.
    fn shifted(names: &[&str], max_files: u32) -> Vec<String> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in names {
            std::fs::write(directory.path().join(name), name).expect("it is writable");
        }
        shift(&directory.path().join("log"), max_files).expect("it can be shifted");
        let mut found: Vec<_> = std::fs::read_dir(directory.path())
            .expect("it is readable")
            .map(|entry| {
                let entry = entry.expect("it is readable");
                let content = std::fs::read_to_string(entry.path()).expect("it is readable");
                format!("{} was {content}", entry.file_name().display())
            })
            .collect();
        found.sort();
        found
    }

    #[test]
    fn compressed_files_move_with_plain_ones() {
        assert_eq!(
            shifted(&["log", "log.1", "log.2.gz", "log.3.gz"], 4),
            ["log.1 was log", "log.2 was log.1", "log.3.gz was log.2.gz"]
        );
        assert_eq!(shifted(&["log", "log.1.gz"], 2), ["log.1 was log"]);
        assert_eq!(shifted(&["log"], 1), [""; 0]);
        assert_eq!(
            shifted(&["log", "log.1.gz", "log.2"], 3),
            ["log.1 was log", "log.2.gz was log.1.gz"]
        );
        // The engine was killed between its two steps.
        assert_eq!(
            shifted(&["log", "log.1", "log.1.gz", "log.2.gz"], 3),
            ["log.1 was log", "log.2 was log.1", "log.2.gz was log.1.gz"]
        );
        assert_eq!(
            shifted(&["log.1", "log.2.gz"], 3),
            ["log.1 was log.1", "log.2.gz was log.2.gz"]
        );
    }
}
