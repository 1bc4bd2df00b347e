//! Resource limits of processes.

use crate::error::{Error, Result};
use muster_types::container::Ulimit;
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};
use std::str::FromStr;

/// The number of CAP_SYS_RESOURCE.
const SYS_RESOURCE: u64 = 24;

/// Docker's names, which are the kernel's without `RLIMIT_`.
const NAMES: [&str; 16] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
    "as",
];

/// The limits of a container. `host` holds this process's own, by name; without CAP_SYS_RESOURCE nothing above its hard
/// limits can be given, and that is said here rather than by a failing start.
pub fn of(wanted: &[Ulimit], host: &[(String, u64, u64)], capabilities: u64) -> Result<Vec<PosixRlimit>> {
    wanted
        .iter()
        .map(|limit| one(limit, host, capabilities))
        .collect()
}

fn one(wanted: &Ulimit, host: &[(String, u64, u64)], capabilities: u64) -> Result<PosixRlimit> {
    let name = wanted.name.to_ascii_lowercase();
    if !NAMES.contains(&name.as_str()) {
        return Err(Error::invalid(format!("invalid ulimit type: {}", wanted.name)));
    }
    let (soft, hard) = (number(wanted.soft), number(wanted.hard));
    if soft > hard {
        return Err(Error::invalid(format!(
            "ulimit soft limit must be less than or equal to hard limit: {} > {}",
            wanted.soft, wanted.hard
        )));
    }
    let own = host
        .iter()
        .find(|(known, _, _)| *known == name)
        .map(|(_, _, hard)| *hard);
    if capabilities >> SYS_RESOURCE & 1 == 0 && own.is_some_and(|own| hard > own) {
        let own = own.unwrap_or_default();
        return Err(Error::invalid(format!(
            "ulimit {name}={} is above this host's hard limit of {own}, and the daemon lacks CAP_SYS_RESOURCE to raise \
             it: ask for at most {own}, or raise the daemon's own limit",
            wanted.hard
        )));
    }
    let kind = PosixRlimitType::from_str(&format!("RLIMIT_{}", name.to_ascii_uppercase()))
        .map_err(|_| Error::invalid(format!("invalid ulimit type: {}", wanted.name)))?;
    PosixRlimitBuilder::default()
        .typ(kind)
        .soft(soft)
        .hard(hard)
        .build()
        .map_err(|error| Error::invalid(format!("invalid ulimit {name}: {error}")))
}

/// -1 means unlimited, which the kernel writes with all bits set.
fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// Reads `/proc/self/limits` into (name, soft, hard).
pub fn parse_host_limits(content: &str) -> Vec<(String, u64, u64)> {
    let titles = [
        ("Max core file size", "core"),
        ("Max cpu time", "cpu"),
        ("Max data size", "data"),
        ("Max file size", "fsize"),
        ("Max file locks", "locks"),
        ("Max locked memory", "memlock"),
        ("Max msgqueue size", "msgqueue"),
        ("Max nice priority", "nice"),
        ("Max open files", "nofile"),
        ("Max processes", "nproc"),
        ("Max resident set", "rss"),
        ("Max realtime priority", "rtprio"),
        ("Max realtime timeout", "rttime"),
        ("Max pending signals", "sigpending"),
        ("Max stack size", "stack"),
        ("Max address space", "as"),
    ];
    let value = |text: Option<&str>| match text {
        Some("unlimited") => Some(u64::MAX),
        Some(number) => number.parse().ok(),
        None => None,
    };
    let limits = content.lines().filter_map(|line| {
        let (rest, name) = titles
            .iter()
            .find_map(|(title, name)| Some((line.strip_prefix(title)?, *name)))?;
        let mut words = rest.split_whitespace();
        Some((name.to_owned(), value(words.next())?, value(words.next())?))
    });
    limits.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulimit(name: &str, soft: i64, hard: i64) -> Ulimit {
        Ulimit {
            name: name.to_owned(),
            soft,
            hard,
        }
    }

    #[test]
    fn limits_become_the_specifications() {
        let limits = of(&[ulimit("nofile", 10, 20), ulimit("core", -1, -1)], &[], u64::MAX).unwrap();
        assert_eq!(
            (limits[0].typ(), limits[0].soft(), limits[0].hard()),
            (PosixRlimitType::RlimitNofile, 10, 20)
        );
        assert_eq!(limits[1].hard(), u64::MAX);
        for name in NAMES {
            assert!(of(&[ulimit(name, 1, 1)], &[], u64::MAX).is_ok(), "{name}");
        }
    }

    #[test]
    fn nonsense_and_the_impossible_are_refused() {
        assert!(of(&[ulimit("files", 1, 1)], &[], u64::MAX).is_err());
        assert!(of(&[ulimit("nofile", 2, 1)], &[], u64::MAX).is_err());
        let host = [("nofile".to_owned(), 1024, 4096)];
        let error = of(&[ulimit("nofile", 1, 5000)], &host, 0).unwrap_err();
        assert!(error.to_string().contains("hard limit of 4096"), "{error}");
        assert!(of(&[ulimit("nofile", 1, 5000)], &host, u64::MAX).is_ok());
        assert!(of(&[ulimit("nofile", 1, 4096)], &host, 0).is_ok());
    }

    #[test]
    fn the_hosts_own_limits_are_read() {
        let own = parse_host_limits(&std::fs::read_to_string("/proc/self/limits").unwrap());
        assert_eq!(own.len(), NAMES.len());
        let (_, soft, hard) = own.iter().find(|(name, _, _)| name == "nofile").unwrap();
        let kernel = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!((*soft, *hard), kernel);
    }
}
