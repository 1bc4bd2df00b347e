//! User namespaces that somebody makes for a container or for a mount before there is a process that lives in them.

use rustix::pipe::PipeFlags;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::{Result, RuntimeError};
use crate::plan::IdMaps;
use crate::sys::{self, CloneOptions, Forked};

/// Ids as the kernel maps them: first inside, first outside, how many.
pub type MappedRange = (u32, u32, u32);

/// A user namespace and what was made to belong to it.
#[derive(Debug)]
pub struct UserNamespace {
    /// The user namespace itself.
    pub users: OwnedFd,
    /// A network namespace that belongs to it, where one was asked for: nothing is set up in it.
    pub network: Option<OwnedFd>,
}

/// What is made with a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Nothing.
    Nothing,
    /// A network namespace.
    Network,
}

impl UserNamespace {
    /// Makes one with these users and groups. Blocks for as long as a fork takes.
    pub fn make(users: &[MappedRange], groups: &[MappedRange], beside: Beside) -> Result<UserNamespace> {
        make(&IdMaps::from_ranges(users, groups), beside)
    }
}

/// As [`UserNamespace::make`].
pub(crate) fn make(ids: &IdMaps, beside: Beside) -> Result<UserNamespace> {
    make_with(beside, |pid| write_maps(pid, ids)).and_then(|made| made)
}

/// As [`make`]; `give_ids` gives the namespace of a process its users and groups.
pub(crate) fn make_with<E>(
    beside: Beside,
    give_ids: impl FnOnce(i32) -> std::result::Result<(), E>,
) -> Result<std::result::Result<UserNamespace, E>> {
    let network = match beside {
        Beside::Nothing => 0,
        Beside::Network => libc::CLONE_NEWNET,
    };
    let holder = Holder::fork((libc::CLONE_NEWUSER | network) as u64, None)?;
    if let Err(error) = give_ids(holder.pid) {
        return Ok(Err(error));
    }
    Ok(Ok(UserNamespace {
        users: holder.namespace("user")?,
        network: match beside {
            Beside::Nothing => None,
            Beside::Network => Some(holder.namespace("net")?),
        },
    }))
}

/// Makes a network namespace that belongs to a user namespace that exists. Blocks for as long as a fork takes.
pub(crate) fn network_of(users: BorrowedFd<'_>) -> Result<OwnedFd> {
    let (told, tells) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .map_err(|error| RuntimeError::io("make a pipe", error))?;
    let job = Job {
        users,
        tells: tells.as_fd(),
    };
    let holder = Holder::fork(0, Some(&job))?;
    drop(tells);
    let mut answer = [0; 4];
    let made = File::from(told)
        .read_exact(&mut answer)
        .and_then(|()| match i32::from_ne_bytes(answer) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        });
    made.map_err(|error| RuntimeError::io("make a network namespace in another user namespace", error))?;
    holder.namespace("net")
}

/// Shows the files of a detached mount as owned by the ids that a user namespace maps theirs to.
pub fn map_mount(mount: BorrowedFd<'_>, users: BorrowedFd<'_>) -> io::Result<()> {
    Ok(sys::map_mount(mount, false, users)?)
}

/// Gives a new user namespace its users and groups.
pub(crate) fn write_maps(pid: i32, ids: &IdMaps) -> Result<()> {
    for (file, map) in [("uid_map", &ids.users), ("gid_map", &ids.groups)] {
        std::fs::write(format!("/proc/{pid}/{file}"), map.kernel_text()).map_err(|error| {
            let map = map.kernel_text().replace('\n', ", ");
            RuntimeError::io(format!("give the user namespace {file} {map}"), error)
        })?;
    }
    Ok(())
}

/// What a holder does first: enter a user namespace, and make a network namespace in it.
struct Job<'a> {
    users: BorrowedFd<'a>,
    tells: BorrowedFd<'a>,
}

/// A process that does nothing but hold namespaces until they are opened.
struct Holder {
    pid: i32,
    pidfd: OwnedFd,
}

impl Holder {
    fn fork(flags: u64, job: Option<&Job<'_>>) -> Result<Holder> {
        let options = CloneOptions {
            flags,
            cgroup: None,
            pidfd: true,
        };
        // SAFETY: the child makes system calls only, and never returns.
        match unsafe { sys::clone3(&options) } {
            Ok(Forked::Child) => hold(job),
            Ok(Forked::Parent {
                pid,
                pidfd: Some(pidfd),
            }) => Ok(Holder { pid, pidfd }),
            Ok(Forked::Parent { pidfd: None, .. }) => {
                Err(RuntimeError::protocol("clone3 gave no process descriptor"))
            }
            Err(error) => Err(RuntimeError::io("make a user namespace", error)),
        }
    }

    fn namespace(&self, kind: &str) -> Result<OwnedFd> {
        let path = format!("/proc/{}/ns/{kind}", self.pid);
        let opened = File::open(&path).map_err(|error| RuntimeError::io(format!("open {path}"), error))?;
        Ok(opened.into())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = sys::pidfd_signal(self.pidfd.as_fd(), libc::SIGKILL);
        let _ = sys::reap(self.pid, true);
    }
}

/// The holder's side.
fn hold(job: Option<&Job<'_>>) -> ! {
    let _ = sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0);
    if let Some(job) = job {
        let made = sys::join_namespaces(job.users, libc::CLONE_NEWUSER)
            .and_then(|()| sys::unshare(libc::CLONE_NEWNET));
        let answer = made.map_or_else(|error| error.raw_os_error(), |()| 0);
        let _ = rustix::io::write(job.tells, &answer.to_ne_bytes());
    }
    loop {
        let _ = sys::wait_for_signal();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The user namespace that a namespace belongs to.
    fn owner(namespace: &OwnedFd) -> std::fs::File {
        const NS_GET_USERNS: libc::Ioctl = 0xb701;
        // SAFETY: the request takes no argument and returns a new descriptor.
        let owner = unsafe {
            let owner = libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(namespace), NS_GET_USERNS);
            assert!(owner >= 0);
            <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(owner)
        };
        owner.into()
    }

    fn identity(file: &std::fs::File) -> u64 {
        std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap())
    }

    #[test]
    fn networks_belong_to_the_user_namespace_they_were_made_for() {
        let ranges = [(0, 100_000, 65_536)];
        let made = UserNamespace::make(&ranges, &ranges, Beside::Network).expect("tests run as root");
        let users = identity(&made.users.try_clone().unwrap().into());
        assert_eq!(identity(&owner(&made.network.unwrap())), users);
        let second = network_of(made.users.as_fd()).unwrap();
        assert_eq!(identity(&owner(&second)), users);
        let alone = UserNamespace::make(&ranges, &ranges, Beside::Nothing).unwrap();
        assert!(alone.network.is_none());
        assert_ne!(identity(&alone.users.into()), users);
        let bad = UserNamespace::make(&[(0, 0, 0)], &ranges, Beside::Nothing).unwrap_err();
        assert!(crate::describe(&bad).contains("uid_map"), "{bad}");
    }
}
