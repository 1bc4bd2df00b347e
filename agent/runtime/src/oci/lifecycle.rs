//! `start`, `state`, `kill` and `delete`.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::arguments::Flags;
use super::create::release;
use super::error::{OciError, Result};
use super::hooks::{self, Place, Point};
use super::record::{ContainerDirectory, Record, Status};
use super::systemd::Systemd;
use super::{Context, state_json};
use crate::cgroup::Cgroup;
use crate::error::RuntimeError;
use crate::launch::{self, ExecTarget};
use crate::plan::ProcessPlan;
use crate::sys;

/// How long a killed container may take to end, as in runc.
pub(super) const DESTROY_DEADLINE: Duration = Duration::from_secs(10);

/// Pauses between two looks at a process that is not this one's child.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Lets a created container's program run.
pub(super) fn start(context: &Context, id: &str) -> Result<()> {
    let directory = ContainerDirectory::open(&context.root, id)?;
    directory.lock()?;
    let record = directory.read(id)?;
    match directory.status(&record)? {
        Status::Created => {}
        Status::Stopped => {
            return Err(RuntimeError::Refused {
                message: "cannot start a container that has stopped".to_owned(),
            }
            .into());
        }
        status @ (Status::Running | Status::Paused) => {
            return Err(OciError::WrongState {
                operation: "start",
                id: id.to_owned(),
                wanted: "created",
                status: status.word(),
            });
        }
    }
    let result = start_created(&directory, &record);
    if result.is_err() {
        // A process that could not become its program has ended, or is of no use.
        if let Ok(process) = record.process() {
            let _ = sys::pidfd_signal(process.as_fd(), libc::SIGKILL);
        }
        return result;
    }
    context.run_all(Point::Poststart, &record, "running");
    Ok(())
}

fn start_created(directory: &ContainerDirectory, record: &Record) -> Result<()> {
    let hooks = record.spec.hooks().as_ref();
    let process = record.process()?;
    let mut target = ExecTarget {
        init: process.as_fd(),
        init_pid: record.pid,
        cgroup: None,
    };
    let group;
    if !Point::StartContainer.of(hooks).is_empty() {
        group = record.group()?;
        target.cgroup = Some(&group);
        let state = state_json(record, "created");
        hooks::run(Point::StartContainer, hooks, &state, Place::Container(&target))?;
    }
    let held = directory.connect()?;
    directory.remove_socket()?;
    // Only for what a failure is called: the process carries out the plan that it was made with.
    let plan = record
        .spec
        .process()
        .as_ref()
        .map(|process| ProcessPlan::new(process, None));
    let plan = plan.transpose()?;
    release(held, record, &target, |failure| match &plan {
        Some(plan) => launch::process_error(plan, None, failure),
        None => RuntimeError::spec("there is no process"),
    })
}

/// What a container is doing, as the specification says it.
pub(super) fn state(context: &Context, id: &str) -> Result<String> {
    let directory = ContainerDirectory::open(&context.root, id)?;
    let record = directory.read(id)?;
    let status = directory.status(&record)?;
    Ok(state_json(&record, status.word()))
}

/// Sends a signal to the first process, or to all.
pub(super) fn kill(context: &Context, flags: &Flags, operands: &[String]) -> Result<()> {
    let (id, signal) = match operands {
        [id] => (id, libc::SIGTERM),
        [id, signal, ..] => (id, parse_signal(signal)?),
        [] => return Err(OciError::usage("kill takes the name of a container")),
    };
    let directory = ContainerDirectory::open(&context.root, id)?;
    let record = directory.read(id)?;
    let all = flags.is_set("all");
    let process = match record.process() {
        Ok(process) => process,
        // What the first process left behind can still be ended.
        Err(OciError::NotRunning) if all => return signal_all(&record, signal),
        Err(error) => return Err(error),
    };
    // Without a namespace of process ids nothing else ends with the first one.
    if all || signal == libc::SIGKILL && !has_own_processes(&record) {
        return signal_all(&record, signal);
    }
    sys::pidfd_signal(process.as_fd(), signal).map_err(|error| match error {
        rustix::io::Errno::SRCH => OciError::NotRunning,
        error => OciError::io("send the signal", error),
    })?;
    if signal == libc::SIGKILL
        && let Ok(group) = record.group()
    {
        // A frozen process would end only when it is thawed; one that is not frozen does not mind.
        let _ = group.thaw();
    }
    Ok(())
}

