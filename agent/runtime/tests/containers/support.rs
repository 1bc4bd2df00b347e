//! A node's runtime for one test: a launcher, a root file system of busybox, a parent control group. All of it goes when the test ends.

use muster_runtime::cgroup::{Cgroup, CgroupRoot};
use muster_runtime::{
    ExitStatus, Launcher, LauncherConfig, LogConfig, Monitor, Output, RuntimeError, StartRequest, Started,
};
use oci_spec::runtime::{Capability, Process, Spec};
use serde_json::{Value, json};
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take before a test fails: far more than it needs on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

const APPLETS: [&str; 29] = [
    "cut", "sh", "true", "false", "sleep", "cat", "echo", "id", "ls", "mount", "hostname", "ps", "head",
    "dd", "yes", "kill", "stat", "touch", "mknod", "grep", "wc", "tr", "env", "readlink", "stty", "tty",
    "printf", "ln", "mkdir",
];

/// Capabilities that Docker gives by default.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// A node's runtime. What ends last is dropped last.
pub struct Node {
    pub launcher: Launcher,
    pub root: CgroupRoot,
    pub directory: TempDir,
    count: AtomicU32,
    _parent: ParentGroup,
}

/// The parent of a node's control groups; removed with the monitors' group once launcher and monitors are gone.
struct ParentGroup(String);

/// A container to start, with Docker's defaults; tests change what they are about.
pub struct Container {
    pub id: String,
    pub config: Value,
    pub seccomp: bool,
    pub stdin_open: bool,
    pub stdin_once: bool,
    pub init: bool,
    pub hold: bool,
    pub log_limit: Option<u64>,
    pub console_size: Option<(u16, u16)>,
    directory: PathBuf,
    cgroup_path: String,
}

impl Node {
    pub fn new() -> Node {
        Self::with_groups(CgroupRoot::detect().expect("control groups are mounted"))
    }

    /// A node whose containers have their control groups in these hierarchies.
    pub fn with_groups(root: CgroupRoot) -> Node {
        static NODES: AtomicU32 = AtomicU32::new(0);
        let parent = format!(
            "muster-test-runtime-{}-{}",
            std::process::id(),
            NODES.fetch_add(1, Ordering::Relaxed)
        );
        Self::at(root.with_parent(&parent).expect("a good name"))
    }

    /// A node whose containers have their control groups exactly there.
    pub fn at(root: CgroupRoot) -> Node {
        root.prepare().expect("root may make groups");
        let directory = tempfile::tempdir().expect("a temporary directory");
        make_root(&directory.path().join("rootfs"));
        let mut config = LauncherConfig::new(directory.path(), root.clone());
        config.executable = PathBuf::from(env!("CARGO_BIN_EXE_muster-runtime"));
        let launcher = Launcher::spawn(&config).expect("the launcher starts");
        Node {
            launcher,
            _parent: ParentGroup(root.parent().to_owned()),
            root,
            directory,
            count: AtomicU32::new(0),
        }
    }

    /// A container that runs a shell script.
    pub fn shell(&self, script: &str) -> Container {
        self.container(&["/bin/sh", "-c", script])
    }

    pub fn container(&self, arguments: &[&str]) -> Container {
        let id = format!("c{}", self.count.fetch_add(1, Ordering::Relaxed));
        let directory = self.directory.path().join(&id);
        std::fs::create_dir(&directory).expect("the directory is writable");
        Container {
            config: config(arguments, &self.rootfs()),
            cgroup_path: self.root.path_of(&id),
            directory,
            id,
            seccomp: true,
            stdin_open: false,
            stdin_once: false,
            init: false,
            hold: false,
            log_limit: None,
            console_size: None,
        }
    }

    pub fn rootfs(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }

    pub async fn start(&self, container: &Container) -> Result<Started, RuntimeError> {
        within(self.launcher.start(container.request())).await
    }

    /// Starts a container, waits for its end and returns its status and its standard output.
    pub async fn run(&self, container: &Container) -> (ExitStatus, String) {
        let started = self.start(container).await.expect("the container starts");
        let status = within(started.monitor.wait()).await.expect("it ends");
        (status, container.logged("stdout"))
    }
}

