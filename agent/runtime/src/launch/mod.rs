//! Starts a container's first process, or another one in it: everything that the parent does around the clone.

mod exec;
mod failure;
mod streams;

use rustix::mount::OpenTreeFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::cgroup::{Cgroup, CgroupVersion};
use crate::error::{Result, RuntimeError, chain};
use crate::init::sync::{self, Failure, Message};
use crate::init::{self, InitContext, Prepared};
use crate::plan::{Attributes, BindSource, CgroupPlan, ContainerPlan};
use crate::sys::{self, CloneOptions, Forked, MountAttributes};

pub(crate) use exec::{ExecTarget, exec};
pub(crate) use failure::start_error;
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

/// Descriptors that the child takes from this process.
struct Prerequisites {
    root: OwnedFd,
    binds: Vec<OwnedFd>,
    joined: Vec<(OwnedFd, u64)>,
}

/// Starts a container. After an error nothing of it is left.
///
/// `started` is called with the process id while the container's file system is being built.
pub(crate) fn launch(
    plan: &ContainerPlan,
    descriptors: PlanDescriptors,
    source: StreamSource,
    started: impl FnOnce(i32) -> Result<()>,
) -> Result<Launched> {
    let PlanDescriptors { root, netns } = descriptors;
    let prerequisites = open_prerequisites(plan, root)?;
    let source = if plan.process.terminal { None } else { Some(source) };
    let Streams { parent, child } = Streams::open(source)?;
    let (sync, child_sync) = sync_sockets()?;
    let mut process = Prepared::new(&plan.process)?;
    (process.init, process.hold, process.console_size) = (plan.init, plan.hold, plan.console_size);
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
        joined: &prerequisites.joined,
        binds: &prerequisites.binds,
        joins_group: group_plan.is_some() && group.is_none(),
    };
    let (pid, pidfd) = match clone_init(&context, group.as_ref()) {
        Ok(cloned) => cloned,
        Err(error) => {
            destroy(group);
            return Err(error);
        }
    };
    drop((child_sync, child));
    let mut launched = Launching {
        pid,
        pidfd,
        sync,
        streams: parent,
        ready: false,
    };
    let finished = join_late_group(&mut group, plan, launched.sync.as_fd())
        .and_then(|()| started(pid))
        .and_then(|()| launched.finish(plan.hold, |failure| start_error(plan, failure)));
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
            destroy(group);
            Err(error)
        }
    }
}

fn open_prerequisites(plan: &ContainerPlan, root: Option<OwnedFd>) -> Result<Prerequisites> {
    let sandbox = &plan.sandbox;
    let root = match (root, &sandbox.root_source) {
        (Some(root), _) => root,
        (None, Some(path)) => {
            let attributes = Attributes {
                propagation: libc::MS_PRIVATE,
                ..Attributes::default()
            };
            let (path, recursive) = (path.clone(), true);
            open_bind(&BindSource {
                path,
                recursive,
                attributes,
                attributes_recursive: true,
            })?
        }
        (None, None) => return Err(RuntimeError::spec("there is no root file system")),
    };
    let binds = sandbox.binds.iter().map(open_bind).collect::<Result<_>>()?;
    let mut joined = Vec::new();
    for (path, kind) in &sandbox.joined {
        let namespace = std::fs::File::open(path)
            .map_err(|error| RuntimeError::io(format!("open the namespace {}", path.display()), error))?;
        let namespace = OwnedFd::from(namespace);
        if *kind == libc::CLONE_NEWPID as u64 {
            // Takes effect for the clone; this process stays where it is.
            sys::join_namespaces(namespace.as_fd(), libc::CLONE_NEWPID)
                .map_err(|error| RuntimeError::io(format!("join the namespace {}", path.display()), error))?;
        }
        joined.push((namespace, *kind));
    }
    Ok(Prerequisites { root, binds, joined })
}

/// A detached copy of a mount of the host, with its own attributes.
fn open_bind(source: &BindSource) -> Result<OwnedFd> {
    let describe = || format!("bind {}", source.path.display());
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if source.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = rustix::mount::open_tree(rustix::fs::CWD, &source.path, flags)
        .map_err(|error| RuntimeError::io(describe(), error))?;
    let Attributes {
        set,
        clear,
        propagation,
    } = source.attributes;
    if propagation != 0 {
        let attributes = MountAttributes {
            propagation,
            ..MountAttributes::default()
        };
        sys::mount_setattr(tree.as_fd(), source.recursive, attributes)
            .map_err(|error| RuntimeError::io(describe(), error))?;
    }
    if set != 0 || clear != 0 {
        let attributes = MountAttributes {
            set,
            clear,
            propagation: 0,
        };
        sys::mount_setattr(tree.as_fd(), source.attributes_recursive, attributes)
            .map_err(|error| RuntimeError::io(describe(), error))?;
    }
    Ok(tree)
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
    let resources = serde_json::from_slice(&plan.resources)
        .map_err(|error| RuntimeError::io("read the resources of the plan", error))?;
    Cgroup::create(&plan.root, &plan.path, &resources).map_err(|source| RuntimeError::cgroup("make", source))
}

fn clone_init(context: &InitContext<'_>, group: Option<&Cgroup>) -> Result<(i32, OwnedFd)> {
    let group = group.and_then(Cgroup::dir_fd);
    let options = CloneOptions {
        flags: context.sandbox.new_namespaces,
        cgroup: group,
        pidfd: true,
    };
    // SAFETY: the child runs `init::run` only, which neither allocates nor locks and never returns.
    match unsafe { sys::clone3(&options) } {
        Ok(Forked::Child) => init::run(context),
        Ok(Forked::Parent {
            pid,
            pidfd: Some(pidfd),
        }) => Ok((pid, pidfd)),
        Ok(Forked::Parent { pidfd: None, .. }) => {
            Err(RuntimeError::protocol("clone3 gave no process descriptor"))
        }
        Err(error) => Err(RuntimeError::io("make the container's namespaces", error)),
    }
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
    fn finish(&mut self, hold: bool, describe: impl Fn(Failure) -> RuntimeError) -> Result<bool> {
        loop {
            let message = sync::receive(self.sync.as_fd());
            match message.map_err(|error| RuntimeError::io("hear from the container's process", error))? {
                Message::Ready if hold => return Ok(true),
                Message::Ready => self.ready = true,
                Message::Terminal(terminal) => self.streams.take_terminal(terminal)?,
                Message::Failed(failure) => return Err(describe(failure)),
                Message::End if self.ready => return Ok(false),
                Message::End => return Err(died_early()),
                Message::Pid(_) | Message::Go | Message::Group(_) => {
                    return Err(RuntimeError::protocol(
                        "the container's process sent a message out of turn",
                    ));
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

/// Reads what a released process says.
pub(crate) fn read_released(sync: BorrowedFd<'_>, describe: impl Fn(Failure) -> RuntimeError) -> Released {
    match sync::receive(sync) {
        Ok(Message::End) => Released::Running,
        Ok(Message::Failed(failure)) => Released::Failed(describe(failure)),
        Ok(_) => Released::Failed(died_early()),
        Err(error) => Released::Failed(RuntimeError::io("hear from the container's process", error)),
    }
}

/// An error as the daemon gets it: a code and a message.
pub(crate) fn code_and_message(error: &RuntimeError) -> (i32, String) {
    match error {
        RuntimeError::Start { message, code } => (*code, message.clone()),
        other => (128, chain(other)),
    }
}
