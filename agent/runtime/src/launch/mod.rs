//! Starts a container's first process, or another one in it: everything that the parent does around the clone.

mod agent;
mod exec;
mod failure;
mod network;
mod outside;
mod prerequisites;
mod streams;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::cgroup::{Cgroup, CgroupVersion};
use crate::error::{Result, RuntimeError, chain};
use crate::init::sync::{self, Failure, Message};
use crate::init::{self, Hold, InitContext, Prepared};
use crate::plan::{CgroupPlan, ContainerPlan};
use crate::sys::{self, CloneOptions, Forked};
use prerequisites::Prerequisites;

pub(crate) use agent::{AgentPlan, send_descriptor};
pub(crate) use exec::{ExecTarget, exec, exec_with};
pub(crate) use failure::{process_error, start_error};
pub(crate) use network::NetworkBeside;
pub(crate) use streams::{ParentStreams, Streams};

/// How long the group of a container that could not be started may take to go.
const DESTROY_DEADLINE: Duration = Duration::from_secs(2);

/// Where the process's standard streams come from, unless it has a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamSource {
    /// Pipes to this process; standard input is /dev/null unless it is kept open.
    Pipes { stdin: bool, output: bool },
    /// This process's own.
    Inherited,
}

/// Descriptors that came with a plan.
#[derive(Debug, Default)]
pub(crate) struct PlanDescriptors {
    pub root: Option<OwnedFd>,
    pub netns: Option<OwnedFd>,
    /// A socket that the process waits at, just before its program, until somebody connects and releases it.
    pub listener: Option<OwnedFd>,
    /// The network namespace that the plan wants made, where it is made already.
    pub network_beside: Option<NetworkBeside>,
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Launched {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub streams: ParentStreams,
    pub cgroup: Option<Cgroup>,
    /// The socket to a held process.
    pub held: Option<OwnedFd>,
}

/// What a caller does while a container starts.
pub(crate) trait Observer {
    /// The process exists; its file system is being built.
    fn started(&mut self, pid: i32) -> Result<()>;

    /// The file system is built but not entered. Called only where the plan waits for hooks.
    fn built(&mut self, process: &ExecTarget<'_>) -> Result<()>;

    /// The process is under its filter, whose listener this descriptor of it is. Called only where the filter asks
    /// somebody.
    fn listening(&mut self, _process: &ExecTarget<'_>, _listener: RawFd) -> Result<()> {
        Err(out_of_turn())
    }
}

/// Starts a container. After an error nothing of it is left.
///
/// The calling process has one thread where the plan has a time namespace.
pub(crate) fn launch(
    plan: &ContainerPlan,
    descriptors: PlanDescriptors,
    source: StreamSource,
    observer: &mut dyn Observer,
) -> Result<Launched> {
    let PlanDescriptors {
        root,
        netns,
        listener,
        network_beside,
    } = descriptors;
    let prerequisites = Prerequisites::open(&plan.sandbox, root)?;
    let source = if plan.process.terminal { None } else { Some(source) };
    let Streams { parent, child } = Streams::open(source)?;
    let (sync, child_sync) = sync_sockets()?;
    let mut process = Prepared::new(&plan.process, &plan.extras)?;
    (process.init, process.console_size) = (plan.init, plan.console_size);
    process.hold = match &listener {
        Some(listener) => Hold::Listener(listener.as_raw_fd()),
        None if plan.hold => Hold::Parent,
        None => Hold::No,
    };
    process.adjusted_by_parent = plan.sandbox.leaves_user_namespace();
    process.stdio = child.numbers();
    // v2 processes are born in their group; on v1 the group is made while the child builds its file system.
    let group_plan = plan.cgroup.as_ref();
    let mut group = group_plan
        .filter(|group| group.root.version() == CgroupVersion::V2)
        .map(create_group)
        .transpose()?;
    let context = InitContext {
        sandbox: &plan.sandbox,
        process: &process,
        sync: child_sync.as_fd(),
        root: prerequisites.root.as_fd(),
        netns: netns.as_ref().map(AsFd::as_fd),
        network_beside: network_beside.as_ref().map(NetworkBeside::receiver),
        joined: &prerequisites.joined,
        binds: &prerequisites.binds,
        joins_group: group_plan.is_some() && group.is_none(),
    };
    let cloned = clone_init(&context, group.as_ref(), sync.as_fd());
    drop((child_sync, child));
    let (pid, pidfd) = match cloned {
        Ok(cloned) => cloned,
        Err(error) => {
            destroy(group);
            return Err(error);
        }
    };
    let mut launched = Launching {
        pid,
        pidfd,
        sync,
        streams: parent,
        ready: false,
    };
    let waits = process.hold != Hold::No;
    let finished = outside::adjust(pid, &plan.sandbox, &plan.process, launched.sync.as_fd())
        .and_then(|()| join_late_group(&mut group, plan, launched.sync.as_fd()))
        .and_then(|()| observer.started(pid))
        .and_then(|()| {
            let describe = |failure| start_error(plan, failure);
            launched.finish(waits, group.as_ref(), Some(observer), describe)
        });
    let finished = match network_beside.map_or(Ok(()), NetworkBeside::finish) {
        Ok(()) => finished,
        // The process only knows that there is none.
        Err(failure) => Err(start_error(plan, failure)),
    };
    match finished {
        Ok(held) => Ok(Launched {
            pid,
            pidfd: launched.pidfd,
            streams: launched.streams,
            cgroup: group,
            held: held.then_some(launched.sync),
        }),
        Err(error) => {
            launched.abandon();
            if plan.sandbox.shares_mounts {
                prerequisites.detach_root();
            }
            destroy(group);
            Err(error)
        }
    }
}

fn sync_sockets() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| RuntimeError::io("make a socket", error))
}

