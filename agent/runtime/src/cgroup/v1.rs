//! One container's groups in the v1 hierarchies.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};
use rustix::fs::OFlags;

use super::devices::DeviceRules;
use super::directory::Directory;
use super::error::{CgroupError, Result};
use super::removal::{self, Pauses};
use super::root::{CgroupRoot, Controller};
use super::{limits, limits_v1};

/// How often a group is frozen, killed and thawed before new processes in it are an error. A frozen group cannot fork,
/// so the second round finds only what slipped in while the first one froze.
const KILL_ROUNDS_MAX: usize = 32;

/// How long freezing is waited for while killing: a process that cannot be frozen can still be killed.
const KILL_FREEZE_DEADLINE: Duration = Duration::from_millis(100);

/// The group's directory in one hierarchy.
#[derive(Debug)]
struct Member {
    controllers: Vec<Controller>,
    /// The group that paths are relative to.
    top: Directory,
    directory: Directory,
}

/// One container's groups, one in each hierarchy.
#[derive(Debug)]
pub(super) struct GroupV1 {
    members: Vec<Member>,
}

impl GroupV1 {
    pub fn create(root: &CgroupRoot, path: &str, resources: &LinuxResources) -> Result<GroupV1> {
        // Everything that can be refused without the kernel is refused before anything is made.
        let writes = limits_v1::plan(resources)?;
        let device_writes = match resources.devices() {
            Some(rules) if !rules.is_empty() => DeviceRules::from_spec(rules)?.v1_writes()?,
            _ => Vec::new(),
        };
        let mut group = GroupV1 {
            members: Vec::with_capacity(root.hierarchies.len()),
        };
        match group.fill(root, path, &writes, &device_writes) {
            Ok(()) => Ok(group),
            Err(error) => {
                // The reason for giving up says more than what removing the half-made group may add.
                let _ = group.destroy(path, Duration::ZERO);
                Err(error)
            }
        }
    }

