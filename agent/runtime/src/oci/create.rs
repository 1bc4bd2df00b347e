//! `create` and `run`.

use oci_spec::runtime::{LinuxResources, Spec};
use rustix::io::{Errno, FdFlags};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use super::arguments::Flags;
use super::error::{OciError, Result};
use super::foreground::{self, Signals};
use super::hooks::{self, Place, Point};
use super::journal::timestamp_now;
use super::record::{ContainerDirectory, Record, mount_number, process_start};
use super::systemd::{Scope, Systemd};
use super::{Context, capabilities, console, group, lifecycle, listener, state_json};
use crate::cgroup::CgroupRoot;
use crate::error::RuntimeError;
use crate::init::sync;
use crate::launch::{
    self, ExecTarget, Launched, NetworkBeside, Observer, PlanDescriptors, Released, StreamSource,
};
use crate::plan::{CgroupPlan, ContainerOptions, ContainerPlan, ProcessExtras, container_plan};

/// Highest number of descriptors that a caller may pass on; systemd's own limit for sockets is far below.
const PRESERVED_MAX: u32 = 1024;

/// When the command returns, and what it leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The process waits for `start`.
    Create,
    /// The program runs on.
    Detach,
    /// The program has ended; whether its container stays.
    Foreground { keep: bool },
}

impl Mode {
    fn returns_early(self) -> bool {
        !matches!(self, Mode::Foreground { .. })
    }
}

/// Makes a container, and runs it where that was asked for. What comes back is the exit code.
pub(super) fn create(context: &Context, flags: &Flags, id: &str, mode: Mode) -> Result<i32> {
    if flags.is_set("no-pivot") {
        return Err(OciError::Unsupported {
            what: "--no-pivot",
            instead: "put the root file system on a disk or a tmpfs, or in any mount but the initial ramdisk",
        });
    }
    // Before there is another thread.
    let signals = match mode {
        Mode::Foreground { .. } => Some(Signals::hold()?),
        Mode::Create | Mode::Detach => None,
    };
    let bundle = bundle_of(flags)?;
    let mut spec = load_spec(context, &bundle)?;
    let network = NetworkBeside::start(&spec)?;
    hooks::check(spec.hooks().as_ref())?;
    let terminal = spec
        .process()
        .as_ref()
        .and_then(|process| process.terminal())
        .unwrap_or(false);
    check_console(terminal, flags, mode.returns_early())?;
    let place = group::of_container(&spec, id, context.systemd_cgroup)?;
    let systemd = match place.scope {
        Some(_) => Some(Systemd::connect(place.root.version())?),
        None => None,
    };
    let rootfs = crate::bundle::absolute_root(&bundle, &mut spec)?;
    let extras = extras_of(flags, mode.returns_early())?;
    let mut plan = plan_of(
        &spec,
        id,
        &rootfs,
        (place.root.clone(), place.path.clone()),
        extras,
        mode,
    )?;
    // systemd takes the group over when the devices are made and the program does not run yet.
    plan.sandbox.waits_for_hooks |= place.scope.is_some();
    let record = Record {
        id: id.to_owned(),
        bundle,
        rootfs,
        pid: 0,
        pid_started: 0,
        created: timestamp_now(),
        cgroup: place.root,
        cgroup_path: place.path,
        scope: None,
        spec,
        shared_root: None,
    };
    if !record.has_own_mounts() && !Point::StartContainer.of(record.spec.hooks().as_ref()).is_empty() {
        // They would enter the mount namespace, and find the host there.
        return Err(OciError::Unsupported {
            what: "a startContainer hook without a mount namespace of the container's own",
            instead: "add {\"type\": \"mount\"} to linux.namespaces",
        });
    }
    let directory = ContainerDirectory::make(&context.root, id)?;
    let mut creation = Creation {
        context,
        flags,
        directory: &directory,
        record,
        scope: place.scope,
        systemd,
        network,
        resources: plan.cgroup.as_ref().map(CgroupPlan::resources).transpose()?,
    };
    let result = creation.start(&plan, mode, signals);
    if result.is_err() {
        // The first error says more than one of the removal would.
        let _ = directory.remove();
    }
    result
}

