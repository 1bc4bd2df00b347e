//! What a monitor leaves behind for the case that it ends before its container.

use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::connection::SOCKET_NAME;
use crate::cgroup::{Cgroup, CgroupRoot};
use crate::error::{Result, RuntimeError};
use crate::exit::{self, ExitStatus};

/// The name of the record in the container's run directory.
pub(crate) const RECORD_NAME: &str = "container.json";

/// How long the removal of a killed container's control group may take; processes in uninterruptible sleep hold it.
const DESTROY_DEADLINE: Duration = Duration::from_secs(5);

/// Where a container's pieces are. Written by its monitor before the container's process runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub pid: i32,
    /// The start time from /proc/PID/stat, so that a reused process id is never killed.
    pub start_ticks: u64,
    pub exit_file: Option<PathBuf>,
    pub cgroup: Option<(CgroupRoot, String)>,
}

impl ContainerRecord {
    pub(crate) fn write(&self, state_dir: &Path) -> io::Result<()> {
        let unfinished = state_dir.join("container.json.new");
        let mut file = std::fs::File::create(&unfinished)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        std::fs::rename(unfinished, state_dir.join(RECORD_NAME))
    }
}

/// The time at which a process started, in clock ticks since boot; `None` when there is no such process.
pub(crate) fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count from the last one: start time is field 22.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// Settles a container whose monitor is gone: returns its recorded status, or kills what is left of it, removes its
/// control group and records 137 with the reason [`exit::MONITOR_LOST`]. Idempotent; blocks.
///
/// `None` when no container was started from this run directory since boot. [`RuntimeError::Refused`] while a monitor
/// still serves it.
pub fn recover_lost(state_dir: &Path) -> Result<Option<ExitStatus>> {
    let path = state_dir.join(RECORD_NAME);
    let content = match std::fs::read(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(RuntimeError::io(format!("read {}", path.display()), error)),
    };
    let record: ContainerRecord = serde_json::from_slice(&content)
        .map_err(|error| RuntimeError::io(format!("read {}", path.display()), error))?;
    if let Some(file) = &record.exit_file
        && let Some(status) = exit::read_exit_file(file)?
    {
        return Ok(Some(status));
    }
    if UnixStream::connect(state_dir.join(SOCKET_NAME)).is_ok() {
        return Err(RuntimeError::Refused {
            message: "the container's monitor still serves it".to_owned(),
        });
    }
    kill_leftovers(&record)?;
    let status = ExitStatus::monitor_lost(exit::wall_clock_ns());
    if let Some(file) = &record.exit_file {
        exit::write_exit_file(file, &status)?;
    }
    Ok(Some(status))
}

fn kill_leftovers(record: &ContainerRecord) -> Result<()> {
    kill_init(record)?;
    let Some((root, path)) = &record.cgroup else {
        return Ok(());
    };
    // A group that cannot be opened was removed already.
    let Ok(group) = Cgroup::open(root, path) else {
        return Ok(());
    };
    group
        .kill_all()
        .map_err(|source| RuntimeError::cgroup("kill the processes of", source))?;
    group
        .destroy(DESTROY_DEADLINE)
        .map_err(|source| RuntimeError::cgroup("remove", source))
}

fn kill_init(record: &ContainerRecord) -> Result<()> {
    let Some(pid) = Pid::from_raw(record.pid) else {
        return Ok(());
    };
    let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
        return Ok(());
    };
    // The descriptor is open now: if the start time is still the recorded one, it is the container's process.
    if start_ticks(record.pid) != Some(record.start_ticks) {
        return Ok(());
    }
    match rustix::process::pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(RuntimeError::io("kill a container that lost its monitor", error)),
    }
}
