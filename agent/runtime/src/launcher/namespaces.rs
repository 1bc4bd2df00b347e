//! User and network namespaces that containers are started in later. The launcher forks for them, because a fork of the
//! daemon, with all its memory, costs many times as much.

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Launcher, request};
use crate::error::{Result, RuntimeError};
use crate::init::sync::{self, Failure, Message, Stage};
use crate::plan::IdMaps;
use crate::user_namespace::{self, Beside, MappedRange, UserNamespace};

/// What a failure's number says.
const STEPS: [&str; 4] = [
    "make a user namespace",
    "give the user namespace its users",
    "give the user namespace its groups",
    "make a network namespace in a user namespace",
];

/// What is to be made.
pub(super) enum Wanted<D> {
    /// A user namespace with the users and groups that these files name, in the kernel's words.
    Users { maps: [D; 2], network: bool },
    /// A network namespace that belongs to this user namespace.
    NetworkOf(D),
}

/// A request for namespaces.
pub(super) struct Request {
    pub reply: OwnedFd,
    pub wanted: Wanted<OwnedFd>,
}

impl Launcher {
    /// Makes a user namespace with these users and groups. Blocks for as long as some forks of the launcher take.
    pub fn user_namespace(
        &self,
        users: &[MappedRange],
        groups: &[MappedRange],
        beside: Beside,
    ) -> Result<UserNamespace> {
        let ids = IdMaps::from_ranges(users, groups);
        let maps = [
            file_of(&ids.users.kernel_text())?,
            file_of(&ids.groups.kernel_text())?,
        ];
        let wanted = Wanted::Users {
            maps: maps.each_ref().map(AsFd::as_fd),
            network: beside == Beside::Network,
        };
        let mut made = self.make(&wanted)?.into_iter();
        let users = made.next().ok_or_else(nothing)?;
        Ok(UserNamespace {
            users,
            network: made.next(),
        })
    }

    /// Makes a network namespace that belongs to a user namespace. Blocks likewise.
    pub fn network_of(&self, users: BorrowedFd<'_>) -> Result<OwnedFd> {
        let made = self.make(&Wanted::NetworkOf(users))?;
        made.into_iter().next().ok_or_else(nothing)
    }

    fn make(&self, wanted: &Wanted<BorrowedFd<'_>>) -> Result<Vec<OwnedFd>> {
        let answered = |error: Errno| RuntimeError::io("ask the launcher for namespaces", error);
        let (answer, reply) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(answered)?;
        self.send(|socket| request::send_namespaces(socket, reply.as_fd(), wanted))?;
        drop(reply);
        match sync::receive(answer.as_fd()).map_err(answered)? {
            Message::Group(made) => Ok(made.into_iter().flatten().collect()),
            Message::Failed(failure) => {
                let step = STEPS.get(usize::from(failure.number)).copied();
                Err(RuntimeError::io(step.unwrap_or(STEPS[0]), failure.error))
            }
            _ => Err(nothing()),
        }
    }
}

fn nothing() -> RuntimeError {
    RuntimeError::protocol("the launcher ended before it made the namespaces")
}

/// A file of this text in memory.
fn file_of(text: &str) -> Result<OwnedFd> {
    let write = || {
        let mut file = File::from(rustix::fs::memfd_create(c"muster-id-map", MemfdFlags::CLOEXEC)?);
        file.write_all(text.as_bytes())?;
        Ok::<_, std::io::Error>(file.into())
    };
    write().map_err(|error| RuntimeError::io("hand over the maps of a user namespace", error))
}

/// Makes what is wanted and says so. A process of its own does this, so that nobody waits for the kernel meanwhile.
pub(super) fn answer(request: Request) {
    let Request { reply, wanted } = request;
    let made = match wanted {
        Wanted::Users { maps, network } => with_users(maps, network),
        Wanted::NetworkOf(users) => match user_namespace::network_of(users.as_fd()) {
            Ok(network) => Ok(vec![network]),
            Err(error) => Err(failure(3, &error)),
        },
    };
    // Whoever asked may be gone.
    match made {
        Ok(made) => {
            let files: Vec<_> = made.iter().map(AsFd::as_fd).collect();
            let _ = sync::send_group(reply.as_fd(), &files);
        }
        Err(failure) => sync::send_failure(reply.as_fd(), failure),
    }
}

/// Says that there is no process for it.
pub(super) fn refuse(request: &Request, error: Errno) {
    sync::send_failure(request.reply.as_fd(), Failure::new(Stage::UserNamespace, error));
}

fn with_users(maps: [OwnedFd; 2], network: bool) -> std::result::Result<Vec<OwnedFd>, Failure> {
    let beside = if network { Beside::Network } else { Beside::Nothing };
    let mut texts = [const { String::new() }; 2];
    for ((step, map), text) in (1..).zip(maps).zip(&mut texts) {
        let mut file = File::from(map);
        let read = file.rewind().and_then(|()| file.read_to_string(text));
        read.map_err(|error| failure(step, &RuntimeError::io("read a map", error)))?;
    }
    let made = user_namespace::make_with(beside, |pid| {
        for ((step, file), text) in (1..).zip(["uid_map", "gid_map"]).zip(&texts) {
            std::fs::write(format!("/proc/{pid}/{file}"), text)
                .map_err(|error| failure(step, &RuntimeError::io("write a map", error)))?;
        }
        Ok(())
    });
    let made = made.unwrap_or_else(|error| Err(failure(0, &error)))?;
    Ok([Some(made.users), made.network].into_iter().flatten().collect())
}

fn failure(step: usize, error: &RuntimeError) -> Failure {
    let source = std::error::Error::source(error);
    let source = source.and_then(|source| source.downcast_ref::<std::io::Error>());
    let code = source.and_then(std::io::Error::raw_os_error).unwrap_or(libc::EIO);
    Failure::numbered(Stage::UserNamespace, step, Errno::from_raw_os_error(code))
}
