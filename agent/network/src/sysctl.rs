//! Kernel parameters below `net.`, which belong to the network namespace of the thread that writes them.

use std::io;
use std::path::{Path, PathBuf};

/// Why a kernel parameter could not be set.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The name is not one of the network's parameters.
    #[error("{name:?} is no kernel parameter of a network namespace: its name must begin with \"net.\"")]
    NotOfTheNetwork {
        /// What was asked for.
        name: String,
    },
    /// The kernel has no such parameter or refuses the value.
    #[error("cannot set the kernel parameter {name} to {value:?}")]
    Write {
        /// The parameter.
        name: String,
        /// The value.
        value: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Sets a parameter in the calling thread's network namespace.
pub(crate) fn write(name: &str, value: &str) -> Result<(), SysctlError> {
    let path = path_of(name).ok_or_else(|| SysctlError::NotOfTheNetwork {
        name: name.to_owned(),
    })?;
    write_path(&path, value).map_err(|source| SysctlError::Write {
        name: name.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// Sets a parameter that this kernel may lack, such as one of IPv6.
pub(crate) fn write_if_present(name: &str, value: &str) -> Result<(), SysctlError> {
    match write(name, value) {
        Err(SysctlError::Write { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Checks a name without touching the kernel.
pub(crate) fn is_network_parameter(name: &str) -> bool {
    path_of(name).is_some()
}

/// Writes only what differs: changing some parameters takes a lock that all network changes share.
fn write_path(path: &Path, value: &str) -> io::Result<()> {
    if std::fs::read_to_string(path)?.trim_end() == value {
        return Ok(());
    }
    std::fs::write(path, value)
}

/// As sysctl(8) does: the first of `.` and `/` in the name is its separator, the other one is literal.
fn path_of(name: &str) -> Option<PathBuf> {
    let separator = name.chars().find(|c| matches!(c, '.' | '/'))?;
    let mut path = PathBuf::from("/proc/sys");
    let mut parts = name.split(separator);
    if parts.next() != Some("net") {
        return None;
    }
    path.push("net");
    for part in parts {
        let part = if separator == '.' {
            part.replace('/', ".")
        } else {
            part.to_owned()
        };
        if part.is_empty() || part == "." || part == ".." || part.contains('\0') {
            return None;
        }
        path.push(part);
    }
    (path != Path::new("/proc/sys/net")).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_network_parameters() {
        assert_eq!(
            path_of("net.ipv4.ip_forward").unwrap(),
            Path::new("/proc/sys/net/ipv4/ip_forward")
        );
        assert_eq!(
            path_of("net/ipv4/conf/eth0.100/rp_filter").unwrap(),
            Path::new("/proc/sys/net/ipv4/conf/eth0.100/rp_filter")
        );
        assert_eq!(
            path_of("net.ipv4.conf.eth0/100.rp_filter").unwrap(),
            Path::new("/proc/sys/net/ipv4/conf/eth0.100/rp_filter")
        );
        for name in [
            "",
            "net",
            "net.",
            "kernel.panic",
            "net/../kernel/panic",
            "net..ipv4",
            "net.ipv4.//.x",
            "vm",
        ] {
            assert_eq!(path_of(name), None, "{name}");
        }
    }
}
