//! A node of a lab as processes: its first process makes the namespaces, starts the daemon and reaps orphans.

use super::process;
use anyhow::{Context, bail};
use muster_runtime::cgroup::{Cgroup, CgroupRoot};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, setsid};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// A settings file in a node's directory is that of its daemon.
const SETTINGS: &str = "muster.toml";
/// Control group of a node's own processes, below that of its containers.
const OWN_GROUP: &str = "node";

/// How to start a node.
#[derive(Debug, Clone)]
pub struct NodeProcess {
    /// Host name.
    pub name: String,
    /// Its directory: data, log, socket.
    pub directory: PathBuf,
    /// Parent of its cgroups.
    pub cgroup: String,
}

/// A node whose first process waits for its network.
pub struct Waiting {
    /// First process of its pid namespace, as the host numbers it.
    pub init: (i32, u64),
    go: ChildStdin,
    launcher: Child,
}

impl NodeProcess {
    /// Makes the namespaces; the daemon starts with [`Waiting::go`].
    pub fn spawn(&self) -> anyhow::Result<Waiting> {
        std::fs::create_dir_all(self.directory.join("data"))?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("daemon.log"))?;
        let mut launcher = Command::new("/proc/self/exe")
            .arg0("muster")
            .args(["lab-node", &self.name])
            .arg(&self.directory)
            .arg(&self.cgroup)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start a node's first process")?;
        let (Some(go), Some(output)) = (launcher.stdin.take(), launcher.stdout.take()) else {
            bail!("a node's first process has no pipes");
        };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let pid: i32 = line.trim().parse().with_context(|| {
            format!(
                "node {} did not start: see {}",
                self.name,
                self.directory.join("daemon.log").display()
            )
        })?;
        let started = process::start_time(pid).context("a node's first process ended at once")?;
        Ok(Waiting {
            init: (pid, started),
            go,
            launcher,
        })
    }
}

impl Waiting {
    /// Lets the node start its daemon, which advertises this address.
    pub fn go(mut self, advertise: std::net::Ipv4Addr) -> anyhow::Result<()> {
        writeln!(self.go, "{advertise}")?;
        drop(self.go);
        // The process between us and the node ended when it had told the node's pid.
        self.launcher.wait()?;
        Ok(())
    }
}

/// The `lab-node` subcommand: tells the pid of the node's first process and ends; that process goes on.
pub fn run_node(arguments: &[std::ffi::OsString]) -> anyhow::Result<()> {
    let [name, directory, cgroup] = arguments else {
        bail!("usage: muster lab-node NAME DIRECTORY CGROUP")
    };
    let (name, cgroup) = (
        name.to_string_lossy().into_owned(),
        cgroup.to_string_lossy().into_owned(),
    );
    unshare(
        CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC,
    )
    .context("cannot make namespaces: root is needed")?;
    // SAFETY: this process has one thread and no locks held; the child may do as it likes.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            println!("{child}");
            Ok(())
        }
        ForkResult::Child => {
            let prepared = prepare(&name, Path::new(directory), &cgroup);
            if let Err(error) = prepared {
                eprintln!("muster: node {name}: {error:#}");
                std::process::exit(1);
            }
            reap()
        }
    }
}

fn prepare(name: &str, directory: &Path, cgroup: &str) -> anyhow::Result<()> {
    setsid().context("cannot leave the terminal")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot make mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("cannot mount /proc")?;
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .context("cannot mount /run")?;
    nix::unistd::sethostname(name)?;
    let mut address = String::new();
    if std::io::stdin().read_line(&mut address)? == 0 {
        bail!("the command that makes the lab ended before the node had an address");
    }
    start_daemon(directory, cgroup, address.trim())
}

