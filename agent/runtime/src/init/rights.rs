//! The last part before exec: directory, limits, user, capabilities, label, filter.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::sync::{self, Failure, Message, Stage, fail};
use super::{Hold, LastFiles, Prepared, find_program};
use crate::plan::{CapabilityPlan, ProcessPlan};
use crate::sys::{self, CapabilityBits};

const PROC_MAGIC: i64 = libc::PROC_SUPER_MAGIC;

/// The highest capability number that a kernel may know; unknown ones are refused with EINVAL.
const CAPABILITIES_MAX: u32 = 63;

const SYS_ADMIN: u64 = 1 << 21;

/// The longest path that getcwd gives.
const PATH_BYTES_MAX: usize = 4096;

/// Makes `target` another descriptor of `source`, kept over exec.
pub(super) fn duplicate(source: RawFd, target: RawFd) -> Result<(), Errno> {
    sys::duplicate_to(source, target)
}

/// Opens the host's procfs.
pub(super) fn open_host_proc() -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open(c"/proc", flags, Mode::empty())?;
    if rustix::fs::fstatfs(&proc)?.f_type == PROC_MAGIC {
        Ok(proc)
    } else {
        Err(Errno::NODEV)
    }
}

/// Writes to a file of the host's procfs, which nothing may be mounted over.
pub(super) fn write_proc(proc: BorrowedFd<'_>, path: &CStr, value: &CStr) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let file = rustix::fs::openat2(proc, path, flags, Mode::empty(), resolve)?;
    write_all(file.as_fd(), value.to_bytes())
}

/// Writes bytes in one piece, as files of procfs and control groups want it.
pub(super) fn write_all(file: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), Errno> {
    match rustix::io::write(file, bytes)? {
        written if written == bytes.len() => Ok(()),
        _ => Err(Errno::IO),
    }
}

/// Goes to the working directory, and makes sure that it is inside of the root (CVE-2024-21626).
pub(super) fn enter_directory(plan: &ProcessPlan) -> Result<(), Failure> {
    fail(
        Stage::WorkingDirectory,
        rustix::process::chdir(plan.working_directory.as_c_str()),
    )?;
    let mut path = [0; PATH_BYTES_MAX];
    let length = fail(Stage::WorkingDirectory, sys::working_directory(&mut path))?;
    // The kernel writes "(unreachable)" before a path that is not below the root.
    if length == 0 || path[0] != b'/' {
        return Err(Failure::new(Stage::WorkingDirectory, Errno::XDEV));
    }
    Ok(())
}

/// Everything that takes rights away. The order matters:
/// - the bounding set can only be dropped with CAP_SETPCAP, so before the user changes;
/// - changing the user clears the death signal, so that is set after it;
/// - without no-new-privileges a filter needs CAP_SYS_ADMIN, so it comes before the final capabilities;
/// - after the filter only capset, prctl and execve follow (fork too, below an init; write and read where somebody listens).
pub(super) fn drop_rights(process: &Prepared<'_>, files: &mut LastFiles) -> Result<(), Failure> {
    let plan = process.plan;
    if !process.extras.keeps_keyring {
        match sys::join_new_session_keyring() {
            Ok(()) | Err(Errno::NOSYS | Errno::PERM) => {}
            Err(error) => return Err(Failure::new(Stage::Keyring, error)),
        }
    }
    set_attributes(process)?;
    for (number, (resource, soft, hard)) in plan.limits.iter().enumerate() {
        sys::set_limit(0, *resource, *soft, *hard)
            .map_err(|error| Failure::numbered(Stage::Limit, number, error))?;
    }
    for label in &process.labels {
        let written = label.write(files.host.proc);
        written
            .map_err(|error| Failure::new(Stage::Label, Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    }
    let held = fail(Stage::Capabilities, sys::capabilities())?;
    fail(Stage::Capabilities, drop_bounding(plan.capabilities.bounding))?;
    change_user(process)?;
    // From here on the kernel lets a monitor's end end this process too.
    let signal = if process.extras.outlives_parent {
        0
    } else {
        libc::SIGKILL
    };
    fail(
        Stage::Session,
        sys::prctl(libc::PR_SET_PDEATHSIG, signal as u64, 0),
    )?;
    wait_for_release(process, files)?;
    if plan.no_new_privileges {
        fail(
            Stage::NoNewPrivileges,
            sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0),
        )?;
    }
    if let Some(filter) = &plan.filter {
        let admin = CapabilityBits {
            effective: held.permitted & SYS_ADMIN,
            ..held
        };
        fail(Stage::Capabilities, sys::set_capabilities(admin))?;
        let listener = fail(Stage::Filter, sys::install_filter(&process.filter, filter.flags))?;
        if let Some(listener) = listener {
            offer(files.sync, listener)?;
        }
    }
    fail(
        Stage::Capabilities,
        set_capabilities(plan.capabilities, held.permitted),
    )
}

/// Has the parent take a listener. Closing it is left to exec: a call less that the filter may ask about.
fn offer(sync: BorrowedFd<'_>, listener: OwnedFd) -> Result<(), Failure> {
    let listener = sys::keep_open(listener);
    match fail(Stage::Listener, sync::offer_listener(sync, listener.as_raw_fd()))? {
        true => Ok(()),
        false => sys::exit_now(1),
    }
}

/// Scheduling, and which kind of program the kernel pretends to run it for.
fn set_attributes(process: &Prepared<'_>) -> Result<(), Failure> {
    let extras = process.extras;
    if let Some(scheduler) = &extras.scheduler {
        fail(Stage::Scheduling, sys::set_scheduler(scheduler))?;
    }
    if let Some(priority) = extras.io_priority {
        fail(Stage::Scheduling, sys::set_io_priority(priority))?;
    }
    if let Some(processors) = &extras.affinity {
        fail(Stage::Scheduling, sys::set_affinity(processors))?;
    }
    match extras.personality {
        Some(personality) => fail(Stage::Personality, sys::set_personality(personality)),
        None => Ok(()),
    }
}

/// Says that everything is ready, which also notices a monitor that is gone, and waits where the engine wants that.
fn wait_for_release(process: &Prepared<'_>, files: &mut LastFiles) -> Result<(), Failure> {
    match (process.hold, files.listener) {
        (Hold::No, _) => fail(Stage::Release, sync::send_ready(files.sync)),
        (Hold::Parent, _) => {
            fail(Stage::Release, sync::send_ready(files.sync))?;
            super::wait_for_go(files.sync)
        }
        (Hold::Listener(_), None) => Err(Failure::new(Stage::Release, Errno::BADF)),
        (Hold::Listener(_), Some(listener)) => {
            find_program(process)?;
            fail(Stage::Release, sync::send_ready(files.sync))?;
            loop {
                let peer = sys::keep_open(fail(Stage::Release, accept(listener))?);
                // One that leaves without a word changes nothing.
                if let Ok(Message::Go) = sync::receive(peer) {
                    files.sync = peer;
                    return Ok(());
                }
            }
        }
    }
}

/// The next connection.
fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    loop {
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            result => return result,
        }
    }
}