/// A container that is being made.
struct Creation<'a> {
    context: &'a Context,
    flags: &'a Flags,
    directory: &'a ContainerDirectory,
    record: Record,
    scope: Option<Scope>,
    systemd: Option<Systemd>,
    network: Option<NetworkBeside>,
    resources: Option<LinuxResources>,
}

impl Creation<'_> {
    fn start(&mut self, plan: &ContainerPlan, mode: Mode, signals: Option<Signals>) -> Result<i32> {
        let listener = match mode {
            Mode::Create => Some(self.directory.listen()?),
            Mode::Detach | Mode::Foreground { .. } => None,
        };
        let descriptors = PlanDescriptors {
            listener,
            network_beside: self.network.take(),
            ..PlanDescriptors::default()
        };
        let launched = launch::launch(plan, descriptors, StreamSource::Inherited, self);
        let mut launched = launched.inspect_err(|_| self.forget_scope())?;
        if let Err(error) = self.after_launch(plan, &mut launched, mode) {
            abandon(launched);
            let _ = self.record.detach_root();
            self.forget_scope();
            return Err(error);
        }
        match (mode, signals) {
            (Mode::Foreground { keep }, Some(signals)) => self.wait(launched, &signals, keep),
            _ => Ok(0),
        }
    }

    fn after_launch(&mut self, plan: &ContainerPlan, launched: &mut Launched, mode: Mode) -> Result<()> {
        if plan.sandbox.shares_mounts && !plan.sandbox.joins_mounts() {
            let root = PathBuf::from(format!("/proc/{}/root", launched.pid));
            self.record.shared_root = mount_number(&root);
            self.directory.write(&self.record)?;
        }
        if let (Some(terminal), Some(path)) = (&launched.streams.terminal, self.flags.value("console-socket"))
        {
            console::send_terminal(path, terminal)?;
        }
        if let Some(path) = self.flags.value("pidfd-socket") {
            console::send(path, launched.pidfd.as_fd(), "the process")?;
        }
        if plan.hold {
            self.release(plan, launched)?;
        }
        write_pid_file(self.flags, launched.pid)?;
        if mode != Mode::Create {
            self.context.run_all(Point::Poststart, &self.record, "running");
        }
        Ok(())
    }

    /// Runs what has to be run before the program, then lets it go.
    fn release(&self, plan: &ContainerPlan, launched: &mut Launched) -> Result<()> {
        let Some(held) = launched.held.take() else {
            return Ok(());
        };
        let target = ExecTarget {
            init: launched.pidfd.as_fd(),
            init_pid: launched.pid,
            cgroup: launched.cgroup.as_ref(),
        };
        let state = state_json(&self.record, "created");
        let hooks = self.record.spec.hooks().as_ref();
        hooks::run(Point::StartContainer, hooks, &state, Place::Container(&target))?;
        release(held, &self.record, &target, |failure| {
            launch::start_error(plan, failure)
        })
    }

    fn wait(&self, launched: Launched, signals: &Signals, keep: bool) -> Result<i32> {
        // The container's process has closed its own by now.
        drop(self.context.place.take());
        let terminal = launched.streams.terminal;
        let status = foreground::wait(launched.pid, &launched.pidfd, signals, terminal)?;
        if !keep {
            lifecycle::remove_with_group(self.context, self.directory, &self.record, launched.cgroup)?;
        }
        Ok(exit_code(status))
    }
}

