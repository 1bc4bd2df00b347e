//! Messages between a monitor and the process that becomes a container's.

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// Most descriptors in one message: v1 has at most 14 hierarchies.
pub(crate) const DESCRIPTORS_MAX: usize = 16;

/// Bytes of a message.
const MESSAGE_BYTES: usize = 8;

/// What was being done when a start failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    Session,
    Streams,
    Proc,
    OomScore,
    JoinNamespace,
    Propagation,
    AttachRoot,
    Loopback,
    Step,
    LateStep,
    JoinGroup,
    GroupNamespace,
    Null,
    RootReadOnly,
    HostName,
    DomainName,
    Sysctl,
    PivotRoot,
    Terminal,
    Fork,
    Keyring,
    Limit,
    WorkingDirectory,
    Label,
    NoNewPrivileges,
    Capabilities,
    Groups,
    User,
    Release,
    Filter,
    Init,
    Execute,
    UserNamespace,
    Scheduling,
    Personality,
    NetworkNamespace,
    Listener,
}

/// All stages, in the order of their numbers.
const STAGES: [Stage; 37] = [
    Stage::Session,
    Stage::Streams,
    Stage::Proc,
    Stage::OomScore,
    Stage::JoinNamespace,
    Stage::Propagation,
    Stage::AttachRoot,
    Stage::Loopback,
    Stage::Step,
    Stage::LateStep,
    Stage::JoinGroup,
    Stage::GroupNamespace,
    Stage::Null,
    Stage::RootReadOnly,
    Stage::HostName,
    Stage::DomainName,
    Stage::Sysctl,
    Stage::PivotRoot,
    Stage::Terminal,
    Stage::Fork,
    Stage::Keyring,
    Stage::Limit,
    Stage::WorkingDirectory,
    Stage::Label,
    Stage::NoNewPrivileges,
    Stage::Capabilities,
    Stage::Groups,
    Stage::User,
    Stage::Release,
    Stage::Filter,
    Stage::Init,
    Stage::Execute,
    Stage::UserNamespace,
    Stage::Scheduling,
    Stage::Personality,
    Stage::NetworkNamespace,
    Stage::Listener,
];

/// Why a process could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub stage: Stage,
    /// Which one, for stages that are done several times.
    pub number: u16,
    pub error: Errno,
}

impl Failure {
    pub(crate) fn new(stage: Stage, error: Errno) -> Failure {
        Failure {
            stage,
            number: 0,
            error,
        }
    }

    pub(crate) fn numbered(stage: Stage, number: usize, error: Errno) -> Failure {
        Failure {
            stage,
            number: u16::try_from(number).unwrap_or(u16::MAX),
            error,
        }
    }
}

/// Names the stage of a failed call.
pub(crate) fn fail<T>(stage: Stage, result: Result<T, Errno>) -> Result<T, Failure> {
    result.map_err(|error| Failure::new(stage, error))
}

/// A message between the two.
#[derive(Debug)]
pub(crate) enum Message {
    /// The start failed.
    Failed(Failure),
    /// The process id of the exec'ed process.
    Pid(i32),
    /// The terminal's other side.
    Terminal(OwnedFd),
    /// The file system is built but not entered: hooks run now, until [`Message::Go`].
    Built,
    /// Everything but the last steps is done; held processes wait for [`Message::Go`].
    Ready,
    /// Run the program.
    Go,
    /// The control group exists; these are the files to join it by (none on v2).
    Group([Option<OwnedFd>; DESCRIPTORS_MAX]),
    /// The network namespace to live in.
    Network(OwnedFd),
    /// The filter is installed; this descriptor of the process leads to its listener, which the parent takes before it
    /// says [`Message::Go`].
    Listener(RawFd),
    /// The other side ended: after a message of readiness that means that the program runs.
    End,
}

/// Sends a failure; there is nobody left to tell when that fails.
pub(crate) fn send_failure(socket: BorrowedFd<'_>, failure: Failure) {
    let [n0, n1] = failure.number.to_ne_bytes();
    let [a, b, c, d] = failure.error.raw_os_error().to_ne_bytes();
    let _ = send(socket, [b'F', failure.stage as u8, n0, n1, a, b, c, d], &[]);
}

