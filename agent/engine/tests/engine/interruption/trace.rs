//! Ends a process at the n-th system call that changes something, from outside: no hook in the engine can be forgotten.

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How a traced process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was killed at the point it should be.
    Killed,
    /// It ended by itself after so many points.
    Ended { points: usize, code: i32 },
    /// Somebody else killed it after so many points.
    KilledByOthers { points: usize },
}

/// System calls that change something by their number alone.
const CHANGES: &[libc::c_long] = &[
    libc::SYS_mkdirat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mknodat,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_pwrite64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_copy_file_range,
    libc::SYS_fsetxattr,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_fsmount,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_bind,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
];

/// The same for calls that only older architectures have.
#[cfg(target_arch = "x86_64")]
const OLD_CHANGES: &[libc::c_long] = &[
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_rename,
    libc::SYS_unlink,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_mknod,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CHANGES: &[libc::c_long] = &[];

/// Takes hold of every thread of a process that waits for its input.
///
/// Only the calling thread can follow it afterwards.
pub fn seize(process: Pid) {
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
    let mut seized = Vec::new();
    loop {
        let fresh: Vec<Pid> = threads(process)
            .into_iter()
            .filter(|id| !seized.contains(id))
            .collect();
        if fresh.is_empty() {
            break;
        }
        for thread in fresh {
            // One that a seized thread has made is seized already, and one may have ended.
            match ptrace::seize(thread, options) {
                Ok(()) | Err(Errno::EPERM | Errno::ESRCH) => seized.push(thread),
                Err(error) => panic!("cannot trace thread {thread}: {error}"),
            }
        }
    }
    for thread in seized {
        match ptrace::interrupt(thread) {
            Ok(()) | Err(Errno::ESRCH | Errno::EIO) => {}
            Err(error) => panic!("cannot interrupt thread {thread}: {error}"),
        }
    }
}

fn threads(process: Pid) -> Vec<Pid> {
    let entries = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    entries
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .collect()
}

/// Lets a seized process go on until it ends, or kills it just before its change number `point`, counted from 0.
pub fn follow(process: Pid, point: usize) -> Fate {
    let mut points = 0;
    let mut killed = false;
    let mine = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    loop {
        let status = match waitpid(Pid::from_raw(-1), Some(mine)) {
            Err(Errno::EINTR) => continue,
            status => status.unwrap(),
        };
        let (stopped, signal) = match status {
            WaitStatus::Exited(id, code) if id == process => return Fate::Ended { points, code },
            WaitStatus::Signaled(id, signal, _) if id == process => {
                assert_eq!(signal, Signal::SIGKILL, "it ended after {points} points");
                return match killed {
                    true => Fate::Killed,
                    false => Fate::KilledByOthers { points },
                };
            }
            WaitStatus::PtraceSyscall(id) => {
                if !killed && is_change(process, id) {
                    killed = points == point;
                    points += 1;
                }
                if killed {
                    kill(process, Signal::SIGKILL).unwrap();
                }
                (id, None)
            }
            WaitStatus::PtraceEvent(id, ..) => (id, None),
            WaitStatus::Stopped(id, signal) => (id, Some(signal)),
            WaitStatus::Exited(..)
            | WaitStatus::Signaled(..)
            | WaitStatus::Continued(_)
            | WaitStatus::StillAlive => continue,
        };
        match ptrace::syscall(stopped, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => panic!("cannot let thread {stopped} go on: {error}"),
        }
    }
}

/// Whether a thread is about to change something that others can see.
fn is_change(process: Pid, thread: Pid) -> bool {
    // A thread that ends cannot be asked any more.
    let entering = ptrace::syscall_info(thread).is_ok_and(|info| info.op == libc::PTRACE_SYSCALL_INFO_ENTRY);
    let Some((number, arguments)) = entering.then(|| call_of(process, thread)).flatten() else {
        return false;
    };
    match number {
        libc::SYS_openat => arguments[2] & (libc::O_CREAT | libc::O_TRUNC) as u64 != 0,
        // Writes to an event counter only wake threads.
        libc::SYS_write | libc::SYS_writev => {
            let file = std::fs::read_link(format!("/proc/{process}/fd/{}", arguments[0]));
            file.is_ok_and(|file| !file.to_string_lossy().starts_with("anon_inode"))
        }
        number => CHANGES.contains(&number) || OLD_CHANGES.contains(&number),
    }
}

/// The number and the arguments of a stopped thread's system call.
fn call_of(process: Pid, thread: Pid) -> Option<(libc::c_long, Vec<u64>)> {
    let text = std::fs::read_to_string(format!("/proc/{process}/task/{thread}/syscall")).ok()?;
    let mut words = text.split_whitespace();
    let number = words.next()?.parse().ok()?;
    let arguments = words
        .take(6)
        .map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok())
        .collect::<Option<_>>()?;
    Some((number, arguments))
}