impl Creation<'_> {
    /// Has systemd take over the group, and writes the limits that it has written over. The container's devices are made by
    /// then: in between the group may use none.
    fn adopt(&mut self) -> Result<()> {
        let (Some(systemd), Some(scope), Some(resources)) = (&mut self.systemd, &self.scope, &self.resources)
        else {
            return Ok(());
        };
        systemd.adopt(scope, self.record.pid, &self.record.id, resources)?;
        // Not before: one of that name may be another container's.
        self.record.scope = Some(scope.name.clone());
        self.directory.write(&self.record)?;
        let updated = self.record.group()?.update(resources);
        updated.map_err(|source| RuntimeError::cgroup("limit", source).into())
    }

    fn forget_scope(&mut self) {
        if let (Some(systemd), Some(scope)) = (&mut self.systemd, &self.record.scope) {
            // The failure before says more.
            let _ = systemd.forget(scope);
        }
    }
}

impl Observer for Creation<'_> {
    fn started(&mut self, pid: i32) -> crate::error::Result<()> {
        let started =
            process_start(pid).map_err(|error| RuntimeError::io("look at the container's process", error))?;
        self.record.pid = pid;
        // One that has ended already will say why.
        self.record.pid_started = started.unwrap_or(0);
        self.directory.write(&self.record).map_err(RuntimeError::from)
    }

    fn built(&mut self, process: &ExecTarget<'_>) -> crate::error::Result<()> {
        self.adopt()?;
        let state = state_json(&self.record, "creating");
        let hooks = self.record.spec.hooks().as_ref();
        let host = Place::Host(&self.record.bundle);
        hooks::run(Point::Prestart, hooks, &state, host)?;
        hooks::run(Point::CreateRuntime, hooks, &state, host)?;
        hooks::run(Point::CreateContainer, hooks, &state, Place::Container(process))?;
        Ok(())
    }

    fn listening(&mut self, process: &ExecTarget<'_>, listener: RawFd) -> crate::error::Result<()> {
        listener::hand_over(&self.record, "creating", process, listener).map_err(RuntimeError::from)
    }
}

/// Lets a held process become its program, and hears whether it could.
pub(super) fn release(
    held: OwnedFd,
    record: &Record,
    process: &ExecTarget<'_>,
    describe: impl Fn(sync::Failure) -> RuntimeError,
) -> Result<()> {
    // One that is gone shows below.
    let _ = sync::send_go(held.as_fd());
    let listening =
        |listener| listener::hand_over(record, "created", process, listener).map_err(RuntimeError::from);
    match launch::read_released(held.as_fd(), describe, listening) {
        Released::Running => Ok(()),
        Released::Failed(error) => {
            // The agent of its filter may keep it, and let it go on later.
            let _ = crate::sys::pidfd_signal(process.init, libc::SIGKILL);
            Err(error.into())
        }
    }
}

/// Ends a container that could not be made whole.
fn abandon(launched: Launched) {
    let _ = crate::sys::pidfd_signal(launched.pidfd.as_fd(), libc::SIGKILL);
    let _ = crate::sys::reap(launched.pid, true);
    if let Some(group) = launched.cgroup {
        // The failure says more than what removing its remains may add.
        let _ = group.kill_all();
        let _ = group.destroy(lifecycle::DESTROY_DEADLINE);
    }
}

fn bundle_of(flags: &Flags) -> Result<PathBuf> {
    let bundle = Path::new(
        flags
            .value("bundle")
            .filter(|path| !path.is_empty())
            .unwrap_or("."),
    );
    std::fs::canonicalize(bundle)
        .map_err(|error| OciError::io(format!("find the bundle {}", bundle.display()), error))
}

/// Reads the specification of a bundle.
fn load_spec(context: &Context, bundle: &Path) -> Result<Spec> {
    let path = bundle.join("config.json");
    let content =
        std::fs::read(&path).map_err(|error| OciError::io(format!("read {}", path.display()), error))?;
    let (spec, unknown) = capabilities::read_known::<Spec>(&content, "/process/capabilities")
        .map_err(|error| OciError::io(format!("understand {}", path.display()), error))?;
    context.warn_of_capabilities(&unknown);
    check_version(spec.version())?;
    Ok(spec)
}

