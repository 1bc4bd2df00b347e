//! Confinement: security options, the system call filter, hidden and read-only paths.

use super::{SpecInput, capabilities};
use crate::error::{Error, Result};
use muster_runtime::label::apparmor;
use muster_runtime::label::selinux::{ContainerContexts, ContainerLabels, LabelOptions, Level};
use muster_runtime::seccomp::{DockerProfile, docker_default};
use muster_types::container::HostConfig;
use muster_types::namespace::{IpcMode, NamespaceMode};
use oci_spec::runtime::Linux;

/// Paths that say too much about the host; Docker's.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths through which the host could be changed; Docker's.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Which system call filter a container gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Filter {
    #[default]
    Default,
    Unconfined,
    /// A profile in Docker's JSON form.
    Profile(String),
}

/// `--security-opt`, read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecurityOptions {
    /// Forbid gaining privileges through exec.
    pub no_new_privileges: bool,
    /// AppArmor profile asked for; `unconfined` is one.
    pub apparmor: Option<String>,
    label: LabelOptions,
    filter: Filter,
    /// `systempaths=unconfined`: hide nothing.
    all_paths: bool,
}

impl SecurityOptions {
    /// Reads options in both of Docker's forms, `key=value` and the old `key:value`.
    pub fn parse(options: &[String]) -> Result<Self> {
        let mut read = Self::default();
        for option in options {
            let refused = || Error::invalid(format!("invalid --security-opt: {option:?}"));
            let (key, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
                Some((key, value)) => (key, Some(value)),
                None => (option.as_str(), None),
            };
            match (key, value) {
                ("no-new-privileges", None | Some("true")) => read.no_new_privileges = true,
                ("no-new-privileges", Some("false")) => read.no_new_privileges = false,
                ("seccomp", Some("unconfined")) => read.filter = Filter::Unconfined,
                ("seccomp", Some("builtin" | "default")) => read.filter = Filter::Default,
                ("seccomp", Some(profile)) => read.filter = Filter::Profile(profile.to_owned()),
                ("apparmor", Some("")) => read.apparmor = None,
                ("apparmor", Some(profile)) => read.apparmor = Some(profile.to_owned()),
                ("label", Some(option)) if read.label.read(option) => {}
                ("systempaths", Some("unconfined")) => read.all_paths = true,
                _ => return Err(refused()),
            }
        }
        if let Filter::Profile(json) = &read.filter {
            DockerProfile::parse(json)
                .map_err(|error| Error::invalid(format!("{error}; {option}", option = hint())))?;
        }
        Ok(read)
    }

    /// The SELinux level that was asked for.
    pub fn level(&self) -> Option<Level> {
        self.label.level()
    }

    /// The AppArmor profile of a container: the one asked for, else the host's default unless it is privileged.
    pub fn apparmor_in_effect(&self, host_default: Option<&str>, privileged: bool) -> Option<String> {
        let default = host_default.map(|profile| if privileged { apparmor::UNCONFINED } else { profile });
        self.apparmor.clone().or(default.map(str::to_owned))
    }
}

/// The SELinux labels of a container; none where the host's policy has none for containers.
pub fn selinux_labels(
    contexts: Option<&ContainerContexts>,
    level: Level,
    host: &HostConfig,
) -> Result<Option<ContainerLabels>> {
    let options = SecurityOptions::parse(&host.security_opt)?.label;
    match contexts {
        None if options.asks_for_a_label() => Err(Error::invalid(
            "--security-opt label asks for an SELinux label, but this node has no SELinux policy for containers: \
             leave the option out",
        )),
        None => Ok(None),
        Some(contexts) => {
            let shares = host.privileged || host.pid == NamespaceMode::Host || host.ipc == IpcMode::Host;
            Ok(Some(contexts.labels(level, &options.or_disabled(shares))))
        }
    }
}

/// The paths to hide and those to make read-only: what was asked for, else Docker's lists unless the container is
/// privileged.
pub fn system_paths(
    host: &HostConfig,
    options: &SecurityOptions,
) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let usual = |paths: &[&str]| {
        let hides = !host.privileged && !options.all_paths;
        hides.then(|| paths.iter().map(|path| (*path).to_owned()).collect())
    };
    let masked = host.masked_paths.clone().or_else(|| usual(&MASKED));
    let read_only = host.readonly_paths.clone().or_else(|| usual(&READ_ONLY));
    (masked, read_only)
}

/// Refuses paths that could never be hidden or made read-only.
pub fn check_paths(host: &HostConfig) -> Result<()> {
    let lists = [
        ("MaskedPaths", &host.masked_paths),
        ("ReadonlyPaths", &host.readonly_paths),
    ];
    for (field, paths) in lists {
        let plain = |path: &&String| path.starts_with('/') && !path.split('/').any(|part| part == "..");
        if let Some(bad) = paths.iter().flatten().find(|path| !plain(path)) {
            return Err(Error::invalid(format!(
                "invalid {field}: {bad:?} is no absolute path without \"..\""
            )));
        }
    }
    Ok(())
}

fn hint() -> &'static str {
    "give the profile's JSON, `unconfined`, or nothing for the default"
}

/// Sets filter and paths.
pub fn confine(input: &SpecInput<'_>, options: &SecurityOptions, linux: &mut Linux) -> Result<()> {
    let host = &input.config.host;
    linux.set_masked_paths(None);
    linux.set_readonly_paths(None);
    linux.set_seccomp(None);
    let (masked, read_only) = system_paths(host, options);
    linux.set_masked_paths(masked);
    linux.set_readonly_paths(read_only);
    if host.privileged {
        return Ok(());
    }
    let given = capabilities::effective_set(&host.cap_add, &host.cap_drop, false, input.host.capabilities)?;
    let granted: Vec<_> = given.into_iter().collect();
    let profile = match &options.filter {
        Filter::Unconfined => return Ok(()),
        Filter::Default => docker_default(&granted, input.host.machine, input.host.kernel),
        Filter::Profile(json) => DockerProfile::parse(json)
            .map_err(|error| Error::invalid(error.to_string()))?
            .resolve(&granted, input.host.machine, input.host.kernel),
    };
    linux.set_seccomp(Some(profile));
    Ok(())
}
