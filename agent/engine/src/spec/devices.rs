//! Devices of a container, and which it may use.

use crate::error::{Error, Result};
use muster_types::container::{ContainerConfig, DeviceMapping};
use nix::sys::stat::{SFlag, major, minor, stat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceType};
use std::path::PathBuf;

/// The nodes to make beside the default ones. A privileged container gets the devices that users ask for too; the rest of
/// the host's it may make itself.
pub fn nodes(config: &ContainerConfig) -> Result<Vec<LinuxDevice>> {
    config.host.devices.iter().map(node).collect()
}

/// The access rules: nothing, then what is asked for; everything for a privileged container. The runtime allows the
/// default nodes.
pub fn rules(config: &ContainerConfig) -> Result<Vec<LinuxDeviceCgroup>> {
    if config.host.privileged {
        return Ok(vec![rule(true, None, None, None, "rwm")]);
    }
    let mut rules = vec![rule(false, None, None, None, "rwm")];
    for mapping in &config.host.devices {
        let node = node(mapping)?;
        let access = permissions(mapping)?;
        rules.push(rule(
            true,
            Some(node.typ()),
            Some(node.major()),
            Some(node.minor()),
            access,
        ));
    }
    Ok(rules)
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

fn node(mapping: &DeviceMapping) -> Result<LinuxDevice> {
    let host = &mapping.host_path;
    let gathering = |problem: String| {
        Error::invalid(format!(
            "error gathering device information while adding custom device {host:?}: {problem}"
        ))
    };
    let found = stat(host.as_str()).map_err(|error| gathering(error.desc().to_owned()))?;
    let kind = match SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFCHR => LinuxDeviceType::C,
        SFlag::S_IFBLK => LinuxDeviceType::B,
        _ => return Err(gathering("not a device node".to_owned())),
    };
    let path = match mapping.container_path.as_str() {
        "" => host.clone(),
        path => path.to_owned(),
    };
    let number = |value: u64| i64::try_from(value).unwrap_or_default();
    LinuxDeviceBuilder::default()
        .path(PathBuf::from(path))
        .typ(kind)
        .major(number(major(found.st_rdev)))
        .minor(number(minor(found.st_rdev)))
        .file_mode(found.st_mode & 0o777)
        .uid(found.st_uid)
        .gid(found.st_gid)
        .build()
        .map_err(|error| gathering(error.to_string()))
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
    fn what_is_no_device_is_refused() {
        assert!(nodes(&config("/etc", "rwm")).is_err());
        assert!(nodes(&config("/dev/absent", "rwm")).is_err());
        assert!(rules(&config("/dev/null", "rx")).is_err());
    }
}
