//! Limits as writes to control files: what both control group versions share.

use std::borrow::Cow;

use oci_spec::runtime::LinuxResources;

use super::directory::Directory;
use super::error::{CgroupError, Result};
use super::root::Controller;

/// One value for one control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ControlWrite {
    pub controller: Controller,
    /// The limit in the user's words.
    pub limit: &'static str,
    pub file: Cow<'static, str>,
    /// Written instead where `file` does not exist.
    pub alternative: Option<(&'static str, String)>,
    pub value: String,
}

impl ControlWrite {
    pub fn new(
        controller: Controller,
        limit: &'static str,
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
    ) -> ControlWrite {
        ControlWrite {
            controller,
            limit,
            file: file.into(),
            alternative: None,
            value: value.to_string(),
        }
    }

    pub fn or(mut self, file: &'static str, value: impl ToString) -> ControlWrite {
        self.alternative = Some((file, value.to_string()));
        self
    }
}

/// Writes the values in their order. A value that the kernel refuses is tried again after the others: whether a limit
/// fits can depend on one that comes later (memory below memory and swap, quota within period), in either direction.
pub(super) fn apply<'a>(
    writes: &[ControlWrite],
    directory_of: impl Fn(Controller) -> Option<&'a Directory>,
) -> Result<()> {
    let mut refused = Vec::new();
    for write in writes {
        let directory = directory_of(write.controller).ok_or(CgroupError::MissingController {
            controller: write.controller,
            limit: write.limit,
        })?;
        match put(write, directory) {
            Ok(()) => {}
            Err(error) if error.errno() == Some(libc::EINVAL) && writes.len() > 1 => {
                refused.push((write, directory))
            }
            Err(error) => return Err(error),
        }
    }
    refused
        .into_iter()
        .try_for_each(|(write, directory)| put(write, directory))
}

fn put(write: &ControlWrite, directory: &Directory) -> Result<()> {
    let mut attempt = (write.file.as_ref(), write.value.as_str());
    let mut outcome = directory.write(attempt.0, attempt.1);
    if let (Err(error), Some((file, value))) = (&outcome, &write.alternative)
        && error.raw_os_error() == Some(libc::ENOENT)
    {
        attempt = (file, value.as_str());
        outcome = directory.write(attempt.0, attempt.1);
    }
    outcome.map_err(|source| match source.raw_os_error() {
        Some(libc::ENOENT) => CgroupError::Unsupported {
            limit: write.limit.to_owned(),
            reason: "the kernel was built or started without it; leave the limit out",
        },
        _ => CgroupError::LimitRefused {
            file: attempt.0.to_owned(),
            value: attempt.1.to_owned(),
            group: directory.path().display().to_string(),
            hint: hint(write, directory, &source),
            source,
        },
    })
}

/// What is known about a refusal beyond the kernel's error number.
fn hint(write: &ControlWrite, directory: &Directory, source: &std::io::Error) -> String {
    match (write.controller, source.raw_os_error()) {
        (Controller::Memory, Some(libc::EBUSY)) => {
            let usage = ["memory.current", "memory.usage_in_bytes"]
                .iter()
                .find_map(|file| directory.read(file).ok());
            usage.map_or_else(String::new, |usage| {
                format!(": {} bytes are in use", usage.trim())
            })
        }
        (Controller::Cpu, Some(libc::EINVAL)) if write.file.starts_with("cpu.rt_") => {
            ": the parent group has too little real-time budget; raise its cpu.rt_runtime_us first".to_owned()
        }
        (Controller::Cpuset, Some(libc::EINVAL | libc::EACCES | libc::ERANGE)) => {
            ": list only CPUs and memory nodes that this node has and the parent group may use".to_owned()
        }
        (Controller::Blkio, Some(libc::ENODEV)) => {
            ": there is no such block device (name whole disks)".to_owned()
        }
        _ => String::new(),
    }
}

/// RDMA limits, spelled alike in both versions.
pub(super) fn plan_rdma(resources: &LinuxResources, writes: &mut Vec<ControlWrite>) -> Result<()> {
    for (device, limit) in resources.rdma().iter().flatten() {
        if device.is_empty() || device.contains(|letter: char| letter.is_whitespace() || letter == '/') {
            return Err(CgroupError::InvalidLimit {
                limit: "RDMA limit",
                value: format!("{device:?}"),
                reason: "this is no device name".to_owned(),
            });
        }
        let text = |count: Option<u32>| count.map_or("max".to_owned(), |count| count.to_string());
        let (handles, objects) = (text(limit.hca_handles()), text(limit.hca_objects()));
        let value = format!("{device} hca_handle={handles} hca_object={objects}");
        writes.push(ControlWrite::new(
            Controller::Rdma,
            "RDMA limit",
            "rdma.max",
            value,
        ));
    }
    Ok(())
}

