//! A whole container as a plan.

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Mount, Spec};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::mounts::{CgroupMounts, MountContext};
use super::{
    BindSource, CgroupPlan, ContainerPlan, GroupView, ProcessExtras, ProcessPlan, SandboxPlan, Step, Target,
    c_string, console, mounts, namespaces,
};
use crate::cgroup::{CgroupRoot, CgroupVersion};
use crate::error::{Result, RuntimeError};
use crate::launch::AgentPlan;
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
    /// The caller runs the hooks; else a container with hooks is refused.
    pub runs_hooks: bool,
    /// What the caller adds; the specification's own part is filled in.
    pub extras: ProcessExtras,
}

/// Plans a container.
pub(crate) fn container_plan(spec: &Spec, options: ContainerOptions<'_>) -> Result<ContainerPlan> {
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| RuntimeError::spec("there is no process"))?;
    let default_linux = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&default_linux);
    refuse_unsupported(spec, linux, options.runs_hooks)?;
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
        extras: options.extras.with_spec(process, linux)?,
        agent: AgentPlan::of(linux.seccomp().as_ref()),
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

fn refuse_unsupported(spec: &Spec, linux: &Linux, runs_hooks: bool) -> Result<()> {
    let hooks = spec
        .hooks()
        .as_ref()
        .is_some_and(|hooks| *hooks != Default::default());
    let devices = linux
        .net_devices()
        .as_ref()
        .is_some_and(|devices| !devices.is_empty());
    let problem = match () {
        () if hooks && !runs_hooks => "hooks are not supported",
        () if linux.intel_rdt().is_some() => {
            "intelRdt is specified in config, but Intel RDT is not supported or enabled"
        }
        () if linux.memory_policy().is_some() => "a NUMA memory policy is not supported",
        () if devices => "moving network devices into a container is not supported",
        () => return Ok(()),
    };
    Err(RuntimeError::spec(problem))
}

fn sandbox(spec: &Spec, linux: &Linux, options: &ContainerOptions<'_>, unified: bool) -> Result<SandboxPlan> {
    let root = spec.root().as_ref();
    let mut plan = SandboxPlan {
        new_namespaces: 0,
        shares_mounts: false,
        group_view: GroupView::Shared,
        ids: None,
        clock_offsets: None,
        joined: Vec::new(),
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
        waits_for_hooks: hooks_before_start(spec),
    };
    if !options.has_rootfs {
        let root = root.ok_or_else(|| RuntimeError::spec("there is no root file system"))?;
        plan.root_source = Some(root.path().clone());
    }
    let given = namespaces::Given {
        has_netns: options.has_netns,
        may_share_mounts: options.runs_hooks,
        unified,
    };
    namespaces::add(linux, given, &mut plan)?;
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
        Some("slave") => Ok(Some(libc::MS_SLAVE)),
        Some("rslave") => Ok(Some(libc::MS_SLAVE | libc::MS_REC)),
        Some("shared") => Ok(Some(libc::MS_SHARED)),
        Some("rshared") => Ok(Some(libc::MS_SHARED | libc::MS_REC)),
        Some("unbindable") => Ok(Some(libc::MS_UNBINDABLE)),
        Some("runbindable") => Ok(Some(libc::MS_UNBINDABLE | libc::MS_REC)),
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

/// Whether something runs between the making of the namespaces and the entering of the root file system.
fn hooks_before_start(spec: &Spec) -> bool {
    #[allow(deprecated)]
    let lists = spec
        .hooks()
        .as_ref()
        .map(|hooks| [hooks.prestart(), hooks.create_runtime(), hooks.create_container()]);
    let mut lists = lists.into_iter().flatten().flatten();
    lists.any(|hooks| !hooks.is_empty())
}

fn add_mounts(spec: &Spec, linux: &Linux, unified: bool, plan: &mut SandboxPlan) -> Result<()> {
    let specified = spec.mounts().as_deref().unwrap_or_default();
    let cgroup_at = specified
        .iter()
        .find(|mount| is_cgroup(mount))
        .map(|mount| mount.destination().clone());
    let cgroup_mounts = match unified {
        false => CgroupMounts::V1,
        true if plan.leaves_user_namespace() && plan.shares_groups() => CgroupMounts::V2Host,
        true => CgroupMounts::V2,
    };
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
            mounts::add_cgroup(mount, cgroup_mounts, steps, &mut plan.binds)?;
        } else {
            let context = MountContext {
                label: linux.mount_label().as_deref(),
                ids: plan.ids.as_ref(),
            };
            mounts::add(mount, context, steps, &mut plan.binds)?;
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
            let device = Device {
                target: Target::new(Path::new(path), true, false)?,
                mode: libc::S_IFCHR | 0o666,
                device: libc::makedev(major, minor),
                uid: 0,
                gid: 0,
            };
            add_device(Path::new(path), device, plan)?;
        }
    }
    for device in own {
        add_device(device.path(), device_of(device)?, plan)?;
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

/// A device node to make.
struct Device {
    target: Target,
    mode: u32,
    device: u64,
    uid: u32,
    gid: u32,
}

/// A user namespace may make no nodes, so that its container gets the host's.
fn add_device(path: &Path, device: Device, plan: &mut SandboxPlan) -> Result<()> {
    let Device {
        target,
        mode,
        device,
        uid,
        gid,
    } = device;
    if plan.makes_nodes() {
        plan.steps.push(Step::Device {
            target,
            mode,
            device,
            uid,
            gid,
        });
        return Ok(());
    }
    let found = std::fs::metadata(path)
        .map_err(|error| RuntimeError::io(format!("use the host's device {}", path.display()), error))?;
    if found.mode() & libc::S_IFMT != mode & libc::S_IFMT || found.rdev() != device {
        return Err(RuntimeError::spec(format!(
            "device {} is another one on the host, and a user namespace may make no nodes",
            path.display()
        )));
    }
    plan.steps.push(Step::Bind {
        target,
        source: plan.binds.len(),
    });
    plan.binds.push(BindSource::private(path.to_owned()));
    Ok(())
}

fn device_of(device: &LinuxDevice) -> Result<Device> {
    let bad = || RuntimeError::spec(format!("bad device {}", device.path().display()));
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => return Err(bad()),
    };
    let major = u32::try_from(device.major()).map_err(|_| bad())?;
    let minor = u32::try_from(device.minor()).map_err(|_| bad())?;
    Ok(Device {
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
