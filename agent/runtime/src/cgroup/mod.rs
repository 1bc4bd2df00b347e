//! Control groups v1 and v2: limits, device access, freezing, statistics and killing for one container.
//!
//! Never touches a group that it did not make, and never leaves its root. Start reading at [`CgroupRoot::detect`] and
//! [`Cgroup::create`]; v1 and v2 differ in `v1.rs` and `v2.rs`, the values to write are planned in `limits_*.rs`.
//! All operations block for microseconds, except freezing and destroying, which wait up to a deadline.

mod bpf;
mod delegation;
mod device_program;
mod devices;
mod directory;
mod error;
mod features;
mod handover;
mod limits;
mod limits_v1;
mod limits_v2;
mod monitors;
mod mounts;
mod removal;
mod root;
mod stats;
mod stats_v1;
mod stats_v2;
mod v1;
mod v2;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;

pub use error::{CgroupError, Result};
pub(crate) use limits::swap_alone;
pub(crate) use limits_v2::weight_of_shares as cpu_weight_of_shares;
pub use root::{CgroupRoot, CgroupVersion, Controller, Features, PARENT_DEFAULT};
pub use stats::{BlockStats, CgroupStats, CpuStats, DeviceCount, MemoryStats, PidsStats};

/// How long freezing may take before it is given up: a process in uninterruptible sleep can hold it up for as long as
/// its device does not answer.
const FREEZE_DEADLINE: Duration = Duration::from_secs(10);

/// The control group of one container, held by descriptors: of its own directory in each hierarchy.
#[derive(Debug)]
pub struct Cgroup {
    path: String,
    version: Version,
}

#[derive(Debug)]
enum Version {
    V1(v1::GroupV1),
    V2(v2::GroupV2),
}

impl Cgroup {
    /// Makes the group `path` (relative to the root, see [`CgroupRoot::path_of`]) with its limits and device rules.
    ///
    /// Parent groups are made where they are missing. An empty group that is left over from a crash is replaced; one
    /// that holds processes is [`CgroupError::InUse`]. After an error nothing of the new group is left.
    pub fn create(root: &CgroupRoot, path: &str, resources: &LinuxResources) -> Result<Cgroup> {
        let path = root::checked_path(path)?;
        let version = match root.version() {
            CgroupVersion::V1 => Version::V1(v1::GroupV1::create(root, path, resources)?),
            CgroupVersion::V2 => Version::V2(v2::GroupV2::create(root, path, resources)?),
        };
        Ok(Cgroup {
            path: path.to_owned(),
            version,
        })
    }

    /// Opens a group made before, by this process or an earlier one. Fails with `ENOENT` when it is gone.
    pub fn open(root: &CgroupRoot, path: &str) -> Result<Cgroup> {
        let path = root::checked_path(path)?;
        let version = match root.version() {
            CgroupVersion::V1 => Version::V1(v1::GroupV1::open(root, path)?),
            CgroupVersion::V2 => Version::V2(v2::GroupV2::open(root, path)?),
        };
        Ok(Cgroup {
            path: path.to_owned(),
            version,
        })
    }

    /// Whether the group is there in every hierarchy. What fails in one that is not, fails because its container ended:
    /// its groups are removed one by one, and each step of it answers differently (`ENOENT`, `ENODEV`, a controller less).
    pub fn is_whole(root: &CgroupRoot, path: &str) -> bool {
        let Ok(path) = root::checked_path(path) else {
            return false;
        };
        let mut hierarchies = root.hierarchies.iter();
        hierarchies.all(|hierarchy| hierarchy.directory.join(path).is_dir())
    }

    /// The group's path below the root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// v1: the `tasks` files of all hierarchies, open for writing. A single-threaded process that writes `0` to each of
    /// them joins the group itself, which is far cheaper than being moved by another process: the kernel then needs
    /// no lock that waits for an RCU grace period. Empty on v2.
    pub fn task_fds(&self) -> Result<Vec<OwnedFd>> {
        match &self.version {
            Version::V1(group) => group.task_fds(),
            Version::V2(_) => Ok(Vec::new()),
        }
    }

