//! What only the parent can do for a process in another user namespace, or before it exists.

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::cgroup::Cgroup;
use crate::error::{Result, RuntimeError};
use crate::init::sync::{self, Message};
use crate::init::{self, InitContext};
use crate::plan::{ProcessPlan, SandboxPlan};
use crate::sys::{self, CloneOptions, Forked};
use crate::user_namespace::write_maps;

/// Gives a new user namespace its users and groups and lets its process go on, after what the parent has to do for a
/// process of any other user namespace.
pub(super) fn adjust(
    pid: i32,
    sandbox: &SandboxPlan,
    process: &ProcessPlan,
    sync: BorrowedFd<'_>,
) -> Result<()> {
    if !sandbox.leaves_user_namespace() {
        return Ok(());
    }
    raise_limits(pid, process)?;
    let Some(ids) = &sandbox.ids else {
        return Ok(());
    };
    write_maps(pid, ids)?;
    // A process that is gone says so itself.
    let _ = sync::send_go(sync);
    Ok(())
}

/// Sets the OOM score, and lets limits rise as high as the process will set them.
pub(super) fn raise_limits(pid: i32, process: &ProcessPlan) -> Result<()> {
    if let Some(score) = &process.oom_score_adj {
        std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_bytes())
            .map_err(|error| RuntimeError::io("set the OOM score adjustment", error))?;
    }
    for (resource, _, hard) in &process.limits {
        let describe = |error| RuntimeError::io(format!("raise resource limit {resource} to {hard}"), error);
        let (soft, held) = sys::limits_of(pid, *resource).map_err(describe)?;
        if *hard > held {
            sys::set_limit(pid, *resource, soft, *hard).map_err(describe)?;
        }
    }
    Ok(())
}

/// Clones a container's first process below a user namespace that exists: a process between enters that namespace and
/// clones it there, as this process's child.
pub(super) fn clone_below_namespace(
    context: &InitContext<'_>,
    group: Option<&Cgroup>,
    sync: BorrowedFd<'_>,
) -> Result<(i32, OwnedFd)> {
    let clocks = Clocks::offset(context.sandbox)?;
    let place = Place::enter(context.sandbox)?;
    // SAFETY: the child runs `init::run_below` only, which neither allocates nor locks and never returns.
    let entering = match unsafe { sys::clone3(&CloneOptions::default()) } {
        Ok(Forked::Child) => init::run_below(context),
        Ok(Forked::Parent { pid, .. }) => Ok(pid),
        Err(error) => Err(RuntimeError::io("make the container's namespaces", error)),
    };
    place.leave()?;
    clocks.restore()?;
    let entering = entering?;
    let message = sync::receive(sync);
    let _ = sys::reap(entering, true);
    let pid = match message {
        Ok(Message::Pid(pid)) => pid,
        Ok(Message::Failed(failure)) => {
            return Err(RuntimeError::io("join the user namespace", failure.error));
        }
        Ok(_) => return Err(RuntimeError::protocol("the entering process ended early")),
        Err(error) => return Err(RuntimeError::io("hear from the entering process", error)),
    };
    let pidfd = Pid::from_raw(pid).ok_or_else(|| RuntimeError::protocol("no process id"))?;
    let pidfd = rustix::process::pidfd_open(pidfd, PidfdFlags::empty())
        .map_err(|error| RuntimeError::io("open the container's process", error))?;
    if let Some(group) = group
        && let Err(source) = group.add_process(pid)
    {
        let _ = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
        let _ = sys::reap(pid, true);
        return Err(RuntimeError::cgroup("join", source));
    }
    // A process that is gone says so itself.
    let _ = sync::send_go(sync);
    Ok((pid, pidfd))
}

/// The directory that this process was in before it went to where the container's root is attached: a process of
/// another user namespace may not be able to go there itself.
pub(super) struct Place(Option<OwnedFd>);

impl Place {
    pub(super) fn enter(sandbox: &SandboxPlan) -> Result<Place> {
        if !sandbox.leaves_user_namespace() {
            return Ok(Place(None));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let describe = |error| RuntimeError::io("go to where the root file system is attached", error);
        let before = rustix::fs::open(c".", flags, Mode::empty()).map_err(describe)?;
        rustix::process::chdir(sandbox.attach_point.as_c_str()).map_err(describe)?;
        Ok(Place(Some(before)))
    }

    pub(super) fn leave(self) -> Result<()> {
        let Some(before) = self.0 else { return Ok(()) };
        rustix::process::fchdir(before).map_err(|error| RuntimeError::io("go back", error))
    }
}

/// Has later children be born among this process's own process ids again, after one that joined those of another
/// container: a process that enters the container tells the id of the program as it sees it itself.
pub(super) fn leave_joined_processes(sandbox: &SandboxPlan) -> Result<()> {
    const STEP: &str = "return to this process's process id namespace";
    let joins = |joined: &(_, u64)| joined.1 == libc::CLONE_NEWPID as u64;
    if !sandbox.joined.iter().any(joins) {
        return Ok(());
    }
    let own = File::open("/proc/self/ns/pid").map_err(|error| RuntimeError::io(STEP, error))?;
    sys::join_namespaces(own.as_fd(), libc::CLONE_NEWPID).map_err(|error| RuntimeError::io(STEP, error))
}

/// This process's own time namespace, while its next child gets another one.
pub(super) struct Clocks(Option<File>);

impl Clocks {
    pub(super) fn offset(sandbox: &SandboxPlan) -> Result<Clocks> {
        let Some(offsets) = &sandbox.clock_offsets else {
            return Ok(Clocks(None));
        };
        let own = File::open("/proc/self/ns/time")
            .map_err(|error| RuntimeError::io("open this process's time namespace", error))?;
        sys::unshare(libc::CLONE_NEWTIME)
            .map_err(|error| RuntimeError::io("make a time namespace", error))?;
        let clocks = Clocks(Some(own));
        if offsets.is_empty() {
            return Ok(clocks);
        }
        let written = std::fs::write("/proc/self/timens_offsets", offsets.to_bytes());
        match written {
            Ok(()) => Ok(clocks),
            Err(error) => {
                clocks.restore()?;
                Err(RuntimeError::io("set the clocks of the time namespace", error))
            }
        }
    }

    /// Back to its own: later children are no part of the container.
    pub(super) fn restore(self) -> Result<()> {
        let Some(own) = self.0 else { return Ok(()) };
        sys::join_namespaces(own.as_fd(), libc::CLONE_NEWTIME)
            .map_err(|error| RuntimeError::io("return to this process's time namespace", error))
    }
}
