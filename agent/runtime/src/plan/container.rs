//! A whole container as a plan.

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespaceType, Mount, Spec,
};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{CgroupPlan, ContainerPlan, ProcessPlan, SandboxPlan, Step, Target, c_string, console, mounts};
use crate::cgroup::{CgroupRoot, CgroupVersion};
use crate::error::{Result, RuntimeError};
use crate::start::LogConfig;

const PROC_MAGIC: i64 = libc::PROC_SUPER_MAGIC;
const SYSFS_MAGIC: i64 = 0x6265_6572;

/// Character devices that every container has: path, major and minor number.
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Links that every container has.
const DEFAULT_LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// What a plan needs beside the specification.
pub(crate) struct ContainerOptions<'a> {
    pub id: &'a str,
    pub state_dir: PathBuf,
    pub exit_file: Option<PathBuf>,
    pub log: Option<LogConfig>,
    pub stdin_open: bool,
    pub stdin_once: bool,
    pub init: bool,
    pub hold: bool,
    pub console_size: Option<(u16, u16)>,
    pub cgroup: Option<(CgroupRoot, String)>,
    /// The engine hands over the root file system as a detached mount.
    pub has_rootfs: bool,
    /// The engine hands over the network namespace.
    pub has_netns: bool,
    pub attach_point: PathBuf,
}

/// Plans a container.
pub(crate) fn container_plan(spec: &Spec, options: ContainerOptions<'_>) -> Result<ContainerPlan> {
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| RuntimeError::spec("there is no process"))?;
    let default_linux = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&default_linux);
    refuse_unsupported(spec, linux)?;
    let plan = ProcessPlan::new(process, linux.seccomp().as_ref())?;
    let mut resources = linux.resources().clone().unwrap_or_default();
    if let Some(rules) = resources.devices_mut() {
        allow_default_devices(rules);
    }
    let resources = serde_json::to_vec(&resources)
        .map_err(|error| RuntimeError::spec(format!("resources cannot be encoded: {error}")))?;
    let unified = options
        .cgroup
        .as_ref()
        .is_none_or(|(root, _)| root.version() == CgroupVersion::V2);
    Ok(ContainerPlan {
        id: options.id.to_owned(),
        state_dir: options.state_dir.clone(),
        exit_file: options.exit_file.clone(),
        log: options.log.clone(),
        stdin_open: options.stdin_open,
        stdin_once: options.stdin_once,
        init: options.init,
        hold: options.hold,
        console_size: options.console_size.or_else(|| console::size_of(process)),
        sandbox: sandbox(spec, linux, &options, unified)?,
        cgroup: options.cgroup.map(|(root, path)| CgroupPlan {
            root,
            path,
            resources,
        }),
        process: plan,
    })
}

/// Lets a container whose devices are restricted use the nodes that every container has, its terminals, and make nodes
/// of character devices, as Docker does. Docker also lets it make (but not open) nodes of disks; that stays refused.
fn allow_default_devices(rules: &mut Vec<LinuxDeviceCgroup>) {
    const PTMX: (Option<i64>, Option<i64>) = (Some(5), Some(2));
    const TERMINALS: (Option<i64>, Option<i64>) = (Some(136), None);
    let nodes = DEFAULT_DEVICES
        .iter()
        .map(|(_, major, minor)| (Some(i64::from(*major)), Some(i64::from(*minor))));
    let usable = nodes.chain([PTMX, TERMINALS]).map(|numbers| (numbers, "rwm"));
    let made = [((None, None), "m")];
    rules.extend(made.into_iter().chain(usable).map(|((major, minor), access)| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true);
        rule.set_typ(Some(LinuxDeviceType::C));
        rule.set_major(major);
        rule.set_minor(minor);
        rule.set_access(Some(access.to_owned()));
        rule
    }));
}

fn refuse_unsupported(spec: &Spec, linux: &Linux) -> Result<()> {
    let hooks = spec
        .hooks()
        .as_ref()
        .is_some_and(|hooks| *hooks != Default::default());
    let mapped = [linux.uid_mappings(), linux.gid_mappings()]
        .iter()
        .any(|mappings| mappings.as_ref().is_some_and(|m| !m.is_empty()));
    let problem = match () {
        () if hooks => "hooks are not supported",
        () if mapped => "user namespaces are not supported",
        () if linux.intel_rdt().is_some() => "Intel RDT is not supported",
        () if linux.personality().is_some() => "a personality is not supported",
        () if linux
            .time_offsets()
            .as_ref()
            .is_some_and(|offsets| !offsets.is_empty()) =>
        {
            "time offsets are not supported"
        }
        () => return Ok(()),
    };
    Err(RuntimeError::spec(problem))
}

