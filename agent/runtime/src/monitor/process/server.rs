//! The monitor's loop.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use super::super::frame::TARGET_INIT;
use super::client::{BACKLOG_BYTES_MAX, Client, Incoming, Role};
use super::container::Process;
use super::hello;
use super::output::{Channel, channels};
use crate::cgroup::Cgroup;
use crate::launch::Launched;
use crate::log::LogWriter;
use crate::memory;
use crate::plan::ContainerPlan;

/// Bytes read at once; a pipe holds 64 KiB.
const READ_BYTES: usize = 32 << 10;

/// Connections at once; each costs a descriptor and a few hundred bytes.
const CLIENTS_MAX: usize = 256;

/// How long clients may take to fetch what is left after the container's end.
const LINGER: Duration = Duration::from_secs(10);

/// What a monitor holds while its container lives.
pub(crate) struct Server {
    pub(super) plan: ContainerPlan,
    /// The init comes first.
    pub(super) processes: Vec<Process>,
    pub(super) clients: Vec<Client>,
    pub(super) cgroup: Option<Cgroup>,
    /// The socket to the process while it is held.
    pub(super) held: Option<OwnedFd>,
    /// Why a held process could not be started after its release.
    pub(super) failure: Option<(i32, String)>,
    pub(super) exec_codes: Vec<(u32, i32)>,
    pub(super) exec_count: u32,
    pub(super) log: Option<LogWriter>,
    pub(super) listener: UnixListener,
    started_at_ns: i128,
    pub(super) buffer: Vec<u8>,
}

/// What a polled descriptor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Listener,
    Held,
    Client(usize),
    Exit(usize),
    Stdin(usize),
    Output(usize, Channel),
}

impl Server {
    pub(super) fn new(
        plan: ContainerPlan,
        launched: Launched,
        listener: UnixListener,
        log: Option<LogWriter>,
        started_at_ns: i128,
    ) -> Server {
        let Launched {
            pid,
            pidfd,
            streams,
            cgroup,
            held,
        } = launched;
        Server {
            processes: vec![Process::new(TARGET_INIT, pid, pidfd, streams)],
            clients: Vec::new(),
            cgroup,
            held,
            failure: None,
            exec_codes: Vec::new(),
            exec_count: 0,
            log,
            listener,
            started_at_ns,
            buffer: vec![0; READ_BYTES],
            plan: slim(plan),
        }
    }

    pub(super) fn hello(&self) -> Vec<u8> {
        hello(self.processes[0].pid, self.started_at_ns)
    }

    /// Serves until the container has ended and its clients have what they asked for.
    pub(super) fn serve(mut self) {
        while self.processes[0].status.is_none() {
            self.turn(None);
        }
        self.drain_output();
        let (status, recorded) = self.settle();
        self.answer_end(&status);
        if let Some(recorded) = recorded {
            // Nobody is left to be told; who waited has made the status durable in a way of its own.
            let _ = recorded.persist();
        }
        let until = Instant::now() + LINGER;
        self.clients
            .retain(|client| !client.closed && client.backlog_bytes() > 0);
        while !self.clients.is_empty() && Instant::now() < until {
            self.turn(Some(until.saturating_duration_since(Instant::now())));
            self.clients.retain(|client| client.backlog_bytes() > 0);
        }
    }

    /// Waits for something to happen and deals with it.
    fn turn(&mut self, timeout: Option<Duration>) {
        for (source, events) in self.wait(timeout) {
            self.react(source, events);
        }
        self.forget_closed();
    }

    fn wait(&self, timeout: Option<Duration>) -> Vec<(Source, PollFlags)> {
        let (mut polled, sources) = self.poll_list();
        let waited = match timeout.map(Timespec::try_from) {
            Some(Ok(timeout)) => rustix::event::poll(&mut polled, Some(&timeout)).map(drop),
            Some(Err(_)) | None => memory::wait(&mut polled),
        };
        let events = polled.iter().map(PollFd::revents);
        let happened = |(_, events): &(Source, PollFlags)| waited.is_ok() && !events.is_empty();
        sources.into_iter().zip(events).filter(happened).collect()
    }

