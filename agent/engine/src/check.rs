//! What could never start is refused at creation already, in Docker's words. Pure.

use crate::error::{Error, Result};
use crate::spec;
use muster_types::container::{ContainerConfig, NetworkMode};

/// Longest host name that the kernel takes.
const HOST_NAME_BYTES_MAX: usize = 64;
/// Preferences of the OOM killer.
const OOM_SCORES: std::ops::RangeInclusive<i64> = -1000..=1000;

/// Refuses settings that make no sense by themselves or together.
pub(crate) fn settings(config: &ContainerConfig) -> Result<()> {
    let host = &config.host;
    names(config)?;
    spec::check_sysctls(host)?;
    spec::check_device_rules(&host.device_rules)?;
    spec::check_paths(host)?;
    spec::check_capabilities(&host.cap_add, &host.cap_drop)?;
    if !OOM_SCORES.contains(&host.oom_score_adj) {
        return Err(Error::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    if host.annotations.contains_key("") {
        return Err(Error::invalid(
            "invalid Annotations: the empty string is not permitted as an annotation key",
        ));
    }
    Ok(())
}

/// The host name, and what has no sense in the network of another container.
fn names(config: &ContainerConfig) -> Result<()> {
    let host = &config.host;
    if config.hostname.len() > HOST_NAME_BYTES_MAX {
        return Err(Error::invalid(format!(
            "hostname {:?} is too long (maximum {HOST_NAME_BYTES_MAX} bytes)",
            config.hostname
        )));
    }
    if matches!(host.network, NetworkMode::Container(_)) {
        let publishes = !host.ports.is_empty() || host.publish_all;
        let conflicts = [
            (!config.hostname.is_empty(), "hostname and the network mode"),
            (!host.dns.nameservers.is_empty(), "dns and the network mode"),
            (
                !host.extra_hosts.is_empty(),
                "custom host-to-IP mapping and the network mode",
            ),
            (publishes, "port publishing and the container type network mode"),
            (
                !config.exposed_ports.is_empty(),
                "port exposing and the container type network mode",
            ),
        ];
        if let Some((_, what)) = conflicts.iter().find(|(conflicts, _)| *conflicts) {
            return Err(Error::invalid(format!("conflicting options: {what}")));
        }
    }
    if host.uts_host && !config.hostname.is_empty() {
        return Err(Error::invalid("conflicting options: hostname and the UTS mode"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut ContainerConfig)) -> String {
        let mut config = ContainerConfig::default();
        change(&mut config);
        settings(&config).unwrap_err().to_string()
    }

    fn joined(change: impl FnOnce(&mut ContainerConfig)) -> String {
        refusal(|config| {
            config.host.network = NetworkMode::Container("a".into());
            change(config);
        })
    }

    #[test]
    fn the_network_of_another_container_is_taken_as_it_is() {
        assert!(joined(|config| config.hostname = "a".into()).contains("hostname and the network mode"));
        assert!(joined(|config| config.host.publish_all = true).contains("port publishing"));
        assert!(joined(|config| config.exposed_ports.push("80/tcp".into())).contains("port exposing"));
        assert!(joined(|config| config.host.extra_hosts.push("a:1.2.3.4".into())).contains("host-to-IP"));
        assert!(joined(|config| config.host.dns.nameservers.push("1.1.1.1".into())).contains("dns and"));
    }

    #[test]
    fn impossible_settings_are_refused() {
        let uts = refusal(|config| (config.host.uts_host, config.hostname) = (true, "a".into()));
        assert_eq!(uts, "conflicting options: hostname and the UTS mode");
        assert!(refusal(|config| config.hostname = "a".repeat(65)).contains("is too long (maximum 64"));
        assert!(refusal(|config| config.host.oom_score_adj = 1001).contains("[-1000, 1000]"));
        assert!(refusal(|config| config.host.cap_add.push("FLY".into())).contains("unknown capability"));
        assert!(refusal(|config| config.host.masked_paths = Some(vec!["a".into()])).contains("MaskedPaths"));
        assert!(refusal(|config| config.host.device_rules.push("x".into())).contains("device cgroup rule"));
        assert!(settings(&ContainerConfig::default()).is_ok());
    }
}
