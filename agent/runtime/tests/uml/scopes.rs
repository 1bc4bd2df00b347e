//! Containers of `muster oci --systemd-cgroup`. Runs inside user-mode Linux, whose process 1 is systemd there.

use crate::oci_support::containerd::Containerd;
use crate::oci_support::{Runtime, make_root, printed};
use muster_runtime::cgroup::{CgroupRoot, CgroupVersion};
use serde_json::json;
use std::path::PathBuf;
use std::process::Command;

const SCOPE: &str = "test-one-two.scope";
const GROUP: &str = "muster.slice/muster-test.slice/test-one-two.scope";

/// What systemd says of the scope.
fn shown(property: &str) -> String {
    let output = Command::new("systemctl")
        .args(["show", "--value", "--property", property, SCOPE])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The scope's directory in the hierarchy of this controller.
fn group(version: CgroupVersion, controller: &str) -> PathBuf {
    let top = match version {
        CgroupVersion::V1 => format!("/sys/fs/cgroup/{controller}"),
        CgroupVersion::V2 => "/sys/fs/cgroup".to_owned(),
    };
    PathBuf::from(top).join(GROUP)
}

fn check_limits(version: CgroupVersion, memory: u64) {
    let (memory_file, property) = match version {
        CgroupVersion::V1 => ("memory.limit_in_bytes", "MemoryLimit"),
        CgroupVersion::V2 => ("memory.max", "MemoryMax"),
    };
    let read = |controller: &str, file: &str| {
        let path = group(version, controller).join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    assert_eq!(read("memory", memory_file).trim(), memory.to_string());
    assert_eq!(shown(property), memory.to_string());
    assert_eq!(
        (read("pids", "pids.max").trim(), shown("TasksMax").as_str()),
        ("20", "20")
    );
    if version == CgroupVersion::V1 {
        let devices = read("devices", "devices.list");
        let mut devices: Vec<_> = devices.lines().collect();
        devices.sort_unstable();
        assert!(
            devices.contains(&"c 10:200 rw") && devices.contains(&"c 1:3 rwm"),
            "{devices:?}"
        );
        assert!(!devices.contains(&"a *:* rwm"), "{devices:?}");
    }
}

#[test]
#[ignore = "runs in user-mode Linux"]
fn scopes_keep_their_limits_and_go_with_their_containers() {
    let version = CgroupRoot::detect().unwrap().version();
    let runtime = Runtime::new();
    let mut config = runtime.config("one", "read line < /dev/null; echo through; exec sleep 100000");
    config["linux"]["cgroupsPath"] = json!("muster-test.slice:test-one:two");
    config["linux"]["resources"] = json!({
        "memory": { "limit": 64 << 20 },
        "pids": { "limit": 20 },
        "devices": [
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 10, "minor": 200, "access": "rw" },
        ],
    });
    let bundle = runtime.bundle("one", &config);
    let bundle = bundle.to_str().unwrap();
    runtime.ok(&["--systemd-cgroup", "create", "--bundle", bundle, "one"]);
    let pid = runtime.state("one")["pid"].to_string();
    assert_eq!(shown("ActiveState"), "active");
    assert_eq!(shown("Slice"), "muster-test.slice");
    assert_eq!(shown("ControlGroup"), format!("/{GROUP}"));
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(groups.contains(&format!("/{GROUP}\n")), "{groups}");
    check_limits(version, 64 << 20);
    // systemd writes all settings of its own groups again.
    let reload = Command::new("systemctl").arg("daemon-reload").status().unwrap();
    assert!(reload.success());
    check_limits(version, 64 << 20);
    runtime.ok(&["start", "one"]);
    runtime.until_status("one", "running");
    runtime.ok(&["update", "--memory", "33554432", "one"]);
    check_limits(version, 32 << 20);
    // Another container cannot have it, and does not take it away.
    let refused = runtime.call(&["--systemd-cgroup", "run", "--bundle", bundle, "two"]);
    assert_ne!(refused.code, 0);
    assert_eq!(shown("ActiveState"), "active", "{}", refused.err);
    runtime.until_status("one", "running");
    runtime.ok(&["delete", "--force", "one"]);
    assert_eq!(shown("ActiveState"), "inactive");
    assert!(!group(version, "memory").exists());

    // Its name can be used again, and what fails leaves none behind.
    config["process"]["args"] = json!(["/bin/none"]);
    let bundle = runtime.bundle("one", &config);
    let bundle = bundle.to_str().unwrap();
    let failed = runtime.call(&["--systemd-cgroup", "run", "--bundle", bundle, "one"]);
    assert_ne!(failed.code, 0);
    assert_eq!(shown("ActiveState"), "inactive", "{}", failed.err);
    assert!(!group(version, "memory").exists());
    config["process"]["args"] = json!(["/bin/true"]);
    let again = runtime.bundle("one", &config);
    runtime.ok(&[
        "--systemd-cgroup",
        "run",
        "--bundle",
        again.to_str().unwrap(),
        "one",
    ]);
    assert_eq!(shown("ActiveState"), "inactive");
}

/// podman with systemd as the manager of its control groups, and state of its own.
fn podman(runtime: &Runtime, arguments: &[&str]) -> String {
    let mut command = Command::new("podman");
    for (option, directory) in [
        ("--root", "podman"),
        ("--runroot", "podman-run"),
        ("--tmpdir", "podman-tmp"),
    ] {
        command.arg(option).arg(runtime.path(directory));
    }
    command.args(["--storage-driver", "vfs", "--cgroup-manager", "systemd"]);
    command.args(["--events-backend", "none", "--runtime"]);
    command.arg(&runtime.program).args(arguments);
    command.env("TMPDIR", runtime.path(""));
    command.stdin(std::process::Stdio::null());
    printed(&format!("podman {arguments:?}"), &command.output().unwrap())
}

#[test]
#[ignore = "runs in user-mode Linux"]
fn containers_of_podman_are_in_scopes_of_systemds() {
    let version = CgroupRoot::detect().unwrap().version();
    let runtime = Runtime::new();
    let (root, archive) = (runtime.path("image"), runtime.path("image.tar"));
    make_root(&root);
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".");
    printed("tar", &tar.output().unwrap());
    podman(
        &runtime,
        &["import", "--quiet", archive.to_str().unwrap(), "box:test"],
    );
    let limits = [
        "--memory",
        "64m",
        "--pids-limit",
        "20",
        "--ulimit",
        "nofile=512:512",
    ];
    let run = [
        "run",
        "-d",
        "--pull",
        "never",
        "--network",
        "none",
        "--ulimit",
        "nproc=512:512",
    ];
    let of = ["localhost/box:test", "sleep", "100000"];
    let id = podman(&runtime, &[&run[..], &limits, &of].concat());
    let id = id.trim();
    let pid = podman(&runtime, &["inspect", "--format", "{{.State.Pid}}", id]);
    let group = format!("machine.slice/libpod-{id}.scope");
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.trim())).unwrap();
    assert!(groups.contains(&format!("/{group}")), "{groups}");
    let (place, file) = match version {
        CgroupVersion::V1 => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        CgroupVersion::V2 => ("/sys/fs/cgroup", "memory.max"),
    };
    let limit = PathBuf::from(place).join(&group).join(file);
    assert_eq!(
        std::fs::read_to_string(&limit).unwrap().trim(),
        (64 << 20).to_string()
    );
    assert_eq!(podman(&runtime, &["exec", id, "echo", "hello"]), "hello\n");
    podman(&runtime, &["rm", "--force", "--time", "0", id]);
    assert!(!limit.exists());
}

