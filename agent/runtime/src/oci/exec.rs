//! `exec`: another process in a container.

use oci_spec::runtime::{Capabilities, Process, Spec};
use std::os::fd::AsFd;

use super::arguments::Flags;
use super::create::{exit_code, extras_of, write_pid_file};
use super::error::{OciError, Result};
use super::foreground::{self, Signals};
use super::listener::Executing;
use super::record::{ContainerDirectory, Status};
use super::{Context, capabilities, console};
use crate::error::RuntimeError;
use crate::launch::{ExecTarget, Launched, StreamSource, exec_with};
use crate::plan::{ExecPlan, ProcessPlan};
use crate::sys;

/// Starts a process and, unless it is detached, waits for its end. What comes back is the exit code.
pub(super) fn exec(context: &Context, flags: &Flags, operands: &[String]) -> Result<i32> {
    let (id, command) = operands
        .split_first()
        .ok_or_else(|| OciError::usage("exec takes the name of a container"))?;
    if flags.value("cgroup").is_some() {
        return Err(OciError::Unsupported {
            what: "exec --cgroup",
            instead: "leave it out: the process joins the container's own group",
        });
    }
    let directory = ContainerDirectory::open(&context.root, id)?;
    let record = directory.read(id)?;
    match directory.status(&record)? {
        Status::Stopped => return Err(refused("cannot exec in a stopped container")),
        Status::Paused if !flags.is_set("ignore-paused") => {
            return Err(refused(
                "cannot exec in a paused container (use --ignore-paused to override)",
            ));
        }
        Status::Paused | Status::Created | Status::Running => {}
    }
    if !record.has_own_mounts() {
        return Err(OciError::Unsupported {
            what: "exec in a container without a mount namespace of its own",
            instead: "add {\"type\": \"mount\"} to linux.namespaces: others share its root here",
        });
    }
    let process = process_of(context, &record.spec, flags, command)?;
    let plan = plan_of(&record.spec, &process, flags)?;
    let detach = flags.is_set("detach");
    check_console(&plan, flags, detach)?;
    let signals = if detach { None } else { Some(Signals::hold()?) };
    let init = record.process()?;
    let group = record.group()?;
    let target = ExecTarget {
        init: init.as_fd(),
        init_pid: record.pid,
        cgroup: Some(&group),
    };
    let launched = exec_with(
        &plan,
        &target,
        StreamSource::Inherited,
        Some(&mut Executing(&record)),
    )?;
    if let Err(error) = hand_over(flags, &launched) {
        // Nobody would hear of this process.
        let _ = sys::pidfd_signal(launched.pidfd.as_fd(), libc::SIGKILL);
        let _ = sys::reap(launched.pid, true);
        return Err(error);
    }
    match signals {
        None => Ok(0),
        Some(signals) => {
            let terminal = launched.streams.terminal;
            let status = foreground::wait(launched.pid, &launched.pidfd, &signals, terminal)?;
            Ok(exit_code(status))
        }
    }
}

/// Gives the caller what it asked for: the terminal, the process, its id.
fn hand_over(flags: &Flags, launched: &Launched) -> Result<()> {
    if let (Some(terminal), Some(path)) = (&launched.streams.terminal, flags.value("console-socket")) {
        console::send_terminal(path, terminal)?;
    }
    if let Some(path) = flags.value("pidfd-socket") {
        console::send(path, launched.pidfd.as_fd(), "the process")?;
    }
    write_pid_file(flags, launched.pid)
}

fn refused(message: &str) -> OciError {
    RuntimeError::Refused {
        message: message.to_owned(),
    }
    .into()
}

fn check_console(plan: &ExecPlan, flags: &Flags, detach: bool) -> Result<()> {
    let socket = flags.value("console-socket").is_some_and(|path| !path.is_empty());
    match (plan.process.terminal && detach, socket) {
        (true, false) => Err(OciError::usage(
            "cannot allocate tty if the runtime will detach without setting console socket",
        )),
        (false, true) => Err(OciError::usage(
            "cannot use console socket if the runtime will not detach or allocate tty",
        )),
        _ => Ok(()),
    }
}

