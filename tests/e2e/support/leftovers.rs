//! What a lab or daemon may have left on the machine.

use std::fs;
use std::path::{Path, PathBuf};

/// Where to look.
pub struct Leftovers<'a> {
    /// Path of the cgroup below every hierarchy.
    pub cgroup: &'a str,
    /// Directories below which nothing may be mounted, and that no process may name in its command line.
    pub directories: &'a [&'a Path],
}

impl Leftovers<'_> {
    /// All that is left, one line each.
    pub fn find(&self) -> Vec<String> {
        let mut found: Vec<String> = self.cgroups();
        found.extend(self.mounts());
        found.extend(self.processes());
        found
    }

    fn cgroups(&self) -> Vec<String> {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(root).expect("cgroups are mounted");
        let mut candidates: Vec<PathBuf> = hierarchies.flatten().map(|entry| entry.path()).collect();
        candidates.push(root.to_owned());
        let paths = candidates
            .into_iter()
            .map(|hierarchy| hierarchy.join(self.cgroup));
        paths
            .filter(|path| path.exists())
            .map(|path| format!("cgroup {}", path.display()))
            .collect()
    }

    fn mounts(&self) -> Vec<String> {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
        let below = |line: &&str| {
            let place = line.split(' ').nth(1).unwrap_or_default();
            self.directories
                .iter()
                .any(|directory| Path::new(place).starts_with(directory))
        };
        mounts
            .lines()
            .filter(below)
            .map(|line| format!("mount {line}"))
            .collect()
    }

    fn processes(&self) -> Vec<String> {
        let own = std::process::id().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc is mounted").flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if pid == own || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            // A process that has just ended has no command line.
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let names = |directory: &&Path| command.contains(&*directory.to_string_lossy());
            if self.directories.iter().any(names) {
                found.push(format!("process {pid} {command}"));
            }
        }
        found
    }
}
