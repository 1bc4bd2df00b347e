//! A blocking netlink socket. It belongs to the network namespace of the thread that opened it, for good.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with, sockopt,
};

use super::{HEADER_BYTES, Requests, aligned, find};

/// The kernel answers while it handles the request; only a lock held elsewhere makes it wait.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);
/// The kernel builds dump replies of at most 32 KiB when the reader offers that much.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Largest batch that the kernel has to take in one piece; the default of about 200 KiB holds 600 rules.
const SEND_BYTES_MAX: usize = 16 * 1024 * 1024;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const FLAG_CAPPED: u16 = 0x100;
const FLAG_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Which part of the kernel a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Route,
    Netfilter,
}

/// How the kernel treats the messages of one send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Each message for itself.
    Separate,
    /// All or nothing, between a first and a last message that only frame the others.
    Batch,
}

/// Why a netlink exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket could be opened.
    #[error("cannot open a netlink socket")]
    Open(#[source] Errno),
    /// The request could not be handed over.
    #[error("cannot send a netlink request")]
    Send(#[source] Errno),
    /// The reply could not be read.
    #[error("cannot receive a netlink reply")]
    Receive(#[source] Errno),
    /// The kernel refused a message.
    #[error("the kernel refused netlink message {message}{}", detail.as_deref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Refused {
        /// Position in the request, from 0.
        message: usize,
        /// The kernel's error.
        #[source]
        errno: Errno,
        /// The kernel's explanation, where it gives one.
        detail: Option<String>,
    },
    /// The reply is not a netlink message.
    #[error("malformed netlink reply")]
    Malformed,
}

impl NetlinkError {
    /// The error number, if the kernel refused the request.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Open(_) | Self::Send(_) | Self::Receive(_) | Self::Malformed => None,
        }
    }
}

/// One message of a reply: its kind and what follows the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub kind: u16,
    pub body: Vec<u8>,
}

