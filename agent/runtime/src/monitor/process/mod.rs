//! The monitor process: parent of one container, holder of its streams, log and exit status.
//!
//! One thread, one poll loop, no async runtime: it lives as long as the container and should cost next to nothing.

mod client;
mod container;
mod finish;
mod listener;
mod output;
mod requests;
mod server;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::connection::SOCKET_NAME;
use super::frame::{self, ErrorBody, HelloBody, Kind};
use super::record::{self, ContainerRecord};
use crate::error::{Result, RuntimeError};
use crate::exit;
use crate::launch::{self, ExecTarget, Launched, Observer, PlanDescriptors, StreamSource};
use crate::log::LogWriter;
use crate::plan::ContainerPlan;
use crate::sys;
use server::Server;

/// What the launcher hands to a new monitor.
pub(crate) struct MonitorInput {
    /// The encoded plan.
    pub plan: OwnedFd,
    /// Where the answer to the start request goes.
    pub reply: UnixStream,
    pub descriptors: PlanDescriptors,
}

/// Runs a monitor; never returns. `starts` is held until its container runs, or cannot.
pub(crate) fn run(input: MonitorInput, starts: OwnedFd) -> ! {
    let MonitorInput {
        plan,
        mut reply,
        descriptors,
    } = input;
    let started = start(plan, descriptors);
    drop(starts);
    let code = match started {
        Ok(server) => {
            let _ = reply.write_all(&server.hello());
            let _ = reply.write_all(&frame::encode_bytes(Kind::Done, &[]));
            drop(reply);
            server.serve();
            0
        }
        Err(error) => {
            let (code, message) = launch::code_and_message(&error);
            let _ = reply.write_all(&hello(0, 0));
            let _ = reply.write_all(&frame::encode(Kind::Error, &ErrorBody { code, message }));
            1
        }
    };
    sys::exit_now(code)
}

/// Answers a request for which no monitor could be forked.
pub(crate) fn refuse(mut input: MonitorInput, error: rustix::io::Errno) {
    let message = format!(
        "unable to start container process: fork a monitor: {}",
        io::Error::from(error)
    );
    let _ = input.reply.write_all(&hello(0, 0));
    let _ = input
        .reply
        .write_all(&frame::encode(Kind::Error, &ErrorBody { code: 128, message }));
}

fn hello(pid: i32, started_at_ns: i128) -> Vec<u8> {
    frame::encode(
        Kind::Hello,
        &HelloBody {
            version: frame::VERSION,
            pid,
            started_at_ns,
        },
    )
}

fn start(plan: OwnedFd, descriptors: PlanDescriptors) -> Result<Server> {
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"muster-monitor");
    // A broken pipe or connection is an error of that one operation.
    sys::ignore_signal(libc::SIGPIPE);
    let plan = read_plan(plan)?;
    let log = plan.log.clone().map(LogWriter::open).transpose();
    let log = log.map_err(|error| RuntimeError::io("open the container's log", error))?;
    let listener = listen(&plan.state_dir)?;
    let source = StreamSource::Pipes {
        stdin: plan.stdin_open,
        output: true,
    };
    let launched = launch::launch(&plan, descriptors, source, &mut Recorder(&plan));
    let launched: Launched = launched.inspect_err(|_| {
        let _ = std::fs::remove_file(plan.state_dir.join(SOCKET_NAME));
    })?;
    Ok(Server::new(plan, launched, listener, log, exit::wall_clock_ns()))
}

/// Records a container once it has a process.
struct Recorder<'a>(&'a ContainerPlan);

impl Observer for Recorder<'_> {
    fn started(&mut self, pid: i32) -> Result<()> {
        write_record(self.0, pid)
    }

    fn built(&mut self, _process: &ExecTarget<'_>) -> Result<()> {
        Err(RuntimeError::spec("hooks are not supported"))
    }

    fn listening(&mut self, process: &ExecTarget<'_>, listener: RawFd) -> Result<()> {
        listener::hand_over(self.0, "creating", process.init_pid, process, listener)
    }
}

fn read_plan(file: OwnedFd) -> Result<ContainerPlan> {
    let mut encoded = Vec::new();
    let mut file = File::from(file);
    io::Seek::rewind(&mut file).map_err(|error| RuntimeError::io("read the plan", error))?;
    file.read_to_end(&mut encoded)
        .map_err(|error| RuntimeError::io("read the plan", error))?;
    frame::decode(&encoded)
}

/// Listens in the run directory, through a relative name because a socket's address is short.
fn listen(state_dir: &Path) -> Result<UnixListener> {
    let describe = || format!("listen in {}", state_dir.display());
    let listen = || {
        std::env::set_current_dir(state_dir)?;
        let _ = std::fs::remove_file(SOCKET_NAME);
        let listener = UnixListener::bind(SOCKET_NAME)?;
        listener.set_nonblocking(true)?;
        std::env::set_current_dir("/")?;
        Ok::<_, io::Error>(listener)
    };
    listen().map_err(|error| RuntimeError::io(describe(), error))
}

fn write_record(plan: &ContainerPlan, pid: i32) -> Result<()> {
    let record = ContainerRecord {
        pid,
        start_ticks: record::start_ticks(pid).unwrap_or(0),
        exit_file: plan.exit_file.clone(),
        cgroup: plan
            .cgroup
            .as_ref()
            .map(|group| (group.root.clone(), group.path.clone())),
    };
    record
        .write(&plan.state_dir)
        .map_err(|error| RuntimeError::io("record the container", error))
}

/// Whether a read or write only has to be tried again later.
fn would_block(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Reads from a descriptor that does not block.
fn read_some(file: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    rustix::io::read(file.as_fd(), buffer).map_err(io::Error::from)
}