/// The swap that `memory + swap` leaves beside `memory`, for v2, which limits swap alone.
pub(crate) fn swap_alone(memory: Option<i64>, memory_and_swap: Option<i64>) -> Result<Option<i64>> {
    let refuse = |value: i64, reason: &str| {
        Err(CgroupError::InvalidLimit {
            limit: "memory and swap limit",
            value: value.to_string(),
            reason: reason.into(),
        })
    };
    match (memory.unwrap_or(0), memory_and_swap.unwrap_or(0)) {
        (-1, 0) | (_, -1) => Ok(Some(-1)),
        (_, 0) => Ok(None),
        (_, total) if total < -1 => refuse(total, "use -1 for no limit"),
        (memory, total) if memory <= 0 => refuse(total, "it counts memory too: give a memory limit with it"),
        (memory, total) if total < memory => {
            refuse(total, "it counts memory too and is below the memory limit")
        }
        (memory, total) => Ok(Some(total - memory)),
    }
}

/// A `major:minor` block device, checked.
pub(super) fn device_numbers(limit: &'static str, major: i64, minor: i64) -> Result<String> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok(format!("{major}:{minor}")),
        _ => Err(CgroupError::InvalidLimit {
            limit,
            value: format!("{major}:{minor}"),
            reason: "these are no device numbers".to_owned(),
        }),
    }
}

/// A list such as `0-3,7`, checked so that nothing else reaches the kernel.
pub(super) fn checked_list<'a>(limit: &'static str, list: &'a str) -> Result<&'a str> {
    if list
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'-' || byte == b',')
    {
        return Ok(list);
    }
    Err(CgroupError::InvalidLimit {
        limit,
        value: format!("{list:?}"),
        reason: "write numbers and ranges, such as 0-3,7".to_owned(),
    })
}

/// A block device weight as Docker takes it.
pub(super) fn checked_block_weight(weight: u16) -> Result<u16> {
    if (10..=1000).contains(&weight) {
        return Ok(weight);
    }
    Err(CgroupError::InvalidLimit {
        limit: "block I/O weight",
        value: weight.to_string(),
        reason: "it is between 10 and 1000".to_owned(),
    })
}

/// CPU shares as the kernel takes them; 0 stands for unset.
pub(super) fn checked_shares(shares: Option<u64>) -> Result<Option<u64>> {
    match shares {
        None | Some(0) => Ok(None),
        Some(shares @ 2..=262_144) => Ok(Some(shares)),
        Some(shares) => Err(CgroupError::InvalidLimit {
            limit: "CPU shares",
            value: shares.to_string(),
            reason: "they are between 2 and 262144".to_owned(),
        }),
    }
}

/// A huge page size as control files spell it: `2MB`, `1GB`, `64KB`.
pub(super) fn checked_page_size(size: &str) -> Result<&str> {
    let digits = size
        .strip_suffix("KB")
        .or(size.strip_suffix("MB"))
        .or(size.strip_suffix("GB"));
    match digits {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(size),
        _ => Err(CgroupError::InvalidLimit {
            limit: "huge page limit",
            value: format!("{size:?}"),
            reason: "the page size looks like 2MB or 1GB".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_what_memory_leaves() {
        assert_eq!(swap_alone(Some(100), Some(300)).unwrap(), Some(200));
        assert_eq!(swap_alone(Some(100), Some(100)).unwrap(), Some(0));
        assert_eq!(swap_alone(Some(100), Some(-1)).unwrap(), Some(-1));
        assert_eq!(swap_alone(Some(-1), None).unwrap(), Some(-1));
        assert_eq!(swap_alone(Some(100), None).unwrap(), None);
        assert_eq!(swap_alone(None, None).unwrap(), None);
        assert!(swap_alone(None, Some(100)).is_err());
        assert!(swap_alone(Some(100), Some(99)).is_err());
        assert!(swap_alone(Some(100), Some(-2)).is_err());
    }

    #[test]
    fn only_numbers_reach_a_control_file() {
        assert!(checked_list("CPUs", "0-3,7").is_ok());
        assert!(checked_list("CPUs", "0\n1").is_err());
        assert!(checked_page_size("2MB").is_ok());
        for bad in ["2mb", "MB", "../2MB", "2 MB"] {
            assert!(checked_page_size(bad).is_err(), "{bad}");
        }
        assert!(checked_shares(Some(1)).is_err());
        assert_eq!(checked_shares(Some(0)).unwrap(), None);
        assert!(checked_block_weight(9).is_err());
        assert!(device_numbers("x", -1, 0).is_err());
    }
}
