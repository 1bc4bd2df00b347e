//! Walking, killing and removing a group with everything below it.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::directory::Directory;
use super::error::{CgroupError, Result};

/// How deep groups below a container's may nest. A container that manages groups of its own (systemd, an engine in an
/// engine) stays below ten; each level holds a descriptor while it is walked.
const DEPTH_MAX: usize = 64;

/// The first and the longest pause between two tries to remove a group whose processes are about to end: a killed
/// process leaves its group within tens of microseconds, unless it has much memory to free.
const PAUSE_FIRST: Duration = Duration::from_micros(50);
const PAUSE_LONGEST: Duration = Duration::from_millis(10);

/// Pauses that double from [`PAUSE_FIRST`] until a deadline.
pub(super) struct Pauses {
    started: Instant,
    deadline: Duration,
    next: Duration,
}

impl Pauses {
    pub fn until(deadline: Duration) -> Pauses {
        Pauses {
            started: Instant::now(),
            deadline,
            next: PAUSE_FIRST,
        }
    }

    /// Sleeps; false once the deadline has passed.
    pub fn pause(&mut self) -> bool {
        if self.started.elapsed() >= self.deadline {
            return false;
        }
        std::thread::sleep(self.next);
        self.next = (self.next * 2).min(PAUSE_LONGEST);
        true
    }

    pub fn timed_out(&self, path: &Path, action: &'static str) -> CgroupError {
        CgroupError::TimedOut {
            path: path.display().to_string(),
            action,
            waited_ms: self.started.elapsed().as_millis(),
        }
    }
}

/// The processes of a group and of those below it.
pub(super) fn processes_below(directory: &Directory) -> Result<Vec<i32>> {
    let mut processes = directory.processes()?;
    for_each_below(directory, 0, &mut |group| {
        processes.extend(group.processes()?);
        Ok(())
    })?;
    processes.sort_unstable();
    processes.dedup();
    Ok(processes)
}

/// Visits every group below, parents first.
fn for_each_below(
    directory: &Directory,
    depth: usize,
    visit: &mut dyn FnMut(&Directory) -> Result<()>,
) -> Result<()> {
    check_depth(directory, depth)?;
    for name in list(directory)? {
        let Some(child) = open_child(directory, &name)? else {
            continue;
        };
        visit(&child)?;
        for_each_below(&child, depth + 1, visit)?;
    }
    Ok(())
}

/// Sends SIGKILL to every process that is in the group or below now.
pub(super) fn signal_all(directory: &Directory) -> Result<usize> {
    let processes = processes_below(directory)?;
    for process in &processes {
        // 0 stands for a process of another pid namespace; a process that ended in between is no error.
        let Some(pid) = Pid::from_raw(*process) else {
            continue;
        };
        match kill_process(pid, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => {
                return Err(CgroupError::io(
                    format!("kill process {process} of"),
                    directory.path(),
                    errno,
                ));
            }
        }
    }
    Ok(processes.len())
}

/// Removes the group at `path` below `hierarchy` and everything below it. True when nothing is left.
pub(super) fn try_remove(hierarchy: &Directory, path: &str) -> Result<bool> {
    match hierarchy.remove(path.as_ref()) {
        Ok(()) | Err(Errno::NOENT | Errno::NODEV) => return Ok(true),
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(errno) => return Err(CgroupError::io("remove", hierarchy.path().join(path), errno)),
    }
    let Some(group) = open_child(hierarchy, path.as_ref())? else {
        return Ok(true);
    };
    if !remove_children(&group, 0)? {
        return Ok(false);
    }
    match hierarchy.remove(path.as_ref()) {
        Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(true),
        Err(Errno::BUSY | Errno::NOTEMPTY) => Ok(false),
        Err(errno) => Err(CgroupError::io("remove", hierarchy.path().join(path), errno)),
    }
}

fn remove_children(group: &Directory, depth: usize) -> Result<bool> {
    check_depth(group, depth)?;
    let mut all_gone = true;
    for name in list(group)? {
        if let Some(child) = open_child(group, &name)? {
            all_gone &= remove_children(&child, depth + 1)?;
        }
        match group.remove(&name) {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(Errno::BUSY | Errno::NOTEMPTY) => all_gone = false,
            Err(errno) => {
                return Err(CgroupError::io("remove", group.path().join(&name), errno));
            }
        }
    }
    Ok(all_gone)
}

fn check_depth(group: &Directory, depth: usize) -> Result<()> {
    if depth < DEPTH_MAX {
        return Ok(());
    }
    Err(CgroupError::TooDeep {
        path: group.path().display().to_string(),
        limit: DEPTH_MAX,
    })
}

/// The children's names; none when the group went away meanwhile.
fn list(group: &Directory) -> Result<Vec<std::ffi::OsString>> {
    match group.children() {
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENODEV)) => Ok(Vec::new()),
        other => other,
    }
}

fn open_child(parent: &Directory, name: &std::ffi::OsStr) -> Result<Option<Directory>> {
    let Ok(name) = std::str::from_utf8(name.as_bytes()) else {
        let source = std::io::Error::from(std::io::ErrorKind::InvalidData);
        return Err(CgroupError::io("open", parent.path().join(name), source));
    };
    match parent.open_below(name) {
        Ok(child) => Ok(Some(child)),
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENODEV)) => Ok(None),
        Err(error) => Err(error),
    }
}
