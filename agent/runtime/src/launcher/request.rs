//! Requests on the socket between daemon and launcher: a byte that says what is wanted and which descriptors follow, and
//! these.

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::namespaces::{self, Wanted};
use crate::error::{Result, RuntimeError};
use crate::launch::PlanDescriptors;
use crate::monitor::process::MonitorInput;
use crate::plan::ContainerPlan;

const HAS_ROOT: u8 = 1;
const HAS_NETNS: u8 = 2;
/// Namespaces are wanted, and no start: a user namespace of these maps, a network namespace beside it, one in a user
/// namespace that exists.
const NAMESPACES: u8 = 4;
const WITH_NETWORK: u8 = 8;
const OF_USERS: u8 = 16;

/// Plan, reply, root file system, network namespace.
const DESCRIPTORS_MAX: usize = 4;

/// What the daemon wants.
pub(super) enum Request {
    Start(MonitorInput),
    Namespaces(namespaces::Request),
}

/// A start to send.
pub(super) struct Start<'a> {
    pub plan: BorrowedFd<'a>,
    pub reply: BorrowedFd<'a>,
    pub root: Option<BorrowedFd<'a>>,
    pub netns: Option<BorrowedFd<'a>>,
}

/// Writes a plan into memory that the monitor reads: it has no size limit, and the launcher never sees it.
pub(super) fn encode_plan(plan: &ContainerPlan) -> Result<OwnedFd> {
    let encoded = postcard::to_stdvec(plan)
        .map_err(|error| RuntimeError::spec(format!("the plan cannot be encoded: {error}")))?;
    let write = || {
        let mut file = File::from(rustix::fs::memfd_create(c"muster-plan", MemfdFlags::CLOEXEC)?);
        file.write_all(&encoded)?;
        Ok::<_, std::io::Error>(file.into())
    };
    write().map_err(|error| RuntimeError::io("hand over the plan", error))
}

/// Asks for namespaces; the answer comes on `reply`.
pub(super) fn send_namespaces(
    socket: BorrowedFd<'_>,
    reply: BorrowedFd<'_>,
    wanted: &Wanted<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    match wanted {
        Wanted::Users { maps, network } => {
            let flags = if *network {
                NAMESPACES | WITH_NETWORK
            } else {
                NAMESPACES
            };
            send(socket, flags, &[&[reply], &maps[..]].concat())
        }
        Wanted::NetworkOf(users) => send(socket, NAMESPACES | OF_USERS, &[reply, *users]),
    }
}

fn send(socket: BorrowedFd<'_>, flags: u8, descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::TOOBIG);
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(&[flags])],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .map(drop)
}

impl Start<'_> {
    pub(super) fn send(&self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        let flags = self.root.map_or(0, |_| HAS_ROOT) | self.netns.map_or(0, |_| HAS_NETNS);
        let descriptors: Vec<_> = [self.plan, self.reply]
            .into_iter()
            .chain(self.root)
            .chain(self.netns)
            .collect();
        send(socket, flags, &descriptors)
    }
}

/// Waits for a request; `None` at the end of the connection. A malformed one is an error, and its descriptors are closed.
pub(super) fn receive(socket: BorrowedFd<'_>) -> Result<Option<Request>, Errno> {
    let mut flags = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut buffers = [IoSliceMut::new(&mut flags)];
        match rustix::net::recvmsg(socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            result => break result?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut files = ancillary.drain().filter_map(|item| match item {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let mut files = files.next().into_iter().flatten();
    let [flags] = flags;
    let mut next = || files.next().ok_or(Errno::PROTO);
    if flags & NAMESPACES != 0 {
        let reply = next()?;
        let wanted = match flags & OF_USERS != 0 {
            true => Wanted::NetworkOf(next()?),
            false => Wanted::Users {
                maps: [next()?, next()?],
                network: flags & WITH_NETWORK != 0,
            },
        };
        return Ok(Some(Request::Namespaces(namespaces::Request { reply, wanted })));
    }
    let plan = next()?;
    let reply = UnixStream::from(next()?);
    let root = if flags & HAS_ROOT != 0 {
        Some(next()?)
    } else {
        None
    };
    let netns = if flags & HAS_NETNS != 0 {
        Some(next()?)
    } else {
        None
    };
    Ok(Some(Request::Start(MonitorInput {
        plan,
        reply,
        descriptors: PlanDescriptors {
            root,
            netns,
            ..PlanDescriptors::default()
        },
    })))
}