/// Versions of the specification since 1.0.0 are compatible with each other.
fn check_version(version: &str) -> Result<()> {
    let mut numbers = version.split(['.', '-', '+']);
    let known =
        numbers.next() == Some("1") && numbers.by_ref().take(2).all(|part| part.parse::<u32>().is_ok());
    if known {
        return Ok(());
    }
    Err(RuntimeError::spec(format!(
        "ociVersion {version:?} is not a version 1 of the specification"
    ))
    .into())
}

fn check_console(terminal: bool, flags: &Flags, returns_early: bool) -> Result<()> {
    let socket = flags.value("console-socket").is_some_and(|path| !path.is_empty());
    match (terminal && returns_early, socket) {
        (true, false) => Err(OciError::usage(
            "cannot allocate tty if the runtime will detach without setting console socket",
        )),
        (false, true) => Err(OciError::usage(
            "cannot use console socket if the runtime will not detach or allocate tty",
        )),
        _ => Ok(()),
    }
}

/// What the command line adds to a process.
pub(super) fn extras_of(flags: &Flags, returns_early: bool) -> Result<ProcessExtras> {
    let preserved = flags.number::<u32>("preserve-fds")?.unwrap_or(0);
    if preserved > PRESERVED_MAX {
        return Err(OciError::usage(format!(
            "--preserve-fds {preserved} is more than {PRESERVED_MAX}"
        )));
    }
    for number in 3..3 + preserved as RawFd {
        // SAFETY: only looked at, and whether it is open is what is asked.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        // What this process opened itself is none of the caller's.
        let there = match rustix::io::fcntl_getfd(descriptor) {
            Ok(flags) if flags.contains(FdFlags::CLOEXEC) => Err(Errno::BADF),
            there => there,
        };
        there.map_err(|error| OciError::io(format!("pass descriptor {number} on"), error))?;
    }
    Ok(ProcessExtras {
        preserved,
        outlives_parent: returns_early,
        owns_streams: true,
        keeps_keyring: flags.is_set("no-new-keyring"),
        ..ProcessExtras::default()
    })
}

fn plan_of(
    spec: &Spec,
    id: &str,
    rootfs: &Path,
    cgroup: (CgroupRoot, String),
    extras: ProcessExtras,
    mode: Mode,
) -> Result<ContainerPlan> {
    let runs_in_container = !Point::StartContainer.of(spec.hooks().as_ref()).is_empty();
    let plan = container_plan(
        spec,
        ContainerOptions {
            id,
            attach_point: rootfs.to_owned(),
            state_dir: PathBuf::new(),
            exit_file: None,
            log: None,
            stdin_open: true,
            stdin_once: false,
            init: false,
            hold: mode != Mode::Create && runs_in_container,
            console_size: None,
            cgroup: Some(cgroup),
            has_rootfs: false,
            has_netns: false,
            runs_hooks: true,
            extras,
        },
    );
    Ok(plan?)
}

/// Writes the process's id where the caller wants it, whole or not at all.
pub(super) fn write_pid_file(flags: &Flags, pid: i32) -> Result<()> {
    let Some(path) = flags
        .value("pid-file")
        .filter(|path| !path.is_empty())
        .map(Path::new)
    else {
        return Ok(());
    };
    let write = || {
        let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut unfinished = std::ffi::OsString::from(".");
        unfinished.push(name);
        let unfinished = path.with_file_name(unfinished);
        let mut file = std::fs::File::create(&unfinished)?;
        file.write_all(pid.to_string().as_bytes())?;
        std::fs::rename(unfinished, path)
    };
    write().map_err(|error| OciError::io(format!("write {}", path.display()), error))
}

/// The exit code of a process, as a shell gives it.
pub(super) fn exit_code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_version_one_is_understood() {
        for good in ["1.0.0", "1.0.2-dev", "1.3.0", "1.0.0-rc1"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["", "0.1.0", "2.0.0", "invalid", "1.x.0"] {
            assert!(check_version(bad).is_err(), "{bad:?}");
        }
    }
}
