//! The last part before exec: directory, limits, user, capabilities, label, filter.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use super::sync::{self, Failure, Message, Stage, fail};
use super::{HostFiles, Prepared};
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
/// - after the filter only capset, prctl and execve follow (fork too, below an init).
pub(super) fn drop_rights(
    process: &Prepared<'_>,
    sync: BorrowedFd<'_>,
    host: &HostFiles,
) -> Result<(), Failure> {
    let plan = process.plan;
    match sys::join_new_session_keyring() {
        Ok(()) | Err(Errno::NOSYS | Errno::PERM) => {}
        Err(error) => return Err(Failure::new(Stage::Keyring, error)),
    }
    for (number, (resource, soft, hard)) in plan.limits.iter().enumerate() {
        sys::set_limit(*resource, *soft, *hard)
            .map_err(|error| Failure::numbered(Stage::Limit, number, error))?;
    }
    for label in &process.labels {
        let written = label.write(host.proc);
        written
            .map_err(|error| Failure::new(Stage::Label, Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    }
    let held = fail(Stage::Capabilities, sys::capabilities())?;
    fail(Stage::Capabilities, drop_bounding(plan.capabilities.bounding))?;
    change_user(process)?;
    // From here on the kernel lets a monitor's end end this process too.
    fail(
        Stage::Session,
        sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0),
    )?;
    wait_for_release(process.hold, sync)?;
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
        fail(Stage::Filter, sys::install_filter(&process.filter, filter.flags))?;
    }
    fail(
        Stage::Capabilities,
        set_capabilities(plan.capabilities, held.permitted),
    )
}

/// Says that everything is ready, which also notices a monitor that is gone, and waits where the engine wants that.
fn wait_for_release(hold: bool, sync: BorrowedFd<'_>) -> Result<(), Failure> {
    fail(Stage::Release, sync::send_ready(sync))?;
    if hold {
        match fail(Stage::Release, sync::receive(sync))? {
            Message::Go => {}
            _ => sys::exit_now(1),
        }
    }
    Ok(())
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
    if process.stdio.is_some() || plan.terminal {
        fail(Stage::Streams, give_streams(plan.uid))?;
    }
    fail(Stage::Groups, sys::set_groups(&plan.groups))?;
    fail(Stage::Groups, sys::set_group(plan.gid))?;
    fail(Stage::User, sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0))?;
    fail(Stage::User, sys::set_user(plan.uid))
}

/// Lets the process open its own standard streams again, through /dev/stdout and so on.
fn give_streams(uid: u32) -> Result<(), Errno> {
    for stream in sys::standard_streams() {
        let status = rustix::fs::fstat(stream)?;
        // The null device belongs to the host.
        let is_null = status.st_rdev == libc::makedev(1, 3) as u64;
        if !is_null && status.st_uid != uid {
            rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(uid)), None)?;
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