fn create_group(plan: &CgroupPlan) -> Result<Cgroup> {
    Cgroup::create(&plan.root, &plan.path, &plan.resources()?)
        .map_err(|source| RuntimeError::cgroup("make", source))
}

fn clone_init(
    context: &InitContext<'_>,
    group: Option<&Cgroup>,
    sync: BorrowedFd<'_>,
) -> Result<(i32, OwnedFd)> {
    if context.sandbox.joins_user_namespace() {
        return outside::clone_below_namespace(context, group, sync);
    }
    let describe = |error| RuntimeError::io("make the container's namespaces", error);
    let clocks = outside::Clocks::offset(context.sandbox)?;
    let place = outside::Place::enter(context.sandbox)?;
    let options = CloneOptions {
        flags: context.sandbox.born_in(),
        cgroup: group.and_then(Cgroup::dir_fd),
        pidfd: true,
    };
    // SAFETY: the child runs `init::run` only, which neither allocates nor locks and never returns.
    let cloned = match unsafe { sys::clone3(&options) } {
        Ok(Forked::Child) => init::run(context),
        Ok(Forked::Parent {
            pid,
            pidfd: Some(pidfd),
        }) => Ok((pid, pidfd)),
        Ok(Forked::Parent { pidfd: None, .. }) => {
            Err(RuntimeError::protocol("clone3 gave no process descriptor"))
        }
        Err(error) => Err(describe(error)),
    };
    place.leave()?;
    clocks.restore()?;
    outside::leave_joined_processes(context.sandbox)?;
    cloned
}

/// v1: makes the group, unless there is one, and sends the child what it needs to join it.
fn join_late_group(group: &mut Option<Cgroup>, plan: &ContainerPlan, sync: BorrowedFd<'_>) -> Result<()> {
    let Some(group_plan) = plan.cgroup.as_ref().filter(|_| group.is_none()) else {
        return Ok(());
    };
    let made = group.insert(create_group(group_plan)?);
    let files = made
        .task_fds()
        .map_err(|source| RuntimeError::cgroup("open", source))?;
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    match sync::send_group(sync, &files) {
        // The child is gone; why, its own message says.
        Ok(()) | Err(rustix::io::Errno::PIPE) => Ok(()),
        Err(error) => Err(RuntimeError::io(
            "send the control group to the container's process",
            error,
        )),
    }
}

