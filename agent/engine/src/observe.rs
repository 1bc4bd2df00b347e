//! Facts about the engine and its containers: info, counters, processes.

use crate::clock;
use crate::engine::{Engine, Inner};
use crate::error::{Error, Result};
use crate::host;
use crate::spec::{self, SecurityOptions};
use crate::volumes::{Volume, VolumeSpec};
use muster_images::{DamagedImage, ImageStore};
use muster_network::InterfaceStats;
use muster_runtime::cgroup::{CgroupStats, CgroupVersion};
use muster_runtime::label::selinux::Level;
use muster_types::Timestamp;
use muster_types::container::{ContainerInfo, ContainerState};
use muster_types::service::Labels;
use std::collections::BTreeMap;

impl Inner {
    /// Adds what confines a container, and what else runs in it.
    pub(crate) fn add_confinement(&self, info: &mut ContainerInfo, level: Level) -> Result<()> {
        let host = &mut info.config.host;
        let options = SecurityOptions::parse(&host.security_opt)?;
        let default = self.host.apparmor_profile.as_deref();
        let profile = options.apparmor_in_effect(default, host.privileged);
        info.apparmor_profile = profile.unwrap_or_default();
        let labels = spec::selinux_labels(self.host.selinux.as_ref(), level, host)?;
        if let Some(labels) = labels {
            info.selinux_labels = (labels.process.unwrap_or_default(), labels.mount);
        }
        (host.masked_paths, host.readonly_paths) = spec::system_paths(host, &options);
        info.execs = self.execs_of(&info.id);
        Ok(())
    }
}

/// Facts about the node and its engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineFacts {
    /// The engine's own id, kept over restarts.
    pub id: String,
    /// The node's name.
    pub name: String,
    /// The node's labels.
    pub labels: Labels,
    /// Data directory.
    pub data_dir: String,
    /// Kernel release.
    pub kernel_version: String,
    /// Distribution.
    pub operating_system: String,
    /// Its version.
    pub os_version: String,
    /// Processors.
    pub cpus: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Log driver of containers that name none.
    pub log_driver: String,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// What confinement is in force.
    pub security: Vec<String>,
    /// What is missing.
    pub warnings: Vec<String>,
    /// Swap can be limited.
    pub swap_limit: bool,
    /// Packets are forwarded.
    pub ip_forwarding: bool,
    /// When the engine was opened.
    pub started_at: Timestamp,
    /// Containers, by state.
    pub containers: Vec<(ContainerState, usize)>,
}

/// One reading of a container's counters.
#[derive(Debug, Clone)]
pub struct ContainerStats {
    /// When it was read.
    pub at: Timestamp,
    /// What its control group counted; `None` when it does not run.
    pub cgroup: Option<CgroupStats>,
    /// Traffic by interface.
    pub networks: Vec<(String, InterfaceStats)>,
    /// Nanoseconds that all processors of the host spent.
    pub host_cpu_ns: u64,
    /// Processors of the host.
    pub cpus: u64,
    /// Bytes of the host's memory.
    pub host_memory_bytes: u64,
}

impl Engine {
    /// Facts about the node and its engine. Cheap.
    pub fn info(&self) -> EngineFacts {
        let inner = &self.inner;
        let (operating_system, os_version) = host::distribution();
        let abilities = &inner.host.abilities;
        let mut warnings = inner.host.warnings.clone();
        warnings.extend(inner.neighbours.warnings());
        if !abilities.swap {
            warnings.push("WARNING: No swap limit support".to_owned());
        }
        if !host::forwards_packets() {
            warnings.push("WARNING: IPv4 forwarding is disabled".to_owned());
        }
        warnings.extend(damaged_images(&inner.images));
        EngineFacts {
            id: inner.identity.id.clone(),
            name: inner.identity.name.clone(),
            labels: inner.identity.labels.clone(),
            data_dir: inner.layout.data_dir().to_string_lossy().into_owned(),
            kernel_version: host::kernel_release(),
            operating_system,
            os_version,
            cpus: abilities.cpus,
            memory_bytes: host::memory_bytes(),
            cgroup_version: match inner.cgroup.version() {
                CgroupVersion::V1 => 1,
                CgroupVersion::V2 => 2,
            },
            security: security(
                inner.host.apparmor_profile.is_some(),
                inner.host.selinux.is_some(),
                inner.remap.is_some(),
            ),
            log_driver: inner.log.name.clone(),
            warnings,
            swap_limit: abilities.swap,
            ip_forwarding: host::forwards_packets(),
            started_at: inner.identity.started_at,
            containers: self.counts(),
        }
    }

