//! Options of the `local` volume driver: what they may say, and what they mean to mount(2).

use crate::error::{Error, Result};
use rustix::mount::{MountFlags, MountPropagationFlags};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Time for the lookup of a server's address.
const LOOKUP_WITHIN: Duration = Duration::from_secs(5);
/// Options that there are.
const KNOWN: [&str; 4] = ["type", "o", "device", "size"];
/// What an option needs beside it.
const NEEDED: [(&str, &[&str]); 3] = [
    ("type", &["device"]),
    ("o", &["device", "type"]),
    ("device", &["type"]),
];
/// Options of mount(8) that are flags of mount(2); what is not here is for the file system.
const FLAGS: [(&str, MountFlags, bool); 23] = [
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("mand", MountFlags::PERMIT_MANDATORY_FILE_LOCKING, true),
    ("nomand", MountFlags::PERMIT_MANDATORY_FILE_LOCKING, false),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("relatime", MountFlags::RELATIME, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("strictatime", MountFlags::STRICTATIME, true),
    ("nostrictatime", MountFlags::STRICTATIME, false),
    ("bind", MountFlags::BIND, true),
    ("defaults", MountFlags::empty(), true),
];
/// Flags that a bind mount takes in a second step only.
const AFTER_BIND: MountFlags = MountFlags::RDONLY
    .union(MountFlags::NOSUID)
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC)
    .union(MountFlags::NOATIME)
    .union(MountFlags::NODIRATIME)
    .union(MountFlags::RELATIME)
    .union(MountFlags::STRICTATIME);

/// How a volume is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeMount {
    /// What.
    pub device: String,
    /// The type of its file system; `none` for a bind mount.
    pub kind: String,
    /// Flags of the first mount(2).
    pub flags: MountFlags,
    /// Flags that need a remount, for bind mounts.
    pub later_flags: MountFlags,
    /// For the file system.
    pub data: String,
    /// Propagation, where it is asked for.
    pub propagation: Option<MountPropagationFlags>,
}

/// Refuses options in Docker's words.
pub(crate) fn check(options: &BTreeMap<String, String>) -> Result<()> {
    if let Some(option) = options.keys().find(|option| !KNOWN.contains(&option.as_str())) {
        return Err(Error::invalid(format!("invalid option: {option:?}")));
    }
    if options.contains_key("size") {
        return Err(Error::invalid(
            "quota size requested but no quota support: give a tmpfs its size with o=size=…",
        ));
    }
    for (option, needed) in NEEDED {
        let missing = needed.iter().find(|needed| !options.contains_key(**needed));
        if let (true, Some(missing)) = (options.contains_key(option), missing) {
            return Err(Error::invalid(format!("missing required option: {missing:?}")));
        }
    }
    match VolumeMount::of(options) {
        Some(mount) if mount.flags.contains(MountFlags::BIND) && !mount.device.starts_with('/') => {
            Err(Error::invalid(format!(
                "invalid device {:?}: a bind mount needs an absolute path",
                mount.device
            )))
        }
        _ => Ok(()),
    }
}

impl VolumeMount {
    /// The mount that the options ask for; `None` where the volume is a plain directory.
    pub fn of(options: &BTreeMap<String, String>) -> Option<Self> {
        let option = |name: &str| options.get(name).cloned().unwrap_or_default();
        let (device, kind) = (option("device"), option("type"));
        if device.is_empty() && kind.is_empty() {
            return None;
        }
        let mut mount = Self {
            device,
            kind,
            flags: MountFlags::empty(),
            later_flags: MountFlags::empty(),
            data: String::new(),
            propagation: None,
        };
        let mut data = Vec::new();
        let text = option("o");
        for word in text.split(',').filter(|word| !word.is_empty()) {
            mount.take(word, &mut data);
        }
        mount.data = data.join(",");
        if mount.flags.contains(MountFlags::BIND) {
            mount.later_flags = mount.flags & AFTER_BIND;
            mount.flags -= AFTER_BIND;
        }
        Some(mount)
    }

