//! System calls that no safe library wraps: the only place of this crate with unsafe code, beside forks and `memory`.
//!
//! Nothing here allocates: the functions run between clone3 and exec too.

mod attributes;
mod filter;
mod namespaces;

use rustix::io::Errno;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

pub(crate) use attributes::{
    limits_of, set_affinity, set_io_priority, set_limit, set_personality, set_scheduler,
};
pub(crate) use filter::install_filter;
pub(crate) use namespaces::{join_namespaces, map_mount, namespace_kind, unshare};

/// A system call's result.
pub(crate) type SysResult<T> = std::result::Result<T, Errno>;

/// Highest signal number.
const SIGNALS_MAX: c_int = 64;

/// Start the new process in a control group (linux/sched.h; libc's constant is too narrow for it).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn check(result: libc::c_long) -> SysResult<libc::c_long> {
    if result >= 0 {
        return Ok(result);
    }
    // SAFETY: the location of this thread's errno is always valid.
    let code = unsafe { *libc::__errno_location() };
    Err(Errno::from_raw_os_error(code))
}

/// Which process continues after a fork.
pub(crate) enum Forked {
    /// The new process.
    Child,
    /// The caller: the new process, and a descriptor of it.
    Parent { pid: i32, pidfd: Option<OwnedFd> },
}

/// Options of [`clone3`].
#[derive(Default)]
pub(crate) struct CloneOptions<'a> {
    /// `CLONE_NEW…` and other flags that share nothing between the processes.
    pub flags: u64,
    /// Start in this control group (v2).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Ask for a descriptor of the new process.
    pub pidfd: bool,
}

/// Forks with new namespaces.
///
/// # Safety
/// The child gets a copy of this memory with only the calling thread in it. Until exec it must neither allocate nor take
/// a lock unless the caller has no other threads.
pub(crate) unsafe fn clone3(options: &CloneOptions<'_>) -> SysResult<Forked> {
    // SAFETY: all-zero is a valid clone_args.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    let mut pidfd: c_int = -1;
    arguments.flags = options.flags;
    // With CLONE_PARENT the kernel takes the exit signal of the caller and refuses another one.
    if options.flags & libc::CLONE_PARENT as u64 == 0 {
        arguments.exit_signal = libc::SIGCHLD as u64;
    }
    if options.pidfd {
        arguments.flags |= libc::CLONE_PIDFD as u64;
        arguments.pidfd = &raw mut pidfd as u64;
    }
    if let Some(group) = options.cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = group.as_raw_fd() as u64;
    }
    // SAFETY: the arguments are valid and without CLONE_VM or a stack this is a plain fork; the rest is our caller's duty.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            std::mem::size_of::<libc::clone_args>(),
        )
    };
    match check(result)? {
        0 => Ok(Forked::Child),
        pid => {
            // SAFETY: the kernel has just made this descriptor for us.
            let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
            Ok(Forked::Parent {
                pid: pid as i32,
                pidfd,
            })
        }
    }
}

/// A plain fork through the old system call, which filters allow where they refuse clone3.
///
/// # Safety
/// As [`clone3`].
pub(crate) unsafe fn fork_plain() -> SysResult<Forked> {
    // SAFETY: without flags and a stack this is a plain fork; the rest is our caller's duty.
    let result = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    Ok(match check(result)? {
        0 => Forked::Child,
        pid => Forked::Parent {
            pid: pid as i32,
            pidfd: None,
        },
    })
}

/// Replaces this process by a program; returns only on failure.
///
/// # Safety
/// `arguments` and `environment` are arrays of pointers to C strings that end with a null pointer.
pub(crate) unsafe fn execve(
    path: &CStr,
    arguments: &[*const c_char],
    environment: &[*const c_char],
) -> Errno {
    // SAFETY: our caller keeps the contract.
    let result = unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    check(result.into()).err().unwrap_or(Errno::IO)
}

/// Ends this process at once, without running exit handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(code) }
}

/// Which attributes of a mount change.
#[derive(Default, Clone, Copy)]
pub(crate) struct MountAttributes {
    /// `MOUNT_ATTR_…` to set.
    pub set: u64,
    /// `MOUNT_ATTR_…` to clear.
    pub clear: u64,
    /// `MS_PRIVATE` and so on, or 0.
    pub propagation: u64,
}

/// Changes a mount, or with `recursive` also those below it.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    attributes: MountAttributes,
) -> SysResult<()> {
    let attributes = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: path and attributes are valid for the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            std::mem::size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop)
}

/// Standard input, output and error.
pub(crate) fn standard_streams() -> [BorrowedFd<'static>; 3] {
    // SAFETY: the launcher and every process below it keep these three open.
    [0, 1, 2].map(|number| unsafe { BorrowedFd::borrow_raw(number) })
}