    /// v2: the group's directory, for `clone3` with `CLONE_INTO_CGROUP` (opened with `O_PATH`). Nothing on v1.
    pub fn dir_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.version {
            Version::V1(_) => None,
            Version::V2(group) => Some(group.dir_fd()),
        }
    }

    /// v2: the directory of the group that a further process of the container (an exec) is cloned into: where the
    /// container manages groups of its own, the group that its first process `init` is in. Nothing on v1.
    pub fn exec_dir_fd(&self, init: i32) -> Result<Option<OwnedFd>> {
        match &self.version {
            Version::V1(_) => Ok(None),
            Version::V2(group) => group.joinable(&self.path, init).map(Some),
        }
    }

    /// Moves a process into the group, with all its threads. Idempotent.
    pub fn add_process(&self, process: i32) -> Result<()> {
        match &self.version {
            Version::V1(group) => group.add_process(process),
            Version::V2(group) => group.add_process(process),
        }
    }

    /// Changes limits; those that are not given stay as they are. Device rules replace the old ones.
    ///
    /// Where the kernel refuses a value in the middle, the ones before it stay changed.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        match &self.version {
            Version::V1(group) => group.update(resources),
            Version::V2(group) => group.update(resources),
        }
    }

    /// Stops every process of the group and of those below it, and returns once they stand still. Idempotent.
    /// On a failure the group is thawed again.
    pub fn freeze(&self) -> Result<()> {
        let frozen = match &self.version {
            Version::V1(group) => group.freeze(FREEZE_DEADLINE),
            Version::V2(group) => group.freeze(FREEZE_DEADLINE),
        };
        if frozen.is_err() {
            // The first error says more than one of the thaw would.
            let _ = self.thaw();
        }
        frozen
    }

    /// Lets the processes go on. Idempotent.
    pub fn thaw(&self) -> Result<()> {
        match &self.version {
            Version::V1(group) => group.thaw(),
            Version::V2(group) => group.thaw(),
        }
    }

    /// Whether the group is frozen by [`freeze`](Self::freeze).
    pub fn is_frozen(&self) -> Result<bool> {
        match &self.version {
            Version::V1(group) => group.is_frozen(),
            Version::V2(group) => group.is_frozen(),
        }
    }

    /// What the group has used so far.
    pub fn stats(&self) -> Result<CgroupStats> {
        match &self.version {
            Version::V1(group) => stats_v1::read(group),
            Version::V2(group) => stats_v2::read(group.directory()),
        }
    }

    /// How many of the group's processes the kernel killed for want of memory.
    pub fn oom_kills(&self) -> Result<u64> {
        match &self.version {
            Version::V1(group) => stats_v1::oom_kills(group),
            Version::V2(group) => stats_v2::oom_kills(group.directory()),
        }
    }

    /// The processes of the group and of those below it, as seen from this pid namespace.
    pub fn pids(&self) -> Result<Vec<i32>> {
        removal::processes_below(self.main_directory())
    }

    /// Kills every process of the group and of those below it, also a frozen one and one that forks meanwhile.
    /// Does not wait for their end.
    pub fn kill_all(&self) -> Result<()> {
        match &self.version {
            Version::V1(group) => group.kill_all(),
            Version::V2(group) => group.kill_all(),
        }
    }

    /// Removes the group and those below it, waiting up to `deadline` for processes that are about to end.
    /// What is already gone is no error. Processes are not killed.
    pub fn destroy(self, deadline: Duration) -> Result<()> {
        match self.version {
            Version::V1(group) => group.destroy(&self.path, deadline),
            Version::V2(group) => group.destroy(&self.path, deadline),
        }
    }

    /// Kills every process of the group and removes it, as [`kill_all`](Self::kill_all) and
    /// [`destroy`](Self::destroy) do one after the other. A group in which nothing is left, as at the end of most
    /// containers, is not even looked into: the kernel removes no group with a process in it or another group below.
    pub fn remove(self, deadline: Duration) -> Result<()> {
        match self.version {
            Version::V1(group) => group.remove(&self.path, deadline),
            Version::V2(group) => group.remove(&self.path, deadline),
        }
    }

    /// The directory whose processes stand for the group.
    fn main_directory(&self) -> &directory::Directory {
        match &self.version {
            Version::V1(group) => group.main_directory(),
            Version::V2(group) => group.directory(),
        }
    }
}