/// Becomes user and group 0 of the user namespace that this process is in, with all rights there.
pub(super) fn become_root() -> Result<(), Failure> {
    fail(Stage::UserNamespace, sys::prctl(libc::PR_SET_DUMPABLE, 0, 0))?;
    fail(Stage::UserNamespace, sys::set_groups(&[]))?;
    fail(Stage::UserNamespace, sys::set_group(0))?;
    fail(Stage::UserNamespace, sys::set_user(0))
}

fn drop_bounding(keep: u64) -> Result<(), Errno> {
    for capability in 0..=CAPABILITIES_MAX {
        if keep & 1 << capability == 0 {
            match sys::prctl(libc::PR_CAPBSET_DROP, capability.into(), 0) {
                Ok(()) => {}
                Err(Errno::INVAL) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn change_user(process: &Prepared<'_>) -> Result<(), Failure> {
    let plan = process.plan;
    rustix::process::umask(Mode::from_raw_mode(plan.umask));
    if process.stdio.is_some() || plan.terminal || process.extras.owns_streams {
        fail(Stage::Streams, give_streams(process))?;
    }
    fail(Stage::Groups, sys::set_groups(&plan.groups))?;
    fail(Stage::Groups, sys::set_group(plan.gid))?;
    fail(Stage::User, sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0))?;
    fail(Stage::User, sys::set_user(plan.uid))
}

/// Lets the process open its own standard streams again, through /dev/stdout and so on.
fn give_streams(process: &Prepared<'_>) -> Result<(), Errno> {
    let uid = process.plan.uid;
    // What the caller opened may be a file that nobody may give away; the process still has it open.
    let lenient = process.extras.owns_streams || process.adjusted_by_parent;
    for stream in sys::standard_streams() {
        let status = match rustix::fs::fstat(stream) {
            Err(Errno::BADF) if process.extras.owns_streams => continue,
            result => result?,
        };
        // The null device belongs to the host.
        let is_null = status.st_rdev == libc::makedev(1, 3) as u64;
        if !is_null && status.st_uid != uid {
            match rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(uid)), None) {
                Err(Errno::PERM | Errno::INVAL | Errno::ROFS) if lenient => {}
                result => result?,
            }
        }
    }
    Ok(())
}

/// Sets the final sets, without capabilities that this node's engine does not have itself.
fn set_capabilities(plan: CapabilityPlan, held: u64) -> Result<(), Errno> {
    sys::set_capabilities(CapabilityBits {
        effective: plan.effective & held,
        permitted: plan.permitted & held,
        inheritable: plan.inheritable & held,
    })?;
    sys::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0)?;
    let ambient = plan.ambient & held;
    for capability in 0..=CAPABILITIES_MAX {
        if ambient & 1 << capability != 0 {
            sys::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_RAISE as u64,
                capability.into(),
            )?;
        }
    }
    Ok(())
}
