//! The few bpf(2) calls that attach a device program to a v2 group.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::device_program::Instruction;

// From linux/bpf.h.
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Programs of parent groups stay in force, and further ones can be added.
const ALLOW_MULTI: u32 = 2;
/// Take the place of one attached program.
const REPLACE: u32 = 4;

/// How many attached programs are looked at: the kernel allows 64 in one group.
const ATTACHED_MAX: usize = 64;

/// A bpf(2) call that failed.
#[derive(Debug)]
pub(super) struct BpfFailure {
    pub step: &'static str,
    pub source: io::Error,
}

#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct AttachAttributes {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttributes {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    program_count: u32,
}

#[repr(C)]
#[derive(Default)]
struct IdAttributes {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Attaches a device program to a group; it takes the place of those attached before.
pub(super) fn attach_device_program(group: &Path, program: &[Instruction]) -> Result<(), BpfFailure> {
    let failure = |step| move |source| BpfFailure { step, source };
    let target = rustix::fs::open(
        group,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|errno| BpfFailure {
        step: "the group cannot be opened",
        source: errno.into(),
    })?;
    let program = load(program).map_err(failure("the kernel does not take a device program"))?;
    let old = attached(&target).map_err(failure("the attached device programs cannot be listed"))?;
    let replaced = match &old[..] {
        [only] => Some(only),
        _ => None,
    };
    attach(&target, &program, replaced).map_err(failure("the kernel does not attach a device program"))?;
    if replaced.is_none() {
        for program in &old {
            detach(&target, program).map_err(failure("an old device program cannot be detached"))?;
        }
    }
    Ok(())
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    match try_load(program) {
        // Before Linux 5.11 programs count as locked memory of the user.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            setrlimit(
                Resource::Memlock,
                Rlimit {
                    current: None,
                    maximum: None,
                },
            )?;
            try_load(program)
        }
        other => other,
    }
}

fn try_load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut name = [0; 16];
    name[..b"muster_devices".len()].copy_from_slice(b"muster_devices");
    let mut attributes = LoadAttributes {
        kind: TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        name,
        ..LoadAttributes::default()
    };
    let descriptor = call(PROG_LOAD, &mut attributes)?;
    // SAFETY: the kernel just returned this descriptor for the program, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn attached(target: &OwnedFd) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0u32; ATTACHED_MAX];
    let mut attributes = QueryAttributes {
        target: number(target),
        kind: ATTACH_CGROUP_DEVICE,
        program_ids: ids.as_mut_ptr() as u64,
        program_count: ATTACHED_MAX as u32,
        ..QueryAttributes::default()
    };
    call(PROG_QUERY, &mut attributes)?;
    let count = usize::try_from(attributes.program_count)
        .unwrap_or(0)
        .min(ATTACHED_MAX);
    ids[..count].iter().map(|id| open_program(*id)).collect()
}

fn open_program(id: u32) -> io::Result<OwnedFd> {
    let descriptor = call(
        PROG_GET_FD_BY_ID,
        &mut IdAttributes {
            id,
            ..IdAttributes::default()
        },
    )?;
    // SAFETY: the kernel just returned this descriptor for the program, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn attach(target: &OwnedFd, program: &OwnedFd, replaced: Option<&OwnedFd>) -> io::Result<()> {
    let mut attributes = AttachAttributes {
        target: number(target),
        program: number(program),
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI | if replaced.is_some() { REPLACE } else { 0 },
        replaced: replaced.map_or(0, number),
    };
    call(PROG_ATTACH, &mut attributes).map(|_| ())
}

fn detach(target: &OwnedFd, program: &OwnedFd) -> io::Result<()> {
    let mut attributes = AttachAttributes {
        target: number(target),
        program: number(program),
        kind: ATTACH_CGROUP_DEVICE,
        ..AttachAttributes::default()
    };
    call(PROG_DETACH, &mut attributes).map(|_| ())
}

/// An open descriptor as bpf(2) wants it: never negative.
fn number(descriptor: &OwnedFd) -> u32 {
    descriptor.as_fd().as_raw_fd().cast_unsigned()
}

fn call<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    let size = std::mem::size_of::<T>();
    // SAFETY: `attributes` is a live, exclusively borrowed structure of `size` bytes, laid out as the start of union
    // bpf_attr for `command`; the pointers in it are to buffers that outlive the call, with the lengths stated beside.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}
