//! A runtime with a `--root` of its own, bundles of busybox, and everything gone afterwards.

#[path = "containerd_daemon.rs"]
pub mod containerd;

use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take before a test fails: far more than it needs on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

const APPLETS: [&str; 14] = [
    "sh", "true", "sleep", "cat", "echo", "id", "ls", "env", "readlink", "touch", "pwd", "stat", "tty",
    "printf",
];

const CAPABILITIES: [&str; 5] = [
    "CAP_KILL",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_SETUID",
    "CAP_SETGID",
];

/// The runtime as its callers find it: one program without a subcommand.
pub struct Runtime {
    pub directory: TempDir,
    pub program: PathBuf,
    group: String,
}

impl Runtime {
    pub fn new() -> Runtime {
        static RUNTIMES: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let program = directory.path().join("muster-oci");
        symlink(env!("CARGO_BIN_EXE_muster-runtime"), &program).expect("the directory is writable");
        make_root(&directory.path().join("rootfs"));
        let number = RUNTIMES.fetch_add(1, Ordering::Relaxed);
        Runtime {
            directory,
            program,
            group: format!("muster-test-oci-{}-{number}", std::process::id()),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn rootfs(&self) -> PathBuf {
        self.path("rootfs")
    }

    /// The container's own directory in the hierarchy that counts processes, or the only one.
    pub fn group_path(&self, id: &str) -> PathBuf {
        let top = Path::new("/sys/fs/cgroup");
        let pids = top.join("pids");
        let top = if pids.is_dir() { pids.as_path() } else { top };
        top.join(&self.group).join(id)
    }

    /// The configuration of a container that runs a shell script.
    pub fn config(&self, id: &str, script: &str) -> Value {
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": { "uid": 0, "gid": 0 },
                "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/bin"],
                "cwd": "/",
                "capabilities": {
                    "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
                },
                "noNewPrivileges": true,
            },
            "root": { "path": self.rootfs(), "readonly": false },
            "hostname": "inside",
            "annotations": { "org.example.key": "value" },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                  "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
            ],
            "linux": {
                "cgroupsPath": format!("/{}/{id}", self.group),
                "namespaces": [
                    { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" },
                    { "type": "mount" },
                ],
            },
        })
    }

    /// Writes a bundle.
    pub fn bundle(&self, id: &str, config: &Value) -> PathBuf {
        let bundle = self.path(&format!("bundle-{id}"));
        std::fs::create_dir_all(&bundle).expect("the directory is writable");
        std::fs::write(bundle.join("config.json"), config.to_string()).expect("the directory is writable");
        bundle
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--root")
            .arg(self.path("state"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of the runtime to its end. Its streams go to files: a container that lives on would keep pipes
    /// open.
    pub fn call(&self, arguments: &[&str]) -> Called {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let number = CALLS.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (
            self.path(&format!("out-{number}")),
            self.path(&format!("err-{number}")),
        );
        let create = |path: &Path| std::fs::File::create(path).expect("the directory is writable");
        let status = self
            .command(arguments)
            .stdout(create(&out))
            .stderr(create(&err))
            .status()
            .expect("the runtime is there");
        Called {
            code: status.code().expect("it exits"),
            out_path: out,
            err: std::fs::read_to_string(err).expect("it was written"),
        }
    }

    /// As [`call`](Self::call), for a command that has to succeed.
    pub fn ok(&self, arguments: &[&str]) -> Called {
        let called = self.call(arguments);
        assert_eq!(called.code, 0, "{arguments:?}: {}", called.err);
        called
    }

    pub fn create(&self, id: &str, config: &Value) -> Called {
        let bundle = self.bundle(id, config);
        self.ok(&["create", "--bundle", bundle.to_str().expect("UTF-8"), id])
    }

    pub fn run(&self, id: &str, config: &Value) -> Called {
        let bundle = self.bundle(id, config);
        self.call(&["run", "--bundle", bundle.to_str().expect("UTF-8"), id])
    }

    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id]).out()).expect("it is JSON")
    }

    pub fn until_status(&self, id: &str, wanted: &str) {
        until(wanted, || self.state(id)["status"] == wanted);
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let state = self.path("state");
        for entry in std::fs::read_dir(&state).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let _ = self.command(&["delete", "--force"]).arg(name).output();
        }
        let tops = std::fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten();
        let tops = tops
            .map(|entry| entry.path())
            .chain([PathBuf::from("/sys/fs/cgroup")]);
        for top in tops {
            let _ = std::fs::remove_dir(top.join(&self.group));
        }
    }
}

/// What a command did.
pub struct Called {
    pub code: i32,
    out_path: PathBuf,
    pub err: String,
}

impl Called {
    /// Its standard output so far; a container that lives on may still add to it.
    pub fn out(&self) -> String {
        std::fs::read_to_string(&self.out_path).expect("it was written")
    }
}

/// Waits for a condition.
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a program printed; it has to succeed.
pub fn printed(what: &str, output: &Output) -> String {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{what}: {} {out} {err}", output.status);
    out.into_owned()
}

/// A root file system of busybox.
pub fn make_root(root: &Path) {
    for directory in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        std::fs::create_dir_all(root.join(directory)).expect("the directory is writable");
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).expect("the directory is writable");
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")
        .expect("the directory is writable");
}
