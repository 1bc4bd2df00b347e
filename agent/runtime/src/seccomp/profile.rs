//! Profiles in the form that Docker's users write, and Docker's default profile.

use std::fmt;
use std::sync::LazyLock;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSyscall, LinuxSyscallBuilder,
};
use serde::Deserialize;

use super::abi::Machine;
use super::{Result, SeccompError};

const DEFAULT_SOURCE: &str = include_str!("default_profile.json");

static DEFAULT: LazyLock<DockerProfile> =
    LazyLock::new(|| DockerProfile::parse(DEFAULT_SOURCE).expect("the built-in profile is parsed by a test"));

/// Docker's default profile for a container with these capabilities.
pub fn docker_default(granted: &[Capability], machine: Machine, kernel: KernelVersion) -> LinuxSeccomp {
    DEFAULT.resolve(granted, machine, kernel)
}

/// The two numbers of a kernel's version that profiles ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl KernelVersion {
    /// The running kernel's.
    pub fn current() -> Result<KernelVersion> {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
        release
            .and_then(|release| Self::parse(release.trim()))
            .ok_or(SeccompError::UnknownKernel("version"))
    }

    /// Reads `6.1`, `6.1.0-13-amd64` and the like.
    fn parse(release: &str) -> Option<KernelVersion> {
        let mut numbers = release.splitn(2, '.');
        let major = numbers.next()?.parse().ok()?;
        let rest = numbers.next()?;
        let digits = rest
            .find(|letter: char| !letter.is_ascii_digit())
            .unwrap_or(rest.len());
        Some(KernelVersion {
            major,
            minor: rest[..digits].parse().ok()?,
        })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// A profile in Docker's form: the OCI form with conditions on capabilities, architecture and kernel version.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DockerProfile {
    #[serde(default)]
    default_action: Option<LinuxSeccompAction>,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchitectureSet>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<std::path::PathBuf>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchitectureSet {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<LinuxSeccompArg>>,
    includes: Option<Conditions>,
    excludes: Option<Conditions>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conditions {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl DockerProfile {
    /// Reads a profile, as given with `--security-opt seccomp=<JSON>`.
    pub fn parse(json: &str) -> Result<DockerProfile> {
        let profile: DockerProfile = serde_json::from_str(json).map_err(SeccompError::Malformed)?;
        if profile
            .architectures
            .as_ref()
            .is_some_and(|list| !list.is_empty())
            && profile.arch_map.as_ref().is_some_and(|list| !list.is_empty())
        {
            return Err(SeccompError::Contradiction(
                "it has both architectures and archMap: use one of them",
            ));
        }
        for rule in profile.syscalls.iter().flatten() {
            if rule.name.as_ref().is_some_and(|name| !name.is_empty())
                && rule.names.as_ref().is_some_and(|names| !names.is_empty())
            {
                return Err(SeccompError::Contradiction(
                    "a rule has both name and names: use one of them",
                ));
            }
            let conditions = rule.includes.iter().chain(&rule.excludes);
            if conditions
                .filter_map(|c| c.min_kernel.as_deref())
                .any(|text| KernelVersion::parse(text).is_none())
            {
                return Err(SeccompError::Contradiction(
                    "a minKernel is no version such as 4.8",
                ));
            }
        }
        if profile.default_action.is_none() && !profile.is_empty() {
            return Err(SeccompError::Contradiction("it has no defaultAction"));
        }
        Ok(profile)
    }

    /// Whether the profile says nothing, which in Docker means no filter at all.
    pub fn is_empty(&self) -> bool {
        self.default_action.is_none() && self.syscalls.as_ref().is_none_or(Vec::is_empty)
    }

    /// The OCI profile for a container with these capabilities. Rules whose conditions do not hold are left out.
    pub fn resolve(&self, granted: &[Capability], machine: Machine, kernel: KernelVersion) -> LinuxSeccomp {
        let mut profile = LinuxSeccomp::default();
        profile.set_default_action(self.default_action.unwrap_or_default());
        profile.set_default_errno_ret(self.default_errno_ret);
        profile.set_flags(self.flags.clone());
        profile.set_listener_path(self.listener_path.clone());
        profile.set_listener_metadata(self.listener_metadata.clone());
        let mapped = self
            .arch_map
            .iter()
            .flatten()
            .find(|set| set.architecture == machine.oci_name());
        profile.set_architectures(match mapped {
            Some(set) => {
                let below = set.sub_architectures.iter().flatten().copied();
                Some(std::iter::once(set.architecture).chain(below).collect())
            }
            None => self.architectures.clone(),
        });
        let rules = self
            .syscalls
            .iter()
            .flatten()
            .filter(|rule| rule.holds(granted, machine, kernel));
        profile.set_syscalls(Some(rules.map(Rule::to_oci).collect()));
        profile
    }
}

impl Rule {
    fn holds(&self, granted: &[Capability], machine: Machine, kernel: KernelVersion) -> bool {
        // Profiles and OCI name capabilities alike, but the OCI type prints them without the prefix.
        let has = |name: &String| {
            let name = name.strip_prefix("CAP_").unwrap_or(name);
            granted.iter().any(|capability| capability.to_string() == name)
        };
        let is_machine = |name: &String| name == machine.docker_name();
        let reaches =
            |version: &String| KernelVersion::parse(version).is_some_and(|version| kernel >= version);
        let excluded = self.excludes.as_ref().is_some_and(|conditions| {
            conditions.arches.iter().flatten().any(is_machine)
                || conditions.caps.iter().flatten().any(has)
                || conditions.min_kernel.as_ref().is_some_and(reaches)
        });
        let included = self.includes.as_ref().is_none_or(|conditions| {
            conditions
                .arches
                .as_ref()
                .is_none_or(|arches| arches.is_empty() || arches.iter().any(is_machine))
                && conditions.caps.iter().flatten().all(has)
                && conditions.min_kernel.as_ref().is_none_or(reaches)
        });
        included && !excluded
    }

    fn to_oci(&self) -> LinuxSyscall {
        let names = match &self.name {
            Some(name) if !name.is_empty() => vec![name.clone()],
            _ => self.names.clone().unwrap_or_default(),
        };
        let mut rule = LinuxSyscallBuilder::default().names(names).action(self.action);
        if let Some(errno) = self.errno_ret {
            rule = rule.errno_ret(errno);
        }
        if let Some(args) = self.args.as_ref().filter(|args| !args.is_empty()) {
            rule = rule.args(args.clone());
        }
        rule.build().expect("every field of a rule has a default")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: KernelVersion = KernelVersion { major: 6, minor: 1 };

    /// The rules for one call: its action and whether it has conditions on arguments.
    fn rules_for(profile: &LinuxSeccomp, name: &str) -> Vec<(LinuxSeccompAction, bool)> {
        let rules = profile
            .syscalls()
            .iter()
            .flatten()
            .filter(|rule| rule.names().iter().any(|call| call == name));
        rules.map(|rule| (rule.action(), rule.args().is_some())).collect()
    }

    #[test]
    fn conditions_follow_capabilities_machine_and_kernel() {
        use LinuxSeccompAction::{ScmpActAllow as Allow, ScmpActErrno as Errno};
        let plain = docker_default(&[], Machine::X86_64, NEW);
        assert_eq!(rules_for(&plain, "clone3"), [(Errno, false)]);
        assert_eq!(rules_for(&plain, "clone"), [(Allow, true)]);
        assert_eq!(rules_for(&plain, "mount"), []);
        assert_eq!(rules_for(&plain, "ptrace"), [(Allow, false)]);
        assert_eq!(rules_for(&plain, "arch_prctl"), [(Allow, false)]);
        assert_eq!(rules_for(&plain, "set_tls"), []);
        let architectures = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
        assert_eq!(plain.architectures().as_deref(), Some(&architectures[..]));

        let admin = docker_default(
            &[Capability::SysAdmin, Capability::SysChroot],
            Machine::X86_64,
            NEW,
        );
        assert_eq!(rules_for(&admin, "clone3"), [(Allow, false)]);
        assert_eq!(rules_for(&admin, "clone"), [(Allow, false)]);
        assert_eq!(rules_for(&admin, "chroot"), [(Allow, false)]);

        let old = docker_default(&[], Machine::Aarch64, KernelVersion { major: 4, minor: 7 });
        assert_eq!(rules_for(&old, "ptrace"), []);
        assert_eq!(rules_for(&old, "arch_prctl"), []);
        assert_eq!(rules_for(&old, "set_tls"), [(Allow, false)]);
    }

    #[test]
    fn users_profiles_are_checked() {
        assert!(DockerProfile::parse("{}").unwrap().is_empty());
        let allow_all =
            DockerProfile::parse(r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": null}"#).unwrap();
        assert!(!allow_all.is_empty());
        let old_form = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"name": "chmod", "action": "SCMP_ACT_ERRNO", "args": []}]}"#;
        let resolved = DockerProfile::parse(old_form)
            .unwrap()
            .resolve(&[], Machine::X86_64, NEW);
        assert_eq!(
            rules_for(&resolved, "chmod"),
            [(LinuxSeccompAction::ScmpActErrno, false)]
        );
        for bad in [
            "",
            r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#,
            r#"{"syscalls": [{"name": "a", "action": "SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"], "action": "SCMP_ACT_LOG"}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
                "archMap": [{"architecture": "SCMP_ARCH_X86", "subArchitectures": null}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"name": "a", "action": "SCMP_ACT_LOG", "includes": {"minKernel": "four"}}]}"#,
        ] {
            assert!(DockerProfile::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_are_numbers() {
        let version = |text| KernelVersion::parse(text).map(|version| version.to_string());
        assert_eq!(version("6.18.44-fc"), Some("6.18".to_owned()));
        assert_eq!(version("3.12-1-amd64"), Some("3.12".to_owned()));
        assert_eq!(version("6"), None);
        assert!(KernelVersion { major: 4, minor: 19 } > KernelVersion { major: 4, minor: 8 });
        assert!(KernelVersion::current().unwrap().major >= 4);
    }
}