#[test]
#[ignore = "runs in user-mode Linux"]
fn containers_of_containerd_are_in_scopes_of_systemds() {
    let version = CgroupRoot::detect().unwrap().version();
    let containerd = Containerd::new();
    containerd.import();
    let options = |name| {
        let group = format!("muster-test.slice:test-{name}:two");
        ["--runc-systemd-cgroup", "--cgroup"]
            .map(str::to_owned)
            .into_iter()
            .chain([group])
    };
    let run = |name, more: &[&str], command: &[&str]| {
        let options: Vec<_> = options(name).collect();
        let options: Vec<_> = options
            .iter()
            .map(String::as_str)
            .chain(more.iter().copied())
            .collect();
        containerd.run(&options, &[&[name], command].concat())
    };
    let output = run("zero", &["--rm"], &["echo", "hello"]);
    assert_eq!(printed("run", &output), "hello\n");
    let limit = (64 << 20).to_string();
    let output = run("one", &["-d", "--memory-limit", &limit], &["sleep", "100000"]);
    printed("run", &output);
    assert_eq!(shown("ActiveState"), "active");
    assert_eq!(shown("Slice"), "muster-test.slice");
    let listed = containerd.ok(&["tasks", "list"]);
    let pid = listed.lines().find_map(|line| line.strip_prefix("one"));
    let pid = pid.and_then(|line| line.split_whitespace().next()).unwrap();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(groups.contains(&format!("/{GROUP}\n")), "{groups}");
    let file = match version {
        CgroupVersion::V1 => "memory.limit_in_bytes",
        CgroupVersion::V2 => "memory.max",
    };
    let file = group(version, "memory").join(file);
    assert_eq!(std::fs::read_to_string(file).unwrap().trim(), limit);
    let exec = [
        "tasks",
        "exec",
        "--exec-id",
        "e1",
        "one",
        "cat",
        "/proc/self/cgroup",
    ];
    assert!(containerd.ok(&exec).contains("test-one-two.scope"));
    assert!(containerd.ok(&["tasks", "metrics", "one"]).contains("memory"));
    containerd.pause_and_end("one");
    assert_eq!(shown("ActiveState"), "inactive");
    assert!(!group(version, "memory").exists());
}
