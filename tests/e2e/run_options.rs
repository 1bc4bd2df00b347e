//! Options of `docker run` and `docker update`, by their effect in the container and in its control groups.

mod lifecycle;
mod limits;

use crate::support::{Docker, IMAGE, Lab};
use serde_json::{Value, json};

/// Runs a container with these options to its end and returns what it printed.
#[track_caller]
fn output(docker: &Docker, options: &[&str], script: &str) -> String {
    docker.run(&[&["run", "--rm"], options, &[IMAGE, "sh", "-c", script]].concat())
}

#[track_caller]
fn refusal(docker: &Docker, options: &[&str]) -> String {
    docker.refuse(&[&["run", "--rm"], options, &[IMAGE, "true"]].concat())
}

#[track_caller]
fn detached(docker: &Docker, name: &str, options: &[&str]) {
    docker.run(&[&["run", "-d", "--name", name], options, &[IMAGE]].concat());
}

#[track_caller]
fn inspect(docker: &Docker, format: &str, name: &str) -> String {
    docker.run(&["inspect", "--format", format, name])
}

/// A control file of a running container, by the name that its version of control groups has for it.
#[track_caller]
fn control(docker: &Docker, name: &str, v1: &str, v2: &str) -> String {
    let script = format!("cat /sys/fs/cgroup/*/{v1} /sys/fs/cgroup/{v2} 2>/dev/null | busybox head -n 1");
    docker.run(&["exec", name, "sh", "-c", &script])
}

fn namespaces(docker: &Docker) {
    for (option, kind) in [
        ("--pid=host", "pid"),
        ("--ipc=host", "ipc"),
        ("--uts=host", "uts"),
        ("--cgroupns=host", "cgroup"),
    ] {
        let link =
            |options: &[&str]| output(docker, options, &format!("busybox readlink /proc/self/ns/{kind}"));
        assert_eq!(link(&[option]), link(&[option]), "{option}");
        assert_ne!(link(&[option]), link(&[]), "{option}");
    }
    let first = output(docker, &["--pid=host"], "cat /proc/1/cmdline");
    assert!(first.contains("muster"), "{first}");
    let name = docker.run(&["info", "--format", "{{.Name}}"]);
    assert_eq!(output(docker, &["--uts=host"], "hostname"), name);
    detached(
        docker,
        "donor",
        &["--ipc=shareable", "--shm-size=3m", "-h", "giver"],
    );
    docker.run(&["exec", "donor", "sh", "-c", "echo note > /dev/shm/note"]);
    assert_eq!(
        output(docker, &["--ipc=container:donor"], "cat /dev/shm/note"),
        "note"
    );
    let seen = output(docker, &["--pid=container:donor"], "cat /proc/1/cmdline");
    assert!(seen.contains("sleep"), "{seen}");
    assert_eq!(
        output(docker, &["--network=container:donor"], "hostname"),
        "giver"
    );
    let size = output(
        docker,
        &["--ipc=container:donor"],
        "grep ' /dev/shm ' /proc/mounts",
    );
    assert!(size.contains("size=3072k"), "{size}");
    let published = docker.try_run(&["run", "--rm", "--network=host", "-p", "80", IMAGE, "true"]);
    assert!(
        published
            .stderr
            .contains("Published ports are discarded when using host network mode"),
        "{published:?}"
    );
    let conflict = refusal(docker, &["--network=container:donor", "-h", "other"]);
    assert!(
        conflict.contains("conflicting options: hostname and the network mode"),
        "{conflict}"
    );
    let conflict = refusal(docker, &["--network=container:donor", "-p", "80"]);
    assert!(
        conflict.contains("port publishing and the container type network mode"),
        "{conflict}"
    );
    detached(docker, "joined", &["--pid=container:donor"]);
    assert_eq!(docker.run(&["exec", "joined", "echo", "entered"]), "entered");
    docker.run(&["rm", "-f", "joined"]);
    docker.run(&["stop", "donor"]);
    for (option, text) in [
        (
            "--network=container:donor",
            "cannot join network of a non running container",
        ),
        ("--pid=container:donor", "failed to join PID namespace: container"),
        ("--ipc=container:donor", "non-shareable IPC"),
        ("--pid=container:nobody", "No such container: nobody"),
    ] {
        let refused = refusal(docker, &[option]);
        assert!(refused.contains(text), "{option}: {refused}");
    }
    docker.run(&["rm", "donor"]);
    assert_eq!(
        output(docker, &["--ipc=none"], "ls /dev/shm 2>/dev/null || echo none"),
        "none"
    );
}

