//! Somebody else decides about system calls of a container.

use crate::agent::{Seen, agent, listen};
use crate::support::Runtime;
use serde_json::{Value, json};
use std::path::Path;

fn notifying(runtime: &Runtime, script: &str, path: &Path) -> Value {
    let mut config = runtime.config("one", script);
    config["annotations"] = json!({ "a": "b" });
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": path,
        "listenerMetadata": "meta",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }],
    });
    config
}

fn check(seen: &Seen, pid: &Value, status: &str) {
    let state = &seen.state;
    assert_eq!(
        (&state["pid"], &state["metadata"], &state["fds"]),
        (pid, &json!("meta"), &json!(["seccompFd"]))
    );
    assert!(state["ociVersion"].is_string(), "{state}");
    let container = &state["state"];
    assert_eq!(
        (&container["id"], &container["status"]),
        (&json!("one"), &json!(status))
    );
    assert_eq!(container["annotations"], json!({ "a": "b" }));
    assert!(
        seen.calls
            .iter()
            .all(|call| [libc::SYS_mkdir as i32, libc::SYS_mkdirat as i32].contains(call))
    );
}

#[test]
fn an_agent_decides_about_calls_of_the_program_and_of_others() {
    let runtime = Runtime::new();
    let path = runtime.path("agent");
    let told = agent(listen(&path), 1);
    let config = notifying(&runtime, "mkdir /made 2>/said; exec sleep 1000", &path);
    runtime.create("one", &config);
    let pid = runtime.state("one")["pid"].clone();
    runtime.ok(&["start", "one"]);
    check(&told.join().expect("the agent is fine"), &pid, "created");
    let said = runtime.rootfs().join("said");
    crate::support::until("the refusal", || {
        std::fs::read_to_string(&said)
            .unwrap_or_default()
            .to_lowercase()
            .contains("quota exceeded")
    });
    assert!(!runtime.rootfs().join("made").exists());

    let told = agent(listen(&path), 1);
    let called = runtime.call(&["exec", "one", "sh", "-c", "mkdir /more"]);
    assert_eq!(called.code, 1, "{}", called.err);
    assert!(
        called.err.to_lowercase().contains("quota exceeded"),
        "{}",
        called.err
    );
    let seen = told.join().expect("the agent is fine");
    assert_ne!(seen.state["pid"], pid);
    check(&seen, &seen.state["pid"], "running");
    runtime.ok(&["delete", "-f", "one"]);
}

#[test]
fn a_container_that_is_run_at_once_has_its_agent_too() {
    let runtime = Runtime::new();
    let path = runtime.path("agent");
    let told = agent(listen(&path), 2);
    let mut config = notifying(&runtime, "mkdir /a; mkdir /b; echo done", &path);
    config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    let called = runtime.run("one", &config);
    assert_eq!(called.out(), "done\n", "{}", called.err);
    let seen = told.join().expect("the agent is fine");
    check(&seen, &seen.state["state"]["pid"], "creating");
}

#[test]
fn nobody_at_the_socket_fails_the_start_and_leaves_nothing() {
    let runtime = Runtime::new();
    let path = runtime.path("nobody");
    let config = notifying(&runtime, "true", &path);
    runtime.create("one", &config);
    let called = runtime.call(&["start", "one"]);
    assert_ne!(called.code, 0);
    assert!(
        called.err.contains("send the listener of the system call filter"),
        "{}",
        called.err
    );
    runtime.until_status("one", "stopped");
    runtime.ok(&["delete", "one"]);
    let called = runtime.run("one", &config);
    assert!(
        called.err.contains("send the listener of the system call filter"),
        "{}",
        called.err
    );
    assert_ne!(runtime.call(&["state", "one"]).code, 0);
}

/// One that takes the listener and says nothing.
#[test]
fn an_agent_that_does_not_answer_does_not_hold_a_start_for_ever() {
    let runtime = Runtime::new();
    let path = runtime.path("agent");
    let mut config = notifying(&runtime, "true", &path);
    config["linux"]["seccomp"]["syscalls"][0]["names"] = json!(["execve"]);
    let silent = agent(listen(&path), 0);
    runtime.create("one", &config);
    let called = runtime.call(&["start", "one"]);
    assert_ne!(called.code, 0);
    assert!(
        called
            .err
            .contains("(listenerPath) did not let the process start within 10 s"),
        "{}",
        called.err
    );
    drop(silent.join().expect("the agent is fine").listener);
    runtime.until_status("one", "stopped");
    runtime.ok(&["delete", "one"]);
}