/// Makes `target` another descriptor of `source`'s open file, kept over exec.
pub(crate) fn duplicate_to(source: RawFd, target: RawFd) -> SysResult<()> {
    if source == target {
        // SAFETY: takes numbers only.
        return check(unsafe { libc::fcntl(source, libc::F_SETFD, 0) }.into()).map(drop);
    }
    // SAFETY: takes numbers only; the callers use this for standard streams, which nothing owns.
    check(unsafe { libc::dup3(source, target, 0) }.into()).map(drop)
}

/// Marks every descriptor from `first` on as closing at exec.
pub(crate) fn close_at_exec_from(first: RawFd) -> SysResult<()> {
    close_range(first, libc::CLOSE_RANGE_CLOEXEC)
}

/// A descriptor by its number.
///
/// # Safety
/// It stays open for as long as the result is used.
pub(crate) unsafe fn borrowed(descriptor: RawFd) -> BorrowedFd<'static> {
    // SAFETY: our caller keeps the contract.
    unsafe { BorrowedFd::borrow_raw(descriptor) }
}

/// Keeps a descriptor open until this process ends.
pub(crate) fn keep_open(descriptor: OwnedFd) -> BorrowedFd<'static> {
    // SAFETY: the owner is gone, so that nothing closes it.
    unsafe { BorrowedFd::borrow_raw(descriptor.into_raw_fd()) }
}

/// Closes everything from `first` on but these descriptors, which get the numbers from `first` on and close at exec.
///
/// # Safety
/// Nothing may use another descriptor from `first` on afterwards, the drop of its owner included.
pub(crate) unsafe fn keep_only<const N: usize>(
    kept: [BorrowedFd<'_>; N],
    first: RawFd,
) -> SysResult<[BorrowedFd<'static>; N]> {
    let after = first + N as RawFd;
    let mut moved = [-1; N];
    // Out of the way first, as each may have the number that another one gets.
    for (descriptor, place) in kept.iter().zip(&mut moved) {
        // SAFETY: takes numbers only and makes a new descriptor.
        let copy = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, after) };
        *place = check(copy.into())? as RawFd;
    }
    for (number, descriptor) in (first..).zip(&moved) {
        // SAFETY: takes numbers only; our caller gives up what had this number.
        check(unsafe { libc::dup3(*descriptor, number, libc::O_CLOEXEC) }.into())?;
    }
    // SAFETY: our caller gives up all of these.
    unsafe { close_from(after) }?;
    let mut numbers = first..;
    // SAFETY: all were just made, and nothing owns them.
    Ok([(); N].map(|()| unsafe { BorrowedFd::borrow_raw(numbers.next().unwrap_or(-1)) }))
}

/// Closes every descriptor from `first` on.
///
/// # Safety
/// Nothing may use an `OwnedFd` of these afterwards, its drop included.
pub(crate) unsafe fn close_from(first: RawFd) -> SysResult<()> {
    close_range(first, 0)
}

fn close_range(first: RawFd, flags: u32) -> SysResult<()> {
    // SAFETY: the call takes numbers only; see the callers for the lifetime of descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }).map(drop)
}

/// Sets every signal back to its default action and unblocks all: exec would pass ignored and blocked ones on.
pub(crate) fn reset_signals() {
    for signal in 1..=SIGNALS_MAX {
        // SAFETY: SIG_DFL is valid for every signal; SIGKILL, SIGSTOP and libc's own two refuse and stay as they are.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    set_signal_mask(0);
}

/// Blocks exactly the signals of a mask, in which bit 0 stands for signal 1.
pub(crate) fn set_signal_mask(mask: u64) {
    // SAFETY: the kernel's signal set is 8 bytes.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            std::ptr::null_mut::<u64>(),
            8,
        );
    }
}

/// Lets the kernel reap children by itself.
pub(crate) fn ignore_children() {
    // SAFETY: ignoring SIGCHLD installs no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Ignores a signal.
pub(crate) fn ignore_signal(signal: c_int) {
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Waits for any signal of all blocked ones.
pub(crate) fn wait_for_signal() -> SysResult<c_int> {
    let all = u64::MAX;
    let (information, timeout) = (std::ptr::null_mut::<c_void>(), std::ptr::null::<c_void>());
    // SAFETY: the kernel's signal set is 8 bytes; null means no information and no timeout.
    let result = unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, &raw const all, information, timeout, 8) };
    check(result).map(|signal| signal as c_int)
}

/// Sends a signal to a process.
pub(crate) fn kill(pid: i32, signal: c_int) -> SysResult<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// Sends a signal through a descriptor of a process.
pub(crate) fn pidfd_signal(process: BorrowedFd<'_>, signal: c_int) -> SysResult<()> {
    let information = std::ptr::null::<c_void>();
    // SAFETY: null means the information that kill gives.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            information,
            0,
        )
    })
    .map(drop)
}

