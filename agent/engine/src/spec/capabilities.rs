//! Capabilities: Docker's default set, what users add and drop, and what this host can give at all.

use crate::error::{Error, Result};
use oci_spec::runtime::{Capabilities, Capability};
use std::str::FromStr;

/// Every capability without `CAP_`; the position is the kernel's number.
const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What Docker gives to every container.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The capabilities that a set of bits stands for.
pub fn bounding_of(bits: u64) -> Capabilities {
    let names = ALL
        .iter()
        .enumerate()
        .filter(|(number, _)| bits >> number & 1 == 1);
    names
        .filter_map(|(_, name)| Capability::from_str(name).ok())
        .collect()
}

/// The capabilities of a container: the default ones, less the dropped, plus the added; all for a privileged one.
///
/// `ALL` and privileged mean all that `host` can give, as Docker has it; a name that the host lacks is refused.
pub fn effective_set(add: &[String], drop: &[String], privileged: bool, host: u64) -> Result<Capabilities> {
    if privileged {
        return Ok(bounding_of(host));
    }
    let added = known("CapAdd", add)?;
    let dropped = known("CapDrop", drop)?;
    let mut names: Vec<&str> = if dropped.contains(&"ALL") {
        Vec::new()
    } else if added.contains(&"ALL") {
        ALL.to_vec()
    } else {
        DEFAULT.to_vec()
    };
    if dropped.contains(&"ALL") && added.contains(&"ALL") {
        names = ALL.to_vec();
    }
    names.retain(|name| !dropped.contains(name));
    for name in added.into_iter().filter(|name| *name != "ALL") {
        if !has(host, name) {
            return Err(Error::invalid(format!(
                "invalid CapAdd: this host cannot give CAP_{name}, the daemon itself lacks it"
            )));
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let given = names.into_iter().filter(|name| has(host, name));
    Ok(given.filter_map(|name| Capability::from_str(name).ok()).collect())
}

/// Refuses names that are none.
pub fn check(add: &[String], drop: &[String]) -> Result<()> {
    known("CapAdd", add)?;
    known("CapDrop", drop)?;
    Ok(())
}

fn has(host: u64, name: &str) -> bool {
    ALL.iter()
        .position(|known| *known == name)
        .is_some_and(|number| host >> number & 1 == 1)
}

fn known(field: &str, names: &[String]) -> Result<Vec<&'static str>> {
    let normal = names.iter().map(|name| {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if bare == "ALL" {
            return Ok("ALL");
        }
        let found = ALL.iter().find(|known| **known == bare).copied();
        found.ok_or_else(|| Error::invalid(format!("invalid {field}: unknown capability: \"CAP_{bare}\"")))
    });
    normal.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: u64 = (1 << 41) - 1;

    fn set(add: &[&str], drop: &[&str]) -> Result<Capabilities> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        effective_set(&owned(add), &owned(drop), false, HOST)
    }

    #[test]
    fn the_default_set_is_dockers() {
        let default = set(&[], &[]).unwrap();
        assert_eq!(default.len(), 14);
        assert!(default.contains(&Capability::Mknod));
        assert!(!default.contains(&Capability::SysAdmin));
    }

    #[test]
    fn adding_and_dropping_compose() {
        assert_eq!(set(&[], &["all"]).unwrap().len(), 0);
        assert_eq!(
            set(&["net_admin"], &["ALL"]).unwrap(),
            [Capability::NetAdmin].into()
        );
        assert_eq!(set(&["ALL"], &["CAP_SYS_ADMIN"]).unwrap().len(), 40);
        assert_eq!(set(&["CAP_NET_ADMIN"], &["mknod"]).unwrap().len(), 14);
        assert!(set(&["CAP_FLY"], &[]).is_err());
    }

    #[test]
    fn every_name_is_known_to_the_specification() {
        assert_eq!(bounding_of(HOST).len(), ALL.len());
    }

    #[test]
    fn what_the_host_lacks_is_left_out_or_refused() {
        let lacking = HOST & !(1 << 24);
        let all = effective_set(&["ALL".into()], &[], false, lacking).unwrap();
        assert!(!all.contains(&Capability::SysResource));
        assert!(effective_set(&["SYS_RESOURCE".into()], &[], false, lacking).is_err());
        assert_eq!(effective_set(&[], &[], true, lacking).unwrap().len(), 40);
    }
}
