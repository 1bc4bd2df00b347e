//! Waiting for a process in the foreground: signals go to it, and so does what is typed.

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::console::{self, RawTerminal};
use super::error::{OciError, Result};
use crate::sys;

/// Bytes that are passed on at a time.
const PIECE_BYTES: usize = 16 << 10;

/// Signals that are held back until somebody passes them on.
pub(super) struct Signals {
    received: SignalFd,
}

impl Signals {
    /// Holds back everything that the process should have instead of this one. Call before it is started, so that
    /// none is lost; the process itself starts with none held back.
    pub(super) fn hold() -> Result<Signals> {
        let mut set = SigSet::all();
        // A child that ended is seen by its descriptor; the others are about this process itself.
        for own in [
            Signal::SIGCHLD,
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGTRAP,
            Signal::SIGPIPE,
            Signal::SIGURG,
        ] {
            set.remove(own);
        }
        let describe = |error: nix::Error| OciError::io("hold signals back", error);
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None).map_err(describe)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let received = SignalFd::with_flags(&set, flags).map_err(describe)?;
        Ok(Signals { received })
    }

    fn pass_on(&self, pidfd: BorrowedFd<'_>, terminal: Option<&OwnedFd>) {
        while let Ok(Some(signal)) = self.received.read_signal() {
            match (signal.ssi_signo as i32, terminal) {
                (libc::SIGWINCH, Some(terminal)) => console::copy_size(terminal.as_fd()),
                // A process that ended meanwhile needs no signal.
                (number, _) => drop(sys::pidfd_signal(pidfd, number)),
            }
        }
    }
}

/// Waits for a child's end and returns its status, as waitpid does.
pub(super) fn wait(pid: i32, pidfd: &OwnedFd, signals: &Signals, terminal: Option<OwnedFd>) -> Result<i32> {
    let raw = terminal.as_ref().map(|terminal| {
        console::copy_size(terminal.as_fd());
        RawTerminal::enter()
    });
    let mut relay = terminal.map(Relay::new);
    let status = loop {
        match sys::reap(pid, false) {
            Ok(Some((_, status))) => break status,
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(OciError::io("wait for the process", error)),
        }
        let mut polled = vec![
            PollFd::new(pidfd, PollFlags::IN),
            PollFd::new(&signals.received, PollFlags::IN),
        ];
        if let Some(relay) = &relay {
            relay.add_to(&mut polled);
        }
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(OciError::io("wait for the process", error)),
        }
        signals.pass_on(
            pidfd.as_fd(),
            relay.as_ref().and_then(|relay| relay.terminal.as_ref()),
        );
        if let Some(relay) = &mut relay {
            relay.step();
        }
    };
    if let Some(relay) = &mut relay {
        relay.last_output();
    }
    drop(raw);
    Ok(status)
}

/// Passes bytes between this command's streams and a container's terminal.
struct Relay {
    terminal: Option<OwnedFd>,
    /// What was typed and not taken yet.
    typed: Vec<u8>,
    input_open: bool,
}

impl Relay {
    fn new(terminal: OwnedFd) -> Relay {
        Relay {
            terminal: Some(terminal),
            typed: Vec::new(),
            input_open: true,
        }
    }

    fn add_to<'a>(&'a self, polled: &mut Vec<PollFd<'a>>) {
        let Some(terminal) = &self.terminal else { return };
        let mut wanted = PollFlags::IN;
        if self.typed.is_empty() {
            if self.input_open {
                let [input, ..] = sys::standard_streams();
                polled.push(PollFd::from_borrowed_fd(input, PollFlags::IN));
            }
        } else {
            wanted |= PollFlags::OUT;
        }
        polled.push(PollFd::new(terminal, wanted));
    }

    fn step(&mut self) {
        if self.typed.is_empty() && self.input_open && is_readable(sys::standard_streams()[0]) {
            let mut piece = [0; PIECE_BYTES];
            match rustix::io::read(sys::standard_streams()[0], &mut piece[..]) {
                Ok(0) => self.input_open = false,
                Ok(count) => self.typed.extend_from_slice(&piece[..count]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.input_open = false,
            }
        }
        if let Some(terminal) = &self.terminal
            && !self.typed.is_empty()
        {
            match rustix::io::write(terminal, &self.typed) {
                Ok(count) => drop(self.typed.drain(..count)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.typed.clear(),
            }
        }
        self.show();
    }

    /// Shows what the terminal has now; false once there is nothing.
    fn show(&mut self) -> bool {
        let Some(terminal) = &self.terminal else {
            return false;
        };
        let mut piece = [0; PIECE_BYTES];
        match rustix::io::read(terminal, &mut piece[..]) {
            Ok(count) if count > 0 => {
                let mut rest = &piece[..count];
                while !rest.is_empty() {
                    match rustix::io::write(sys::standard_streams()[1], rest) {
                        Ok(written) => rest = &rest[written..],
                        Err(Errno::INTR) => {}
                        // Nobody looks any more; the process goes on.
                        Err(_) => break,
                    }
                }
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            // The other side is closed.
            Ok(_) | Err(_) => {
                self.terminal = None;
                false
            }
        }
    }

    fn last_output(&mut self) {
        while self.show() {}
    }
}

fn is_readable(descriptor: BorrowedFd<'_>) -> bool {
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut polled = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
}
