//! An agent that decides about system calls of a container.

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde_json::Value;
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// `_IOWR('!', 0, struct seccomp_notif)` and `_IOWR('!', 1, struct seccomp_notif_resp)` (linux/seccomp.h).
const NOTIF_RECV: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
const NOTIF_SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;

/// The error that the agent answers with; none that the kernel would give.
const ANSWER: i32 = libc::EDQUOT;

/// What an agent got: the container process state, and the calls that it decided about.
pub struct Seen {
    pub state: Value,
    pub calls: Vec<i32>,
    /// What an agent asks and answers with; the kernel answers for one that closed it.
    pub listener: OwnedFd,
}

/// Takes one listener, and refuses `count` calls.
pub fn agent(socket: UnixListener, count: usize) -> std::thread::JoinHandle<Seen> {
    std::thread::spawn(move || {
        let (mut peer, _) = socket.accept().expect("the runtime connects");
        let mut bytes = vec![0; 1 << 16];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &peer,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        bytes.truncate(received.expect("a message").bytes);
        let listener = ancillary.drain().find_map(|item| match item {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        let listener = listener.expect("a descriptor");
        peer.read_to_end(&mut bytes).expect("the rest");
        let calls = (0..count).map(|_| refuse_one(&listener)).collect();
        let state = serde_json::from_slice(&bytes).expect("it is JSON");
        Seen {
            state,
            calls,
            listener,
        }
    })
}

/// Refuses the next call; its number.
fn refuse_one(listener: &OwnedFd) -> i32 {
    // SAFETY: all zero is what the kernel wants to find.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the request fills one such structure.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV, &raw mut asked) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    let answer = libc::seccomp_notif_resp {
        id: asked.id,
        val: 0,
        error: -ANSWER,
        flags: 0,
    };
    // SAFETY: the request reads one such structure.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND, &raw const answer) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    asked.data.nr
}

pub fn listen(path: &Path) -> UnixListener {
    let _ = std::fs::remove_file(path);
    UnixListener::bind(path).expect("the directory is writable")
}
