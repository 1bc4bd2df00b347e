//! What is known of a container: a directory below `--root` with one file, and the socket that its process waits at.

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, StatxFlags};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::error::{OciError, Result};
use crate::cgroup::{Cgroup, CgroupRoot};

/// Where containers are recorded unless `--root` says otherwise.
pub(super) const ROOT_DEFAULT: &str = "/run/muster/oci";

/// The longest name of a container; it is a file's name too.
const ID_BYTES_MAX: usize = 200;

const STATE_FILE: &str = "state.json";
const STATE_FILE_NEW: &str = ".state.json.new";
const START_SOCKET: &str = "start.sock";

/// A recorded container. Fields that are added later need a default, so that an older record still reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub pid: i32,
    /// When the process started, in the kernel's ticks: another process of that id has another one.
    pub pid_started: u64,
    /// RFC 3339.
    pub created: String,
    pub cgroup: CgroupRoot,
    pub cgroup_path: String,
    /// The scope of systemd's that the group is.
    #[serde(default)]
    pub scope: Option<String>,
    pub spec: Spec,
    /// The mount that is the container's root, where that is in the host's mount namespace.
    #[serde(default)]
    pub shared_root: Option<u64>,
}

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    /// The word of the runtime specification, and runc's for a frozen container.
    pub(super) fn word(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// The directory of one container.
#[derive(Debug)]
pub(super) struct ContainerDirectory {
    pub path: PathBuf,
    descriptor: OwnedFd,
}

impl ContainerDirectory {
    /// Makes it; that there is none yet is what keeps names unique.
    pub(super) fn make(root: &Path, id: &str) -> Result<ContainerDirectory> {
        let path = path_of(root, id)?;
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        let describe = |error| OciError::io(format!("make {}", path.display()), error);
        builder.recursive(true).create(root).map_err(describe)?;
        match builder.recursive(false).create(&path) {
            Ok(()) => Self::at(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(OciError::Exists { id: id.to_owned() })
            }
            Err(error) => Err(describe(error)),
        }
    }

    /// Opens that of a container that exists.
    pub(super) fn open(root: &Path, id: &str) -> Result<ContainerDirectory> {
        match Self::at(path_of(root, id)?) {
            Err(OciError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(OciError::NotExist { id: id.to_owned() })
            }
            result => result,
        }
    }

    fn at(path: PathBuf) -> Result<ContainerDirectory> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(descriptor) => Ok(ContainerDirectory { path, descriptor }),
            Err(error) => Err(OciError::io(format!("open {}", path.display()), error)),
        }
    }

    /// Waits until no other command changes this container.
    pub(super) fn lock(&self) -> Result<()> {
        rustix::fs::flock(&self.descriptor, FlockOperation::LockExclusive)
            .map_err(|error| OciError::io(format!("lock {}", self.path.display()), error))
    }

    /// A short path to the socket, however deep the directory lies: a socket's address has 108 bytes.
    fn socket_path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/self/fd/{}/{START_SOCKET}",
            self.descriptor.as_fd().as_raw_fd()
        ))
    }

    /// Makes the socket that the container's process waits at.
    pub(super) fn listen(&self) -> Result<OwnedFd> {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
        let listen = || {
            let socket = rustix::net::socket_with(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )?;
            rustix::net::bind(&socket, &SocketAddrUnix::new(self.socket_path())?)?;
            rustix::net::listen(&socket, 1)?;
            Ok::<_, rustix::io::Errno>(socket)
        };
        listen().map_err(|error| OciError::io("make the socket that the container waits at", error))
    }

    /// Connects to the process that waits there.
    pub(super) fn connect(&self) -> Result<OwnedFd> {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
        let connect = || {
            let socket = rustix::net::socket_with(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(self.socket_path())?)?;
            Ok::<_, rustix::io::Errno>(socket)
        };
        connect().map_err(|error| OciError::io("reach the container's waiting process", error))
    }

    /// From now on nobody can release the process any more.
    pub(super) fn remove_socket(&self) -> Result<()> {
        std::fs::remove_file(self.path.join(START_SOCKET))
            .map_err(|error| OciError::io("remove the socket that the container waited at", error))
    }

    /// Writes the record, whole or not at all.
    pub(super) fn write(&self, record: &Record) -> Result<()> {
        let write = || {
            let unfinished = self.path.join(STATE_FILE_NEW);
            let mut file = std::fs::File::create(&unfinished)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            std::fs::rename(unfinished, self.path.join(STATE_FILE))
        };
        write().map_err(|error| OciError::io("record the container", error))
    }

    /// Reads the record.
    pub(super) fn read(&self, id: &str) -> Result<Record> {
        let content = match std::fs::read(self.path.join(STATE_FILE)) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OciError::NotExist { id: id.to_owned() });
            }
            Err(error) => return Err(OciError::io("read the container's record", error)),
        };
        serde_json::from_slice(&content)
            .map_err(|error| OciError::io(format!("understand {}/{STATE_FILE}", self.path.display()), error))
    }

    /// What the container is doing.
    pub(super) fn status(&self, record: &Record) -> Result<Status> {
        if !record.is_alive() {
            return Ok(Status::Stopped);
        }
        if self.path.join(START_SOCKET).exists() {
            return Ok(Status::Created);
        }
        let frozen = match Cgroup::open(&record.cgroup, &record.cgroup_path) {
            Ok(group) => group.is_frozen().unwrap_or(false),
            // A container can live without its group only for as long as it takes to end.
            Err(_) => false,
        };
        Ok(if frozen { Status::Paused } else { Status::Running })
    }

    /// Forgets the container.
    pub(super) fn remove(&self) -> Result<()> {
        std::fs::remove_dir_all(&self.path)
            .map_err(|error| OciError::io(format!("remove {}", self.path.display()), error))
    }
}