fn sandbox(spec: &Spec, linux: &Linux, options: &ContainerOptions<'_>, unified: bool) -> Result<SandboxPlan> {
    let root = spec.root().as_ref();
    let mut plan = SandboxPlan {
        new_namespaces: 0,
        new_cgroup_namespace: false,
        joined: Vec::new(),
        loopback: false,
        root_source: None,
        attach_point: c_string(
            options.attach_point.as_os_str().as_bytes(),
            "the run directory's path",
        )?,
        root_readonly: root.and_then(|root| root.readonly()).unwrap_or(false),
        root_propagation: root_propagation(linux)?,
        binds: Vec::new(),
        steps: Vec::new(),
        late_steps: Vec::new(),
        host_name: optional_c_string(spec.hostname(), "the host name")?,
        domain_name: optional_c_string(spec.domainname(), "the domain name")?,
        sysctls: sysctls(linux)?,
    };
    if !options.has_rootfs {
        let root = root.ok_or_else(|| RuntimeError::spec("there is no root file system"))?;
        plan.root_source = Some(root.path().clone());
    }
    add_namespaces(linux, options.has_netns, &mut plan)?;
    add_mounts(spec, linux, unified, &mut plan)?;
    add_protected_paths(linux, spec.mounts().as_deref().unwrap_or_default(), &mut plan)?;
    Ok(plan)
}

fn optional_c_string(text: &Option<String>, what: &str) -> Result<Option<std::ffi::CString>> {
    text.as_ref()
        .filter(|text| !text.is_empty())
        .map(|text| c_string(text.as_str(), what))
        .transpose()
}

fn root_propagation(linux: &Linux) -> Result<Option<u64>> {
    match linux.rootfs_propagation().as_deref() {
        None | Some("" | "private" | "rprivate") => Ok(None),
        Some("slave" | "rslave") => Ok(Some(libc::MS_SLAVE)),
        Some("shared" | "rshared") => Ok(Some(libc::MS_SHARED)),
        Some("unbindable" | "runbindable") => Ok(Some(libc::MS_UNBINDABLE)),
        Some(other) => Err(RuntimeError::spec(format!(
            "unknown root file system propagation {other:?}"
        ))),
    }
}

fn sysctls(linux: &Linux) -> Result<Vec<(std::ffi::CString, std::ffi::CString)>> {
    let mut planned = Vec::new();
    for (name, value) in linux.sysctl().iter().flatten() {
        // A dot in a device's name is written as a slash, and the other way round.
        let path: String = if name.contains('/') {
            name.clone()
        } else {
            name.replace('.', "/")
        };
        if path
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == "..")
        {
            return Err(RuntimeError::spec(format!("bad sysctl name {name:?}")));
        }
        planned.push((
            c_string(format!("sys/{path}"), "a sysctl")?,
            c_string(value.as_str(), "a sysctl's value")?,
        ));
    }
    planned.sort();
    Ok(planned)
}

fn add_namespaces(linux: &Linux, has_netns: bool, plan: &mut SandboxPlan) -> Result<()> {
    for namespace in linux.namespaces().iter().flatten() {
        let flag = match namespace.typ() {
            LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
            LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
            LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
            LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
            LinuxNamespaceType::Network => libc::CLONE_NEWNET,
            LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
            LinuxNamespaceType::User => return Err(RuntimeError::spec("user namespaces are not supported")),
            LinuxNamespaceType::Time => return Err(RuntimeError::spec("time namespaces are not supported")),
        };
        match namespace.path() {
            _ if flag == libc::CLONE_NEWNET && has_netns => {}
            Some(_) if flag == libc::CLONE_NEWNS => {
                return Err(RuntimeError::spec("a container has a mount namespace of its own"));
            }
            Some(path) => plan.joined.push((path.clone(), flag as u64)),
            None if flag == libc::CLONE_NEWCGROUP => plan.new_cgroup_namespace = true,
            None => plan.new_namespaces |= flag as u64,
        }
    }
    plan.loopback = plan.new_namespaces & libc::CLONE_NEWNET as u64 != 0;
    if plan.new_namespaces & libc::CLONE_NEWNS as u64 == 0 {
        return Err(RuntimeError::spec("a container needs a mount namespace"));
    }
    Ok(())
}