    fn take<'a>(&mut self, word: &'a str, data: &mut Vec<&'a str>) {
        if word == "rbind" {
            self.flags |= MountFlags::BIND | MountFlags::REC;
            return;
        }
        if let Some((_, flag, on)) = FLAGS.iter().find(|(name, ..)| *name == word) {
            self.flags.set(*flag, *on);
            return;
        }
        match propagation(word) {
            Some(propagation) => self.propagation = Some(propagation),
            None => data.push(word),
        }
    }

    /// The data with the host of `addr=` as an address: the kernel resolves no names. Blocks.
    pub fn resolved_data(&self) -> Result<String> {
        if !matches!(self.kind.as_str(), "nfs" | "nfs4" | "cifs") {
            return Ok(self.data.clone());
        }
        let mut words = Vec::new();
        for word in self.data.split(',') {
            words.push(match word.strip_prefix("addr=") {
                Some(host) if host.parse::<IpAddr>().is_err() => format!("addr={}", address_of(host)?),
                _ => word.to_owned(),
            });
        }
        Ok(words.join(","))
    }
}

fn propagation(word: &str) -> Option<MountPropagationFlags> {
    let (kind, recursive) = match word.strip_prefix('r') {
        Some(kind) => (kind, MountPropagationFlags::REC),
        None => (word, MountPropagationFlags::empty()),
    };
    let kind = match kind {
        "private" => MountPropagationFlags::PRIVATE,
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(kind | recursive)
}

fn address_of(host: &str) -> Result<IpAddr> {
    let failed = |reason: &dyn std::fmt::Display| {
        Error::invalid(format!(
            "error resolving passed in network volume address: {host}: {reason}"
        ))
    };
    let addresses = muster_outbound::lookup_within(host, LOOKUP_WITHIN).map_err(|error| failed(&error))?;
    addresses.first().copied().ok_or_else(|| failed(&"no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(given: &[(&str, &str)]) -> BTreeMap<String, String> {
        given
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn options_are_refused_in_dockers_words() {
        for (given, message) in [
            (&[("colour", "red")][..], "invalid option: \"colour\""),
            (&[("type", "tmpfs")], "missing required option: \"device\""),
            (&[("device", "/x")], "missing required option: \"type\""),
            (&[("o", "bind")], "missing required option: \"device\""),
            (
                &[("type", "none"), ("o", "bind"), ("device", "x")],
                "invalid device \"x\": a bind mount needs an absolute path",
            ),
        ] {
            assert_eq!(check(&options(given)).unwrap_err().to_string(), message);
        }
        assert!(
            check(&options(&[("size", "1m")]))
                .unwrap_err()
                .to_string()
                .starts_with("quota size requested")
        );
        assert!(check(&options(&[])).is_ok());
        assert_eq!(VolumeMount::of(&options(&[])), None);
    }

    #[test]
    fn words_are_flags_or_data() {
        let given = options(&[
            ("type", "tmpfs"),
            ("device", "tmpfs"),
            ("o", "size=1m,uid=7,nosuid,ro,rw"),
        ]);
        let mount = VolumeMount::of(&given).unwrap();
        assert_eq!(
            (mount.data.as_str(), mount.flags),
            ("size=1m,uid=7", MountFlags::NOSUID)
        );
        let given = options(&[("type", "none"), ("device", "/srv"), ("o", "rbind,ro,rslave")]);
        let mount = VolumeMount::of(&given).unwrap();
        assert_eq!(mount.flags, MountFlags::BIND | MountFlags::REC);
        assert_eq!(mount.later_flags, MountFlags::RDONLY);
        assert_eq!(
            mount.propagation,
            Some(MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        );
    }

    #[test]
    fn hosts_of_network_file_systems_become_addresses() {
        let given = options(&[("type", "nfs"), ("device", ":/x"), ("o", "addr=localhost,rw")]);
        let data = VolumeMount::of(&given).unwrap().resolved_data().unwrap();
        assert!(data == "addr=127.0.0.1" || data == "addr=::1", "{data}");
    }
}
