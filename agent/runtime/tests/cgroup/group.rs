//! Groups, processes and places for the tests. Everything made here is removed again, also when a test fails.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use muster_runtime::cgroup::{Cgroup, CgroupRoot};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxResources};

/// Far more than anything here takes, for machines that are busy.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A root whose groups are made below a parent of their own.
pub struct Place {
    pub root: CgroupRoot,
    directories: Vec<PathBuf>,
}

impl Place {
    pub fn new(root: CgroupRoot, name: &str, mounts: &[PathBuf]) -> Place {
        let parent = format!("muster-test-{name}-{}", std::process::id());
        let directories = mounts.iter().map(|mount| mount.join(&parent)).collect();
        Place {
            root: root.with_parent(&parent).unwrap(),
            directories,
        }
    }

    pub fn path(&self, name: &str) -> String {
        self.root.path_of(name)
    }

    /// A file of a group, in the hierarchy that is mounted at `mount`.
    pub fn file(&self, mount: &str, name: &str, file: &str) -> String {
        let path = self.directory(mount).join(name).join(file);
        std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .trim()
            .to_owned()
    }

    /// The place itself, in the hierarchy that is mounted at `mount`.
    pub fn directory(&self, mount: &str) -> &Path {
        let mut directories = self.directories.iter();
        let found = directories.find(|directory| directory.parent() == Some(Path::new(mount)));
        found.unwrap_or_else(|| panic!("{mount} is not mounted"))
    }

    pub fn exists(&self, name: &str) -> bool {
        self.directories
            .iter()
            .any(|directory| directory.join(name).exists())
    }

    fn clear(directory: &Path) {
        let Ok(entries) = std::fs::read_dir(directory) else {
            return;
        };
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            Self::clear(&entry.path());
        }
        let started = Instant::now();
        while std::fs::remove_dir(directory).is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
            assert!(
                started.elapsed() < DEADLINE,
                "{} cannot be removed",
                directory.display()
            );
            std::thread::yield_now();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for directory in &self.directories {
            Self::clear(directory);
        }
    }
}

/// A child process that is killed when it goes out of scope.
pub struct Process(pub Child);

impl Process {
    pub fn sleeping() -> Process {
        Process(Command::new("sleep").arg("1000").spawn().unwrap())
    }

    /// A shell that runs `script` once something is written to its standard input.
    pub fn waiting(script: &str) -> Process {
        let script = format!("read go; {script}");
        let command = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Process(command.unwrap())
    }

    pub fn id(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    pub fn go(mut self) -> std::process::Output {
        use std::io::{Read, Write};
        self.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let mut stdout = Vec::new();
        self.0.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        let status = self.0.wait().unwrap();
        std::process::Output {
            status,
            stdout,
            stderr: Vec::new(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that already ended is no failure.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a shell script inside a group and returns what it printed.
pub fn run_inside(group: &Cgroup, script: &str) -> std::process::Output {
    let process = Process::waiting(script);
    group.add_process(process.id()).unwrap();
    process.go()
}

/// Waits for a condition.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "{what} did not come true");
        std::thread::yield_now();
    }
}

pub fn no_limits() -> LinuxResources {
    LinuxResources::default()
}

pub fn device_rule(
    allow: bool,
    kind: LinuxDeviceType,
    numbers: Option<(i64, i64)>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .typ(kind)
        .access(access);
    if let Some((major, minor)) = numbers {
        rule = rule.major(major).minor(minor);
    }
    rule.build().unwrap()
}

/// The rules that a container gets: nothing but making nodes, and a few harmless devices.
pub fn container_devices() -> Vec<LinuxDeviceCgroup> {
    use LinuxDeviceType::{A, C};
    vec![
        device_rule(false, A, None, "rwm"),
        device_rule(true, C, None, "m"),
        device_rule(true, C, Some((1, 3)), "rwm"),
        device_rule(true, C, Some((1, 5)), "r"),
    ]
}

/// What a container may do with devices under [`container_devices`], from a script's point of view.
pub fn check_device_access(group: &Cgroup, directory: &Path) {
    let script = format!(
        "cd {} || exit 9
         try() {{ if \"$@\" 2>/dev/null; then echo yes; else echo no; fi; }}
         try sh -c 'echo x > /dev/null'
         try sh -c 'head -c1 /dev/zero > /dev/null'
         try sh -c 'echo x > /dev/zero'
         try sh -c 'head -c1 /dev/urandom > /dev/null'
         try mknod char c 1 8
         try mknod disk b 8 0",
        directory.display()
    );
    let output = run_inside(group, &script);
    assert!(output.status.success());
    let answers: Vec<_> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
    assert_eq!(
        answers,
        ["yes", "yes", "no", "no", "yes", "no"],
        "null rw, zero r, zero w, urandom r, mknod c, mknod b"
    );

    // The last refusal is EPERM, not an accident.
    let program = format!(
        "import os, stat; os.mknod('{}/disk2', stat.S_IFBLK | 0o600, os.makedev(8, 0))",
        directory.display()
    );
    let output = run_inside(group, &format!("exec python3 -c \"{program}\" 2>&1"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("PermissionError") && text.contains("Errno 1]"),
        "{text}"
    );
}
