//! Where the engine keeps things on disk.

use crate::error::{Error, Result};
use muster_types::ContainerId;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Paths below the data and the run directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    data_dir: PathBuf,
    run_dir: PathBuf,
}

impl Layout {
    pub fn new(data_dir: &Path, run_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            run_dir: run_dir.to_owned(),
        }
    }

    /// Makes the directories. Blocking.
    pub fn prepare(&self) -> Result<()> {
        let directories = [
            &self.data_dir,
            &self.run_dir,
            &self.containers(),
            &self.discarded(),
            &self.volumes(),
            &self.builds(),
            &self.runs(),
        ];
        directories
            .into_iter()
            .try_for_each(|path| make_directory(path))?;
        // Containers leave setuid programs in volumes. Earlier versions made the directory open to everybody.
        fs::set_permissions(self.volumes(), fs::Permissions::from_mode(0o700))
            .map_err(|error| Error::io("close the directory of volumes to other users", error))?;
        muster_images::scatter_directories(&self.containers());
        Ok(())
    }

    /// Deletes what removals left before a crash. Nobody else may remove anything yet. Blocking.
    pub fn empty_discarded(&self) {
        for name in names(&self.discarded()) {
            if let Err(error) = remove_directory(&self.discarded().join(name)) {
                tracing::warn!(error = error.chain(), "what was removed stays on the disk");
            }
        }
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    pub fn images(&self) -> PathBuf {
        self.data_dir.join("images")
    }

    pub fn metadata(&self) -> PathBuf {
        self.data_dir.join("engine.redb")
    }

    pub fn volumes(&self) -> PathBuf {
        self.data_dir.join("volumes")
    }

    /// What builds under way have: contexts, and what only they know of.
    pub fn builds(&self) -> PathBuf {
        self.data_dir.join("builds")
    }

    /// Caches that steps of builds mount.
    pub fn step_caches(&self) -> PathBuf {
        self.data_dir.join("step-caches")
    }

    pub fn containers(&self) -> PathBuf {
        self.data_dir.join("containers")
    }

    /// Directories of containers and volumes that were removed, until they are deleted.
    pub fn discarded(&self) -> PathBuf {
        self.data_dir.join("discarded")
    }

    /// Takes a container's directory out of sight at once and returns where it lies now. Nothing there is no error.
    pub fn discard_container(&self, id: &ContainerId) -> Result<PathBuf> {
        let (kept, discarded) = (self.container(id), self.discarded().join(id.as_str()));
        match fs::rename(&kept, &discarded) {
            Err(error) if error.kind() != io::ErrorKind::NotFound || kept.exists() => Err(Error::io(
                format!("discard the directory of container {id}"),
                error,
            )),
            _ => Ok(discarded),
        }
    }

    /// What a container keeps across reboots: generated files, log, exit status.
    pub fn container(&self, id: &ContainerId) -> PathBuf {
        self.containers().join(id.as_str())
    }

    pub fn file(&self, id: &ContainerId, name: &str) -> PathBuf {
        self.container(id).join(name)
    }

    pub fn log(&self, id: &ContainerId) -> PathBuf {
        self.file(id, &format!("{id}-json.log"))
    }

    pub fn exit_file(&self, id: &ContainerId) -> PathBuf {
        self.file(id, "exit.json")
    }

    pub fn runs(&self) -> PathBuf {
        self.run_dir.join("containers")
    }

    /// What a running container has: its monitor's socket, and the engine's facts about the run.
    pub fn run(&self, id: &ContainerId) -> PathBuf {
        self.runs().join(id.as_str())
    }

    /// Where the shared memory of containers that let others join is mounted.
    pub fn shms(&self) -> PathBuf {
        self.run_dir.join("shm")
    }

    /// The shared memory of one container.
    pub fn shm(&self, id: &ContainerId) -> PathBuf {
        self.shms().join(id.as_str())
    }

    /// Where the files are mounted that containers were given for their start.
    pub fn givens(&self) -> PathBuf {
        self.run_dir.join("given")
    }

    /// The files that one container was given.
    pub fn given(&self, id: &ContainerId) -> PathBuf {
        self.givens().join(id.as_str())
    }

    pub fn run_facts(&self, id: &ContainerId) -> PathBuf {
        self.run(id).join("engine.json")
    }
}

/// Makes a private directory and its parents. Idempotent.
pub(crate) fn make_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(|error| Error::io(format!("make the directory {}", path.display()), error))
}

/// How often a directory is emptied again into which a monitor that is ending still put a file.
const REMOVALS_MAX: u32 = 50;
/// Wait before that.
const REMOVE_AGAIN_AFTER: Duration = Duration::from_millis(2);

/// Removes a directory with all that is in it, however deep: containers write into volumes. Idempotent. Blocking.
pub(crate) fn remove_directory(path: &Path) -> Result<()> {
    let mut removals = 0;
    loop {
        removals += 1;
        match muster_images::remove_tree(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && removals < REMOVALS_MAX => {
                std::thread::sleep(REMOVE_AGAIN_AFTER);
            }
            Err(error) => {
                return Err(Error::io(
                    format!("remove the directory {}", path.display()),
                    error,
                ));
            }
        }
    }
}

/// Removes a file. Idempotent.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Names in a directory; none where it cannot be read.
pub(crate) fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Writes a file anew.
pub(crate) fn write_file(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content).map_err(|error| Error::io(format!("write {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_reaches_volumes() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(&directory.path().join("data"), &directory.path().join("run"));
        make_directory(&layout.volumes()).unwrap();
        layout.prepare().unwrap();
        let mode = fs::metadata(layout.volumes()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn only_a_missing_container_counts_as_discarded() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(&directory.path().join("data"), &directory.path().join("run"));
        let id = ContainerId::parse(&"ab".repeat(32)).unwrap();
        layout.prepare().unwrap();
        layout.discard_container(&id).unwrap();
        make_directory(&layout.container(&id)).unwrap();
        fs::remove_dir(layout.discarded()).unwrap();
        layout.discard_container(&id).unwrap_err();
        assert!(layout.container(&id).exists());
        layout.prepare().unwrap();
        let discarded = layout.discard_container(&id).unwrap();
        assert!(discarded.exists() && !layout.container(&id).exists());
        layout.empty_discarded();
        assert!(!discarded.exists());
    }
}