    fn poll_list<'a>(&'a self) -> (Vec<PollFd<'a>>, Vec<Source>) {
        let mut polled = Vec::with_capacity(8);
        let mut sources = Vec::with_capacity(8);
        let mut add = |descriptor: BorrowedFd<'a>, events: PollFlags, source: Source| {
            polled.push(PollFd::from_borrowed_fd(descriptor, events));
            sources.push(source);
        };
        if self.processes[0].status.is_none() && self.clients.len() < CLIENTS_MAX {
            add(self.listener.as_fd(), PollFlags::IN, Source::Listener);
        }
        if let Some(held) = &self.held {
            add(held.as_fd(), PollFlags::IN, Source::Held);
        }
        for (index, process) in self.processes.iter().enumerate() {
            if process.status.is_none() {
                add(process.pidfd.as_fd(), PollFlags::IN, Source::Exit(index));
            }
            if process.has_pending_input()
                && let Some(input) = process.input_descriptor()
            {
                add(input.as_fd(), PollFlags::OUT, Source::Stdin(index));
            }
            if !self.is_congested(process.number) {
                for (channel, descriptor) in channels(process) {
                    add(descriptor, PollFlags::IN, Source::Output(index, channel));
                }
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            let mut events = PollFlags::empty();
            events.set(PollFlags::IN, !client.sends_no_more && self.may_send(client));
            events.set(PollFlags::OUT, client.backlog_bytes() > 0);
            add(client.stream.as_fd(), events, Source::Client(index));
        }
        (polled, sources)
    }

    /// Whether a client that is attached to a process is behind: then the process has to wait.
    fn is_congested(&self, number: u32) -> bool {
        let attached =
            |client: &&Client| matches!(client.role, Role::Attached { process, .. } if process == number);
        self.clients
            .iter()
            .filter(attached)
            .any(|client| client.backlog_bytes() >= BACKLOG_BYTES_MAX)
    }

    /// Whether a client is read from: not while the process it writes to is behind.
    fn may_send(&self, client: &Client) -> bool {
        match client.role {
            Role::Attached {
                process, stdin: true, ..
            } => {
                let process = self
                    .processes
                    .iter()
                    .find(|candidate| candidate.number == process);
                process.is_none_or(Process::takes_input)
            }
            _ => true,
        }
    }

    fn react(&mut self, source: Source, events: PollFlags) {
        match source {
            Source::Listener => self.accept(),
            Source::Held => self.hear_released(),
            Source::Exit(index) => self.processes[index].reap(),
            Source::Stdin(index) => self.processes[index].flush_input(),
            Source::Output(index, channel) => {
                self.read_output(index, channel);
            }
            Source::Client(index) => {
                if events.contains(PollFlags::OUT) {
                    self.clients[index].flush();
                }
                let gone = events.intersects(PollFlags::HUP | PollFlags::ERR);
                if !self.clients[index].sends_no_more {
                    self.read_client(index);
                }
                // What a client sent before it went away comes first.
                self.clients[index].closed |= gone && self.clients[index].sends_no_more;
            }
        }
    }

    fn accept(&mut self) {
        if let Ok((stream, _)) = self.listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            let mut client = Client::new(stream);
            client.send_frame(&self.hello());
            self.clients.push(client);
        }
    }

    fn read_client(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.receive(&mut self.buffer);
        loop {
            match self.clients[index].next_frame() {
                Incoming::Frame(kind, payload) => self.request(index, kind, &payload),
                Incoming::Partial => break,
                Incoming::TooLong => {
                    self.clients[index].closed = true;
                    break;
                }
            }
        }
        if self.clients[index].sends_no_more {
            self.end_of_requests(index);
        }
    }

    /// A client that closes its sending side ends the input that it was attached to, and may still receive output.
    fn end_of_requests(&mut self, index: usize) {
        match self.clients[index].role {
            Role::Attached {
                process, stdin: true, ..
            } => self.end_input(process),
            Role::Attached { .. } => {}
            _ => self.clients[index].closed = true,
        }
    }

    /// Ends a process's standard input, unless the container keeps it for the next client.
    pub(super) fn end_input(&mut self, number: u32) {
        let keeps = number == TARGET_INIT && !self.plan.stdin_once;
        if let Some(process) = self
            .processes
            .iter_mut()
            .find(|process| process.number == number && !keeps)
        {
            process.end_input();
        }
    }

    /// Drops closed connections and exec'ed processes that have ended and said everything.
    fn forget_closed(&mut self) {
        self.finish_execs();
        let mut left = Vec::new();
        self.clients.retain(|client| {
            if client.closed
                && let Role::Attached {
                    process, stdin: true, ..
                } = client.role
            {
                left.push(process);
            }
            !client.closed
        });
        left.into_iter().for_each(|number| self.end_input(number));
    }
}

/// The plan without what was only needed to build the container.
fn slim(mut plan: ContainerPlan) -> ContainerPlan {
    let sandbox = &mut plan.sandbox;
    if !plan.hold {
        (sandbox.steps, sandbox.late_steps, sandbox.binds) = Default::default();
        (plan.process.environment, plan.process.candidates) = Default::default();
    }
    if let Some(group) = &mut plan.cgroup {
        group.resources = Vec::new();
    }
    plan
}

/// An error that only says that a process is gone.
pub(super) fn is_gone(error: Errno) -> bool {
    error == Errno::SRCH
}
