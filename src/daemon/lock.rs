//! One daemon per data directory.

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::path::Path;

/// Holds the directory until it is dropped, also when the process dies.
pub fn take(directory: &Path) -> anyhow::Result<Flock<File>> {
    let path = directory.join("daemon.lock");
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    let file = options
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            bail!(
                "another daemon uses {}; stop it or choose another --data-dir",
                directory.display()
            )
        }
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_second_daemon_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let held = super::take(directory.path()).unwrap();
        assert!(super::take(directory.path()).is_err());
        drop(held);
        assert!(super::take(directory.path()).is_ok());
    }
}
