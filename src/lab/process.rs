//! Processes of a lab's nodes, found by pid and start time: a pid alone may have been given to somebody else.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Wait between two looks at a process that should be gone.
const POLL: Duration = Duration::from_millis(10);

/// Start time of a process in clock ticks since boot (proc_pid_stat(5), field 22); `None` once all of its threads are
/// gone. Where only the first one is, the others still hold the process's files, and so its locks.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the fields after it may not.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if *fields.first()? == "Z" && *fields.get(17)? == "1" {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// The process is the one that was started then.
pub fn is_alive((pid, started): (i32, u64)) -> bool {
    start_time(pid) == Some(started)
}

/// The daemon among the children of a node's first process.
pub fn daemon_of(init: i32) -> Option<i32> {
    let children = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).ok()?;
    children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .find(|pid| is_daemon(*pid))
}

/// The first processes of all nodes whose directories lie below this one, by their command lines: also of those that
/// no record names.
pub fn nodes_of(directory: &Path) -> Vec<(i32, u64)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let command = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    pids.filter(|pid| names_node_of(&command(pid), directory))
        .filter_map(|pid| Some((pid, start_time(pid)?)))
        .collect()
}

/// `muster lab-node NAME DIRECTORY CGROUP`
fn names_node_of(command: &[u8], lab: &Path) -> bool {
    let arguments: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
    let directory = arguments.get(3).map(|bytes| Path::new(OsStr::from_bytes(bytes)));
    arguments.get(1) == Some(&b"lab-node".as_slice())
        && directory.is_some_and(|directory| directory.parent() == Some(lab))
}

fn is_daemon(pid: i32) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.split(|byte| *byte == 0).nth(1) == Some(b"daemon")
}

/// Sends a signal; a process that is gone is none of our business.
pub fn signal(pid: i32, signal: Signal) -> anyhow::Result<()> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until the process is gone; false when it is not in time.
pub fn wait_gone(process: (i32, u64), within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while is_alive(process) {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_labs_nodes_are_known_by_their_command_lines() {
        let lab = Path::new("/labs/one");
        let command = |text: &str| text.replace(' ', "\0").into_bytes();
        let node = command("muster lab-node node-1 /labs/one/node-1 /muster-lab/one/node-1");
        assert!(names_node_of(&node, lab));
        assert!(!names_node_of(&node, Path::new("/labs/on")));
        assert!(!names_node_of(&command("muster daemon x /labs/one/node-1"), lab));
        assert!(!names_node_of(b"", lab));
    }

    #[test]
    fn a_process_is_known_by_its_start_time() {
        let own = i32::try_from(std::process::id()).unwrap();
        let started = start_time(own).unwrap();
        assert!(is_alive((own, started)));
        assert!(!is_alive((own, started + 1)));
    }
}
