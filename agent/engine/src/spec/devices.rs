//! Devices of a container, and which it may use.

use crate::error::{Error, Result};
use muster_types::container::{ContainerConfig, DeviceMapping};
use nix::sys::stat::{FileStat, SFlag, lstat, major, minor, stat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceType};
use std::path::{Path, PathBuf};

/// Directories of /dev whose content is of one container, or of no use in another; Docker's.
const OWN_DIRECTORIES: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
/// Devices that each container has of its own.
const OWN_DEVICES: [&str; 2] = ["console", "ptmx"];

/// The nodes to make beside the default ones: those that users ask for, for a privileged container after all of the
/// host's.
pub fn nodes(config: &ContainerConfig) -> Result<Vec<LinuxDevice>> {
    let host = &config.host;
    let mut nodes = Vec::new();
    if host.privileged {
        of_host(Path::new("/dev"), &mut nodes)?;
    }
    for mapping in &host.devices {
        for device in mapped(mapping)? {
            nodes.retain(|known: &LinuxDevice| known.path() != device.path());
            nodes.push(device);
        }
    }
    Ok(nodes)
}

fn of_host(directory: &Path, nodes: &mut Vec<LinuxDevice>) -> Result<()> {
    let failed = |error| Error::io(format!("list the devices in {}", directory.display()), error);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (name, path) = (entry.file_name(), entry.path());
        let is_one_of = |names: &[&str]| names.iter().any(|own| name == *own);
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if !is_one_of(&OWN_DIRECTORIES) {
                of_host(&path, nodes)?;
            }
            continue;
        }
        // Links, sockets and what has just gone are no devices.
        let Ok(found) = lstat(&path) else { continue };
        if let Some(kind) = kind(&found).filter(|_| !is_one_of(&OWN_DEVICES)) {
            nodes.push(device(path, kind, &found)?);
        }
    }
    Ok(())
}

/// The access rules: nothing, then what is asked for; everything for a privileged container. The runtime allows the
/// default nodes.
pub fn rules(config: &ContainerConfig) -> Result<Vec<LinuxDeviceCgroup>> {
    if config.host.privileged {
        return Ok(vec![rule(true, None, None, None, "rwm")]);
    }
    let mut rules = vec![rule(false, None, None, None, "rwm")];
    for mapping in &config.host.devices {
        let access = permissions(mapping)?;
        for node in mapped(mapping)? {
            let (kind, major, minor) = (node.typ(), node.major(), node.minor());
            rules.push(rule(true, Some(kind), Some(major), Some(minor), access));
        }
    }
    for text in &config.host.device_rules {
        rules.push(given_rule(text)?);
    }
    Ok(rules)
}

/// Refuses rules that cannot be read.
pub fn check_rules(texts: &[String]) -> Result<()> {
    texts.iter().try_for_each(|text| given_rule(text).map(drop))
}

/// Reads a rule in the kernel's form, such as `c 10:* rwm`.
fn given_rule(text: &str) -> Result<LinuxDeviceCgroup> {
    let refused = || Error::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let [kind, numbers, access] = text.split(' ').collect::<Vec<_>>()[..] else {
        return Err(refused());
    };
    let kind = match kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(refused()),
    };
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
            .parse::<u32>()
            .map(i64::from)
            .map(Some)
            .map_err(|_| refused()),
        _ => Err(refused()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(refused)?;
    let known = access.chars().all(|letter| "rwm".contains(letter));
    if !known || !(1..=3).contains(&access.len()) {
        return Err(refused());
    }
    Ok(rule(true, Some(kind), number(major)?, number(minor)?, access))
}

fn rule(
    allow: bool,
    kind: Option<LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow);
    rule.set_typ(kind);
    rule.set_major(major);
    rule.set_minor(minor);
    rule.set_access(Some(access.to_owned()));
    rule
}

fn permissions(mapping: &DeviceMapping) -> Result<&str> {
    match mapping.permissions.as_str() {
        "" => Ok("rwm"),
        given if given.chars().all(|letter| "rwm".contains(letter)) => Ok(given),
        given => Err(Error::invalid(format!("invalid device mode: {given}"))),
    }
}

/// The nodes that a mapping means: one, or all below a directory.
fn mapped(mapping: &DeviceMapping) -> Result<Vec<LinuxDevice>> {
    let host = &mapping.host_path;
    let gathering = |problem: String| {
        Error::invalid(format!(
            "error gathering device information while adding custom device {host:?}: {problem}"
        ))
    };
    let found = stat(host.as_str()).map_err(|error| gathering(error.desc().to_owned()))?;
    let path = match mapping.container_path.as_str() {
        "" => host,
        path => path,
    };
    if let Some(kind) = kind(&found) {
        return Ok(vec![device(PathBuf::from(path), kind, &found)?]);
    }
    let mut nodes = Vec::new();
    if found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
        let directory = std::fs::canonicalize(host).map_err(|error| gathering(error.to_string()))?;
        of_host(&directory, &mut nodes)?;
        for node in &mut nodes {
            if let Ok(below) = node.path().strip_prefix(&directory) {
                let moved = Path::new(path).join(below);
                node.set_path(moved);
            }
        }
    }
    if nodes.is_empty() {
        return Err(gathering("not a device node".to_owned()));
    }
    Ok(nodes)
}

