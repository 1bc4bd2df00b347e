//! Removing a lab's cgroups, in every hierarchy.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Processes of a killed node need a moment to be gone from their cgroups.
const REMOVE_WITHIN: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// Removes the cgroup and everything below it, wherever it is.
pub fn remove(path: &str) -> io::Result<()> {
    for hierarchy in hierarchies()? {
        let directory = hierarchy.join(path);
        let deadline = Instant::now() + REMOVE_WITHIN;
        loop {
            match remove_below(&directory) {
                Ok(()) => break,
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => std::thread::sleep(RETRY_AFTER),
            }
        }
    }
    Ok(())
}

/// The v2 tree, or every v1 hierarchy.
fn hierarchies() -> io::Result<Vec<PathBuf>> {
    let root = Path::new("/sys/fs/cgroup");
    let mut found = vec![root.to_owned()];
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove_below(directory: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_below(&entry.path())?;
        }
    }
    match std::fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes the cgroup itself where nothing is below it.
pub fn remove_if_empty(path: &str) -> io::Result<()> {
    for hierarchy in hierarchies()? {
        match std::fs::remove_dir(hierarchy.join(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}