    fn fill(
        &mut self,
        root: &CgroupRoot,
        path: &str,
        writes: &[limits::ControlWrite],
        device_writes: &[(&'static str, String)],
    ) -> Result<()> {
        for hierarchy in &root.hierarchies {
            let top = Directory::open(&hierarchy.directory)?;
            let directory = make_group(&top, path, &hierarchy.controllers)?;
            self.members.push(Member {
                controllers: hierarchy.controllers.clone(),
                top,
                directory,
            });
        }
        limits::apply(writes, |controller| self.directory_of(controller))?;
        self.write_devices(path, device_writes)
    }

    pub fn open(root: &CgroupRoot, path: &str) -> Result<GroupV1> {
        let mut members = Vec::with_capacity(root.hierarchies.len());
        let mut missing = None;
        for hierarchy in &root.hierarchies {
            let top = Directory::open(&hierarchy.directory)?;
            match top.open_below(path) {
                Ok(directory) => members.push(Member {
                    controllers: hierarchy.controllers.clone(),
                    top,
                    directory,
                }),
                // A group that is half removed is still opened, so that the rest can be removed too.
                Err(error) if error.errno() == Some(libc::ENOENT) => missing = Some(error),
                Err(error) => return Err(error),
            }
        }
        match missing {
            Some(error) if members.is_empty() => Err(error),
            _ => Ok(GroupV1 { members }),
        }
    }

    pub fn directory_of(&self, controller: Controller) -> Option<&Directory> {
        self.members
            .iter()
            .find(|member| member.controllers.contains(&controller))
            .map(|member| &member.directory)
    }

    /// The hierarchy whose processes stand for the group: one that can freeze or count them where there is one.
    pub fn main_directory(&self) -> &Directory {
        &self.main().directory
    }

    fn main(&self) -> &Member {
        [Controller::Freezer, Controller::Pids, Controller::Memory]
            .iter()
            .find_map(|wanted| {
                self.members
                    .iter()
                    .find(|member| member.controllers.contains(wanted))
            })
            .unwrap_or(&self.members[0])
    }

    pub fn task_fds(&self) -> Result<Vec<OwnedFd>> {
        self.members
            .iter()
            .map(|member| open_file(&member.directory, "tasks"))
            .collect()
    }

    pub fn add_process(&self, process: i32) -> Result<()> {
        for member in &self.members {
            member
                .directory
                .write("cgroup.procs", &process.to_string())
                .map_err(|error| {
                    CgroupError::io(
                        format!("move process {process} to"),
                        member.directory.path(),
                        error,
                    )
                })?;
        }
        Ok(())
    }

    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let writes = limits_v1::plan(resources)?;
        limits::apply(&writes, |controller| self.directory_of(controller))?;
        match resources.devices() {
            Some(rules) if !rules.is_empty() => self.update_devices(rules),
            _ => Ok(()),
        }
    }

    /// Replaces the device rules. For an instant all access is refused (or allowed, where that is the new default).
    fn update_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<()> {
        let writes = DeviceRules::from_spec(rules)?.v1_writes()?;
        self.write_devices(&self.main_directory().path().display().to_string(), &writes)
    }

    fn write_devices(&self, path: &str, writes: &[(&'static str, String)]) -> Result<()> {
        if writes.is_empty() {
            return Ok(());
        }
        let directory =
            self.directory_of(Controller::Devices)
                .ok_or_else(|| CgroupError::DevicesUnrestricted {
                    path: path.to_owned(),
                    reason: "the devices controller is not mounted",
                    source: std::io::Error::from_raw_os_error(libc::ENODEV),
                })?;
        let allow = open_file(directory, "devices.allow")?;
        let deny = open_file(directory, "devices.deny")?;
        for (name, value) in writes {
            let file = if *name == "devices.allow" { &allow } else { &deny };
            rustix::io::write(file, value.as_bytes()).map_err(|errno| CgroupError::LimitRefused {
                file: (*name).to_owned(),
                value: value.clone(),
                group: directory.path().display().to_string(),
                hint: if errno == rustix::io::Errno::PERM {
                    ": the parent group does not allow it".to_owned()
                } else {
                    String::new()
                },
                source: errno.into(),
            })?;
        }
        Ok(())
    }

    fn freezer(&self) -> Result<&Directory> {
        self.directory_of(Controller::Freezer)
            .ok_or(CgroupError::MissingController {
                controller: Controller::Freezer,
                limit: "pausing a container",
            })
    }

    pub fn freeze(&self, deadline: Duration) -> Result<()> {
        let freezer = self.freezer()?;
        let mut pauses = Pauses::until(deadline);
        loop {
            // Written each time: a process that joined while the group froze is only caught by another write.
            write_state(freezer, "FROZEN")?;
            if read_state(freezer)? == "FROZEN" {
                return Ok(());
            }
            if !pauses.pause() {
                return Err(pauses.timed_out(freezer.path(), "freeze"));
            }
        }
    }

    pub fn thaw(&self) -> Result<()> {
        write_state(self.freezer()?, "THAWED")
    }

    pub fn is_frozen(&self) -> Result<bool> {
        Ok(read_state(self.freezer()?)? == "FROZEN")
    }

    pub fn kill_all(&self) -> Result<()> {
        let main = self.main_directory();
        let can_freeze = self.directory_of(Controller::Freezer).is_some();
        let started = Instant::now();
        // An empty group starts nothing, and looking costs a fraction of freezing.
        if removal::processes_below(main)?.is_empty() {
            return Ok(());
        }
        for _ in 0..KILL_ROUNDS_MAX {
            // A group that would not freeze in time is killed all the same; the next round looks again.
            let frozen = can_freeze && self.freeze(KILL_FREEZE_DEADLINE).is_ok();
            let killed = removal::signal_all(main);
            if can_freeze {
                // Only a thawed process ends.
                self.thaw()?;
            }
            // Frozen, nothing could fork between reading the list and the signals.
            if killed? == 0 || frozen {
                return Ok(());
            }
        }
        Err(CgroupError::TimedOut {
            path: main.path().display().to_string(),
            action: "stop starting new processes",
            waited_ms: started.elapsed().as_millis(),
        })
    }

    pub fn remove(self, path: &str, deadline: Duration) -> Result<()> {
        if self.main().top.remove(path.as_ref()).is_err() {
            self.kill_all()?;
        }
        self.destroy(path, deadline)
    }

    pub fn destroy(mut self, path: &str, deadline: Duration) -> Result<()> {
        let mut pauses = Pauses::until(deadline);
        loop {
            let mut busy = Vec::new();
            for member in self.members {
                if !removal::try_remove(&member.top, path)? {
                    busy.push(member);
                }
            }
            self.members = busy;
            let Some(first) = self.members.first() else {
                return Ok(());
            };
            if !pauses.pause() {
                return Err(pauses.timed_out(first.directory.path(), "end"));
            }
        }
    }
}

/// Makes the group `path` below a hierarchy, without limits of an earlier one.
fn make_group(top: &Directory, path: &str, controllers: &[Controller]) -> Result<Directory> {
    if !make_where_missing(top, path, controllers)? {
        replace_leftover(top, path)?;
    }
    if controllers.contains(&Controller::Cpuset) {
        inherit_cpuset(top, path)?;
    }
    top.open_below(path)
}

/// The file through which a thread joins the group `path` of a hierarchy, which is made where it is missing.
pub(super) fn open_tasks(top: &Directory, path: &str, controllers: &[Controller]) -> Result<OwnedFd> {
    make_where_missing(top, path, controllers)?;
    if controllers.contains(&Controller::Cpuset) {
        inherit_cpuset(top, path)?;
    }
    open_file(&top.open_below(path)?, "tasks")
}

/// Makes a group, and its parents where they are missing; false when it was there.
fn make_where_missing(top: &Directory, path: &str, controllers: &[Controller]) -> Result<bool> {
    let has_cpuset = controllers.contains(&Controller::Cpuset);
    match top.make(path) {
        Err(error) if error.errno() == Some(libc::ENOENT) => {
            for (at, _) in path.match_indices('/') {
                let parent = &path[..at];
                if top.make(parent)? && has_cpuset {
                    inherit_cpuset(top, parent)?;
                    // Groups made below inherit at once, which saves each container eight system calls.
                    write_below(top, &format!("{parent}/cgroup.clone_children"), "1")?;
                }
            }
            top.make(path)
        }
        other => other,
    }
}

/// Removes an empty group that a crash left behind and makes it again, so that it has no old limits.
pub(super) fn replace_leftover(top: &Directory, path: &str) -> Result<()> {
    let processes = removal::processes_below(&top.open_below(path)?)?.len();
    if processes > 0 || !removal::try_remove(top, path)? || !top.make(path)? {
        return Err(CgroupError::InUse {
            path: path.to_owned(),
            processes,
        });
    }
    Ok(())
}

/// Gives a cpuset group that has none the CPUs and memory nodes of its parent, without which nothing can join it.
///
/// A parent that is empty too is given them first: another process may have made it just now and not come to it.
fn inherit_cpuset(top: &Directory, path: &str) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        cpuset(top, path, file)?;
    }
    Ok(())
}

/// What a cpuset group has, or now inherits.
fn cpuset(top: &Directory, path: &str, file: &str) -> Result<String> {
    let own = if path.is_empty() {
        file.to_owned()
    } else {
        format!("{path}/{file}")
    };
    let value = read_below(top, &own)?;
    if !value.is_empty() || path.is_empty() {
        return Ok(value);
    }
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    let inherited = cpuset(top, parent, file)?;
    write_below(top, &own, &inherited)?;
    Ok(inherited)
}

fn read_below(top: &Directory, file: &str) -> Result<String> {
    let content = top
        .read(file)
        .map_err(|error| CgroupError::io("read", top.path().join(file), error))?;
    Ok(content.trim().to_owned())
}

fn write_below(top: &Directory, file: &str, value: &str) -> Result<()> {
    top.write(file, value)
        .map_err(|error| CgroupError::io(format!("write {value:?} to"), top.path().join(file), error))
}

fn open_file(directory: &Directory, name: &str) -> Result<OwnedFd> {
    directory
        .file(name, OFlags::WRONLY)
        .map_err(|error| CgroupError::io("open", directory.path().join(name), error))
}

fn write_state(freezer: &Directory, state: &str) -> Result<()> {
    let path = || freezer.path().join("freezer.state");
    freezer
        .write("freezer.state", state)
        .map_err(|error| CgroupError::io(format!("write {state} to"), path(), error))
}

fn read_state(freezer: &Directory) -> Result<String> {
    let state = freezer
        .read("freezer.state")
        .map_err(|error| CgroupError::io("read", freezer.path().join("freezer.state"), error))?;
    Ok(state.trim().to_owned())
}
