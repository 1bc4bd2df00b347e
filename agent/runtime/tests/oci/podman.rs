//! podman with Muster as its runtime.

use crate::support::{Runtime, make_root, printed};
use std::process::{Command, Output, Stdio};

/// podman with images, containers and state of its own.
struct Podman {
    runtime: Runtime,
}

impl Podman {
    fn new() -> Podman {
        let podman = Podman {
            runtime: Runtime::new(),
        };
        let root = podman.runtime.path("image");
        make_root(&root);
        let archive = podman.runtime.path("image.tar");
        let tar = Command::new("tar")
            .arg("-C")
            .arg(&root)
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .output();
        printed("tar", &tar.expect("tar is there"));
        podman.ok(&["import", "--quiet", archive.to_str().expect("UTF-8"), "box:test"]);
        podman
    }

    fn call(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("podman");
        for (option, directory) in [
            ("--root", "podman"),
            ("--runroot", "podman-run"),
            ("--tmpdir", "podman-tmp"),
        ] {
            command.arg(option).arg(self.runtime.path(directory));
        }
        command.args([
            "--storage-driver",
            "vfs",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "none",
        ]);
        command
            .arg("--runtime")
            .arg(&self.runtime.program)
            .args(arguments);
        command.env_remove("XDG_RUNTIME_DIR").stdin(Stdio::null());
        command.output().expect("podman is installed")
    }

    fn ok(&self, arguments: &[&str]) -> String {
        printed(&format!("podman {arguments:?}"), &self.call(arguments))
    }

    /// Starts a container; the limits are what this machine surely allows.
    fn run(&self, arguments: &[&str]) -> Output {
        let limits = [
            "run",
            "--network",
            "none",
            "--ulimit",
            "nofile=512:512",
            "--ulimit",
            "nproc=512:512",
        ];
        self.call(&[&limits[..], arguments].concat())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.call(&["rm", "--all", "--force", "--time", "0"]);
    }
}

#[test]
fn podman_runs_execs_stops_and_removes() {
    let podman = Podman::new();
    let output = podman.run(&["--rm", "box:test", "sh", "-c", "echo hello; exit 3"]);
    assert_eq!(
        output.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.stdout, b"hello\n");
    printed(
        "run",
        &podman.run(&["-d", "--name", "one", "box:test", "sleep", "1000"]),
    );
    assert_eq!(
        podman.ok(&["exec", "-e", "A=b", "one", "sh", "-c", "echo $A; id -u"]),
        "b\n0\n"
    );
    let terminal = podman.call(&["exec", "-t", "one", "sh", "-c", "tty; exit 5"]);
    assert_eq!(terminal.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&terminal.stdout).starts_with("/dev/pts/"));
    podman.ok(&["pause", "one"]);
    podman.ok(&["unpause", "one"]);
    assert!(podman.ok(&["stats", "--no-stream", "one"]).contains("one"));
    podman.ok(&["stop", "--time", "0", "one"]);
    assert_eq!(
        podman.ok(&[
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.ExitCode}}",
            "one"
        ]),
        "exited 137\n"
    );
    podman.ok(&["start", "one"]);
    podman.ok(&["rm", "-f", "--time", "0", "one"]);
    let missing = podman.run(&["--rm", "box:test", "no-such-program"]);
    assert_eq!(
        missing.status.code(),
        Some(127),
        "{}",
        String::from_utf8_lossy(&missing.stderr)
    );
    let copied = podman.run(&["--rm", "--tmpfs", "/etc", "box:test", "cat", "/etc/passwd"]);
    assert!(
        printed("run", &copied).starts_with("root:"),
        "a tmpfs begins with what was there"
    );
    let mapped = podman.run(&[
        "--rm",
        "--uidmap",
        "0:500000:65536",
        "box:test",
        "cat",
        "/proc/self/uid_map",
    ]);
    assert!(printed("run", &mapped).contains("500000"));
}
