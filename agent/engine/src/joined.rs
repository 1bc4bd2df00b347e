//! Namespaces of other containers: who they are, and how a start takes hold of them.
//!
//! A container names another one at its creation; from then on it is known by its id, so that a new name changes
//! nothing. Whether the other one runs is asked at each start.

use crate::container::Container;
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::layout::make_directory;
use crate::network;
use crate::phase::Phase;
use crate::record::Record;
use crate::spec::JoinedNamespaces;
use crate::user_namespace::give_to_root_of;
use muster_types::ContainerId;
use muster_types::container::{HostConfig, NetworkMode};
use muster_types::id_map::IdMaps;
use muster_types::namespace::{IpcMode, NamespaceMode};
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of /dev/shm where the user does not say; Docker's.
pub(crate) const SHM_BYTES_DEFAULT: u64 = 64 << 20;

/// Namespaces that a start joins. They are held open until it has happened, so that a process id that is used again
/// cannot lead to another container's.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    pub paths: JoinedNamespaces,
    donors: Vec<Arc<Container>>,
    held: Vec<File>,
}

/// A kind of namespace that is joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Network,
    Pid,
    Ipc,
    Users,
}

impl Kind {
    fn file(self) -> &'static str {
        match self {
            Self::Network => "net",
            Self::Pid => "pid",
            Self::Ipc => "ipc",
            Self::Users => "user",
        }
    }

    /// What Docker says of a container that cannot be joined.
    fn refusal(self, id: &ContainerId, restarts: bool) -> Error {
        let state = if restarts {
            "is restarting, wait until the container is running"
        } else {
            "is not running"
        };
        Error::wrong_state(match self {
            Self::Network if restarts => format!("cannot join network of a restarting container: {id}"),
            Self::Network => format!("cannot join network of a non running container: {id}"),
            Self::Pid => format!("failed to join PID namespace: container {id} {state}"),
            Self::Ipc => format!("failed to join IPC namespace: container {id} {state}"),
            Self::Users => format!("failed to join user namespace: container {id} {state}"),
        })
    }
}

impl Inner {
    /// Replaces the names of the containers that a new one joins by their ids, which has them exist.
    pub(crate) fn resolve_joined(&self, host: &mut HostConfig) -> Result<()> {
        // Not as something missing: clients take that for the image and pull it.
        let find = |reference: &str| {
            self.find(reference)
                .map_err(|error| Error::invalid(error.chain()))
        };
        if let NamespaceMode::Container(reference) = &mut host.pid {
            *reference = find(reference)?.id.to_string();
        }
        if let IpcMode::Container(reference) = &mut host.ipc {
            *reference = find(reference)?.id.to_string();
        }
        // As with Docker, a network is only missed at the start.
        if let NetworkMode::Container(reference) = &mut host.network
            && let Ok(other) = self.find(reference)
        {
            *reference = other.id.to_string();
        }
        Ok(())
    }

    /// Takes hold of everything that a start joins, and makes the shared memory that others may join.
    pub(crate) fn join(&self, record: &Record) -> Result<Joined> {
        let host = &record.config.host;
        let mut joined = Joined::default();
        if let Some(reference) = network::shared_with(&host.network) {
            let other = self.donor(reference, Kind::Network, record)?;
            joined.paths.network = Some(joined.join(&other, Kind::Network)?);
            let name = other.with(|cell| cell.record.host_name.clone());
            joined.paths.host = Some((self.layout.container(&other.id), name));
        }
        if let Some(reference) = host.pid.container() {
            let other = self.donor(reference, Kind::Pid, record)?;
            joined.paths.pid = Some(joined.join(&other, Kind::Pid)?);
        }
        match &host.ipc {
            IpcMode::Container(reference) => {
                let other = self.donor(reference, Kind::Ipc, record)?;
                let shm = self.layout.shm(&other.id);
                if !shm.is_dir() {
                    return Err(Error::invalid(format!(
                        "failed to join IPC namespace: container {}: non-shareable IPC (hint: use IpcMode:shareable \
                         for the donor container)",
                        other.id
                    )));
                }
                joined.paths.ipc = Some(joined.join(&other, Kind::Ipc)?);
                joined.paths.shm = Some(shm);
            }
            IpcMode::Shareable => joined.paths.shm = Some(self.layout.shm(&record.id)),
            IpcMode::Private | IpcMode::None | IpcMode::Host => {}
        }
        Ok(joined)
    }

    fn donor(&self, reference: &str, kind: Kind, record: &Record) -> Result<Arc<Container>> {
        let other = self.find(reference)?;
        if other.id == record.id {
            return Err(Error::wrong_state(format!(
                "cannot join own {} namespace: {reference}",
                kind.file()
            )));
        }
        Ok(other)
    }

