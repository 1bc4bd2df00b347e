//! `muster oci` on a kernel with control groups v2, and on one that enforces AppArmor profiles. Runs inside user-mode Linux.

use crate::oci_support::Runtime;
use muster_runtime::label::apparmor::{self, DEFAULT_PROFILE, DefaultProfile};
use serde_json::{Value, json};

#[test]
#[ignore = "runs in user-mode Linux"]
fn limits_of_v2_are_set_changed_and_counted() {
    let runtime = Runtime::new();
    let mut config = runtime.config("one", "exec sleep 100000");
    config["linux"]["resources"] = json!({
        "memory": { "limit": 64 << 20, "reservation": 16 << 20 },
        "cpu": { "shares": 1024, "quota": 50_000, "period": 100_000 },
        "pids": { "limit": 20 },
    });
    runtime.create("one", &config);
    runtime.ok(&["start", "one"]);
    let group = runtime.group_path("one");
    let read = |file: &str| {
        let path = group.join(file);
        let content = std::fs::read_to_string(&path);
        content
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .trim()
            .to_owned()
    };
    assert_eq!(read("memory.max"), (64 << 20).to_string());
    assert_eq!(read("memory.low"), (16 << 20).to_string());
    assert_eq!(read("cpu.max"), "50000 100000");
    assert_eq!(read("pids.max"), "20");
    runtime.ok(&["pause", "one"]);
    assert_eq!(
        (
            runtime.state("one")["status"].as_str(),
            read("cgroup.freeze").as_str()
        ),
        (Some("paused"), "1")
    );
    runtime.ok(&["resume", "one"]);
    runtime.until_status("one", "running");
    runtime.ok(&["update", "--memory", "33554432", "--pids-limit", "7", "one"]);
    assert_eq!(
        (read("memory.max").as_str(), read("pids.max").as_str()),
        ("33554432", "7")
    );
    let events: Value = serde_json::from_str(&runtime.ok(&["events", "--stats", "one"]).out()).unwrap();
    assert_eq!(events["data"]["pids"], json!({ "current": 1, "limit": 7 }));
    assert_eq!(events["data"]["memory"]["usage"]["limit"], 33_554_432);
    assert_eq!(
        runtime
            .ok(&["exec", "one", "cat", "/proc/self/cgroup"])
            .out()
            .lines()
            .count(),
        1
    );
    let processes: Value =
        serde_json::from_str(&runtime.ok(&["ps", "--format", "json", "one"]).out()).unwrap();
    assert_eq!(processes, json!([runtime.state("one")["pid"]]));
    runtime.ok(&["kill", "--all", "one", "KILL"]);
    runtime.until_status("one", "stopped");
    runtime.ok(&["delete", "one"]);
    assert!(!group.exists());
}

#[test]
#[ignore = "runs in user-mode Linux"]
fn disk_nodes_of_v2_are_useless_in_a_container() {
    let runtime = Runtime::new();
    let script = "busybox mknod /disk b 98 0 && busybox dd if=/disk of=/dev/null count=1; \
                  busybox dd if=/dev/zero of=/dev/null count=1 2>/dev/null && echo zero works";
    let mut config = runtime.config("one", script);
    for set in ["bounding", "effective", "permitted"] {
        let set = config["process"]["capabilities"][set].as_array_mut().unwrap();
        set.push(json!("CAP_MKNOD"));
    }
    config["linux"]["resources"] = json!({ "devices": [
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "b", "access": "m" },
        { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" },
        { "allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm" },
    ] });
    let called = runtime.run("one", &config);
    let refused = "can't open '/disk': Operation not permitted";
    assert!(called.err.contains(refused), "{}", called.err);
    assert_eq!(called.out(), "zero works\n");
}

#[test]
#[ignore = "runs in user-mode Linux"]
fn profiles_confine_what_is_run_and_what_is_executed() {
    assert_eq!(apparmor::load_default().unwrap(), DefaultProfile::Loaded);
    let runtime = Runtime::new();
    let confined = "muster-default (enforce)\n";
    let mut config = runtime.config("one", "cat /proc/self/attr/current");
    config["process"]["apparmorProfile"] = json!(DEFAULT_PROFILE);
    let called = runtime.run("one", &config);
    assert_eq!(
        (called.code, called.out().as_str()),
        (0, confined),
        "{}",
        called.err
    );

    config["process"]["args"] = json!(["/bin/sleep", "100000"]);
    runtime.create("one", &config);
    runtime.ok(&["start", "one"]);
    let label = |arguments: &[&str]| {
        let command = ["one", "cat", "/proc/self/attr/current"];
        runtime.call(&[&["exec"], arguments, &command[..]].concat())
    };
    assert_eq!(label(&[]).out(), confined);
    let refused = label(&["--apparmor", "muster-unknown"]);
    assert_eq!(refused.code, 255);
    assert!(
        refused
            .err
            .contains("AppArmor profile \"muster-unknown\" is not loaded"),
        "{}",
        refused.err
    );
    runtime.ok(&["delete", "--force", "one"]);
    config["process"]["apparmorProfile"] = json!("muster-unknown");
    let refused = runtime.run("one", &config);
    assert!(
        refused.err.contains("is not loaded on this node"),
        "{}",
        refused.err
    );
    let features: Value = serde_json::from_str(&runtime.ok(&["features"]).out()).unwrap();
    assert_eq!(features["linux"]["apparmor"]["enabled"], true);
}