fn confinement(docker: &Docker) {
    let zero = "echo $(($(cat /proc/version | busybox wc -c)))";
    let masked = ["--security-opt", "systempaths=unconfined"];
    assert_ne!(
        output(docker, &masked, "cat /proc/interrupts | busybox wc -c"),
        "0"
    );
    assert_ne!(output(docker, &[], zero), "0");
    let caps = |options: &[&str]| output(docker, options, "grep CapBnd /proc/self/status");
    assert!(caps(&["--cap-drop=ALL"]).ends_with("0000000000000000"));
    assert!(caps(&["--cap-drop=ALL", "--cap-add=NET_ADMIN"]).ends_with("0000000000001000"));
    let unknown = refusal(docker, &["--cap-add=FLY"]);
    assert!(
        unknown.contains("invalid CapAdd: unknown capability: \"CAP_FLY\""),
        "{unknown}"
    );
    let status =
        |options: &[&str], field: &str| output(docker, options, &format!("grep {field} /proc/self/status"));
    assert!(status(&["--security-opt", "no-new-privileges"], "NoNewPrivs").ends_with('1'));
    assert!(status(&["--security-opt", "seccomp=unconfined"], "Seccomp:").ends_with('0'));
    assert!(status(&["--security-opt", "seccomp=builtin"], "Seccomp:").ends_with('2'));
    let read_only = "touch /file 2>/dev/null || echo refused; touch /tmp/file && echo written";
    assert_eq!(
        output(docker, &["--read-only", "--tmpfs", "/tmp"], read_only),
        "refused\nwritten"
    );
    assert_eq!(
        output(docker, &["-u", "7:8", "--group-add", "9"], "id -u; id -g; id -G"),
        "7\n8\n8 9"
    );
    assert_eq!(
        output(
            docker,
            &["--sysctl", "kernel.msgmax=4242"],
            "cat /proc/sys/kernel/msgmax"
        ),
        "4242"
    );
    let low_port = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(output(docker, &[], low_port), "0");
    assert_eq!(
        output(
            docker,
            &["--sysctl", "net.ipv4.ip_unprivileged_port_start=7"],
            low_port
        ),
        "7"
    );
    let host = refusal(docker, &["--network=host", "--sysctl", "net.ipv4.ip_forward=1"]);
    assert!(host.contains("not allowed in host network namespace"), "{host}");
    let shared = refusal(docker, &["--ipc=host", "--sysctl", "kernel.msgmax=1"]);
    assert!(
        shared.contains("is not in a separate kernel namespace"),
        "{shared}"
    );
}

/// What `docker inspect` answers of a container is what it was asked to be.
fn echoes(docker: &Docker) {
    docker.run(&[
        "create",
        "--name",
        "asked",
        "--ipc=shareable",
        "--pid=host",
        "--uts=host",
        "--cgroupns=private",
        "--userns=host",
        "--cap-add=NET_ADMIN",
        "--cap-drop=MKNOD",
        "--security-opt=no-new-privileges",
        "--group-add=9",
        "--device=/dev/zero:/dev/mine:r",
        "--device-cgroup-rule=c 1:3 r",
        "--memory=64m",
        "--cpus=1.5",
        "--device-read-bps=/dev/zero:1mb",
        "--device-write-iops=/dev/zero:7",
        "--pids-limit=9",
        "--init",
        "--annotation=a=b",
        "--oom-score-adj=3",
        "--shm-size=1m",
        "--ulimit=nofile=5:6",
        "--sysctl=kernel.msgmax=7",
        "--restart=on-failure:4",
        "--cgroup-parent=",
        IMAGE,
    ]);
    let answer = docker.run(&["inspect", "asked"]);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let host = &answer[0]["HostConfig"];
    for (field, value) in [
        ("IpcMode", json!("shareable")),
        ("PidMode", json!("host")),
        ("UTSMode", json!("host")),
        ("CgroupnsMode", json!("private")),
        ("UsernsMode", json!("host")),
        ("CapDrop", json!(["CAP_MKNOD"])),
        ("SecurityOpt", json!(["no-new-privileges"])),
        ("GroupAdd", json!(["9"])),
        (
            "Devices",
            json!([{"PathOnHost": "/dev/zero", "PathInContainer": "/dev/mine", "CgroupPermissions": "r"}]),
        ),
        ("DeviceCgroupRules", json!(["c 1:3 r"])),
        ("DeviceRequests", Value::Null),
        ("Memory", json!(64 << 20)),
        ("MemorySwap", json!(128 << 20)),
        ("NanoCpus", json!(1_500_000_000)),
        (
            "BlkioDeviceReadBps",
            json!([{"Path": "/dev/zero", "Rate": 1 << 20}]),
        ),
        ("BlkioDeviceWriteIOps", json!([{"Path": "/dev/zero", "Rate": 7}])),
        ("PidsLimit", json!(9)),
        ("Init", json!(true)),
        ("Annotations", json!({"a": "b"})),
        ("OomScoreAdj", json!(3)),
        ("ShmSize", json!(1 << 20)),
        ("Ulimits", json!([{"Name": "nofile", "Soft": 5, "Hard": 6}])),
        ("Sysctls", json!({"kernel.msgmax": "7"})),
        (
            "RestartPolicy",
            json!({"Name": "on-failure", "MaximumRetryCount": 4}),
        ),
        ("Binds", Value::Null),
        ("CpuCount", json!(0)),
    ] {
        let asked = match field {
            // A host without swap accounting has another answer, and a warning.
            "MemorySwap" if host[field] == json!(-1) => json!(-1),
            _ => value,
        };
        assert_eq!(host[field], asked, "{field}");
    }
    let masked = host["MaskedPaths"].as_array().unwrap();
    assert!(masked.contains(&json!("/proc/kcore")), "{masked:?}");
    let container = &answer[0];
    assert_eq!(container["Config"]["Cmd"][0], "sh", "the image's command");
    assert_eq!(container["Path"], "sh");
    assert_eq!(container["Platform"], "linux");
    assert_eq!(container["ExecIDs"], Value::Null);
    assert!(container["GraphDriver"]["Name"].is_string() && container["AppArmorProfile"].is_string());
    docker.run(&["rm", "asked"]);
}

#[test]
fn options_of_a_run_have_their_effect() {
    let lab = Lab::with_image("e2eruno", 1, 1);
    let docker = lab.docker("node-1");
    namespaces(&docker);
    confinement(&docker);
    limits::devices(&docker);
    limits::limits(&docker);
    limits::refusals(&docker);
    lifecycle::health(&docker);
    lifecycle::settings(&lab, &docker);
    echoes(&docker);
    lifecycle::restarts(&lab, &docker);
    assert_eq!(docker.run(&["ps", "-aq"]), "");
}
