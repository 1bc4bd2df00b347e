//! Starts another process in a running container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::process::{Pid, PidfdFlags};

use super::failure::process_error;
use super::{Launched, Launching, Observer, StreamSource, Streams, outside, sync_sockets};
use crate::cgroup::Cgroup;
use crate::error::{Result, RuntimeError};
use crate::init::sync::{self, Message};
use crate::init::{self, JoinContext, Prepared};
use crate::plan::ExecPlan;
use crate::sys::{self, CloneOptions, Forked};

/// The running container.
pub(crate) struct ExecTarget<'a> {
    pub init: BorrowedFd<'a>,
    pub init_pid: i32,
    pub cgroup: Option<&'a Cgroup>,
}

/// Every kind of namespace that a container may have of its own; joining one that is shared changes nothing.
const NAMESPACES_ALWAYS: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP;

/// The namespaces to join. That of users only where it is another one, because the kernel refuses one's own; that of
/// time likewise, because not every kernel has it.
fn namespaces_of(init: i32) -> Result<i32> {
    let mut namespaces = NAMESPACES_ALWAYS;
    for (name, flag) in [("user", libc::CLONE_NEWUSER), ("time", libc::CLONE_NEWTIME)] {
        let number = |process: &str| match std::fs::metadata(format!("/proc/{process}/ns/{name}")) {
            Ok(metadata) => Ok(Some(metadata.ino())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(RuntimeError::io("look at the container's namespaces", error)),
        };
        if number(&init.to_string())? != number("self")? {
            namespaces |= flag;
        }
    }
    Ok(namespaces)
}

/// Starts a process in a container, with pipes for its standard streams.
pub(crate) fn exec(
    plan: &ExecPlan,
    target: &ExecTarget<'_>,
    observer: &mut dyn Observer,
) -> Result<Launched> {
    let source = StreamSource::Pipes {
        stdin: plan.stdin_open,
        output: plan.output,
    };
    exec_with(plan, target, source, Some(observer))
}

/// Starts a process in a container.
pub(crate) fn exec_with(
    plan: &ExecPlan,
    target: &ExecTarget<'_>,
    source: StreamSource,
    observer: Option<&mut dyn Observer>,
) -> Result<Launched> {
    let namespaces = namespaces_of(target.init_pid)?;
    let Streams { parent, child } = Streams::open((!plan.process.terminal).then_some(source))?;
    let (sync, child_sync) = sync_sockets()?;
    let mut process = Prepared::new(&plan.process, &plan.extras)?;
    process.adjusted_by_parent = namespaces & libc::CLONE_NEWUSER != 0;
    process.console_size = plan.console_size;
    process.stdio = child.numbers();
    let group = target.cgroup.map(Cgroup::task_fds).transpose();
    let group: Vec<OwnedFd> = group
        .map_err(|source| RuntimeError::cgroup("open", source))?
        .unwrap_or_default();
    let context = JoinContext {
        process: &process,
        sync: child_sync.as_fd(),
        init: target.init,
        namespaces: namespaces as u64,
        group: &group,
    };
    let unified = target.cgroup.map(|group| group.exec_dir_fd(target.init_pid));
    let unified = unified
        .transpose()
        .map_err(|source| RuntimeError::cgroup("open", source))?
        .flatten();
    let entering = clone_entering(&context, unified.as_ref().map(AsFd::as_fd))?;
    drop((child_sync, child));
    let pid = match sync::receive(sync.as_fd()) {
        Ok(Message::Pid(pid)) => Ok(pid),
        Ok(Message::Failed(failure)) => Err(process_error(&plan.process, None, failure)),
        Ok(_) => Err(RuntimeError::protocol("the entering process ended early")),
        Err(error) => Err(RuntimeError::io("hear from the entering process", error)),
    };
    // It exits right after its message.
    let _ = sys::reap(entering, true);
    let pid = pid?;
    if namespaces & libc::CLONE_NEWUSER != 0
        && let Err(error) = outside::raise_limits(pid, &plan.process)
    {
        let _ = sys::kill(pid, libc::SIGKILL);
        let _ = sys::reap(pid, true);
        return Err(error);
    }
    // A process that is gone already shows below.
    let _ = sync::send_go(sync.as_fd());
    let mut launching = Launching {
        pid,
        pidfd: open_process(pid)?,
        sync,
        streams: parent,
        ready: false,
    };
    let describe = |failure| process_error(&plan.process, None, failure);
    match launching.finish(false, None, observer, describe) {
        Ok(_) => {
            let Launching { pidfd, streams, .. } = launching;
            Ok(Launched {
                pid,
                pidfd,
                streams,
                cgroup: None,
                held: None,
            })
        }
        Err(error) => {
            launching.abandon();
            Err(error)
        }
    }
}

fn clone_entering(context: &JoinContext<'_>, group: Option<BorrowedFd<'_>>) -> Result<i32> {
    let options = CloneOptions {
        flags: 0,
        cgroup: group,
        pidfd: false,
    };
    // SAFETY: the child runs `init::run_joined` only, which neither allocates nor locks and never returns.
    match unsafe { sys::clone3(&options) } {
        Ok(Forked::Child) => init::run_joined(context),
        Ok(Forked::Parent { pid, .. }) => Ok(pid),
        Err(error) => Err(RuntimeError::io(
            "start a process in the container's control group",
            error,
        )),
    }
}

/// The process is our child and not reaped, so its id cannot stand for another one.
fn open_process(pid: i32) -> Result<OwnedFd> {
    let describe = "open a process in the container";
    let pid = Pid::from_raw(pid).ok_or_else(|| RuntimeError::protocol("no process id"))?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|error| RuntimeError::io(describe, error))
}