impl Node {
    /// Ends what a test left running; its monitors then remove the control groups.
    fn end_containers(&self) {
        let started = Instant::now();
        for number in 0..self.count.load(Ordering::Relaxed) {
            let path = self.root.path_of(&format!("c{number}"));
            while let Ok(group) = Cgroup::open(&self.root, &path) {
                let _ = group.kill_all();
                if started.elapsed() > DEADLINE {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end_containers();
    }
}

impl Drop for ParentGroup {
    fn drop(&mut self) {
        let top = Path::new("/sys/fs/cgroup");
        let entries = std::fs::read_dir(top).into_iter().flatten().flatten();
        let roots = entries.map(|entry| entry.path()).chain([top.to_owned()]);
        let started = Instant::now();
        for parent in roots
            .map(|root| root.join(&self.0))
            .filter(|parent| parent.is_dir())
        {
            // A monitor ends a moment after it has removed its container's group.
            while std::fs::remove_dir(parent.join("monitors"))
                .is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
                && started.elapsed() < DEADLINE
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            let _ = std::fs::remove_dir(parent);
        }
    }
}

impl Container {
    pub fn state_dir(&self) -> &Path {
        &self.directory
    }

    pub fn exit_file(&self) -> PathBuf {
        self.directory.join("exit")
    }

    pub fn cgroup_path(&self) -> &str {
        &self.cgroup_path
    }

    pub fn process(&mut self) -> &mut Value {
        &mut self.config["process"]
    }

    pub fn mount(&mut self, mount: Value) {
        self.config["mounts"].as_array_mut().expect("a list").push(mount);
    }

    /// Gives the process a terminal.
    pub fn terminal(mut self) -> Self {
        self.config["process"]["terminal"] = json!(true);
        self
    }

    pub fn request(&self) -> StartRequest {
        let mut spec: Spec = serde_json::from_value(self.config.clone()).expect("the test's config is valid");
        if self.seccomp {
            let mut linux = spec.linux().clone().expect("it is set");
            linux.set_seccomp(Some(docker_seccomp()));
            spec.set_linux(Some(linux));
        }
        StartRequest {
            id: self.id.clone(),
            spec,
            state_dir: self.directory.clone(),
            exit_file: self.exit_file(),
            log: Some(LogConfig {
                path: self.directory.join("log"),
                max_bytes: self.log_limit,
                max_files: 2,
                attributes: Default::default(),
            }),
            stdin_open: self.stdin_open,
            stdin_once: self.stdin_once,
            init: self.init,
            rootfs: None,
            netns: None,
            cgroup_path: self.cgroup_path.clone(),
            console_size: self.console_size,
            hold: self.hold,
        }
    }

    /// What the log holds of a stream.
    pub fn logged(&self, stream: &str) -> String {
        let content = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines = content
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
        lines
            .filter(|line| line["stream"] == stream)
            .map(|line| line["log"].as_str().unwrap_or("").to_owned())
            .collect()
    }

    /// Waits until the log holds a text.
    pub async fn until_logged(&self, text: &str) {
        until(&format!("{text:?} in the log"), || {
            self.logged("stdout").contains(text)
        })
        .await;
    }
}

/// The process that the OCI configuration of [`Container`] has, with other arguments.
pub fn process(arguments: &[&str]) -> Process {
    serde_json::from_value(process_config(arguments)).expect("it is valid")
}

pub fn docker_seccomp() -> oci_spec::runtime::LinuxSeccomp {
    use muster_runtime::seccomp::{KernelVersion, Machine, docker_default};
    let granted: Vec<Capability> = serde_json::from_value(json!(CAPABILITIES)).expect("capabilities");
    docker_default(
        &granted,
        Machine::current(),
        KernelVersion::current().expect("it has a version"),
    )
}

/// Fails the test when an operation hangs.
pub async fn within<T>(operation: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, operation)
        .await
        .expect("the operation ends before the deadline")
}

/// Waits for a condition.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// All output up to its end: standard output (or the terminal), standard error.
pub async fn collect(output: &mut muster_runtime::AttachOutput) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(piece) = within(output.next()).await.expect("the stream is intact") {
        match piece {
            Output::Stdout(bytes) | Output::Console(bytes) => out.extend_from_slice(&bytes),
            Output::Stderr(bytes) => err.extend_from_slice(&bytes),
        }
    }
    (
        String::from_utf8_lossy(&out).into_owned(),
        String::from_utf8_lossy(&err).into_owned(),
    )
}

/// Whether a process exists and has not ended.
pub fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The monitor of a container: the parent of its init.
pub fn monitor_pid(monitor: &Monitor) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", monitor.pid())).expect("the container runs");
    let rest = stat.rsplit_once(") ").expect("stat has a name").1;
    rest.split(' ')
        .nth(1)
        .expect("stat has a parent")
        .parse()
        .expect("a number")
}

/// Kills a process that the test started.
pub fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("it runs");
}

fn make_root(root: &Path) {
    for directory in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        std::fs::create_dir_all(root.join(directory)).expect("the directory is writable");
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).expect("the directory is writable");
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")
        .expect("the directory is writable");
}

fn process_config(arguments: &[&str]) -> Value {
    json!({
        "terminal": false,
        "user": { "uid": 0, "gid": 0 },
        "args": arguments,
        "env": ["PATH=/usr/bin:/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": { "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES },
        "noNewPrivileges": false,
    })
}

fn config(arguments: &[&str], rootfs: &Path) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": process_config(arguments),
        "root": { "path": rootfs, "readonly": false },
        "hostname": "inside",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
              "options": ["ro", "nosuid", "noexec", "nodev"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"] },
        ],
        "linux": {
            "namespaces": [
                { "type": "mount" }, { "type": "network" }, { "type": "uts" },
                { "type": "pid" }, { "type": "ipc" }, { "type": "cgroup" },
            ],
            "maskedPaths": [
                "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// The first of the host's ids that a container of these tests is mapped to.
pub const MAPPED_FIRST: u32 = 300_000;

pub fn namespaces(container: &mut Container) -> &mut Vec<serde_json::Value> {
    container.config["linux"]["namespaces"]
        .as_array_mut()
        .expect("a list")
}

/// Takes a namespace away, or replaces it by one that exists.
pub fn set_namespace(container: &mut Container, kind: &str, path: Option<String>) {
    namespaces(container).retain(|namespace| namespace["type"] != kind);
    if let Some(path) = path {
        namespaces(container).push(json!({ "type": kind, "path": path }));
    }
}

/// Gives a container users and groups of its own, and the root file system to them.
pub fn map_users(node: &Node, container: &mut Container) {
    namespaces(container).push(json!({ "type": "user" }));
    let maps = json!([{ "containerID": 0, "hostID": MAPPED_FIRST, "size": 65536 }]);
    container.config["linux"]["uidMappings"] = maps.clone();
    container.config["linux"]["gidMappings"] = maps;
    give(&node.rootfs());
}

pub fn give(path: &Path) {
    chown(path, Some(MAPPED_FIRST), Some(MAPPED_FIRST)).expect("root may give files away");
    for entry in std::fs::read_dir(path).expect("a directory").flatten() {
        if entry.file_type().expect("it exists").is_dir() {
            give(&entry.path());
        }
    }
}
