//! A process that enters a running container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::sync::{self, Failure, Message, Stage, fail};
use super::{InitContext, Never, Prepared, begin, finish, rights, terminal};
use crate::sys::{self, CloneOptions, Forked};

/// What a process that enters a container gets.
pub(crate) struct JoinContext<'a> {
    pub process: &'a Prepared<'a>,
    /// The socket to the monitor.
    pub sync: BorrowedFd<'a>,
    /// The container's init.
    pub init: BorrowedFd<'a>,
    /// The namespaces to join, as `CLONE_NEW…`.
    pub namespaces: u64,
    /// v1: the files of the container's control group.
    pub group: &'a [OwnedFd],
}

/// Makes this process enter the container and start the program in a second one; never returns.
pub(crate) fn run_joined(context: &JoinContext<'_>) -> ! {
    let failure = match enter(context) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    sync::send_failure(context.sync, failure);
    sys::exit_now(1)
}

/// Enters the user namespace that a container's first process lives in and clones that process there, as the child of
/// this one's parent; never returns.
pub(crate) fn run_below(context: &InitContext<'_>) -> ! {
    match clone_below(context) {
        Ok(Place::Parent) => sys::exit_now(0),
        Ok(Place::Child) => super::run(context),
        Err(failure) => {
            sync::send_failure(context.sync, failure);
            sys::exit_now(1)
        }
    }
}

/// Which process it is that goes on.
enum Place {
    Parent,
    Child,
}

fn clone_below(context: &InitContext<'_>) -> Result<Place, Failure> {
    fail(Stage::Session, sys::prctl(libc::PR_SET_DUMPABLE, 0, 0))?;
    // Sorted by the plan: users first.
    for (number, (namespace, kind)) in context.joined.iter().enumerate() {
        if *kind & (libc::CLONE_NEWUSER | libc::CLONE_NEWPID) as u64 != 0 {
            sys::join_namespaces(namespace.as_fd(), *kind as i32)
                .map_err(|error| Failure::numbered(Stage::JoinNamespace, number + 1, error))?;
        }
    }
    let options = CloneOptions {
        flags: libc::CLONE_PARENT as u64 | context.sandbox.born_in(),
        ..CloneOptions::default()
    };
    // SAFETY: neither process allocates or locks before exec or exit.
    match fail(Stage::Fork, unsafe { sys::clone3(&options) })? {
        Forked::Parent { pid, .. } => {
            fail(Stage::Fork, sync::send_pid(context.sync, pid))?;
            Ok(Place::Parent)
        }
        Forked::Child => {
            // The parent hears of this process's id first, and of nothing else before that.
            super::wait_for_go(context.sync)?;
            Ok(Place::Child)
        }
    }
}

fn enter(context: &JoinContext<'_>) -> Result<Never, Failure> {
    let host = begin(context.process)?;
    if let Some(processors) = &context.process.extras.first_affinity {
        fail(Stage::Scheduling, sys::set_affinity(processors))?;
    }
    for (number, file) in context.group.iter().enumerate() {
        rights::write_all(file.as_fd(), b"0")
            .map_err(|error| Failure::numbered(Stage::JoinGroup, number, error))?;
    }
    fail(
        Stage::JoinNamespace,
        sys::join_namespaces(context.init, context.namespaces as i32),
    )?;
    // Only children enter a process id namespace; this one becomes the monitor's child, as this process is.
    let options = CloneOptions {
        flags: libc::CLONE_PARENT as u64,
        ..CloneOptions::default()
    };
    // SAFETY: neither process allocates or locks before exec or exit.
    match fail(Stage::Fork, unsafe { sys::clone3(&options) })? {
        Forked::Parent { pid, .. } => {
            let sent = sync::send_pid(context.sync, pid);
            sys::exit_now(if sent.is_ok() { 0 } else { 1 })
        }
        Forked::Child => {}
    }
    if context.namespaces & libc::CLONE_NEWUSER as u64 != 0 {
        rights::become_root()?;
    }
    fail(
        Stage::Session,
        sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0),
    )?;
    // The monitor hears of this process's id first, and of nothing else before that.
    match fail(Stage::Release, sync::receive(context.sync))? {
        Message::Go => {}
        _ => sys::exit_now(1),
    }
    fail(Stage::Session, rustix::process::setsid())?;
    if context.process.plan.terminal {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fail(Stage::Terminal, rustix::fs::open(c"/", flags, Mode::empty()))?;
        terminal::open(
            root.as_fd(),
            context.sync,
            context.process,
            terminal::Console::Leave,
        )?;
    }
    finish(context.process, context.sync, &host)
}