    /// Makes the shared memory of a container that lets others join. Blocking.
    pub(crate) fn make_shm(&self, record: &Record, label: Option<&str>) -> Result<()> {
        if record.config.host.ipc != IpcMode::Shareable {
            return Ok(());
        }
        let path = self.layout.shm(&record.id);
        // A start that was cut short may have left one.
        remove_mounted(&path)?;
        make_directory(&path)?;
        let bytes = record.config.host.shm_bytes.unwrap_or(SHM_BYTES_DEFAULT);
        let context = label
            .map(|label| format!(",context=\"{label}\""))
            .unwrap_or_default();
        let options = CString::new(format!("mode=1777,size={bytes}{context}"))
            .map_err(|_| Error::invalid("the SELinux label contains a zero byte"))?;
        let flags = MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("shm", &path, "tmpfs", flags, Some(options.as_c_str()))
            .map_err(|error| Error::io(format!("mount shared memory at {}", path.display()), error.into()))?;
        give_to_root_of(self.maps_of(&record.config.host), &path)
    }

    /// Takes away the shared memory of a container that does not run. Who joined it keeps it. Idempotent. Blocking.
    pub(crate) fn clear_shm(&self, id: &ContainerId) {
        let path = self.layout.shm(id);
        if let Err(error) = remove_mounted(&path) {
            tracing::warn!(
                container = id.short(),
                error = error.chain(),
                "shared memory is left over"
            );
        }
    }
}

impl Joined {
    fn hold(&mut self, other: &Container, kind: Kind) -> Result<PathBuf> {
        let refused = || kind.refusal(&other.id, other.phase() == Phase::Restarting);
        let before = other.run().ok_or_else(refused)?.monitor.pid();
        let path = format!("/proc/{before}/ns/{}", kind.file());
        let file = File::open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => refused(),
            _ => Error::io(format!("open the namespace {path}"), error),
        })?;
        // It was the container's own if the container ran before and after.
        if other.run().map(|run| run.monitor.pid()) != Some(before) {
            return Err(refused());
        }
        Ok(self.keep(file))
    }

    fn join(&mut self, other: &Arc<Container>, kind: Kind) -> Result<PathBuf> {
        self.donors.push(Arc::clone(other));
        self.hold(other, kind)
    }

    fn keep(&mut self, file: File) -> PathBuf {
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        self.held.push(file);
        path
    }

    /// Has the start happen in this user namespace.
    pub(crate) fn keep_users(&mut self, users: File) {
        self.paths.users = Some(self.keep(users));
    }

    /// The user namespace of the containers that are joined, which has to have these users; `None` where none is.
    ///
    /// A namespace belongs to the user namespace that it was made in, and only from there it can be joined.
    pub(crate) fn hold_users(&mut self, maps: &IdMaps) -> Result<Option<File>> {
        let opened =
            |path: &Path| File::open(path).map_err(|error| Error::io("open a user namespace", error));
        let mut first: Option<(u64, PathBuf)> = None;
        for other in self.donors.clone() {
            if other.run().is_some_and(|run| run.ids.as_ref() != Some(maps)) {
                return Err(Error::wrong_state(format!(
                    "cannot join a namespace of container {}: it runs with other users than this one would, so start it \
                     again, or give both --userns=host",
                    other.id
                )));
            }
            let path = self.hold(&other, Kind::Users)?;
            let metadata = opened(&path)?.metadata();
            let number = metadata
                .map_err(|error| Error::io("look at a user namespace", error))?
                .ino();
            match &first {
                Some((known, _)) if *known != number => {
                    return Err(Error::wrong_state(format!(
                        "cannot join namespaces of containers that are in different user namespaces: {} is in another one",
                        other.id
                    )));
                }
                Some(_) => {}
                None => first = Some((number, path)),
            }
        }
        let Some((_, path)) = first else { return Ok(None) };
        let users = opened(&path)?;
        self.paths.users = Some(path);
        Ok(Some(users))
    }
}

/// Unmounts what is mounted at a directory, if anything is, and removes the directory. Idempotent. Blocking.
pub(crate) fn remove_mounted(path: &Path) -> Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        // Nothing is mounted there.
        Err(rustix::io::Errno::INVAL) => {}
        Err(error) => {
            return Err(Error::io(format!("unmount {}", path.display()), error.into()));
        }
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(
            format!("remove the directory {}", path.display()),
            error,
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_dockers() {
        let id = ContainerId::parse(&"ab".repeat(32)).unwrap();
        for (kind, restarts, text) in [
            (
                Kind::Network,
                false,
                "cannot join network of a non running container: abab",
            ),
            (
                Kind::Network,
                true,
                "cannot join network of a restarting container: abab",
            ),
            (Kind::Pid, false, "failed to join PID namespace: container abab"),
            (
                Kind::Ipc,
                true,
                "is restarting, wait until the container is running",
            ),
        ] {
            let refusal = kind.refusal(&id, restarts).to_string();
            assert!(refusal.contains(text), "{refusal}");
        }
    }

    #[test]
    fn shared_memory_that_is_not_there_is_removed_without_complaint() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shm");
        remove_mounted(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        remove_mounted(&path).unwrap();
        assert!(!path.exists());
    }
}
