//! A network namespace that is made beside everything else: it takes the kernel longest of all that a container needs.

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use super::sync_sockets;
use crate::error::{Result, RuntimeError};
use crate::init::sync::{self, Failure, Stage};
use crate::sys;

/// Bytes of stack: a few calls of the kernel need no more.
const STACK_BYTES: usize = 64 << 10;

/// A thread that makes it, brings its loopback device up and sends it to the process that will live in it.
#[derive(Debug)]
pub(crate) struct NetworkBeside {
    thread: JoinHandle<std::result::Result<(), Failure>>,
    receiver: OwnedFd,
}

impl NetworkBeside {
    /// Begins where the specification wants one that this process can make. The thread costs memory that is given back
    /// only with this process; it has the calling thread's signal mask.
    pub(crate) fn start(spec: &Spec) -> Result<Option<NetworkBeside>> {
        if !is_wanted(spec) {
            return Ok(None);
        }
        let (sender, receiver) = sync_sockets()?;
        let thread = std::thread::Builder::new()
            .name("network".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || send(&sender, make))
            .map_err(|error| RuntimeError::io("make a network namespace", error))?;
        Ok(Some(NetworkBeside { thread, receiver }))
    }

    /// Where the process receives it, or hears that it could not be made.
    pub(super) fn receiver(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }

    /// Waits until it is made and sent.
    pub(super) fn finish(self) -> std::result::Result<(), Failure> {
        let made = self.thread.join();
        made.unwrap_or_else(|_| Err(Failure::new(Stage::NetworkNamespace, Errno::IO)))
    }
}

/// A namespace belongs to the user namespace of the process that makes it, and a process that gives its child a time
/// namespace has one thread: there the container's process makes it.
fn is_wanted(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    let mut wanted = false;
    for namespace in namespaces.into_iter().flatten() {
        match namespace.typ() {
            LinuxNamespaceType::Network => wanted = namespace.path().is_none(),
            LinuxNamespaceType::User | LinuxNamespaceType::Time => return false,
            LinuxNamespaceType::Mount
            | LinuxNamespaceType::Cgroup
            | LinuxNamespaceType::Uts
            | LinuxNamespaceType::Ipc
            | LinuxNamespaceType::Pid => {}
        }
    }
    wanted
}

/// Sends what is made, or that there is none: the process may have been born with an end like this one, which then stays
/// open.
fn send(
    socket: &OwnedFd,
    make: impl FnOnce() -> std::result::Result<File, Failure>,
) -> std::result::Result<(), Failure> {
    let made = make().and_then(|namespace| {
        sync::send_network(socket.as_fd(), namespace.as_fd())
            .map_err(|error| Failure::new(Stage::NetworkNamespace, error))
    });
    match made {
        // The process is gone; why, its own message says.
        Err(failure) if failure.error == Errno::PIPE => Ok(()),
        Err(failure) => {
            sync::send_failure(socket.as_fd(), failure);
            Err(failure)
        }
        Ok(()) => Ok(()),
    }
}

fn make() -> std::result::Result<File, Failure> {
    // Of this thread alone.
    sync::fail(Stage::NetworkNamespace, sys::unshare(libc::CLONE_NEWNET))?;
    sync::fail(Stage::Loopback, sys::bring_loopback_up())?;
    File::open("/proc/thread-self/ns/net").map_err(|error| {
        let code = error.raw_os_error().unwrap_or(libc::EIO);
        Failure::new(Stage::NetworkNamespace, Errno::from_raw_os_error(code))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::sync::Message;
    use rustix::net::sockopt::{self, Timeout};
    use std::time::Duration;

    #[test]
    fn a_process_that_holds_both_ends_hears_that_there_is_no_network() {
        let (sender, receiver) = sync_sockets().unwrap();
        sockopt::set_socket_timeout(&receiver, Timeout::Recv, Some(Duration::from_secs(20))).unwrap();
        let inherited = sender.try_clone().unwrap();
        let failure = Failure::new(Stage::NetworkNamespace, Errno::NOMEM);
        let made = std::thread::spawn(move || send(&sender, || Err(failure)))
            .join()
            .unwrap();
        assert_eq!(made.unwrap_err().error, Errno::NOMEM);
        assert!(!matches!(
            sync::receive(receiver.as_fd()).unwrap(),
            Message::Network(_)
        ));
        drop(inherited);
    }
}