fn has_own_processes(record: &Record) -> bool {
    use oci_spec::runtime::LinuxNamespaceType;
    let linux = record.spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    namespaces
        .into_iter()
        .flatten()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none())
}

fn signal_all(record: &Record, signal: i32) -> Result<()> {
    let group = match record.group() {
        Ok(group) => group,
        // Nothing is left.
        Err(_) if !record.is_alive() => return Ok(()),
        Err(error) => return Err(error),
    };
    let failed = |source| OciError::from(RuntimeError::cgroup("signal the processes of", source));
    if signal == libc::SIGKILL {
        return group.kill_all().map_err(failed);
    }
    for pid in group.pids().map_err(failed)? {
        match sys::kill(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(OciError::io(format!("signal process {pid}"), error)),
        }
    }
    Ok(())
}

/// A signal by its number or name.
fn parse_signal(text: &str) -> Result<i32> {
    const HIGHEST: i32 = 64;
    let unknown = || OciError::usage(format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return (0..=HIGHEST)
            .contains(&number)
            .then_some(number)
            .ok_or_else(unknown);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let full = format!("SIG{name}");
    full.parse::<nix::sys::signal::Signal>()
        .map(|signal| signal as i32)
        .map_err(|_| unknown())
}

/// Removes what is left of a container.
pub(super) fn delete(context: &Context, flags: &Flags, id: &str) -> Result<()> {
    let force = flags.is_set("force");
    let directory = match ContainerDirectory::open(&context.root, id) {
        Err(OciError::NotExist { .. }) if force => return Ok(()),
        result => result?,
    };
    directory.lock()?;
    let record = match directory.read(id) {
        Err(error @ OciError::NotExist { .. }) => {
            // A creation that was interrupted left the directory alone.
            directory.remove()?;
            return if force { Ok(()) } else { Err(error) };
        }
        result => result?,
    };
    match directory.status(&record)? {
        Status::Stopped => {}
        Status::Created => end(&record)?,
        Status::Running | Status::Paused if force => end(&record)?,
        status @ (Status::Running | Status::Paused) => {
            return Err(OciError::WrongState {
                operation: "delete",
                id: id.to_owned(),
                wanted: "stopped",
                status: status.word(),
            });
        }
    }
    remove(context, &directory, &record)
}

/// Kills a container and waits for its end.
fn end(record: &Record) -> Result<()> {
    let started = Instant::now();
    if let Ok(process) = record.process() {
        let _ = sys::pidfd_signal(process.as_fd(), libc::SIGKILL);
    }
    if let Ok(group) = record.group() {
        group
            .kill_all()
            .map_err(|source| RuntimeError::cgroup("kill the processes of", source))?;
    }
    while record.is_alive() {
        if started.elapsed() > DESTROY_DEADLINE {
            return Err(RuntimeError::Refused {
                message: "container init still running".to_owned(),
            }
            .into());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Removes the group, the record, and runs the last hooks.
fn remove(context: &Context, directory: &ContainerDirectory, record: &Record) -> Result<()> {
    let group = match Cgroup::open(&record.cgroup, &record.cgroup_path) {
        Ok(group) => Some(group),
        Err(error) if error.errno() == Some(libc::ENOENT) => None,
        Err(source) => return Err(RuntimeError::cgroup("remove", source).into()),
    };
    remove_with_group(context, directory, record, group)
}

/// As [`remove`], with the group that this process has open.
pub(super) fn remove_with_group(
    context: &Context,
    directory: &ContainerDirectory,
    record: &Record,
    group: Option<Cgroup>,
) -> Result<()> {
    if let Some(group) = group {
        group
            .remove(DESTROY_DEADLINE)
            .map_err(|source| RuntimeError::cgroup("remove", source))?;
    }
    if let Some(scope) = &record.scope {
        Systemd::connect(record.cgroup.version())?.forget(scope)?;
    }
    record.detach_root()?;
    directory.remove()?;
    context.run_all(Point::Poststop, record, "stopped");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers_and_names() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("sigterm", 15),
            ("0", 0),
            ("SIGWINCH", 28),
            ("34", 34),
        ] {
            assert_eq!(parse_signal(text).expect("it is known"), number, "{text}");
        }
        for bad in ["", "SIGFOO", "-1", "65"] {
            assert!(parse_signal(bad).is_err(), "{bad:?}");
        }
    }
}
