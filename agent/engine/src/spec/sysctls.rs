//! Kernel parameters that users set, and which of them are the container's own.

use crate::error::{Error, Result};
use muster_types::container::{HostConfig, NetworkMode};
use muster_types::namespace::IpcMode;
use std::collections::HashMap;

/// Parameters of the namespace of message queues and shared memory.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The parameters that the container's process sets for its namespaces. Those of a network namespace of its own are set
/// with its interfaces. What would change the host is refused.
pub fn of(host: &HostConfig) -> Result<HashMap<String, String>> {
    let mut own = HashMap::new();
    for (name, value) in &host.sysctls {
        let dotted = dotted(name);
        let (is_namespaced, is_set_here) = if dotted.starts_with("net.") {
            if host.network == NetworkMode::Host {
                return Err(Error::invalid(format!(
                    "sysctl {name:?} not allowed in host network namespace"
                )));
            }
            (true, matches!(host.network, NetworkMode::Container(_)))
        } else if dotted == "kernel.domainname" {
            (!host.uts_host, true)
        } else if dotted == "kernel.hostname" {
            return Err(Error::invalid(format!(
                "sysctl {name:?} is not allowed as it conflicts with the hostname: use --hostname"
            )));
        } else {
            let is_ipc = dotted.starts_with("fs.mqueue.") || IPC.contains(&dotted.as_str());
            (is_ipc && host.ipc != IpcMode::Host, true)
        };
        if !is_namespaced {
            return Err(Error::invalid(format!(
                "sysctl {name:?} is not in a separate kernel namespace: it would change the host"
            )));
        }
        if is_set_here {
            own.insert(name.clone(), value.clone());
        }
    }
    Ok(own)
}

/// The name with dots, where it was written with slashes: the first separator says which way it was written.
pub fn dotted(name: &str) -> String {
    let swap = |letter| match letter {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name.chars().map(swap).collect(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, change: impl FnOnce(&mut HostConfig)) -> Result<HashMap<String, String>> {
        let mut host = HostConfig::default();
        host.sysctls.insert(name.to_owned(), "1".to_owned());
        change(&mut host);
        of(&host)
    }

    fn refusal(name: &str, change: impl FnOnce(&mut HostConfig)) -> String {
        with(name, change).unwrap_err().to_string()
    }

    #[test]
    fn parameters_of_own_namespaces_are_set() {
        for name in [
            "kernel.shmmax",
            "kernel/shmmax",
            "fs.mqueue.msg_max",
            "kernel.domainname",
        ] {
            assert_eq!(with(name, |_| {}).unwrap().len(), 1, "{name}");
        }
        // Set with the interfaces.
        assert_eq!(with("net.ipv4.ip_forward", |_| {}).unwrap().len(), 0);
        let joined = with("net.ipv4.ip_forward", |host| {
            host.network = NetworkMode::Container("a".into());
        });
        assert_eq!(joined.unwrap().len(), 1);
    }

    #[test]
    fn what_would_change_the_host_is_refused() {
        for name in [
            "kernel.panic",
            "vm.swappiness",
            "net",
            "kernel.shmmaxx",
            "fs.mqueue",
        ] {
            assert!(
                refusal(name, |_| {}).contains("is not in a separate kernel namespace"),
                "{name}"
            );
        }
        assert!(refusal("kernel.hostname", |_| {}).contains("conflicts with the hostname"));
        assert!(refusal("kernel.sem", |host| host.ipc = IpcMode::Host).contains("separate kernel namespace"));
        assert!(refusal("kernel.domainname", |host| host.uts_host = true).contains("separate kernel"));
        for name in ["net.ipv4.ip_forward", "net/ipv4/ip_forward"] {
            let text = refusal(name, |host| host.network = NetworkMode::Host);
            assert!(text.contains("not allowed in host network namespace"), "{text}");
        }
    }
}
