//! One container's group in the unified hierarchy.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

use super::devices::DeviceRules;
use super::directory::Directory;
use super::error::{CgroupError, Result};
use super::removal::{self, Pauses};
use super::root::CgroupRoot;
use super::{bpf, device_program, handover, limits, limits_v2};

/// How often a group is frozen, killed and thawed on kernels without `cgroup.kill` before new processes in it are an
/// error.
const KILL_ROUNDS_MAX: usize = 32;

/// One container's group.
#[derive(Debug)]
pub(super) struct GroupV2 {
    top: PathBuf,
    directory: Directory,
}

impl GroupV2 {
    pub fn create(root: &CgroupRoot, path: &str, resources: &LinuxResources) -> Result<GroupV2> {
        // Everything that can be refused without the kernel is refused before anything is made.
        let writes = limits_v2::plan(resources)?;
        if let Some(write) = writes.iter().find(|write| !root.has(write.controller)) {
            return Err(CgroupError::MissingController {
                controller: write.controller,
                limit: write.limit,
            });
        }
        let rules = resources
            .devices()
            .as_deref()
            .map(DeviceRules::from_spec)
            .transpose()?;
        let top = &root.hierarchies[0].directory;
        let directory = handover::make_group(root, path)?;
        let group = GroupV2 {
            top: top.clone(),
            directory,
        };
        let filled = limits::apply(&writes, |_| Some(&group.directory)).and_then(|()| match &rules {
            Some(rules) if !rules.allow_everything() => group.attach_devices(path, rules),
            _ => Ok(()),
        });
        match filled {
            Ok(()) => Ok(group),
            Err(error) => {
                // The reason for giving up says more than what removing the half-made group may add.
                let _ = group.destroy(path, Duration::ZERO);
                Err(error)
            }
        }
    }

    pub fn open(root: &CgroupRoot, path: &str) -> Result<GroupV2> {
        let top = &root.hierarchies[0].directory;
        Ok(GroupV2 {
            top: top.clone(),
            directory: Directory::open(&top.join(path))?,
        })
    }

    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    pub fn dir_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    pub fn add_process(&self, process: i32) -> Result<()> {
        self.directory
            .write("cgroup.procs", &process.to_string())
            .map_err(|error| {
                CgroupError::io(format!("move process {process} to"), self.directory.path(), error)
            })
    }

