//! Which part of the v2 tree is ours, and keeping it free of processes where the kernel demands it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::directory::Directory;
use super::error::{CgroupError, Result};

/// The leaf group that holds the daemon's own processes below a delegated group.
pub(super) const DAEMON_LEAF: &str = "daemon";

/// How often new processes may appear in the group while it is emptied before that is an error: each round moves
/// everything seen, so more rounds mean that something keeps starting processes there.
const VACATE_ROUNDS_MAX: usize = 64;

/// The group below which the engine makes its own.
pub(super) struct Base {
    pub directory: PathBuf,
    pub delegated: bool,
}

/// The nearest delegated group that this process is in, else the mount's root.
///
/// systemd marks a delegated group with an extended attribute. In a container with a control group namespace the
/// mount's root is not the real root, but it is all that there is: it counts as delegated.
pub(super) fn find_base(mount_point: &Path) -> Result<Base> {
    let own = own_group()?;
    let mut group = mount_point.join(own.trim_start_matches('/'));
    while group != mount_point && group.starts_with(mount_point) {
        if is_marked_delegated(&group) {
            return Ok(Base {
                directory: group,
                delegated: true,
            });
        }
        group.pop();
    }
    Ok(whole(mount_point))
}

/// The mount's root.
pub(super) fn whole(mount_point: &Path) -> Base {
    Base {
        directory: mount_point.to_owned(),
        // Every group but the real root has cgroup.type.
        delegated: mount_point.join("cgroup.type").exists(),
    }
}

fn own_group() -> Result<String> {
    const FILE: &str = "/proc/self/cgroup";
    let content = std::fs::read_to_string(FILE).map_err(|error| CgroupError::io("read", FILE, error))?;
    let path = content
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/");
    // A group outside of the namespace's root shows as "/../..": nothing there is ours.
    Ok(if path.split('/').any(|component| component == "..") {
        "/".to_owned()
    } else {
        path.to_owned()
    })
}

fn is_marked_delegated(group: &Path) -> bool {
    ["trusted.delegate", "user.delegate"].iter().any(|attribute| {
        let mut value = [0u8; 8];
        matches!(rustix::fs::getxattr(group, *attribute, &mut value[..]), Ok(1) if value[0] == b'1')
    })
}

/// Moves every process of a group to its leaf [`DAEMON_LEAF`].
pub(super) fn vacate(base: &Path) -> Result<()> {
    let started = Instant::now();
    let group = Directory::open(base)?;
    if group.processes()?.is_empty() {
        return Ok(());
    }
    group.make(DAEMON_LEAF)?;
    let leaf = group.open_below(DAEMON_LEAF)?;
    for _ in 0..VACATE_ROUNDS_MAX {
        let processes = group.processes()?;
        if processes.is_empty() {
            return Ok(());
        }
        for process in processes {
            match leaf.write("cgroup.procs", &process.to_string()) {
                Ok(()) => {}
                // It ended in between.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => {
                    return Err(CgroupError::io(
                        format!("move process {process} to"),
                        leaf.path(),
                        error,
                    ));
                }
            }
        }
    }
    Err(CgroupError::TimedOut {
        path: base.display().to_string(),
        action: "move to the daemon's leaf",
        waited_ms: started.elapsed().as_millis(),
    })
}