    /// One reading of a container's counters.
    pub async fn stats(&self, reference: &str) -> Result<ContainerStats> {
        let container = self.inner.find(reference)?;
        let mut stats = ContainerStats {
            at: clock::now(),
            cgroup: None,
            networks: Vec::new(),
            host_cpu_ns: host::processor_time_ns(),
            cpus: host::cpus(),
            host_memory_bytes: host::memory_bytes(),
        };
        let Some(run) = container.run() else {
            return Ok(stats);
        };
        let counted = self
            .inner
            .with_cgroup(&container, "measure", |group| group.stats())
            .await;
        match counted {
            Ok(counted) => stats.cgroup = Some(counted),
            // It ended meanwhile.
            Err(Error::WrongState { .. }) => return Ok(stats),
            Err(error) => return Err(error),
        }
        if !run.places.is_empty() {
            let network = &self.inner.networking.network;
            stats.networks = network
                .interface_stats(container.id.as_str())
                .await
                .unwrap_or_default();
        }
        Ok(stats)
    }

    /// All volumes.
    pub fn volume_list(&self) -> Vec<Volume> {
        self.inner.volumes.list()
    }

    /// Makes a volume, or returns the one with this name.
    pub async fn volume_create(&self, spec: VolumeSpec) -> Result<Volume> {
        let inner = std::sync::Arc::clone(&self.inner);
        self.carry("volume_create", async move {
            let name = match spec.name.as_str() {
                "" => crate::create::random_id().to_string(),
                name => name.to_owned(),
            };
            let (volume, is_new) = inner.volumes.ensure(&name, &spec).await?;
            if is_new {
                inner.volume_event("create", &volume.name);
            }
            Ok(volume)
        })
        .await
    }

    /// Bytes of the files of every volume, by name.
    pub async fn volume_sizes(&self) -> Result<BTreeMap<String, u64>> {
        self.inner
            .blocking(|inner| {
                let volumes = inner.volumes.list();
                let sized = volumes.into_iter().map(|volume| {
                    let bytes = muster_images::file_bytes(&volume.mountpoint);
                    (volume.name, bytes)
                });
                Ok(sized.collect())
            })
            .await
    }

    /// Removes a volume that no container has. With `force` a missing one is no error.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        let inner = std::sync::Arc::clone(&self.inner);
        let name = name.to_owned();
        self.carry("volume_remove", async move {
            match inner.remove_volume(&name).await {
                Err(Error::NoSuchVolume { .. }) if force => Ok(()),
                result => result,
            }
        })
        .await
    }

    fn counts(&self) -> Vec<(ContainerState, usize)> {
        let mut counts = std::collections::BTreeMap::new();
        for container in self.inner.containers().all() {
            *counts.entry(container.phase().state()).or_insert(0) += 1;
        }
        counts.into_iter().collect()
    }
}

/// A warning for each image that cannot be run as it was recorded.
fn damaged_images(images: &ImageStore) -> Vec<String> {
    let damaged = images.damaged().unwrap_or_else(|error| {
        tracing::warn!(error = error.full_message(), "damaged images cannot be told");
        Vec::new()
    });
    let named = |image: DamagedImage| match image.names.into_iter().next() {
        Some(name) => name,
        None => image.id.to_string(),
    };
    let warning =
        |name: String| format!("WARNING: image {name} is damaged and hidden: pull or load it again");
    damaged.into_iter().map(named).map(warning).collect()
}

/// The confinement that containers get by default, in Docker's form.
fn security(apparmor: bool, selinux: bool, user_namespaces: bool) -> Vec<String> {
    let options = ["name=seccomp,profile=builtin"].into_iter();
    let options = options.chain(apparmor.then_some("name=apparmor"));
    let options = options.chain(selinux.then_some("name=selinux"));
    let options = options.chain(user_namespaces.then_some("name=userns"));
    options.chain(["name=cgroupns"]).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_modules_are_listed_where_they_are_in_force() {
        let (filter, namespace) = ("name=seccomp,profile=builtin", "name=cgroupns");
        assert_eq!(security(false, false, false), [filter, namespace]);
        assert_eq!(security(true, false, false), [filter, "name=apparmor", namespace]);
        assert_eq!(security(false, true, false), [filter, "name=selinux", namespace]);
        assert_eq!(security(false, false, true), [filter, "name=userns", namespace]);
    }
}
