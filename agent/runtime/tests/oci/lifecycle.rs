//! A container's life by commands.

use crate::support::{Runtime, until};
use serde_json::json;

#[test]
fn create_start_kill_delete() {
    let runtime = Runtime::new();
    let config = runtime.config("one", "echo started; exec sleep 1000");
    let bundle = runtime.bundle("one", &config);
    let pid_file = runtime.path("pid");
    let created = runtime.ok(&[
        "create",
        "--bundle",
        bundle.to_str().expect("UTF-8"),
        "--pid-file",
        pid_file.to_str().expect("UTF-8"),
        "one",
    ]);
    let state = runtime.state("one");
    assert_eq!(state["status"], "created");
    assert_eq!(state["ociVersion"], "1.0.2");
    assert_eq!(state["annotations"]["org.example.key"], "value");
    let pid = std::fs::read_to_string(&pid_file).expect("it was written");
    assert_eq!(state["pid"].to_string(), pid);
    assert_eq!(created.out(), "", "the program does not run yet");
    assert!(
        runtime
            .call(&["create", "--bundle", bundle.to_str().expect("UTF-8"), "one"])
            .err
            .contains("already exists")
    );
    runtime.ok(&["start", "one"]);
    until("its output", || created.out() == "started\n");
    assert_eq!(runtime.state("one")["status"], "running");
    assert_ne!(runtime.call(&["start", "one"]).code, 0, "it runs already");
    let refused = runtime.call(&["delete", "one"]);
    assert!(refused.err.contains("not stopped: running"), "{}", refused.err);
    runtime.ok(&["pause", "one"]);
    assert_eq!(runtime.state("one")["status"], "paused");
    assert_eq!(runtime.call(&["exec", "one", "true"]).code, 255);
    runtime.ok(&["resume", "one"]);
    let listed = runtime.ok(&["list", "--format", "json"]).out();
    assert!(
        listed.contains("\"id\":\"one\"") && listed.contains("\"status\":\"running\""),
        "{listed}"
    );
    runtime.ok(&["kill", "one", "KILL"]);
    runtime.until_status("one", "stopped");
    let gone = runtime.call(&["kill", "one", "KILL"]);
    assert!(gone.err.contains("container not running"), "{}", gone.err);
    assert!(
        runtime
            .call(&["exec", "one", "true"])
            .err
            .contains("stopped container")
    );
    runtime.ok(&["delete", "one"]);
    assert!(!runtime.group_path("one").exists(), "its control group is gone");
    assert!(runtime.call(&["state", "one"]).err.contains("does not exist"));
    runtime.ok(&["delete", "--force", "one"]);
}

#[test]
fn run_ends_with_the_containers_exit_code() {
    let runtime = Runtime::new();
    let called = runtime.run("one", &runtime.config("one", "echo out; echo err >&2; exit 7"));
    assert_eq!(
        (called.code, called.out().as_str(), called.err.as_str()),
        (7, "out\n", "err\n")
    );
    assert_eq!(runtime.ok(&["list", "--quiet"]).out(), "", "both are gone");
}

#[test]
fn detached_container_lives_on_and_takes_other_processes() {
    let runtime = Runtime::new();
    let mut config = runtime.config("one", "exec sleep 1000");
    config["process"]["cwd"] = json!("/tmp");
    let bundle = runtime.bundle("one", &config);
    runtime.ok(&["run", "-d", "-b", bundle.to_str().expect("UTF-8"), "one"]);
    let called = runtime.call(&[
        "exec",
        "-e",
        "A=b",
        "-u",
        "7:8",
        "one",
        "sh",
        "-c",
        "pwd; echo $A; id -u; id -g; exit 5",
    ]);
    assert_eq!(
        (called.code, called.out().as_str()),
        (5, "/tmp\nb\n7\n8\n"),
        "{}",
        called.err
    );
    let process = json!({ "user": { "uid": 0, "gid": 0 }, "args": ["readlink", "/proc/self/ns/pid"], "env": ["PATH=/bin"], "cwd": "/" });
    let file = runtime.path("process.json");
    std::fs::write(&file, process.to_string()).expect("the directory is writable");
    let called = runtime.ok(&["exec", "--process", file.to_str().expect("UTF-8"), "one"]);
    let pid = runtime.state("one")["pid"].to_string();
    let namespace = std::fs::read_link(format!("/proc/{pid}/ns/pid")).expect("it runs");
    assert_eq!(called.out().trim(), namespace.to_str().expect("UTF-8"));
    let called = runtime.call(&["exec", "one", "no-such-program"]);
    assert_eq!(called.code, 255);
    assert!(
        called.err.contains("executable file not found in $PATH"),
        "{}",
        called.err
    );
    let pids: Vec<i64> =
        serde_json::from_str(&runtime.ok(&["ps", "--format", "json", "one"]).out()).expect("JSON");
    assert_eq!(pids, [pid.parse::<i64>().expect("a number")]);
    assert!(runtime.ok(&["ps", "one"]).out().contains("sleep 1000"));
    runtime.ok(&["delete", "-f", "one"]);
}

