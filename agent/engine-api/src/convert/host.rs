//! `HostConfig` of a request becomes the domain's.

use super::{Read, mount, namespace, non_negative, port, resources};
use crate::http::Failure;
use crate::wire::container as wire;
use muster_types::container::{DeviceMapping, EngineRestart, HostConfig, MountSpec, NetworkMode, Ulimit};
use muster_types::service::{DnsSpec, LogDriver};
use std::ops::{Deref, DerefMut};

/// A read `HostConfig`, with what the domain keeps elsewhere.
pub(crate) struct Host {
    /// The domain's part.
    pub config: HostConfig,
    /// Additional groups, which the domain keeps in the container's config.
    pub groups: Vec<String>,
}

impl Deref for Host {
    type Target = HostConfig;
    fn deref(&self) -> &HostConfig {
        &self.config
    }
}

impl DerefMut for Host {
    fn deref_mut(&mut self) -> &mut HostConfig {
        &mut self.config
    }
}

/// Reads it; what is not built yet is refused rather than ignored.
pub(crate) fn read(mut host: wire::HostConfig) -> Read<Host> {
    refuse_unsupported(&host)?;
    let groups = std::mem::take(&mut host.group_add);
    refuse_device_requests(&host.device_requests)?;
    let restart = read_restart(&host.restart_policy)?;
    if host.auto_remove && restart != EngineRestart::No {
        return Err(Failure::invalid(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    let shm_bytes = non_negative("ShmSize", host.shm_size)?;
    let config = HostConfig {
        auto_remove: host.auto_remove,
        init: host.init.unwrap_or(false),
        restart,
        network: read_network(&host.network_mode),
        // Of the container's own settings, `container_create` knows.
        endpoints: Default::default(),
        mac: String::new(),
        links: std::mem::take(&mut host.links),
        mounts: read_mounts(&mut host)?,
        resources: resources::read(&host)?,
        volumes_from: std::mem::take(&mut host.volumes_from),
        ports: port::read_bindings(host.port_bindings)?,
        publish_all: host.publish_all_ports,
        privileged: host.privileged,
        cap_add: host.cap_add,
        cap_drop: host.cap_drop,
        security_opt: host.security_opt,
        read_only: host.readonly_rootfs,
        extra_hosts: host.extra_hosts,
        dns: DnsSpec {
            nameservers: host.dns,
            search: host.dns_search,
            options: host.dns_options,
        },
        sysctls: host.sysctls,
        ulimits: host.ulimits.into_iter().map(read_ulimit).collect(),
        shm_bytes: (shm_bytes != 0).then_some(shm_bytes),
        pid: namespace::read_pid(&host.pid_mode)?,
        ipc: namespace::read_ipc(&host.ipc_mode)?,
        uts_host: namespace::read_uts(&host.uts_mode)?,
        cgroup_namespace: namespace::read_cgroup(&host.cgroupns_mode)?,
        user_host: namespace::read_user(&host.userns_mode)?,
        oom_score_adj: host.oom_score_adj,
        log: (!host.log_config.r#type.is_empty() || !host.log_config.config.is_empty()).then_some(
            LogDriver {
                name: host.log_config.r#type,
                options: host.log_config.config,
            },
        ),
        devices: host.devices.into_iter().map(read_device).collect(),
        device_rules: host.device_cgroup_rules,
        masked_paths: host.masked_paths,
        readonly_paths: host.readonly_paths,
        console_size: (host.console_size[0], host.console_size[1]),
        id_file: host.container_id_file,
        runtime: host.runtime,
        isolation: host.isolation,
        volume_driver: host.volume_driver,
        cgroup_parent: host.cgroup_parent,
        annotations: host.annotations,
    };
    Ok(Host { config, groups })
}

fn refuse_unsupported(host: &wire::HostConfig) -> Read<()> {
    if !host.storage_opt.is_empty() {
        return Err(Failure::invalid(
            "--storage-opt is supported only where the data directory's file system carries project quotas, which \
             this node does not use: leave the option out",
        ));
    }
    if !matches!(host.runtime.as_str(), "" | "muster" | "runc") {
        return Err(Failure::invalid(format!(
            "unknown or invalid runtime name: {}",
            host.runtime
        )));
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(Failure::invalid(format!(
            "invalid isolation ({}): linux only supports 'default'",
            host.isolation
        )));
    }
    Ok(())
}

/// No driver of this engine chooses devices, so that none of these can be met.
fn refuse_device_requests(requests: &[wire::DeviceRequest]) -> Read<()> {
    let Some(request) = requests.first() else {
        return Ok(());
    };
    let sets = request
        .capabilities
        .iter()
        .map(|set| format!("[{}]", set.join(" ")));
    let sets: Vec<_> = sets.collect();
    Err(Failure::invalid(format!(
        "could not select device driver {:?} with capabilities: [{}]",
        request.driver,
        sets.join(" ")
    )))
}

/// Reads a network mode or a network's name.
pub(crate) fn read_network(mode: &str) -> NetworkMode {
    match mode {
        "" | "default" | "bridge" => NetworkMode::Bridge,
        "host" => NetworkMode::Host,
        "none" => NetworkMode::None,
        other => match other.strip_prefix("container:") {
            Some(container) => NetworkMode::Container(container.to_owned()),
            None => NetworkMode::Named(other.to_owned()),
        },
    }
}

/// Reads a restart policy.
pub(crate) fn read_restart(policy: &wire::RestartPolicy) -> Read<EngineRestart> {
    let retries_max = non_negative("MaximumRetryCount", policy.maximum_retry_count)?;
    match policy.name.as_str() {
        "on-failure" => Ok(EngineRestart::OnFailure { retries_max }),
        "always" | "unless-stopped" if retries_max != 0 => Err(Failure::invalid(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        )),
        "" | "no" => Ok(EngineRestart::No),
        "always" => Ok(EngineRestart::Always),
        "unless-stopped" => Ok(EngineRestart::UnlessStopped),
        other => Err(Failure::invalid(format!(
            "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        ))),
    }
}

fn read_mounts(host: &mut wire::HostConfig) -> Read<Vec<MountSpec>> {
    let mut mounts = Vec::new();
    for text in std::mem::take(&mut host.binds) {
        let mount = mount::read_bind(&text)?;
        mounts.push(MountSpec {
            as_written: Some(text),
            ..mount
        });
    }
    for (target, options) in std::mem::take(&mut host.tmpfs) {
        let mount = mount::read_tmpfs(&target, &options)?;
        mounts.push(MountSpec {
            as_written: Some(options),
            ..mount
        });
    }
    for wire in std::mem::take(&mut host.mounts) {
        mounts.push(mount::read(wire)?);
    }
    let mut targets = std::collections::BTreeSet::new();
    match mounts.iter().find(|mount| !targets.insert(mount.target.as_str())) {
        Some(twice) => Err(Failure::invalid(format!(
            "Duplicate mount point: {}",
            twice.target
        ))),
        None => Ok(mounts),
    }
}

/// Reads a resource limit of processes.
pub(crate) fn read_ulimit(wire: wire::Ulimit) -> Ulimit {
    Ulimit {
        name: wire.name.to_lowercase(),
        soft: wire.soft,
        hard: wire.hard,
    }
}

/// Writes a resource limit of processes.
pub(crate) fn write_ulimit(limit: &Ulimit) -> wire::Ulimit {
    wire::Ulimit {
        name: limit.name.clone(),
        hard: limit.hard,
        soft: limit.soft,
    }
}

fn read_device(wire: wire::Device) -> DeviceMapping {
    let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
    DeviceMapping {
        container_path: or(wire.path_in_container, &wire.path_on_host),
        permissions: or(wire.cgroup_permissions, "rwm"),
        host_path: wire.path_on_host,
    }
}
