//! The launcher: a small single-threaded process that forks a monitor per container.
//!
//! The daemon starts it before any thread of its own, so that a container start costs a fork of a small process instead of one of the
//! daemon. It holds no keys and decodes nothing: a start request's plan is read by the monitor.

mod executable;
mod namespaces;
mod process;
mod request;
mod start_lock;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::cgroup::CgroupRoot;
use crate::error::{Result, RuntimeError};
use crate::init::sync::{self, Message};
use crate::monitor::Monitor;
use crate::monitor::connection;
use crate::plan::{ContainerOptions, ProcessExtras, container_plan};
use crate::start::{StartRequest, Started};

pub(crate) use executable::protected;
pub use process::launcher_main;
use start_lock::StartLock;

/// The name of the subcommand that runs [`launcher_main`].
pub const LAUNCHER_SUBCOMMAND: &str = "launcher";

/// What a launcher needs.
#[derive(Debug, Clone)]
pub struct LauncherConfig {
    /// The daemon's run directory, for messages.
    pub run_dir: PathBuf,
    /// Where control groups are made.
    pub cgroup: CgroupRoot,
    /// The binary with the subcommand `launcher`; this process's own by default.
    pub executable: PathBuf,
}

impl LauncherConfig {
    /// The configuration of a daemon.
    pub fn new(run_dir: impl Into<PathBuf>, cgroup: CgroupRoot) -> LauncherConfig {
        LauncherConfig {
            run_dir: run_dir.into(),
            cgroup,
            executable: PathBuf::from("/proc/self/exe"),
        }
    }
}

/// The daemon's handle to its launcher. Dropping it ends the launcher; monitors live on.
#[derive(Debug)]
pub struct Launcher {
    config: LauncherConfig,
    starts: StartLock,
    process: Mutex<LauncherProcess>,
}

#[derive(Debug)]
struct LauncherProcess {
    child: Child,
    socket: OwnedFd,
}

impl Launcher {
    /// Starts the launcher. Call this before the process has other threads: it is the cheapest then.
    ///
    /// Blocks until what an earlier daemon of this run directory began to start runs or has failed, so that whoever looks
    /// afterwards sees everything.
    pub fn spawn(config: &LauncherConfig) -> Result<Launcher> {
        let starts = StartLock::take(&config.run_dir)?;
        let process = Mutex::new(LauncherProcess::spawn(config, &starts)?);
        Ok(Launcher {
            config: config.clone(),
            starts,
            process,
        })
    }

    /// The launcher's process id; `None` when it has ended and no start has replaced it yet.
    pub fn pid(&self) -> Option<i32> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let running = matches!(process.child.try_wait(), Ok(None));
        running.then(|| process.child.id() as i32)
    }

    /// Starts a container and returns once its program runs (or is held just before). A launcher that died is replaced.
    ///
    /// Not cancel-safe: a cancelled start may still happen; its run directory then has a monitor to connect to.
    pub async fn start(&self, request: StartRequest) -> Result<Started> {
        let state_dir = request.state_dir.clone();
        let reply = self.ask(request)?;
        let reply = tokio::net::UnixStream::from_std(reply)
            .map_err(|error| RuntimeError::io("use the start's socket", error))?;
        let answered = async {
            let (mut reply, hello) = connection::greet(reply).await?;
            connection::expect_done(&mut reply).await?;
            Ok(hello)
        };
        let hello = answered.await.map_err(|error| match error {
            RuntimeError::Gone => RuntimeError::protocol("the container's monitor ended during the start"),
            error => error,
        })?;
        let monitor = Monitor::from_hello(&state_dir, hello);
        Ok(Started {
            pid: hello.pid,
            started_at_ns: hello.started_at_ns,
            monitor,
        })
    }

    /// Plans a container and asks the launcher for it; the answer comes on the socket. Apart from [`start`](Self::start),
    /// because a future would keep room for all that is only needed here.
    fn ask(&self, request: StartRequest) -> Result<UnixStream> {
        let (rootfs, netns) = (request.rootfs, request.netns);
        let plan = container_plan(
            &request.spec,
            ContainerOptions {
                id: &request.id,
                attach_point: request.state_dir.clone(),
                state_dir: request.state_dir,
                exit_file: Some(request.exit_file),
                log: request.log,
                stdin_open: request.stdin_open,
                stdin_once: request.stdin_once,
                init: request.init,
                hold: request.hold,
                console_size: request.console_size,
                cgroup: Some((self.config.cgroup.clone(), request.cgroup_path)),
                has_rootfs: rootfs.is_some(),
                has_netns: netns.is_some(),
                runs_hooks: false,
                extras: ProcessExtras::default(),
            },
        )?;
        let (reply, monitor_reply) =
            UnixStream::pair().map_err(|error| RuntimeError::io("make a socket for the start", error))?;
        let encoded = request::encode_plan(&plan)?;
        let sent = request::Start {
            plan: encoded.as_fd(),
            reply: monitor_reply.as_fd(),
            root: rootfs.as_ref().map(AsFd::as_fd),
            netns: netns.as_ref().map(AsFd::as_fd),
        };
        self.send(|socket| sent.send(socket))?;
        reply
            .set_nonblocking(true)
            .map_err(|error| RuntimeError::io("use the start's socket", error))?;
        Ok(reply)
    }

    /// Sends a request, to another launcher where this one died.
    fn send(&self, request: impl Fn(BorrowedFd<'_>) -> std::result::Result<(), Errno>) -> Result<()> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if request(process.socket.as_fd()).is_ok() {
            return Ok(());
        }
        // The launcher died: the kernel refuses what nobody can receive.
        *process = LauncherProcess::spawn(&self.config, &self.starts)?;
        request(process.socket.as_fd()).map_err(|error| RuntimeError::io("reach the launcher", error))
    }
}

impl LauncherProcess {
    fn spawn(config: &LauncherConfig, starts: &StartLock) -> Result<LauncherProcess> {
        let describe = || format!("start the launcher for {}", config.run_dir.display());
        let (socket, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|error| RuntimeError::io(describe(), error))?;
        let executable =
            executable::protected(&config.executable).map_err(|error| RuntimeError::io(describe(), error))?;
        let lock = starts
            .share()
            .map_err(|error| RuntimeError::io(describe(), error))?;
        let child = Command::new(executable.path())
            .arg(LAUNCHER_SUBCOMMAND)
            .stdin(Stdio::from(theirs))
            .stdout(lock)
            .stderr(Stdio::null())
            .env_clear()
            .current_dir("/")
            .spawn()
            .map_err(|error| RuntimeError::io(describe(), error))?;
        let process = LauncherProcess { child, socket };
        process.join_group(&config.cgroup)?;
        Ok(process)
    }

    /// Has it move itself, and so the monitors that it forks, out of the daemon's control group.
    fn join_group(&self, root: &CgroupRoot) -> Result<()> {
        let describe = "move the launcher to its control group";
        let files = root
            .monitor_files()
            .map_err(|source| RuntimeError::cgroup("make", source))?;
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let answer = sync::send_group(self.socket.as_fd(), &files)
            .and_then(|()| sync::receive(self.socket.as_fd()))
            .map_err(|error| RuntimeError::io(describe, error))?;
        match answer {
            Message::Ready => Ok(()),
            Message::Failed(failure) => Err(RuntimeError::io(describe, failure.error)),
            _ => Err(RuntimeError::protocol("the launcher ended before it was ready")),
        }
    }
}

impl Drop for LauncherProcess {
    fn drop(&mut self) {
        // The launcher ends when its socket does; what is left is to reap it.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}