fn kind(found: &FileStat) -> Option<LinuxDeviceType> {
    match SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFCHR => Some(LinuxDeviceType::C),
        SFlag::S_IFBLK => Some(LinuxDeviceType::B),
        _ => None,
    }
}

fn device(path: PathBuf, kind: LinuxDeviceType, found: &FileStat) -> Result<LinuxDevice> {
    let shown = path.display().to_string();
    let number = |value: u64| i64::try_from(value).unwrap_or_default();
    LinuxDeviceBuilder::default()
        .path(path)
        .typ(kind)
        .major(number(major(found.st_rdev)))
        .minor(number(minor(found.st_rdev)))
        .file_mode(found.st_mode & 0o777)
        .uid(found.st_uid)
        .gid(found.st_gid)
        .build()
        .map_err(|error| Error::invalid(format!("invalid device {shown}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(host_path: &str, permissions: &str) -> ContainerConfig {
        let mut config = ContainerConfig::default();
        config.host.devices.push(DeviceMapping {
            host_path: host_path.to_owned(),
            container_path: "/dev/mine".to_owned(),
            permissions: permissions.to_owned(),
        });
        config
    }

    #[test]
    fn a_device_of_the_host_gets_a_node_and_a_rule() {
        let config = config("/dev/null", "rw");
        let nodes = nodes(&config).unwrap();
        assert_eq!((nodes[0].major(), nodes[0].minor()), (1, 3));
        let rules = rules(&config).unwrap();
        assert_eq!(rules[0].to_string(), "a *:* rwm");
        assert!(!rules[0].allow());
        assert_eq!(rules[1].to_string(), "c 1:3 rw");
    }

    #[test]
    fn a_privileged_container_gets_the_hosts_devices() {
        let mut config = config("/dev/zero", "r");
        config.host.devices[0].container_path = "/dev/null".to_owned();
        config.host.privileged = true;
        let nodes = nodes(&config).unwrap();
        let at = |path: &str| {
            let found = nodes.iter().filter(|node| node.path() == Path::new(path));
            found.map(|node| (node.major(), node.minor())).collect::<Vec<_>>()
        };
        assert_eq!(at("/dev/full"), [(1, 7)]);
        // What the user asks for stands in place of the host's.
        assert_eq!(at("/dev/null"), [(1, 5)]);
        assert!(at("/dev/ptmx").is_empty());
        assert!(nodes.iter().all(|node| !node.path().starts_with("/dev/pts")));
    }

    #[test]
    fn a_directory_stands_for_the_devices_below_it() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("below");
        std::fs::create_dir(&below).unwrap();
        let made = nix::sys::stat::mknod(
            &below.join("zero"),
            SFlag::S_IFCHR,
            nix::sys::stat::Mode::from_bits_truncate(0o600),
            nix::sys::stat::makedev(1, 5),
        );
        made.expect("tests run as root");
        let config = config(directory.path().to_str().unwrap(), "r");
        let nodes = nodes(&config).unwrap();
        assert_eq!(nodes.len(), 1);
        assert_eq!(nodes[0].path(), Path::new("/dev/mine/below/zero"));
        assert_eq!(rules(&config).unwrap()[1].to_string(), "c 1:5 r");
    }

    #[test]
    fn rules_in_the_kernels_form_are_read() {
        let mut config = ContainerConfig::default();
        config.host.device_rules = vec!["c 10:* rwm".into(), "b 8:1 r".into(), "a *:* m".into()];
        let texts: Vec<_> = rules(&config).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(texts[1..], ["c 10:* rwm", "b 8:1 r", "a *:* m"]);
        for bad in [
            "",
            "c 1:3",
            "x 1:3 r",
            "c 1 r",
            "c 1:3 rx",
            "c -1:3 r",
            "c 1:3  r",
            "c 99999999999:1 r",
        ] {
            let refused = check_rules(&[bad.to_owned()]).unwrap_err().to_string();
            assert!(
                refused.starts_with("invalid device cgroup rule format: '"),
                "{refused}"
            );
        }
    }

    #[test]
    fn what_is_no_device_is_refused() {
        assert!(nodes(&config("/etc", "rwm")).is_err());
        assert!(nodes(&config("/dev/absent", "rwm")).is_err());
        assert!(rules(&config("/dev/null", "rx")).is_err());
    }
}