    /// The group that a further process of a container joins. Where the container hands controllers to groups of its
    /// own (systemd, an engine in an engine) the kernel refuses processes in the container's group; its first process
    /// then shows the way.
    pub fn joinable(&self, path: &str, init: i32) -> Result<OwnedFd> {
        let control = self
            .directory
            .read_if_there("cgroup.subtree_control")?
            .unwrap_or_default();
        let below = if control.trim().is_empty() {
            None
        } else {
            group_below(path, init)?
        };
        let opened = match below {
            Some(below) => self.directory.open_below(&below)?.as_fd().try_clone_to_owned(),
            None => self.directory.as_fd().try_clone_to_owned(),
        };
        opened.map_err(|error| CgroupError::io("open", self.directory.path(), error))
    }

    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let writes = limits_v2::plan(resources)?;
        if resources
            .memory()
            .as_ref()
            .is_some_and(|memory| memory.check_before_update() == Some(true))
        {
            self.check_memory_fits(&writes)?;
        }
        limits::apply(&writes, |_| Some(&self.directory))?;
        match resources.devices() {
            Some(rules) if !rules.is_empty() => self.update_devices(rules),
            _ => Ok(()),
        }
    }

    /// v2 reclaims and kills to bring a group under a lower limit; this refuses the limit instead.
    fn check_memory_fits(&self, writes: &[limits::ControlWrite]) -> Result<()> {
        let limit = writes
            .iter()
            .find(|write| write.file == "memory.max")
            .and_then(|write| write.value.parse().ok());
        let usage = self
            .directory
            .read_if_there("memory.current")?
            .and_then(|text| text.trim().parse::<u64>().ok());
        match (limit, usage) {
            (Some(limit), Some(usage)) if usage > limit => Err(CgroupError::InvalidLimit {
                limit: "memory limit",
                value: limit.to_string(),
                reason: format!("{usage} bytes are in use"),
            }),
            _ => Ok(()),
        }
    }

    fn attach_devices(&self, path: &str, rules: &DeviceRules) -> Result<()> {
        let program = device_program::assemble(rules);
        bpf::attach_device_program(self.directory.path(), &program).map_err(|failure| {
            CgroupError::DevicesUnrestricted {
                path: path.to_owned(),
                reason: failure.step,
                source: failure.source,
            }
        })
    }

    fn update_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<()> {
        let rules = DeviceRules::from_spec(rules)?;
        self.attach_devices(&self.directory.path().display().to_string(), &rules)
    }

    pub fn freeze(&self, deadline: Duration) -> Result<()> {
        self.write_freeze("1")?;
        let started = Instant::now();
        let events_path = self.directory.path().join("cgroup.events");
        let events = self
            .directory
            .file("cgroup.events", OFlags::RDONLY)
            .map_err(|error| CgroupError::io("open", &events_path, error))?;
        while !self.is_frozen()? {
            let left = deadline.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(CgroupError::TimedOut {
                    path: self.directory.path().display().to_string(),
                    action: "freeze",
                    waited_ms: started.elapsed().as_millis(),
                });
            }
            // The kernel signals a change of cgroup.events since the last read of this descriptor.
            let mut content = [0u8; 64];
            rustix::io::pread(&events, &mut content, 0)
                .map_err(|errno| CgroupError::io("read", &events_path, errno))?;
            if content.windows(8).any(|window| window == b"frozen 1") {
                return Ok(());
            }
            let timeout = Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(CgroupError::io("wait for", &events_path, errno)),
            }
        }
        Ok(())
    }

    pub fn thaw(&self) -> Result<()> {
        self.write_freeze("0")
    }

    fn write_freeze(&self, value: &str) -> Result<()> {
        self.directory.write("cgroup.freeze", value).map_err(|error| {
            CgroupError::io(
                format!("write {value} to"),
                self.directory.path().join("cgroup.freeze"),
                error,
            )
        })
    }

    pub fn is_frozen(&self) -> Result<bool> {
        let events = self
            .directory
            .read("cgroup.events")
            .map_err(|error| CgroupError::io("read", self.directory.path().join("cgroup.events"), error))?;
        Ok(events.lines().any(|line| line == "frozen 1"))
    }

    pub fn kill_all(&self) -> Result<()> {
        match self.directory.write("cgroup.kill", "1") {
            Ok(()) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.kill_by_signal(),
            Err(error) => Err(CgroupError::io(
                "write 1 to",
                self.directory.path().join("cgroup.kill"),
                error,
            )),
        }
    }

    /// Before Linux 5.14: what is frozen cannot fork while it is killed. A frozen process ends on SIGKILL here.
    fn kill_by_signal(&self) -> Result<()> {
        for _ in 0..KILL_ROUNDS_MAX {
            let frozen = self.freeze(Duration::from_millis(100)).is_ok();
            let killed = removal::signal_all(&self.directory)?;
            if killed == 0 || frozen {
                break;
            }
        }
        self.thaw()
    }

    pub fn remove(self, path: &str, deadline: Duration) -> Result<()> {
        if Directory::open(&self.top)?.remove(path.as_ref()).is_ok() {
            return Ok(());
        }
        match self.kill_all() {
            // systemd removes its scopes itself once they are empty.
            Err(CgroupError::Io { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {}
            killed => killed?,
        }
        self.destroy(path, deadline)
    }

    pub fn destroy(self, path: &str, deadline: Duration) -> Result<()> {
        let top = Directory::open(&self.top)?;
        let mut pauses = Pauses::until(deadline);
        while !removal::try_remove(&top, path)? {
            if !pauses.pause() {
                return Err(pauses.timed_out(&self.top.join(path), "end"));
            }
        }
        Ok(())
    }
}

/// Where a process is below the group `path`, from `/proc/<pid>/cgroup`.
fn group_below(path: &str, process: i32) -> Result<Option<String>> {
    let file = format!("/proc/{process}/cgroup");
    let content = std::fs::read_to_string(&file).map_err(|error| CgroupError::io("read", &file, error))?;
    let own = content
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("");
    let below = own
        .split_once(&format!("/{path}/"))
        .map(|(_, below)| below.to_owned());
    Ok(below.filter(|below| super::root::checked_path(below).is_ok()))
}
