//! The thread that deletes discarded trees: freeing a directory takes milliseconds on some file systems, and nobody
//! needs to wait for it.
//!
//! Discarding is a rename into the trash directory; the thread looks at what lies there, whatever put it there. What
//! it has not deleted when the process ends, the next process's thread deletes.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::layout::{names, remove};

/// Discarded things and the thread that deletes them; dropping it ends the thread after the tree at hand.
#[derive(Debug)]
pub(crate) struct Trash {
    directory: PathBuf,
    next_name: AtomicU64,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// Looks asked for so far.
    asked: u64,
    /// Looks that are answered: all that lay there when they were asked for is deleted, or cannot be.
    answered: u64,
    is_stopping: bool,
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Every statement leaves the numbers valid, so a panic elsewhere leaves nothing half done.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trash {
    /// Starts deleting what lies in the directory.
    pub(crate) fn start(directory: PathBuf) -> Result<Trash> {
        let shared = Arc::new(Shared {
            progress: Mutex::new(Progress {
                asked: 1,
                ..Progress::default()
            }),
            ..Shared::default()
        });
        let (of_thread, place) = (shared.clone(), directory.clone());
        let thread = std::thread::Builder::new()
            .name("image-trash".to_string())
            .spawn(move || empty_until_stopped(&of_thread, &place))
            .map_err(|error| Error::io("start the deleting thread for", &directory, error))?;
        Ok(Trash {
            directory,
            next_name: AtomicU64::new(0),
            shared,
            thread: Some(thread),
        })
    }

    /// Takes something out of sight at once, to be deleted soon. Nothing there is no error.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        loop {
            let number = self.next_name.fetch_add(1, Ordering::Relaxed);
            let discarded = self.directory.join(number.to_string());
            match rustix::fs::renameat_with(CWD, path, CWD, &discarded, RenameFlags::NOREPLACE) {
                Ok(()) => break,
                Err(Errno::NOENT) => return Ok(()),
                // Left by an earlier process.
                Err(Errno::EXIST) => {}
                Err(error) => return Err(Error::io("discard", path, error)),
            }
        }
        self.shared.progress().asked += 1;
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Waits until all that was discarded before is deleted.
    pub(crate) fn wait_until_empty(&self) {
        let progress = self.shared.progress();
        let asked = progress.asked;
        let waited = self
            .shared
            .changed
            .wait_while(progress, |p| p.answered < asked && !p.is_stopping);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        self.shared.progress().is_stopping = true;
        self.shared.changed.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that deletes discarded image content panicked");
        }
    }
}

fn empty_until_stopped(shared: &Shared, directory: &Path) {
    // What cannot be deleted (an immutable file of a privileged container) is reported once.
    let mut stuck = HashSet::new();
    loop {
        let progress = shared.progress();
        let waited = shared
            .changed
            .wait_while(progress, |p| p.answered == p.asked && !p.is_stopping);
        let progress = waited.unwrap_or_else(PoisonError::into_inner);
        if progress.is_stopping {
            return;
        }
        let asked = progress.asked;
        drop(progress);
        empty(shared, directory, &mut stuck);
        shared.progress().answered = asked;
        shared.changed.notify_all();
    }
}

fn empty(shared: &Shared, directory: &Path, stuck: &mut HashSet<Vec<u8>>) {
    let discarded = names(directory).unwrap_or_else(|error| {
        tracing::warn!(error = %error.full_message(), "discarded image content cannot be listed");
        Vec::new()
    });
    for name in discarded {
        if shared.progress().is_stopping {
            return;
        }
        if stuck.contains(&name) {
            continue;
        }
        if let Err(error) = remove(&directory.join(OsStr::from_bytes(&name))) {
            tracing::warn!(error = %error.full_message(), "discarded image content stays until the next start");
            stuck.insert(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_discarded_vanishes_at_once_and_is_deleted_soon() {
        let place = tempfile::tempdir().unwrap();
        let trash = place.path().join("trash");
        fs::create_dir_all(trash.join("0/left/behind")).unwrap();
        let tree = place.path().join("tree");
        let thread = Trash::start(trash.clone()).unwrap();
        for _ in 0..20 {
            fs::create_dir_all(tree.join("a/b")).unwrap();
            fs::write(tree.join("a/f"), "x").unwrap();
            thread.discard(&tree).unwrap();
            assert!(!tree.exists());
        }
        thread.discard(&tree).unwrap();
        thread.wait_until_empty();
        assert_eq!(names(&trash).unwrap().len(), 0);
        drop(thread);
    }
}