pub(crate) fn send_pid(socket: BorrowedFd<'_>, pid: i32) -> Result<(), Errno> {
    let [a, b, c, d] = pid.to_ne_bytes();
    send(socket, [b'P', 0, 0, 0, a, b, c, d], &[])
}

pub(crate) fn send_terminal(socket: BorrowedFd<'_>, terminal: BorrowedFd<'_>) -> Result<(), Errno> {
    send(socket, [b'T', 0, 0, 0, 0, 0, 0, 0], &[terminal])
}

pub(crate) fn send_built(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    send(socket, [b'B', 0, 0, 0, 0, 0, 0, 0], &[])
}

pub(crate) fn send_ready(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    send(socket, [b'R', 0, 0, 0, 0, 0, 0, 0], &[])
}

pub(crate) fn send_go(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    send(socket, [b'G', 0, 0, 0, 0, 0, 0, 0], &[])
}

pub(crate) fn send_network(socket: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    send(socket, [b'N', 0, 0, 0, 0, 0, 0, 0], &[namespace])
}

pub(crate) fn send_group(socket: BorrowedFd<'_>, files: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    send(socket, [b'C', 0, 0, 0, 0, 0, 0, 0], files)
}

/// Offers the listener of the filter that this process is under, and waits until it was taken; false when the parent is
/// gone. Nothing but write and read is needed, which the filter has to allow or ask about.
pub(crate) fn offer_listener(socket: BorrowedFd<'_>, listener: RawFd) -> Result<bool, Errno> {
    let [a, b, c, d] = listener.to_ne_bytes();
    let mut message = [b'L', 0, 0, 0, a, b, c, d];
    rustix::io::write(socket, &message)?;
    loop {
        match rustix::io::read(socket, &mut message) {
            Err(Errno::INTR) => {}
            result => return Ok(result? == MESSAGE_BYTES && message[0] == b'G'),
        }
    }
}

fn send(
    socket: BorrowedFd<'_>,
    message: [u8; MESSAGE_BYTES],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::TOOBIG);
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(&message)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .map(drop)
}

/// Waits for a message.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> Result<Message, Errno> {
    let mut message = [0; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut buffers = [IoSliceMut::new(&mut message)];
        match rustix::net::recvmsg(socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            // A peer that ended with unread messages in its queue shows as a reset, once; what it sent follows.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            result => break result?,
        }
    };
    if received.bytes == 0 {
        return Ok(Message::End);
    }
    let mut descriptors = [const { None }; DESCRIPTORS_MAX];
    let mut free = descriptors.iter_mut();
    for item in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = item {
            files.zip(&mut free).for_each(|(file, slot)| *slot = Some(file));
        }
    }
    parse(message, descriptors)
}

fn parse(
    message: [u8; MESSAGE_BYTES],
    descriptors: [Option<OwnedFd>; DESCRIPTORS_MAX],
) -> Result<Message, Errno> {
    let [kind, stage, n0, n1, value @ ..] = message;
    let value = i32::from_ne_bytes(value);
    match kind {
        b'F' => {
            let stage = STAGES.get(usize::from(stage)).copied().ok_or(Errno::PROTO)?;
            let error = Errno::from_raw_os_error(value);
            Ok(Message::Failed(Failure {
                stage,
                number: u16::from_ne_bytes([n0, n1]),
                error,
            }))
        }
        b'P' => Ok(Message::Pid(value)),
        b'L' => Ok(Message::Listener(value)),
        b'B' => Ok(Message::Built),
        b'R' => Ok(Message::Ready),
        b'G' => Ok(Message::Go),
        b'C' => Ok(Message::Group(descriptors)),
        b'T' => first(descriptors).map(Message::Terminal),
        b'N' => first(descriptors).map(Message::Network),
        _ => Err(Errno::PROTO),
    }
}

fn first(descriptors: [Option<OwnedFd>; DESCRIPTORS_MAX]) -> Result<OwnedFd, Errno> {
    descriptors.into_iter().flatten().next().ok_or(Errno::PROTO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage_numbers_match_their_places() {
        for (number, stage) in STAGES.iter().enumerate() {
            assert_eq!(*stage as usize, number);
        }
    }
}
