//! Keeps the starts of an earlier daemon apart from those of this one.
//!
//! A daemon that is killed leaves its launcher and perhaps monitors with starts under way. Were the next daemon to look
//! first, it would take such a container for one that never ran, and it would begin to run afterwards.

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::error::{Result, RuntimeError};

/// The name of the file in the daemon's run directory.
const FILE_NAME: &str = "launcher.lock";
/// How long the starts of an earlier daemon may take to come to their end; one takes some tens of milliseconds.
const DEADLINE: Duration = Duration::from_secs(30);
/// Wait before it is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(2);

/// A lock that the daemon, its launcher and every monitor that is starting a container hold together.
#[derive(Debug)]
pub(super) struct StartLock {
    file: OwnedFd,
}

impl StartLock {
    /// Waits until no earlier daemon of this run directory, and no start of one, is left. Blocking.
    pub(super) fn take(run_dir: &Path) -> Result<StartLock> {
        let describe = || format!("wait for an earlier daemon's starts in {}", run_dir.display());
        let began = Instant::now();
        let open = || {
            std::fs::create_dir_all(run_dir)?;
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
            let file = rustix::fs::open(run_dir.join(FILE_NAME), flags, Mode::RUSR | Mode::WUSR)?;
            loop {
                match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => return Ok(file),
                    Err(Errno::INTR) => {}
                    Err(Errno::WOULDBLOCK) if began.elapsed() < DEADLINE => {
                        std::thread::sleep(TRY_AGAIN_AFTER);
                    }
                    Err(Errno::WOULDBLOCK) => {
                        let message = "another daemon uses this run directory, or its launcher does not end";
                        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let file = open().map_err(|error| RuntimeError::io(describe(), error))?;
        Ok(StartLock { file })
    }

    /// For a launcher, which finds it where its standard output would be.
    pub(super) fn share(&self) -> io::Result<Stdio> {
        Ok(Stdio::from(self.file.try_clone()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_daemon_waits_until_every_holder_is_gone() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let run_dir = directory.path().join("run");
        let lock = StartLock::take(&run_dir).expect("nobody has it");
        let of_monitor = lock.file.try_clone().expect("descriptors are free");
        drop(lock);
        let waiting = std::thread::spawn(move || StartLock::take(&run_dir).map(drop));
        // It cannot have got it yet, however long it was given.
        assert!(!waiting.is_finished());
        drop(of_monitor);
        waiting.join().expect("no panic").expect("it is free");
    }
}
