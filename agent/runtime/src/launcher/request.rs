//! Start requests on the socket between daemon and launcher: a byte that says which descriptors follow, and these.

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

use crate::error::{Result, RuntimeError};
use crate::launch::PlanDescriptors;
use crate::monitor::process::MonitorInput;
use crate::plan::ContainerPlan;

const HAS_ROOT: u8 = 1;
const HAS_NETNS: u8 = 2;

/// Plan, reply, root file system, network namespace.
const DESCRIPTORS_MAX: usize = 4;

/// A request to send.
pub(super) struct Request<'a> {
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

impl Request<'_> {
    pub(super) fn send(&self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        let flags = self.root.map_or(0, |_| HAS_ROOT) | self.netns.map_or(0, |_| HAS_NETNS);
        let descriptors: Vec<_> = [self.plan, self.reply]
            .into_iter()
            .chain(self.root)
            .chain(self.netns)
            .collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
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
}

/// Waits for a request; `None` at the end of the connection. A malformed one is an error, and its descriptors are closed.
pub(super) fn receive(socket: BorrowedFd<'_>) -> Result<Option<MonitorInput>, Errno> {
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
    let plan = files.next().ok_or(Errno::PROTO)?;
    let reply = files.next().ok_or(Errno::PROTO)?.into();
    let [flags] = flags;
    let root = if flags & HAS_ROOT != 0 {
        Some(files.next().ok_or(Errno::PROTO)?)
    } else {
        None
    };
    let netns = if flags & HAS_NETNS != 0 {
        Some(files.next().ok_or(Errno::PROTO)?)
    } else {
        None
    };
    Ok(Some(MonitorInput {
        plan,
        reply,
        descriptors: PlanDescriptors {
            root,
            netns,
            listener: None,
        },
    }))
}