fn destroy(group: Option<Cgroup>) {
    if let Some(group) = group {
        // The start failed for a reason that says more than a failed removal would.
        let _ = group.kill_all();
        let _ = group.destroy(DESTROY_DEADLINE);
    }
}

/// A process between its clone and its exec, seen from its parent.
struct Launching {
    pid: i32,
    pidfd: OwnedFd,
    sync: OwnedFd,
    streams: ParentStreams,
    ready: bool,
}

impl Launching {
    /// Follows the child up to exec; true when it is held before that.
    fn finish(
        &mut self,
        hold: bool,
        group: Option<&Cgroup>,
        mut observer: Option<&mut dyn Observer>,
        describe: impl Fn(Failure) -> RuntimeError,
    ) -> Result<bool> {
        loop {
            let message = sync::receive(self.sync.as_fd());
            match message.map_err(agent::silence)? {
                Message::Built => {
                    let target = ExecTarget {
                        init: self.pidfd.as_fd(),
                        init_pid: self.pid,
                        cgroup: group,
                    };
                    if let Some(observer) = &mut observer {
                        observer.built(&target)?;
                    }
                    // A process that is gone says so itself.
                    let _ = sync::send_go(self.sync.as_fd());
                }
                Message::Listener(listener) => {
                    let target = ExecTarget {
                        init: self.pidfd.as_fd(),
                        init_pid: self.pid,
                        cgroup: group,
                    };
                    let observer = observer.as_mut().ok_or_else(out_of_turn)?;
                    observer.listening(&target, listener)?;
                    agent::limit_wait(self.sync.as_fd())?;
                    let _ = sync::send_go(self.sync.as_fd());
                }
                Message::Ready if hold => return Ok(true),
                Message::Ready => self.ready = true,
                Message::Terminal(terminal) => self.streams.take_terminal(terminal)?,
                Message::Failed(failure) => return Err(describe(failure)),
                Message::End if self.ready => return Ok(false),
                Message::End => return Err(died_early()),
                Message::Pid(_) | Message::Go | Message::Group(_) | Message::Network(_) => {
                    return Err(out_of_turn());
                }
            }
        }
    }

    /// Ends the child and reaps it.
    fn abandon(&self) {
        let _ = sys::pidfd_signal(self.pidfd.as_fd(), libc::SIGKILL);
        let _ = sys::reap(self.pid, true);
    }
}

fn out_of_turn() -> RuntimeError {
    RuntimeError::protocol("the container's process sent a message out of turn")
}

fn died_early() -> RuntimeError {
    RuntimeError::Start {
        message: "the container's process ended before it could start the command".to_owned(),
        code: 128,
    }
}

/// What a held process said after it was released.
pub(crate) enum Released {
    /// The program runs.
    Running,
    /// It could not be started.
    Failed(RuntimeError),
}

/// Reads what a released process says. `listening` takes the listener of its filter. A process that failed may still be
/// there, where its filter's agent keeps it: it is for the caller to end it.
pub(crate) fn read_released(
    sync: BorrowedFd<'_>,
    describe: impl Fn(Failure) -> RuntimeError,
    mut listening: impl FnMut(RawFd) -> Result<()>,
) -> Released {
    let mut received = sync::receive(sync);
    if let Ok(Message::Listener(listener)) = received {
        if let Err(error) = listening(listener).and_then(|()| agent::limit_wait(sync)) {
            return Released::Failed(error);
        }
        let _ = sync::send_go(sync);
        received = sync::receive(sync);
    }
    match received {
        Ok(Message::End) => Released::Running,
        Ok(Message::Failed(failure)) => Released::Failed(describe(failure)),
        Ok(_) => Released::Failed(died_early()),
        Err(error) => Released::Failed(agent::silence(error)),
    }
}

/// An error as the daemon gets it: a code and a message.
pub(crate) fn code_and_message(error: &RuntimeError) -> (i32, String) {
    match error {
        RuntimeError::Start { message, code } => (*code, message.clone()),
        other => (128, chain(other)),
    }
}
