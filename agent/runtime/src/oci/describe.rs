//! `features`, `spec` and `--version`: what there is, and a specification to begin with.

use serde_json::{Value, json};
use std::path::Path;

use super::arguments::Flags;
use super::error::{OciError, Result};
use crate::seccomp::{HostSupport, Machine};

/// The newest version of the specification that this was written after.
const SPEC_VERSION: &str = "1.2.0";

/// All options that the mount code takes; those of file systems pass through.
const MOUNT_OPTIONS: [&str; 48] = [
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "idmap",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "tmpcopyup",
    "unbindable",
    "nofail",
];

const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];

/// Answers a line without a command.
pub(super) fn version_or_help(global: &Flags) -> i32 {
    if global.is_set("version") {
        println!("muster oci version {}", env!("CARGO_PKG_VERSION"));
        println!("spec: {SPEC_VERSION}");
        return 0;
    }
    println!(
        "usage: muster oci [--root DIRECTORY] [--log FILE] [--log-format text|json] [--debug] COMMAND …\n\
         commands: create run start state kill delete exec list ps pause resume update events features spec\n\
         They take what runc's take; see docs/oci-runtime.md."
    );
    i32::from(!global.is_set("help"))
}

/// Shows what this runtime can do, as the specification's features.md has it.
pub(super) fn features() {
    println!("{}", features_json());
}

fn features_json() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": HOOKS,
        "mountOptions": MOUNT_OPTIONS.as_slice(),
        "linux": {
            "namespaces": NAMESPACES,
            "capabilities": capabilities(),
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": true },
            "seccomp": {
                "enabled": HostSupport::detect().is_ok(),
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
                ],
                "archs": [match Machine::current() {
                    Machine::X86_64 => "SCMP_ARCH_X86_64",
                    Machine::Aarch64 => "SCMP_ARCH_AARCH64",
                }],
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": false },
            "memoryPolicy": { "enabled": false },
            "netDevices": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": true } },
        },
        "annotations": { "muster.version": env!("CARGO_PKG_VERSION") },
    })
}

/// The names of all capabilities that specifications can name.
fn capabilities() -> Vec<String> {
    use oci_spec::runtime::Capability;
    let highest = Capability::CheckpointRestore;
    let all = crate::plan::CAPABILITIES.iter().copied();
    debug_assert!(all.clone().any(|capability| capability == highest));
    all.filter_map(|capability| serde_json::to_value(capability).ok())
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

/// Writes a specification to begin with into a bundle.
pub(super) fn spec(flags: &Flags) -> Result<()> {
    if flags.is_set("rootless") {
        return Err(OciError::Unsupported {
            what: "spec --rootless",
            instead: "leave the option out and add a user namespace with uidMappings and gidMappings",
        });
    }
    let directory = Path::new(
        flags
            .value("bundle")
            .filter(|path| !path.is_empty())
            .unwrap_or("."),
    );
    let path = directory.join("config.json");
    let mut file = std::fs::File::create_new(&path).map_err(|error| {
        OciError::io(
            format!("make {}: remove one that is there first", path.display()),
            error,
        )
    })?;
    serde_json::to_writer_pretty(&mut file, &first_spec())
        .map_err(|error| OciError::io(format!("write {}", path.display()), error))
}

fn first_spec() -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mount = |at: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": at, "type": kind, "source": source, "options": options });
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "muster",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount(
                "/dev/pts",
                "devpts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount(
                "/sys/fs/cgroup",
                "cgroup",
                "cgroup",
                &["nosuid", "noexec", "nodev", "relatime", "ro"],
            ),
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" },
                { "type": "uts" }, { "type": "mount" }, { "type": "cgroup" },
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let spec: oci_spec::runtime::Spec = serde_json::from_value(first_spec()).expect("it is valid");
        assert_eq!(
            spec.process().as_ref().and_then(|process| process.terminal()),
            Some(true)
        );
        let features: oci_spec::runtime::Features =
            serde_json::from_value(features_json()).expect("it is valid");
        assert!(
            features
                .linux()
                .as_ref()
                .is_some_and(|linux| linux.capabilities().as_ref().is_some_and(|c| c.len() == 41))
        );
    }
}