#[test]
fn failures_leave_nothing_and_are_told_in_json() {
    let runtime = Runtime::new();
    let mut config = runtime.config("one", "true");
    config["process"]["args"] = json!(["/no/such/program"]);
    let bundle = runtime.bundle("one", &config);
    let log = runtime.path("log.json");
    let called = runtime.call(&[
        "--log",
        log.to_str().expect("UTF-8"),
        "--log-format",
        "json",
        "create",
        "--bundle",
        bundle.to_str().expect("UTF-8"),
        "one",
    ]);
    assert_eq!(called.code, 1);
    let logged = std::fs::read_to_string(&log).expect("it was written");
    let line: serde_json::Value =
        serde_json::from_str(logged.lines().last().expect("a line")).expect("it is JSON");
    assert_eq!(line["level"], "error");
    assert!(
        line["msg"]
            .as_str()
            .expect("text")
            .contains("no such file or directory"),
        "{line}"
    );
    assert!(!runtime.group_path("one").exists());
    assert!(runtime.call(&["state", "one"]).err.contains("does not exist"));
    for (field, value) in [
        ("ociVersion", json!("7.0.0")),
        ("root", json!({ "path": "/no/such/root" })),
    ] {
        let mut config = runtime.config("two", "true");
        config[field] = value;
        assert_ne!(runtime.run("two", &config).code, 0, "{field}");
    }
}

#[test]
fn unknown_capabilities_are_left_out_with_a_warning() {
    let runtime = Runtime::new();
    let mut config = runtime.config("one", "exec cat /proc/self/status");
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = json!(["CAP_KILL", "CAP_OF_TOMORROW"]);
    }
    let called = runtime.run("one", &config);
    assert_eq!(called.code, 0, "{}", called.err);
    let warning = "ignoring unknown or unavailable capabilities: [CAP_OF_TOMORROW]";
    assert!(called.err.contains(warning), "{}", called.err);
    assert!(
        called.out().contains("CapEff:\t0000000000000020"),
        "{}",
        called.out()
    );
}

#[test]
fn what_is_not_supported_is_said() {
    let runtime = Runtime::new();
    let bundle = runtime.bundle("one", &runtime.config("one", "true"));
    let bundle = bundle.to_str().expect("UTF-8");
    for (arguments, wanted) in [
        (
            &["--systemd-cgroup", "run", "-b", bundle, "one"][..],
            "slice:prefix:name",
        ),
        (
            &["--rootless", "true", "run", "-b", bundle, "one"],
            "run it as root",
        ),
        (&["run", "--no-pivot", "-b", bundle, "one"], "--no-pivot"),
        (&["run", "-b", bundle, "../one"], "invalid container ID"),
        (&["checkpoint", "one"], "unknown command"),
    ] {
        let called = runtime.call(arguments);
        assert_eq!(called.code, 1, "{arguments:?}");
        assert!(called.err.contains(wanted), "{arguments:?}: {}", called.err);
    }
    let mut config = runtime.config("two", "true");
    config["linux"]["intelRdt"] = json!({ "closID": "a" });
    assert!(runtime.run("two", &config).err.contains("Intel RDT"));
    let mut config = runtime.config("three", "true");
    config["linux"]["seccomp"] =
        json!({ "defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/run/agent.sock" });
    assert!(runtime.run("three", &config).err.contains("the default action"));
}

