//! `HostConfig` of a request becomes the domain's.

use super::{Read, mount, namespace, non_negative, port, unsupported};
use crate::http::Failure;
use crate::wire::container as wire;
use muster_types::container::{
    ContainerResources, DeviceMapping, EngineRestart, HostConfig, MountSpec, NetworkMode, Ulimit,
};
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
    let security_opt = read_security(&mut host);
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
        mounts: read_mounts(&mut host)?,
        resources: read_resources(&host)?,
        ports: port::read_bindings(host.port_bindings)?,
        publish_all: host.publish_all_ports,
        privileged: host.privileged,
        cap_add: host.cap_add,
        cap_drop: host.cap_drop,
        security_opt,
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
                name: match host.log_config.r#type.as_str() {
                    "" => "json-file".to_owned(),
                    _ => host.log_config.r#type,
                },
                options: host.log_config.config,
            },
        ),
        devices: host.devices.into_iter().map(read_device).collect(),
        cgroup_parent: host.cgroup_parent,
        annotations: host.annotations,
    };
    Ok(Host { config, groups })
}

/// Clients say by empty lists that no path is to be hidden or protected.
fn read_security(host: &mut wire::HostConfig) -> Vec<String> {
    let mut options = std::mem::take(&mut host.security_opt);
    if host.masked_paths.is_some() && host.readonly_paths.is_some() {
        options.push("systempaths=unconfined".to_owned());
    }
    options
}

fn refuse_unsupported(host: &wire::HostConfig) -> Read<()> {
    let asked = [
        ("VolumesFrom", !host.volumes_from.is_empty()),
        ("Links", !host.links.is_empty()),
        ("DeviceRequests", !host.device_requests.is_empty()),
        ("DeviceCgroupRules", !host.device_cgroup_rules.is_empty()),
        ("StorageOpt", !host.storage_opt.is_empty()),
        (
            "MaskedPaths",
            host.masked_paths.as_ref().is_some_and(|paths| !paths.is_empty()),
        ),
        (
            "ReadonlyPaths",
            host.readonly_paths
                .as_ref()
                .is_some_and(|paths| !paths.is_empty()),
        ),
        (
            "MaskedPaths without ReadonlyPaths",
            host.masked_paths.is_some() != host.readonly_paths.is_some(),
        ),
        (
            "VolumeDriver",
            !matches!(host.volume_driver.as_str(), "" | "local"),
        ),
        (
            "Runtime",
            !matches!(host.runtime.as_str(), "" | "muster" | "runc"),
        ),
        ("Isolation", !matches!(host.isolation.as_str(), "" | "default")),
        ("BlkioWeightDevice", !host.blkio_weight_device.is_empty()),
        ("BlkioDeviceReadBps", !host.blkio_device_read_bps.is_empty()),
        ("BlkioDeviceWriteBps", !host.blkio_device_write_bps.is_empty()),
        ("BlkioDeviceReadIOps", !host.blkio_device_read_iops.is_empty()),
        ("BlkioDeviceWriteIOps", !host.blkio_device_write_iops.is_empty()),
        (
            "CPU real-time scheduling",
            host.cpu_realtime_period != 0 || host.cpu_realtime_runtime != 0,
        ),
    ];
    match asked.iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(unsupported(&format!("HostConfig.{field}"))),
        None => Ok(()),
    }
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

fn read_restart(policy: &wire::RestartPolicy) -> Read<EngineRestart> {
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
        mounts.push(mount::read_bind(&text)?);
    }
    for (target, options) in std::mem::take(&mut host.tmpfs) {
        mounts.push(mount::read_tmpfs(&target, &options)?);
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

fn read_resources(host: &wire::HostConfig) -> Read<ContainerResources> {
    let nano_cpus = non_negative("NanoCpus", host.nano_cpus)?;
    if nano_cpus != 0 && (host.cpu_quota != 0 || host.cpu_period != 0) {
        return Err(Failure::invalid(
            "Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set",
        ));
    }
    let memory_bytes = non_negative("Memory", host.memory)?;
    if memory_bytes != 0 && memory_bytes < 6 << 20 {
        return Err(Failure::invalid("Minimum memory limit allowed is 6MB"));
    }
    if host.memory_swap > 0 && host.memory_swap < host.memory {
        return Err(Failure::invalid(
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ));
    }
    // Older clients send -1 for "the kernel's default".
    let memory_swappiness = match host.memory_swappiness {
        None | Some(-1) => None,
        Some(value @ 0..=100) => Some(non_negative("MemorySwappiness", value)?),
        Some(value) => {
            return Err(Failure::invalid(format!(
                "Invalid value: {value}, valid memory swappiness range is 0-100"
            )));
        }
    };
    Ok(ContainerResources {
        nano_cpus,
        cpu_shares: non_negative("CpuShares", host.cpu_shares)?,
        cpu_period_us: non_negative("CpuPeriod", host.cpu_period)?,
        cpu_quota_us: host.cpu_quota,
        cpuset_cpus: host.cpuset_cpus.clone(),
        cpuset_mems: host.cpuset_mems.clone(),
        memory_bytes,
        memory_reservation_bytes: non_negative("MemoryReservation", host.memory_reservation)?,
        memory_swap_bytes: host.memory_swap,
        memory_swappiness,
        oom_kill_disable: host.oom_kill_disable.unwrap_or(false),
        pids: host.pids_limit.unwrap_or(0),
        blkio_weight: host.blkio_weight,
    })
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
