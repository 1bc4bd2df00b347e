//! The mounted control group file systems, from `/proc/self/mountinfo`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::{CgroupError, Result};
use super::root::Controller;

/// A mounted control group file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CgroupMount {
    /// A v1 hierarchy and the controllers bound to it.
    V1 {
        directory: PathBuf,
        controllers: Vec<Controller>,
    },
    /// The unified hierarchy.
    V2 { directory: PathBuf },
}

/// The control group mounts that this process sees, in mount order.
pub(super) fn read() -> Result<Vec<CgroupMount>> {
    const MOUNTINFO: &str = "/proc/self/mountinfo";
    // The kernel makes the text anew for each read, so it is asked for in few large pieces.
    const USUAL_BYTES: usize = 16 << 10;
    let mut content = Vec::with_capacity(USUAL_BYTES);
    File::open(MOUNTINFO)
        .and_then(|mut file| file.read_to_end(&mut content))
        .map_err(|error| CgroupError::io("read", MOUNTINFO, error))?;
    Ok(String::from_utf8_lossy(&content)
        .lines()
        .filter_map(parse_line)
        .collect())
}

/// Reads one line: `36 35 98:0 /root /mount/point rw,noatime master:1 - cgroup cgroup rw,cpu,cpuacct`.
fn parse_line(line: &str) -> Option<CgroupMount> {
    let (before, after) = line.split_once(" - ")?;
    let directory = PathBuf::from(unescaped(before.split(' ').nth(4)?));
    let mut after = after.split(' ');
    let kind = after.next()?;
    let options = after.nth(1)?;
    match kind {
        "cgroup2" => Some(CgroupMount::V2 { directory }),
        "cgroup" => {
            let controllers: Vec<_> = options
                .split(',')
                .filter_map(Controller::from_kernel_name)
                .collect();
            (!controllers.is_empty()).then_some(CgroupMount::V1 {
                directory,
                controllers,
            })
        }
        _ => None,
    }
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescaped(field: &str) -> String {
    let mut path = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        path.push_str(&rest[..at]);
        let code = rest
            .get(at + 1..at + 4)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                path.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                path.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    path.push_str(rest);
    path
}

/// The controllers that a v2 group may hand to its children.
pub(super) fn unified_controllers(directory: &Path) -> Result<Vec<Controller>> {
    let file = directory.join("cgroup.controllers");
    let names = std::fs::read_to_string(&file).map_err(|error| CgroupError::io("read", &file, error))?;
    Ok(names
        .split_whitespace()
        .filter_map(Controller::from_kernel_name)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_versions_and_skips_the_rest() {
        let lines = [
            "31 23 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct",
            "32 23 0:27 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,xattr,name=systemd",
            r"33 23 0:28 / /mnt/with\040space rw - cgroup2 cgroup2 rw,nsdelegate",
            "34 23 0:29 / /sys/fs/cgroup/perf_event rw - cgroup cgroup rw,perf_event",
            "35 23 0:30 / /tmp rw - tmpfs tmpfs rw",
            "garbage",
        ];
        let mounts: Vec<_> = lines.iter().filter_map(|line| parse_line(line)).collect();
        assert_eq!(
            mounts,
            [
                CgroupMount::V1 {
                    directory: "/sys/fs/cgroup/cpu,cpuacct".into(),
                    controllers: vec![Controller::Cpu, Controller::Cpuacct],
                },
                CgroupMount::V1 {
                    directory: "/sys/fs/cgroup/systemd".into(),
                    controllers: vec![Controller::Systemd]
                },
                CgroupMount::V2 {
                    directory: "/mnt/with space".into()
                },
            ]
        );
    }
}
