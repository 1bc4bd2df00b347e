//! Hooks of a container's life.

use crate::support::{Runtime, until};
use serde_json::{Value, json};
use std::path::Path;

fn hook(script: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"] })
}

/// A hook that writes its name and the status that it was told.
fn noting(log: &Path, name: &str) -> Value {
    hook(&format!(
        "read state; status=${{state#*\\\"status\\\":\\\"}}; echo {name} ${{status%%\\\"*}} >> {}",
        log.display()
    ))
}

#[test]
fn hooks_run_in_their_order_and_places() {
    let runtime = Runtime::new();
    let log = runtime.path("log");
    let mut config = runtime.config("one", "echo program >> /log; exec sleep 1000");
    config["hooks"] = json!({
        "prestart": [noting(&log, "prestart")],
        "createRuntime": [noting(&log, "createRuntime")],
        // The host's files are still in reach, with the container's host name not yet set.
        "createContainer": [noting(&log, "createContainer")],
        // The container's own files: `log` of its root.
        "startContainer": [hook("read state; readlink /proc/self/ns/uts >> /log; id -u >> /log")],
        "poststart": [noting(&log, "poststart")],
        "poststop": [noting(&log, "poststop")],
    });
    runtime.create("one", &config);
    let noted = || std::fs::read_to_string(&log).expect("it was written");
    assert_eq!(
        noted(),
        "prestart creating\ncreateRuntime creating\ncreateContainer creating\n"
    );
    let pid = runtime.state("one")["pid"].to_string();
    let namespace = std::fs::read_link(format!("/proc/{pid}/ns/uts")).expect("it waits");
    runtime.ok(&["start", "one"]);
    let inside = runtime.rootfs().join("log");
    let expected = format!("{}\n0\nprogram\n", namespace.display());
    until("the program", || {
        std::fs::read_to_string(&inside).unwrap_or_default() == expected
    });
    runtime.ok(&["delete", "-f", "one"]);
    assert!(
        noted().ends_with("poststart running\npoststop stopped\n"),
        "{}",
        noted()
    );
}

#[test]
fn failed_hooks_before_the_start_end_the_container() {
    for point in ["prestart", "createRuntime", "createContainer"] {
        let runtime = Runtime::new();
        let mut config = runtime.config("one", "true");
        config["hooks"] = json!({ point: [hook("echo no such luck >&2; exit 3")] });
        let bundle = runtime.bundle("one", &config);
        let called = runtime.call(&["create", "-b", bundle.to_str().expect("UTF-8"), "one"]);
        assert_eq!(called.code, 1);
        assert!(
            called.err.contains(point) && called.err.contains("no such luck"),
            "{}",
            called.err
        );
        assert!(runtime.call(&["state", "one"]).err.contains("does not exist"));
        assert!(!runtime.group_path("one").exists());
    }
}

#[test]
fn failed_hooks_of_the_start_end_it_and_later_ones_only_warn() {
    let runtime = Runtime::new();
    let mut config = runtime.config("one", "exec sleep 1000");
    config["hooks"] = json!({ "startContainer": [hook("exit 1")] });
    runtime.create("one", &config);
    let started = runtime.call(&["start", "one"]);
    assert!(started.err.contains("startContainer"), "{}", started.err);
    runtime.until_status("one", "stopped");
    runtime.ok(&["delete", "one"]);
    let log = runtime.path("log");
    config["hooks"] = json!({
        "poststart": [hook("exit 1"), noting(&log, "second")],
        "poststop": [hook("exit 1"), noting(&log, "last")],
    });
    runtime.create("one", &config);
    let started = runtime.ok(&["start", "one"]);
    assert!(started.err.contains("poststart hook #0"), "{}", started.err);
    let deleted = runtime.ok(&["delete", "-f", "one"]);
    assert!(deleted.err.contains("poststop hook #0"), "{}", deleted.err);
    assert_eq!(
        std::fs::read_to_string(&log).expect("both ran"),
        "second running\nlast stopped\n"
    );
}

#[test]
fn a_hook_that_hangs_is_ended() {
    let runtime = Runtime::new();
    let mut config = runtime.config("one", "true");
    // One process: only the hook itself is killed.
    let mut slow = hook("exec sleep 1000");
    slow["timeout"] = json!(1);
    config["hooks"] = json!({ "createRuntime": [slow] });
    let called = runtime.run("one", &config);
    assert!(called.err.contains("within 1 s"), "{}", called.err);
}