/// Reaps a child (-1: any); `None` when there is none to reap now.
pub(crate) fn reap(pid: i32, block: bool) -> SysResult<Option<(i32, c_int)>> {
    let mut status = 0;
    let flags = libc::__WALL | if block { 0 } else { libc::WNOHANG };
    // SAFETY: the status is valid for the call.
    let reaped = check(unsafe { libc::waitpid(pid, &raw mut status, flags) }.into())?;
    Ok((reaped != 0).then_some((reaped as i32, status)))
}

/// Sets the host name of this UTS namespace.
pub(crate) fn set_host_name(name: &[u8]) -> SysResult<()> {
    // SAFETY: pointer and length are those of a live slice.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }.into()).map(drop)
}

/// Sets the domain name of this UTS namespace.
pub(crate) fn set_domain_name(name: &[u8]) -> SysResult<()> {
    // SAFETY: pointer and length are those of a live slice.
    check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }.into()).map(drop)
}

/// Gives this process a session keyring of its own, instead of the one it inherited.
pub(crate) fn join_new_session_keyring() -> SysResult<()> {
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0) };
    check(result).map(drop)
}

/// Makes a terminal the controlling one of this session.
pub(crate) fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> SysResult<()> {
    // SAFETY: takes a number only.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// Makes this process's group the foreground one of its controlling terminal, descriptor 0.
pub(crate) fn take_foreground() -> SysResult<()> {
    // SAFETY: takes numbers only; a process of its own group may always be asked for its id.
    check(unsafe { libc::tcsetpgrp(0, libc::getpgrp()) }.into()).map(drop)
}

/// Unlocks a pseudo terminal and opens its other side, without a path that somebody could have replaced.
pub(crate) fn open_terminal_peer(master: BorrowedFd<'_>) -> SysResult<OwnedFd> {
    let unlock: c_int = 0;
    // SAFETY: the kernel reads one int.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) }.into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes a number only.
    let peer = check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(peer as RawFd) })
}

/// Sets a terminal's size.
pub(crate) fn set_terminal_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> SysResult<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel reads one winsize.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into()).map(drop)
}

/// Brings up the loopback device of this network namespace.
pub(crate) fn bring_loopback_up() -> SysResult<()> {
    // SAFETY: takes numbers only.
    let socket =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into())?;
    // SAFETY: the kernel has just made this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(socket as RawFd) };
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as c_char;
    request.ifr_name[1] = b'o' as c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
    // SAFETY: the kernel reads one ifreq with a name and flags.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into()).map(drop)
}

/// Reads the path of the working directory into a buffer; it starts with `/` only inside of the root directory.
pub(crate) fn working_directory(buffer: &mut [u8]) -> SysResult<usize> {
    // SAFETY: pointer and length are those of a live buffer.
    let length = check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    Ok(length as usize)
}

/// The three capability sets of a process, one bit per capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CapabilityBits {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

/// Reads this process's capability sets.
pub(crate) fn capabilities() -> SysResult<CapabilityBits> {
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let mut words = [0u32; 6];
    // SAFETY: version 3 writes two times three words.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, words.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let [e0, p0, i0, e1, p1, i1] = words;
    Ok(CapabilityBits {
        effective: join(e0, e1),
        permitted: join(p0, p1),
        inheritable: join(i0, i1),
    })
}

/// Sets this process's capability sets.
pub(crate) fn set_capabilities(bits: CapabilityBits) -> SysResult<()> {
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let (low, high) = (|bits: u64| bits as u32, |bits: u64| (bits >> 32) as u32);
    let words = [
        low(bits.effective),
        low(bits.permitted),
        low(bits.inheritable),
        high(bits.effective),
        high(bits.permitted),
        high(bits.inheritable),
    ];
    // SAFETY: version 3 reads two times three words.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) }).map(drop)
}

/// A prctl that takes numbers only.
pub(crate) fn prctl(option: c_int, first: u64, second: u64) -> SysResult<()> {
    // SAFETY: the callers use options whose arguments are no pointers.
    check(unsafe { libc::prctl(option, first, second, 0, 0) }.into()).map(drop)
}

/// Sets the supplementary groups.
pub(crate) fn set_groups(groups: &[u32]) -> SysResult<()> {
    // SAFETY: pointer and length are those of a live slice.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Sets real, effective and saved group.
pub(crate) fn set_group(group: u32) -> SysResult<()> {
    // SAFETY: takes numbers only; the raw call does not involve libc's other threads.
    check(unsafe { libc::syscall(libc::SYS_setresgid, group, group, group) }).map(drop)
}

/// Sets real, effective and saved user.
pub(crate) fn set_user(user: u32) -> SysResult<()> {
    // SAFETY: takes numbers only; the raw call does not involve libc's other threads.
    check(unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) }).map(drop)
}