impl Record {
    /// Whether the first process runs.
    pub(super) fn is_alive(&self) -> bool {
        matches!(process_start(self.pid), Ok(Some(started)) if started == self.pid_started)
    }

    /// A descriptor of the first process.
    pub(super) fn process(&self) -> Result<OwnedFd> {
        let pid = Pid::from_raw(self.pid).ok_or(OciError::NotRunning)?;
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        // Looked at after it was opened, so that it is this one.
        match process {
            Ok(process) if self.is_alive() => Ok(process),
            Ok(_) | Err(rustix::io::Errno::SRCH) => Err(OciError::NotRunning),
            Err(error) => Err(OciError::io("open the container's process", error)),
        }
    }

    /// Whether the container has a mount namespace of its own.
    pub(super) fn has_own_mounts(&self) -> bool {
        let linux = self.spec.linux().as_ref();
        let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
        let mut namespaces = namespaces.into_iter().flatten();
        namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::Mount && namespace.path().is_none())
    }

    /// Takes the root of a container without a mount namespace of its own away from the host's.
    pub(super) fn detach_root(&self) -> Result<()> {
        // What lies there meanwhile is somebody else's.
        match self.shared_root {
            Some(number) if mount_number(&self.rootfs) == Some(number) => {
                rustix::mount::unmount(&self.rootfs, UnmountFlags::DETACH)
                    .map_err(|error| OciError::io("take the container's mounts away", error))
            }
            _ => Ok(()),
        }
    }

    /// The control group.
    pub(super) fn group(&self) -> Result<Cgroup> {
        Cgroup::open(&self.cgroup, &self.cgroup_path)
            .map_err(|source| crate::error::RuntimeError::cgroup("open", source).into())
    }
}

fn path_of(root: &Path, id: &str) -> Result<PathBuf> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    if id.is_empty() || id.len() > ID_BYTES_MAX || id == "." || id == ".." || !id.bytes().all(allowed) {
        return Err(OciError::usage(format!(
            "invalid container ID {id:?}: use up to {ID_BYTES_MAX} letters, digits and _+-."
        )));
    }
    Ok(root.join(id))
}

/// The number of the mount that a path is on.
pub(super) fn mount_number(path: &Path) -> Option<u64> {
    let status = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    (status.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(status.stx_mnt_id)
}

/// When a process started, in ticks since the boot; `None` when it has ended.
pub(super) fn process_start(pid: i32) -> io::Result<Option<u64>> {
    let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    // The name between the parentheses may hold anything.
    let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    if matches!(fields.next(), None | Some("" | "Z" | "X")) {
        return Ok(None);
    }
    Ok(fields.nth(18).and_then(|started| started.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_root() {
        for bad in ["", ".", "..", "a/b", "a b", "../x", &"a".repeat(201)] {
            assert!(path_of(Path::new("/r"), bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            path_of(Path::new("/r"), "a_B-1.x+").expect("it is fine"),
            Path::new("/r/a_B-1.x+")
        );
    }

    #[test]
    fn a_process_is_told_from_a_later_one_of_its_number() {
        let own = i32::try_from(std::process::id()).expect("it fits");
        assert!(process_start(own).expect("procfs is mounted").expect("it runs") > 0);
        let mut child = std::process::Command::new("/bin/true")
            .spawn()
            .expect("it is there");
        let pid = i32::try_from(child.id()).expect("it fits");
        child.wait().expect("it ends");
        assert_eq!(process_start(pid).expect("procfs is mounted"), None);
    }

    #[test]
    fn two_containers_cannot_have_one_name() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let first = ContainerDirectory::make(root.path(), "one").expect("it is new");
        let again = ContainerDirectory::make(root.path(), "one").expect_err("it exists");
        assert!(again.to_string().contains("already exists"));
        assert!(
            matches!(first.read("one"), Err(OciError::NotExist { .. })),
            "nothing was recorded yet"
        );
        first.remove().expect("it is ours");
        assert!(matches!(
            ContainerDirectory::open(root.path(), "one"),
            Err(OciError::NotExist { .. })
        ));
    }
}