fn plan_of(spec: &Spec, process: &Process, flags: &Flags) -> Result<ExecPlan> {
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let plan = ProcessPlan::new(process, seccomp)?;
    let extras = extras_of(flags, flags.is_set("detach"))?
        .with_process(process)?
        .with_affinity(process)?;
    Ok(ExecPlan {
        process: plan,
        console_size: crate::plan::console_size(process),
        stdin_open: true,
        output: true,
        extras,
    })
}

/// The process of a file, or that of the container with what the command line changes.
fn process_of(context: &Context, spec: &Spec, flags: &Flags, command: &[String]) -> Result<Process> {
    let own = spec
        .process()
        .clone()
        .ok_or_else(|| refused("the container has no process"))?;
    if let Some(path) = flags.value("process") {
        let content = std::fs::read(path).map_err(|error| OciError::io(format!("read {path}"), error))?;
        let (process, unknown) = capabilities::read_known::<Process>(&content, "/capabilities")
            .map_err(|error| OciError::io(format!("understand {path}"), error))?;
        context.warn_of_capabilities(&unknown);
        return Ok(inherit(process, &own));
    }
    if command.is_empty() {
        return Err(OciError::usage("exec args cannot be empty"));
    }
    let mut process = own;
    process.set_args(Some(command.to_vec()));
    process.set_terminal(Some(flags.is_set("tty")));
    if let Some(directory) = flags.value("cwd") {
        process.set_cwd(directory.into());
    }
    let environment = flags.values("env").map(str::to_owned);
    process.env_mut().get_or_insert_default().extend(environment);
    if let Some(profile) = flags.value("apparmor") {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    if let Some(label) = flags.value("process-label") {
        process.set_selinux_label(Some(label.to_owned()));
    }
    if flags.value("no-new-privs").is_some() {
        process.set_no_new_privileges(Some(flags.is_set("no-new-privs")));
    }
    set_user(&mut process, flags)?;
    add_capabilities(&mut process, flags)?;
    Ok(process)
}

/// What a process's file leaves open is as for the container's own process.
fn inherit(mut process: Process, own: &Process) -> Process {
    if process.capabilities().is_none() {
        process.set_capabilities(own.capabilities().clone());
    }
    if process.rlimits().is_none() {
        process.set_rlimits(own.rlimits().clone());
    }
    if process.apparmor_profile().as_deref().unwrap_or("").is_empty() {
        process.set_apparmor_profile(own.apparmor_profile().clone());
    }
    if process.selinux_label().as_deref().unwrap_or("").is_empty() {
        process.set_selinux_label(own.selinux_label().clone());
    }
    process
}

fn set_user(process: &mut Process, flags: &Flags) -> Result<()> {
    let mut user = process.user().clone();
    let number = |text: &str| {
        text.parse::<u32>()
            .map_err(|_| OciError::usage(format!("{text:?} is no id of a user or group")))
    };
    if let Some(text) = flags.value("user") {
        let (uid, gid) = match text.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (text, None),
        };
        user.set_uid(number(uid)?);
        if let Some(gid) = gid {
            user.set_gid(number(gid)?);
        }
    }
    let more = flags
        .values("additional-gids")
        .map(number)
        .collect::<Result<Vec<_>>>()?;
    if !more.is_empty() {
        user.set_additional_gids(Some(more));
    }
    process.set_user(user);
    Ok(())
}

fn add_capabilities(process: &mut Process, flags: &Flags) -> Result<()> {
    let unknown = |error| OciError::io("understand --cap", error);
    let names: Vec<&str> = flags.values("cap").collect();
    if names.is_empty() {
        return Ok(());
    }
    let more: Capabilities = serde_json::from_value(serde_json::json!(names)).map_err(unknown)?;
    let mut sets = process.capabilities().clone().unwrap_or_default();
    let with = |set: &Option<Capabilities>| {
        let known = set.iter().flatten().copied();
        Some(known.chain(more.iter().copied()).collect::<Capabilities>())
    };
    sets.set_bounding(with(sets.bounding()));
    sets.set_effective(with(sets.effective()));
    sets.set_permitted(with(sets.permitted()));
    if sets.inheritable().is_some() {
        // Only what is inheritable can be ambient.
        sets.set_ambient(with(sets.ambient()));
    }
    process.set_capabilities(Some(sets));
    Ok(())
}