fn add_mounts(spec: &Spec, linux: &Linux, unified: bool, plan: &mut SandboxPlan) -> Result<()> {
    let specified = spec.mounts().as_deref().unwrap_or_default();
    let cgroup_at = specified
        .iter()
        .find(|mount| is_cgroup(mount))
        .map(|mount| mount.destination().clone());
    for mount in specified {
        // What lies below the control groups has to come after them.
        let late = cgroup_at
            .as_ref()
            .is_some_and(|path| mount.destination().starts_with(path));
        let steps = if late {
            &mut plan.late_steps
        } else {
            &mut plan.steps
        };
        if is_cgroup(mount) {
            mounts::add_cgroup(mount, unified, steps)?;
        } else {
            mounts::add(mount, linux.mount_label().as_deref(), steps, &mut plan.binds)?;
        }
    }
    let dev_is_bound = specified
        .iter()
        .any(|mount| mount.destination() == Path::new("/dev") && is_bind(mount));
    let dev_is_mounted = specified
        .iter()
        .any(|mount| mount.destination() == Path::new("/dev"));
    if dev_is_mounted && !dev_is_bound {
        add_devices(linux, plan)?;
    }
    Ok(())
}

fn is_cgroup(mount: &Mount) -> bool {
    matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
}

fn is_bind(mount: &Mount) -> bool {
    let options = mount.options().as_deref().unwrap_or_default();
    mount.typ().as_deref() == Some("bind")
        || options.iter().any(|option| option == "bind" || option == "rbind")
}

fn add_devices(linux: &Linux, plan: &mut SandboxPlan) -> Result<()> {
    let own = linux.devices().as_deref().unwrap_or_default();
    for (path, major, minor) in DEFAULT_DEVICES {
        if !own.iter().any(|device| device.path() == Path::new(path)) {
            let target = Target::new(Path::new(path), true, false)?;
            let device = libc::makedev(major, minor);
            plan.steps.push(Step::Device {
                target,
                mode: libc::S_IFCHR | 0o666,
                device,
                uid: 0,
                gid: 0,
            });
        }
    }
    for device in own {
        plan.steps.push(device_step(device)?);
    }
    for (path, to) in DEFAULT_LINKS {
        let target = Target::new(Path::new(path), true, false)?;
        plan.steps.push(Step::Link {
            target,
            to: c_string(to, "a link")?,
        });
    }
    Ok(())
}

fn device_step(device: &LinuxDevice) -> Result<Step> {
    let bad = || RuntimeError::spec(format!("bad device {}", device.path().display()));
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => return Err(bad()),
    };
    let major = u32::try_from(device.major()).map_err(|_| bad())?;
    let minor = u32::try_from(device.minor()).map_err(|_| bad())?;
    Ok(Step::Device {
        target: Target::new(device.path(), true, false)?,
        mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
        device: libc::makedev(major, minor),
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

fn add_protected_paths(linux: &Linux, mounts: &[Mount], plan: &mut SandboxPlan) -> Result<()> {
    for path in linux.readonly_paths().iter().flatten() {
        let magic = expected_magic(Path::new(path), mounts);
        let path = Target::new(Path::new(path), true, false)?.path;
        plan.late_steps.push(Step::ReadOnly { path, magic });
    }
    for path in linux.masked_paths().iter().flatten() {
        let magic = expected_magic(Path::new(path), mounts);
        let path = Target::new(Path::new(path), true, false)?.path;
        plan.late_steps.push(Step::Mask { path, magic });
    }
    Ok(())
}

/// The file system that a path below /proc or /sys is on, unless the specification mounts something else there.
fn expected_magic(path: &Path, mounts: &[Mount]) -> Option<i64> {
    let covering = mounts
        .iter()
        .filter(|mount| path.starts_with(mount.destination()));
    match covering
        .max_by_key(|mount| mount.destination().components().count())?
        .typ()
        .as_deref()
    {
        Some("proc") => Some(PROC_MAGIC),
        Some("sysfs") => Some(SYSFS_MAGIC),
        _ => None,
    }
}
