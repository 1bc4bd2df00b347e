//! The domain's host settings become `HostConfig` of an answer.

use super::{host::write_ulimit, mount, namespace, port, resources, signed};
use crate::wire::container as wire;
use muster_types::container::{
    ContainerConfig, EngineRestart, HostConfig, MountKind, MountSpec, NetworkMode,
};
use std::collections::BTreeMap;

/// Writes it.
pub(crate) fn write(config: &ContainerConfig) -> wire::HostConfig {
    let host = &config.host;
    let mounts = Mounts::of(&host.mounts);
    let mut answer = wire::HostConfig {
        binds: mounts.binds,
        tmpfs: mounts.tmpfs,
        mounts: mounts.others,
        volumes_from: host.volumes_from.clone(),
        log_config: write_log(host),
        network_mode: network_name(&host.network),
        port_bindings: port::write_bindings(&host.ports),
        restart_policy: write_restart(host.restart),
        auto_remove: host.auto_remove,
        annotations: host.annotations.clone(),
        cap_add: host.cap_add.clone(),
        cap_drop: host.cap_drop.clone(),
        cgroupns_mode: namespace::write_cgroup(host.cgroup_namespace, host.privileged),
        dns: host.dns.nameservers.clone(),
        dns_options: host.dns.options.clone(),
        dns_search: host.dns.search.clone(),
        extra_hosts: host.extra_hosts.clone(),
        links: host.links.clone(),
        group_add: config.groups.clone(),
        ipc_mode: namespace::write_ipc(&host.ipc),
        oom_score_adj: host.oom_score_adj,
        pid_mode: namespace::write_pid(&host.pid),
        uts_mode: namespace::write_host(host.uts_host),
        userns_mode: namespace::write_host(host.user_host),
        privileged: host.privileged,
        publish_all_ports: host.publish_all,
        readonly_rootfs: host.read_only,
        security_opt: host.security_opt.clone(),
        shm_size: signed(host.shm_bytes.unwrap_or(64 << 20)),
        sysctls: host.sysctls.clone(),
        runtime: or(&host.runtime, "muster"),
        isolation: host.isolation.clone(),
        volume_driver: host.volume_driver.clone(),
        container_id_file: host.id_file.clone(),
        console_size: [host.console_size.0, host.console_size.1],
        device_cgroup_rules: host.device_rules.clone(),
        masked_paths: host.masked_paths.clone(),
        readonly_paths: host.readonly_paths.clone(),
        cgroup_parent: host.cgroup_parent.clone(),
        devices: host
            .devices
            .iter()
            .map(|device| wire::Device {
                path_on_host: device.host_path.clone(),
                path_in_container: device.container_path.clone(),
                cgroup_permissions: device.permissions.clone(),
            })
            .collect(),
        ulimits: host.ulimits.iter().map(write_ulimit).collect(),
        init: host.init.then_some(true),
        ..wire::HostConfig::default()
    };
    resources::write(&host.resources, &mut answer);
    answer
}

fn or(text: &str, other: &str) -> String {
    if text.is_empty() { other } else { text }.to_owned()
}

/// Mounts, each in the form that it was asked in.
#[derive(Default)]
struct Mounts {
    binds: Vec<String>,
    tmpfs: BTreeMap<String, String>,
    others: Vec<crate::wire::mount::Mount>,
}

impl Mounts {
    fn of(mounts: &[MountSpec]) -> Self {
        let mut answer = Self::default();
        for spec in mounts {
            match (&spec.as_written, spec.kind) {
                (Some(options), MountKind::Tmpfs) => {
                    answer.tmpfs.insert(spec.target.clone(), options.clone());
                }
                (Some(text), _) => answer.binds.push(text.clone()),
                // Of containers that an earlier version made.
                (None, MountKind::Bind) if spec.create_source => answer.binds.push(write_bind(spec)),
                (None, _) => answer.others.push(mount::write(spec)),
            }
        }
        answer
    }
}

fn write_bind(mount: &MountSpec) -> String {
    let mut options = Vec::new();
    if mount.read_only {
        options.push("ro");
    }
    if !mount.propagation.is_empty() {
        options.push(mount.propagation.as_str());
    }
    let mut text = format!("{}:{}", mount.source, mount.target);
    if !options.is_empty() {
        text.push(':');
        text.push_str(&options.join(","));
    }
    text
}

/// Docker's name of a network mode.
pub(crate) fn network_name(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Bridge => "bridge".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Container(container) => format!("container:{container}"),
        NetworkMode::Named(name) => name.clone(),
    }
}

fn write_log(host: &HostConfig) -> wire::LogConfig {
    match &host.log {
        Some(log) => wire::LogConfig {
            r#type: log.name.clone(),
            config: log.options.clone(),
        },
        None => wire::LogConfig {
            r#type: "json-file".to_owned(),
            ..Default::default()
        },
    }
}

fn write_restart(restart: EngineRestart) -> wire::RestartPolicy {
    let (name, retries) = match restart {
        EngineRestart::No => ("no", 0),
        EngineRestart::Always => ("always", 0),
        EngineRestart::UnlessStopped => ("unless-stopped", 0),
        EngineRestart::OnFailure { retries_max } => ("on-failure", signed(retries_max)),
    };
    wire::RestartPolicy {
        name: name.to_owned(),
        maximum_retry_count: retries,
    }
}