/// A blocking netlink socket.
#[derive(Debug)]
pub(crate) struct Socket {
    descriptor: OwnedFd,
    next_sequence: u32,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open(protocol: Protocol) -> Result<Self, NetlinkError> {
        let number = match protocol {
            Protocol::Route => None,
            Protocol::Netfilter => Some(netlink::NETFILTER),
        };
        let descriptor = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            number,
        )
        .map_err(NetlinkError::Open)?;
        sockopt::set_socket_timeout(&descriptor, sockopt::Timeout::Recv, Some(REPLY_TIMEOUT))
            .map_err(NetlinkError::Open)?;
        enable_option(&descriptor, libc::NETLINK_CAP_ACK).map_err(NetlinkError::Open)?;
        enable_option(&descriptor, libc::NETLINK_EXT_ACK).map_err(NetlinkError::Open)?;
        Ok(Self {
            descriptor,
            next_sequence: 1,
        })
    }

    /// Sends requests and waits until the last is answered; each must carry the `ACK` flag; of a
    /// batch, the last one before the frame's end. Returns the first refusal.
    pub fn transact(&mut self, mut requests: Requests, framing: Framing) -> Result<(), NetlinkError> {
        let count = requests.len() as u32;
        if count == 0 || (framing == Framing::Batch && count <= 2) {
            return Ok(());
        }
        let first = self.send(&mut requests)?;
        let last_answered = match framing {
            Framing::Separate => count - 1,
            Framing::Batch => count - 2,
        };
        let mut refusal = None;
        let mut finished = false;
        while !finished {
            self.receive(|header, body| {
                let position = header.sequence.wrapping_sub(first);
                if header.kind != NLMSG_ERROR || position >= count {
                    return Ok(());
                }
                let refused = refusal_of(header, body, position as usize)?;
                // The frame itself is only ever answered with a failure of the whole.
                finished |= position == last_answered || (framing == Framing::Batch && position == 0);
                refusal = refusal.take().or(refused);
                Ok(())
            })?;
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Sends one request and collects its replies: a dump up to its end, anything else up to its acknowledgement.
    pub fn query(&mut self, request: Requests) -> Result<Vec<Reply>, NetlinkError> {
        let mut replies = Vec::new();
        self.query_each(request, |reply| replies.push(reply))?;
        Ok(replies)
    }

    /// As [`query`](Self::query), for a dump that may be long: each reply is handed to `take`, which keeps what it needs.
    pub fn query_each(
        &mut self,
        mut request: Requests,
        mut take: impl FnMut(Reply),
    ) -> Result<(), NetlinkError> {
        let sequence = self.send(&mut request)?;
        let mut finished = false;
        let mut refusal = None;
        while !finished {
            self.receive(|header, body| {
                if header.sequence != sequence {
                    return Ok(());
                }
                match header.kind {
                    NLMSG_DONE => finished = true,
                    NLMSG_ERROR => {
                        refusal = refusal_of(header, body, 0)?;
                        finished = true;
                    }
                    kind => take(Reply {
                        kind,
                        body: body.to_vec(),
                    }),
                }
                Ok(())
            })?;
        }
        refusal.map_or(Ok(()), Err)
    }

    fn send(&mut self, requests: &mut Requests) -> Result<u32, NetlinkError> {
        let first = self.next_sequence;
        self.next_sequence = first.wrapping_add(requests.len() as u32).max(1);
        let bytes = requests.numbered(first);
        let sent = match send(&self.descriptor, bytes, SendFlags::empty()) {
            Err(Errno::MSGSIZE) if bytes.len() < SEND_BYTES_MAX => {
                sockopt::set_socket_send_buffer_size_force(&self.descriptor, 2 * bytes.len())
                    .map_err(NetlinkError::Send)?;
                send(&self.descriptor, bytes, SendFlags::empty())
            }
            other => other,
        };
        sent.map_err(NetlinkError::Send)?;
        Ok(first)
    }

    /// Reads one datagram and hands each message in it to `take`.
    fn receive(
        &self,
        mut take: impl FnMut(&Header, &[u8]) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        let (_, length) = loop {
            match recv(&self.descriptor, buffer.as_mut_slice(), RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                other => break other.map_err(NetlinkError::Receive)?,
            }
        };
        let mut rest = buffer.get(..length).ok_or(NetlinkError::Malformed)?;
        while let Some(header) = Header::read(rest) {
            let body = rest
                .get(HEADER_BYTES..header.length)
                .ok_or(NetlinkError::Malformed)?;
            take(&header, body)?;
            rest = rest.get(aligned(header.length)..).unwrap_or(&[]);
        }
        Ok(())
    }
}

struct Header {
    length: usize,
    kind: u16,
    flags: u16,
    sequence: u32,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            length: u32::from_ne_bytes(bytes.get(0..4)?.try_into().ok()?) as usize,
            kind: u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?),
            flags: u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?),
            sequence: u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?),
        })
    }
}

/// Reads an error message: `None` is an acknowledgement.
fn refusal_of(header: &Header, body: &[u8], message: usize) -> Result<Option<NetlinkError>, NetlinkError> {
    let code = body
        .get(..4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes);
    let code = code.ok_or(NetlinkError::Malformed)?;
    if code == 0 {
        return Ok(None);
    }
    // The request is echoed after the code: its header alone when capped, else all of it.
    let echoed = match (header.flags & FLAG_CAPPED != 0, Header::read(&body[4..])) {
        (false, Some(request)) => aligned(request.length),
        _ => HEADER_BYTES,
    };
    let explained = header.flags & FLAG_ACK_TLVS != 0;
    let detail = explained.then(|| {
        find(body.get(4 + echoed..)?, NLMSGERR_ATTR_MSG)?
            .text()
            .map(str::to_owned)
    });
    let errno = Errno::from_raw_os_error(code.wrapping_neg());
    Ok(Some(NetlinkError::Refused {
        message,
        errno,
        detail: detail.flatten(),
    }))
}

fn enable_option(descriptor: &OwnedFd, option: libc::c_int) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and `on` outlives the call and has the size that is passed.
    let result = unsafe {
        libc::setsockopt(
            descriptor.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    }
}