/// Starts the daemon as a child of this process, which joins the node's control group first.
fn start_daemon(directory: &Path, cgroup: &str, address: &str) -> anyhow::Result<()> {
    join_group(cgroup).context("cannot join the node's control group")?;
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join("daemon.log"))?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("muster")
        .arg("daemon")
        .args(["--data-dir".as_ref(), directory.join("data").as_os_str()])
        .args([
            "--run-dir",
            "/run/muster",
            "--advertise-addr",
            address,
            "--cgroup-parent",
            cgroup,
        ])
        .args(["--metrics-addr", "0.0.0.0:9323"])
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let settings = directory.join(SETTINGS);
    if settings.exists() {
        command.arg("--config").arg(&settings);
    }
    if !names_hosts(&settings) {
        command.arg("--host");
        command.arg(format!("unix://{}", directory.join("docker.sock").display()));
    }
    command.spawn().context("cannot start the daemon")?;
    Ok(())
}

/// A group beside those of the containers: what the daemon takes is counted apart from what the host's others take.
fn join_group(parent: &str) -> anyhow::Result<()> {
    let root = CgroupRoot::at_parent(parent)?;
    root.prepare()?;
    let path = root.path_of(OWN_GROUP);
    let group = if Cgroup::is_whole(&root, &path) {
        Cgroup::open(&root, &path)?
    } else {
        Cgroup::create(&root, &path, &Default::default())?
    };
    Ok(group.add_process(getpid().as_raw())?)
}

/// Whether a settings file says where the daemon listens. What is wrong with it the daemon says itself.
fn names_hosts(settings: &Path) -> bool {
    let text = std::fs::read_to_string(settings).unwrap_or_default();
    text.parse::<toml::Table>()
        .is_ok_and(|table| table.contains_key("hosts"))
}

/// The life of the first process: it reaps whatever ends, and ends itself only by a signal from outside.
fn reap() -> ! {
    loop {
        match waitpid(None::<Pid>, None::<WaitPidFlag>) {
            Ok(_) => {}
            // Nothing is left to wait for: a node without a daemon and containers. It stays on.
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(100)),
        }
    }
}

/// Starts the daemon of a node that is on, from inside its namespaces.
pub fn restart_daemon(init: i32, node: &NodeProcess, address: std::net::Ipv4Addr) -> anyhow::Result<()> {
    let mut entering = Command::new("/proc/self/exe")
        .arg0("muster")
        .args(["lab-daemon", &init.to_string()])
        .arg(&node.directory)
        .args([&node.cgroup, &address.to_string()])
        .stdin(Stdio::null())
        .spawn()?;
    let status = entering.wait()?;
    if !status.success() {
        bail!("the daemon of {} could not be started ({status})", node.name);
    }
    Ok(())
}

/// The `lab-daemon` subcommand: enters a node and starts its daemon, which the node's first process then adopts.
pub fn run_daemon(arguments: &[std::ffi::OsString]) -> anyhow::Result<()> {
    let [init, directory, cgroup, address] = arguments else {
        bail!("usage: muster lab-daemon PID DIRECTORY CGROUP ADDRESS")
    };
    let init = init.to_string_lossy();
    let namespaces = ["pid", "net", "uts", "ipc", "mnt"];
    let opened: Result<Vec<File>, _> = namespaces
        .iter()
        .map(|kind| File::open(format!("/proc/{init}/ns/{kind}")))
        .collect();
    for namespace in opened.context("the node is off")? {
        setns(&namespace, CloneFlags::empty()).context("cannot enter the node")?;
    }
    // A pid namespace is entered by children only; the child in between ends, so that the node adopts the daemon.
    // SAFETY: this process has one thread and no locks held.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => match waitpid(child, None)? {
            nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(()),
            status => bail!("cannot start the daemon: {status:?}"),
        },
        ForkResult::Child => {
            let started = setsid().map_err(anyhow::Error::from).and_then(|_| {
                start_daemon(
                    Path::new(directory),
                    &cgroup.to_string_lossy(),
                    &address.to_string_lossy(),
                )
            });
            if let Err(error) = &started {
                eprintln!("muster: {error:#} (process {})", getpid());
            }
            std::process::exit(i32::from(started.is_err()))
        }
    }
}
