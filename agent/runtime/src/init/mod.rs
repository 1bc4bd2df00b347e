//! What a container's first process, and an exec'ed one, does between clone3 and exec.
//!
//! Nothing here allocates, takes a lock or panics: the caller may have had other threads when it was cloned. All strings
//! and arrays come from the plan; failures go to the monitor as a stage, a number and an error code.

mod binds;
mod copy_up;
mod join;
mod mount_steps;
mod reaper;
mod rights;
mod sandbox;
pub(crate) mod sync;
mod terminal;

use std::ffi::c_char;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use crate::label::ExecLabel;
use crate::plan::{ProcessExtras, ProcessPlan, SandboxPlan};
use crate::sys;
use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;
use sync::{Failure, Message, Stage, fail};

pub(crate) use join::{JoinContext, run_below, run_joined};

/// Where a process stops just before it becomes the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Nowhere.
    No,
    /// Until its parent says go.
    Parent,
    /// Until somebody connects to this socket and says go; the program's file is looked for before.
    Listener(RawFd),
}

/// Everything about the process that was prepared before the clone.
pub(crate) struct Prepared<'a> {
    pub plan: &'a ProcessPlan,
    pub extras: &'a ProcessExtras,
    /// Pointers to the arguments, then a null pointer.
    pub arguments: Vec<*const c_char>,
    /// Pointers to the environment, then a null pointer.
    pub environment: Vec<*const c_char>,
    pub filter: Vec<libc::sock_filter>,
    pub labels: Vec<ExecLabel>,
    pub init: bool,
    pub hold: Hold,
    /// The parent sets what a user namespace may not: limits that rise, and the OOM score.
    pub adjusted_by_parent: bool,
    pub console_size: Option<(u16, u16)>,
    /// Standard input, output and error; `None` keeps the caller's own or opens a terminal.
    pub stdio: Option<[RawFd; 3]>,
}

impl<'a> Prepared<'a> {
    pub(crate) fn new(plan: &'a ProcessPlan, extras: &'a ProcessExtras) -> crate::error::Result<Self> {
        let pointers = |strings: &'a [std::ffi::CString]| {
            strings
                .iter()
                .map(|text| text.as_ptr())
                .chain([std::ptr::null()])
                .collect()
        };
        let instructions = plan.filter.iter().flat_map(|filter| &filter.instructions);
        Ok(Prepared {
            labels: plan.labels.prepare()?,
            arguments: pointers(&plan.arguments),
            environment: pointers(&plan.environment),
            filter: instructions
                .map(|instruction| decode_instruction(*instruction))
                .collect(),
            init: false,
            hold: Hold::No,
            adjusted_by_parent: false,
            console_size: None,
            stdio: None,
            plan,
            extras,
        })
    }
}

/// The kernel's layout of an instruction, from its eight bytes.
fn decode_instruction(bytes: u64) -> libc::sock_filter {
    let [a, b, jt, jf, k @ ..] = bytes.to_ne_bytes();
    libc::sock_filter {
        code: u16::from_ne_bytes([a, b]),
        jt,
        jf,
        k: u32::from_ne_bytes(k),
    }
}

/// What a container's first process gets.
pub(crate) struct InitContext<'a> {
    pub sandbox: &'a SandboxPlan,
    pub process: &'a Prepared<'a>,
    /// The socket to the monitor.
    pub sync: BorrowedFd<'a>,
    /// The root file system, detached.
    pub root: BorrowedFd<'a>,
    /// The network namespace to join.
    pub netns: Option<BorrowedFd<'a>>,
    /// Where the network namespace that the plan wants made is received, when the parent makes it.
    pub network_beside: Option<BorrowedFd<'a>>,
    /// Other namespaces to join, and their kinds.
    pub joined: &'a [(OwnedFd, u64)],
    /// Detached mounts of the bind sources.
    pub binds: &'a [OwnedFd],
    /// Whether the monitor sends the files of the control group to join (v1).
    pub joins_group: bool,
}

/// Makes this process the container's; never returns.
pub(crate) fn run(context: &InitContext<'_>) -> ! {
    let failure = match start(context) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    sync::send_failure(context.sync, failure);
    sys::exit_now(1)
}

/// A result that is only ever an error: success is another program.
enum Never {}

fn start(context: &InitContext<'_>) -> Result<Never, Failure> {
    let process = context.process;
    if context.sandbox.ids.is_some() {
        wait_for_go(context.sync)?;
    }
    if context.sandbox.leaves_user_namespace() {
        rights::become_root()?;
    }
    let host = begin(process)?;
    fail(Stage::Session, rustix::process::setsid())?;
    sandbox::build(context, &host)?;
    if context.sandbox.waits_for_hooks {
        fail(Stage::Release, sync::send_built(context.sync))?;
        wait_for_go(context.sync)?;
    }
    if process.plan.terminal {
        terminal::open(context.root, context.sync, process, terminal::Console::Attach)?;
    }
    sandbox::enter(context, &host)?;
    finish(process, context.sync, &host)
}

/// Waits for the parent; a parent that gave up or ended says why itself.
fn wait_for_go(sync: BorrowedFd<'_>) -> Result<(), Failure> {
    match fail(Stage::Release, sync::receive(sync))? {
        Message::Go => Ok(()),
        _ => sys::exit_now(1),
    }
}