#[test]
fn descriptors_are_passed_on_only_where_that_was_asked_for() {
    let runtime = Runtime::new();
    let config = runtime.config("one", "echo /proc/self/fd/*; echo passed >&3");
    let bundle = runtime.bundle("one", &config);
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", "exec 3>&0 0< /dev/null; exec \"$0\" \"$@\""]);
    command
        .arg(&runtime.program)
        .arg("--root")
        .arg(runtime.path("state"));
    command.args([
        "run",
        "--preserve-fds",
        "1",
        "-b",
        bundle.to_str().expect("UTF-8"),
        "one",
    ]);
    let file = std::fs::File::create(runtime.path("passed")).expect("the directory is writable");
    command.stdin(file);
    let output = command.output().expect("there is a shell");
    let out = crate::support::printed("run", &output);
    assert!(
        out.starts_with("/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3"),
        "{out}"
    );
    assert!(!out.contains("/fd/4 "), "{out}");
    assert_eq!(
        std::fs::read_to_string(runtime.path("passed")).expect("it is there"),
        "passed\n"
    );
    // With one, the first that the runtime has opened for itself would be in its place.
    for missing in ["1", "7"] {
        let called = runtime.call(&[
            "run",
            "--preserve-fds",
            missing,
            "-b",
            bundle.to_str().expect("UTF-8"),
            "two",
        ]);
        assert!(called.err.contains("pass descriptor"), "{}", called.err);
    }
}

#[test]
fn a_stream_that_the_caller_has_closed_leads_nowhere() {
    let runtime = Runtime::new();
    let config = runtime.config("one", "readlink /proc/self/fd/0");
    let bundle = runtime.bundle("one", &config);
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", "exec \"$0\" \"$@\" <&-"]);
    command
        .arg(&runtime.program)
        .arg("--root")
        .arg(runtime.path("state"));
    command.args(["run", "-b", bundle.to_str().expect("UTF-8"), "one"]);
    let output = command.output().expect("there is a shell");
    assert_eq!(crate::support::printed("run", &output), "/dev/null\n");
}

#[test]
fn a_container_has_a_network_of_its_own_with_a_loopback_device() {
    let runtime = Runtime::new();
    let own = std::fs::read_link("/proc/self/ns/net").expect("procfs is mounted");
    let script = "readlink /proc/self/ns/net; ls /sys/class/net; cat /sys/class/net/lo/flags";
    let mut config = runtime.config("one", script);
    let mounts = config["mounts"].as_array_mut().expect("it is a list");
    mounts.push(json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"] }));
    let out = runtime.run("one", &config).out();
    let lines: Vec<&str> = out.lines().collect();
    let [namespace, "lo", flags] = lines[..] else {
        panic!("{out}");
    };
    assert_ne!(namespace, own.to_str().expect("UTF-8"));
    let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).expect("it is a number");
    assert_eq!(flags & libc::IFF_UP as u32, libc::IFF_UP as u32, "{out}");

    let mut config = runtime.config("two", "readlink /proc/self/ns/net");
    let namespaces = config["linux"]["namespaces"]
        .as_array_mut()
        .expect("it is a list");
    namespaces.retain(|namespace| namespace["type"] != "network");
    let shared = runtime.run("two", &config).out();
    assert_eq!(shared.trim(), own.to_str().expect("UTF-8"));
}

#[test]
fn features_and_a_first_specification() {
    let runtime = Runtime::new();
    let features: serde_json::Value =
        serde_json::from_str(&runtime.ok(&["features"]).out()).expect("it is JSON");
    assert_eq!(features["linux"]["cgroup"]["v2"], true);
    let bundle = runtime.path("fresh");
    std::fs::create_dir(&bundle).expect("the directory is writable");
    let bundle = bundle.to_str().expect("UTF-8");
    runtime.ok(&["spec", "-b", bundle]);
    assert!(
        runtime.call(&["spec", "-b", bundle]).err.contains("remove one"),
        "it is not overwritten"
    );
}
