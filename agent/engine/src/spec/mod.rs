//! Turns what a container is asked to be into an OCI runtime specification. Pure: what the host says comes in as data.

mod admission;
mod capabilities;
mod cpu_list;
mod devices;
mod limits;
mod mounts;
mod namespaces;
mod process;
mod resources;
mod security;
mod sysctls;

pub use admission::{HostAbilities, Purpose, admit};
pub use capabilities::{bounding_of, check as check_capabilities};
pub use cpu_list::CpuList;
pub use devices::check_rules as check_device_rules;
pub use limits::parse_host_limits;
pub use namespaces::JoinedNamespaces;
pub use process::{PATH_DEFAULT, exec_process, merged_environment};
pub use resources::changed as changed_limits;
pub use security::{SecurityOptions, check_paths, selinux_labels, system_paths};
pub use sysctls::{dotted as dotted_sysctl, of as check_sysctls};

use crate::error::Result;
use muster_runtime::label::selinux::{ContainerContexts, ContainerLabels};
use muster_runtime::seccomp::{KernelVersion, Machine};
use muster_types::container::{ContainerConfig, MountPoint};
use muster_types::id_map::IdTranslation;
use oci_spec::runtime::{Linux, Root, Spec};
use std::collections::BTreeMap;
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
    /// Mounts whose files are shown with other owners than they have, by target.
    pub translations: &'a BTreeMap<String, IdTranslation>,
    /// Directory with the generated `hostname`, `hosts` and `resolv.conf`.
    pub files: &'a Path,
    /// Files that it is given for this start: where it sees each, and where that lies.
    pub given: &'a [(String, PathBuf)],
    /// What it joins of other containers.
    pub joined: &'a JoinedNamespaces,
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
    linux.set_sysctl(Some(sysctls::of(&input.config.host)?));
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

#[cfg(test)]
mod tests;