/// Descriptors of the host, opened before its file system is left behind.
struct HostFiles {
    /// The host's procfs: through it `self` and the sysctls are those of this process, and no mount of the container
    /// can stand in the way (CVE-2025-52881).
    proc: BorrowedFd<'static>,
}

/// The common beginning: signals, inherited descriptors, standard streams.
fn begin(process: &Prepared<'_>) -> Result<HostFiles, Failure> {
    sys::reset_signals();
    // While the process holds descriptors of the host, nobody inside may look into it.
    fail(Stage::Session, sys::prctl(libc::PR_SET_DUMPABLE, 0, 0))?;
    fail(
        Stage::Session,
        sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0),
    )?;
    fail(
        Stage::Session,
        sys::close_at_exec_from(first_own_descriptor(process)),
    )?;
    if let Some(stdio) = process.stdio {
        for (target, source) in stdio.into_iter().enumerate() {
            fail(Stage::Streams, rights::duplicate(source, target as RawFd))?;
        }
    }
    let proc = sys::keep_open(fail(Stage::Proc, rights::open_host_proc())?);
    if let Some(score) = &process.plan.oom_score_adj
        && !process.adjusted_by_parent
    {
        fail(
            Stage::OomScore,
            rights::write_proc(proc, c"self/oom_score_adj", score),
        )?;
    }
    Ok(HostFiles { proc })
}

/// The first descriptor that the program does not get.
fn first_own_descriptor(process: &Prepared<'_>) -> RawFd {
    const STREAMS: RawFd = 3;
    STREAMS.saturating_add_unsigned(process.extras.preserved)
}

/// The descriptors that are left for the last steps.
struct LastFiles {
    /// To whom failures go: the parent, and after a release by somebody else that one.
    sync: BorrowedFd<'static>,
    /// The socket that the release comes from.
    listener: Option<BorrowedFd<'static>>,
    host: HostFiles,
}

/// The common end: rights, then the program.
fn finish(process: &Prepared<'_>, sync: BorrowedFd<'_>, host: &HostFiles) -> Result<Never, Failure> {
    let first = first_own_descriptor(process);
    // Only these are left, so that no path through /proc/self/fd leads to a directory that was used before.
    // SAFETY: nothing below uses another descriptor, and this process only ends by exec or exit, without drops.
    let kept = unsafe {
        match process.hold {
            Hold::Listener(listener) => sys::keep_only([sync, host.proc, sys::borrowed(listener)], first)
                .map(|[sync, proc, listener]| (sync, proc, Some(listener))),
            Hold::No | Hold::Parent => {
                sys::keep_only([sync, host.proc], first).map(|[sync, proc]| (sync, proc, None))
            }
        }
    };
    let (sync, proc, listener) = fail(Stage::Session, kept)?;
    let host = HostFiles { proc };
    let mut files = LastFiles { sync, listener, host };
    let failure = last_steps(process, &mut files);
    sync::send_failure(files.sync, failure);
    sys::exit_now(1)
}

/// Gives up rights and becomes the program; what comes back is why not.
fn last_steps(process: &Prepared<'_>, files: &mut LastFiles) -> Failure {
    let prepared = rights::enter_directory(process.plan).and_then(|()| rights::drop_rights(process, files));
    if let Err(failure) = prepared {
        return failure;
    }
    if process.init
        && let Err(error) = reaper::fork_below_init(process.plan.terminal, &process.labels, &files.host)
    {
        return Failure::new(Stage::Init, error);
    }
    execute(process)
}

/// Whether one of the candidates could be executed now; else why not, as [`execute`] would say it.
fn find_program(process: &Prepared<'_>) -> Result<(), Failure> {
    let mut worst = Errno::NOENT;
    for candidate in &process.plan.candidates {
        let found = rustix::fs::stat(candidate.as_c_str()).and_then(|status| {
            if !FileType::from_raw_mode(status.st_mode).is_file() {
                return Err(Errno::ACCESS);
            }
            rustix::fs::accessat(CWD, candidate.as_c_str(), Access::EXEC_OK, AtFlags::EACCESS)
        });
        match found {
            // Where the kernel cannot tell for this user, executing will.
            Ok(()) | Err(Errno::NOSYS) => return Ok(()),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => worst = error,
        }
    }
    Err(Failure::new(Stage::Execute, worst))
}

/// Tries the candidates in order, as a shell does: a file that may not be executed counts more than a missing one.
fn execute(process: &Prepared<'_>) -> Failure {
    let mut worst = Errno::NOENT;
    for (number, candidate) in process.plan.candidates.iter().enumerate() {
        // SAFETY: `Prepared::new` ends both arrays with a null pointer, and the strings live in the borrowed plan.
        let error = unsafe { sys::execve(candidate, &process.arguments, &process.environment) };
        if error != Errno::NOENT && error != Errno::NOTDIR {
            worst = error;
            if error != Errno::ACCESS || number + 1 == process.plan.candidates.len() {
                break;
            }
        }
    }
    Failure::new(Stage::Execute, worst)
}
