//! Turns what a container is asked to be into an OCI runtime specification. Pure: what the host says comes in as data.

mod capabilities;
mod devices;
mod limits;
mod mounts;
mod namespaces;
mod process;
mod resources;
mod security;

pub use capabilities::bounding_of;
pub use limits::parse_host_limits;
pub use process::{exec_process, merged_environment};
pub use resources::{HostAbilities, validate as validate_resources};
pub use security::{SecurityOptions, selinux_labels};

use crate::error::{Error, Result};
use muster_runtime::label::selinux::{ContainerContexts, ContainerLabels};
use muster_runtime::seccomp::{KernelVersion, Machine};
use muster_types::container::{ContainerConfig, MountPoint, NetworkMode};
use oci_spec::runtime::{Linux, Root, Spec};
use std::path::{Path, PathBuf};

/// Who the container's process is, as the image's own user database says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Additional group ids.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// The host's side of a specification.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// What control groups can limit here.
    pub abilities: HostAbilities,
    /// Capabilities that this process may pass on, one bit each.
    pub capabilities: u64,
    /// Processor architecture.
    pub machine: Machine,
    /// Kernel version.
    pub kernel: KernelVersion,
    /// AppArmor profile of containers that name none; `None` where none is in force.
    pub apparmor_profile: Option<String>,
    /// What the host's SELinux policy has for containers; `None` where SELinux is not in force.
    pub selinux: Option<ContainerContexts>,
    /// What the host's security modules could do and do not.
    pub warnings: Vec<String>,
    /// Own resource limits by name: (soft, hard).
    pub limits: Vec<(String, u64, u64)>,
}

/// The container's side of a specification.
#[derive(Debug)]
pub struct SpecInput<'a> {
    /// What it was asked to be.
    pub config: &'a ContainerConfig,
    /// Path and arguments.
    pub command: &'a [String],
    /// The environment from image and configuration.
    pub env: &'a [String],
    /// Working directory in effect.
    pub working_dir: &'a str,
    /// Host name in effect.
    pub host_name: &'a str,
    /// User in effect.
    pub user: &'a ProcessUser,
    /// Mounts in effect.
    pub mounts: &'a [MountPoint],
    /// Directory with the generated `hostname`, `hosts` and `resolv.conf`.
    pub files: &'a Path,
    /// The network namespace to join: another container's, or none for a new one or the host's.
    pub network_of: Option<PathBuf>,
    /// Its SELinux labels.
    pub labels: Option<&'a ContainerLabels>,
    /// The host.
    pub host: &'a HostFacts,
}

/// The specification of a container.
pub fn build(input: &SpecInput<'_>) -> Result<Spec> {
    let options = SecurityOptions::parse(&input.config.host.security_opt)?;
    let mut linux = Linux::default();
    linux.set_namespaces(Some(namespaces::of(input)));
    linux.set_resources(Some(resources::of(input)?));
    linux.set_devices(Some(devices::nodes(input.config)?));
    linux.set_sysctl(Some(sysctls(input.config)?));
    linux.set_cgroups_path(None);
    linux.set_mount_label(input.labels.map(|labels| labels.mount.clone()));
    security::confine(input, &options, &mut linux)?;

    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs"));
    root.set_readonly(Some(input.config.host.read_only));
    let mut spec = Spec::default();
    spec.set_root(Some(root));
    spec.set_mounts(Some(mounts::of(input)?));
    spec.set_process(Some(process::of(input, &options)?));
    if !input.config.host.uts_host {
        spec.set_hostname(Some(input.host_name.to_owned()));
        spec.set_domainname(Some(input.config.domainname.clone()).filter(|name| !name.is_empty()));
    } else {
        spec.set_hostname(None);
    }
    let annotations = input.config.host.annotations.clone().into_iter().collect();
    spec.set_annotations(Some(annotations));
    spec.set_linux(Some(linux));
    Ok(spec)
}

/// Kernel parameters that the container's own namespaces hold; those of the network namespace are set with its
/// interfaces, unless the container shares the host's.
fn sysctls(config: &ContainerConfig) -> Result<std::collections::HashMap<String, String>> {
    let mut own = std::collections::HashMap::new();
    for (name, value) in &config.host.sysctls {
        if name.starts_with("net.") {
            if matches!(config.host.network, NetworkMode::Host) {
                return Err(Error::invalid(format!(
                    "sysctl {name:?} is not allowed with host networking: it would change the host"
                )));
            }
            continue;
        }
        let namespaced = name.starts_with("fs.mqueue.")
            || [
                "kernel.msgmax",
                "kernel.msgmnb",
                "kernel.msgmni",
                "kernel.sem",
                "kernel.shmall",
            ]
            .contains(&name.as_str())
            || ["kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"].contains(&name.as_str());
        if !namespaced || config.host.ipc_host {
            return Err(Error::invalid(format!(
                "sysctl {name:?} is not in a namespace of the container: it would change the host"
            )));
        }
        own.insert(name.clone(), value.clone());
    }
    Ok(own)
}

#[cfg(test)]
mod tests;
