//! The launcher process itself.

use nix::unistd::ForkResult;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::namespaces;
use super::request::{self, Request};
use crate::init::sync::{self, Failure, Message, Stage, fail};
use crate::memory;
use crate::monitor::process as monitor;
use crate::sys;

/// Runs the launcher: the `launcher` subcommand, called from `main` before anything else. Its requests come in over
/// standard input. Ends when the daemon does; never returns.
pub fn launcher_main(arguments: &[OsString]) -> ! {
    if !arguments.is_empty() {
        sys::exit_now(2);
    }
    let Ok((socket, starts)) = take_descriptors() else {
        sys::exit_now(1);
    };
    if let Err(failure) = join_group(socket.as_fd()) {
        sync::send_failure(socket.as_fd(), failure);
        sys::exit_now(1);
    }
    serve(socket.as_fd(), starts)
}

/// Joins the control group whose files the daemon sends first, and says so.
fn join_group(socket: BorrowedFd<'_>) -> Result<(), Failure> {
    let Message::Group(files) = fail(Stage::JoinGroup, sync::receive(socket))? else {
        sys::exit_now(0);
    };
    for file in files.iter().flatten() {
        fail(Stage::JoinGroup, rustix::io::write(file, b"0"))?;
    }
    fail(Stage::Release, sync::send_ready(socket))
}

/// Standard input is the socket and standard output the lock that starts hold; the numbers 0 to 2 then become /dev/null,
/// for what is forked later.
fn take_descriptors() -> Result<(OwnedFd, OwnedFd), Errno> {
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"muster-launcher");
    sys::reset_signals();
    sys::ignore_children();
    let [input, output, _] = sys::standard_streams();
    let socket = rustix::io::fcntl_dupfd_cloexec(input, 3)?;
    let starts = rustix::io::fcntl_dupfd_cloexec(output, 3)?;
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    for stream in 0..3 {
        sys::duplicate_to(std::os::fd::AsRawFd::as_raw_fd(&null), stream)?;
    }
    sys::close_at_exec_from(3)?;
    Ok((socket, starts))
}

fn serve(socket: BorrowedFd<'_>, starts: OwnedFd) -> ! {
    loop {
        let request = match memory::wait_readable(socket).and_then(|()| request::receive(socket)) {
            Ok(Some(request)) => request,
            Ok(None) => sys::exit_now(0),
            // A malformed request: its reply socket was closed, which tells the daemon.
            Err(Errno::PROTO) => continue,
            Err(_) => sys::exit_now(1),
        };
        // SAFETY: the launcher has one thread, so the child may allocate and lock as it likes.
        match unsafe { nix::unistd::fork() } {
            Ok(ForkResult::Child) => {
                // SAFETY: this is the child's copy of the socket, which nothing else in it uses.
                unsafe { close_inherited(socket) };
                sys::reset_signals();
                carry_out(request, starts)
            }
            Ok(ForkResult::Parent { .. }) => {}
            Err(error) => refuse(request, Errno::from_raw_os_error(error as i32)),
        }
    }
}

/// What a process that was forked for a request does; never returns.
fn carry_out(request: Request, starts: OwnedFd) -> ! {
    match request {
        Request::Start(input) => monitor::run(input, starts),
        Request::Namespaces(request) => {
            drop(starts);
            namespaces::answer(request);
            sys::exit_now(0)
        }
    }
}

/// Says that there is no process for a request.
fn refuse(request: Request, error: Errno) {
    match request {
        Request::Start(input) => monitor::refuse(input, error),
        Request::Namespaces(request) => namespaces::refuse(&request, error),
    }
}

/// # Safety
/// Nothing may use the socket afterwards.
unsafe fn close_inherited(socket: BorrowedFd<'_>) {
    // SAFETY: our caller gives the descriptor up.
    let _ = unsafe { libc::close(std::os::fd::AsRawFd::as_raw_fd(&socket)) };
}
