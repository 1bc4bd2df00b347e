//! AppArmor profiles on a kernel that enforces them. Runs inside user-mode Linux.

use std::path::Path;
use std::sync::Once;

use crate::support::{Container, Node, collect, process, within};
use muster_runtime::label::HostLabels;
use muster_runtime::label::apparmor::{self, DEFAULT_PROFILE, DefaultProfile, UNCONFINED};
use muster_runtime::{ExecRequest, RuntimeError};
use serde_json::json;

const CONFINED: &str = "muster-default (enforce)\n";

/// A node with the default profile in its kernel, which takes the parser a second.
fn node() -> Node {
    static LOADED: Once = Once::new();
    LOADED.call_once(|| {
        assert!(HostLabels::detect().apparmor);
        assert_eq!(apparmor::load_default().unwrap(), DefaultProfile::Loaded);
    });
    Node::new()
}

/// A container with every right that capabilities, filter and paths give, so that only the profile is left to refuse.
fn container(node: &Node, script: &str, profile: &str) -> Container {
    let mut container = node.shell(script);
    container.seccomp = false;
    container.config["linux"]["readonlyPaths"] = json!([]);
    let held = container.config["process"]["capabilities"]["bounding"].clone();
    let mut given = held.as_array().unwrap().clone();
    given.push(json!("CAP_SYS_ADMIN"));
    for set in ["bounding", "effective", "permitted"] {
        container.config["process"]["capabilities"][set] = json!(given);
    }
    container.process()["apparmorProfile"] = json!(profile);
    container
}

#[tokio::test]
#[ignore = "runs in user-mode Linux"]
async fn default_profile_is_loaded_by_the_engine() {
    let sys = Path::new("/sys");
    let _node = node();
    assert!(apparmor::is_loaded(sys, DEFAULT_PROFILE).unwrap());
    assert!(!apparmor::is_loaded(sys, "muster-unknown").unwrap());
    // A restarted engine loads it again.
    assert_eq!(apparmor::load_default().unwrap(), DefaultProfile::Loaded);
}

/// What the container's capabilities allow and its profile denies: each line says how it ended.
const ATTEMPTS: &str = "cat /proc/self/attr/current
    try() { if message=$(sh -c \"$1\" 2>&1); then echo done; else echo \"${message##*: }\"; fi; }
    try 'mount -t tmpfs none /tmp'
    try 'echo other > /proc/sys/kernel/hostname'
    try 'echo changeprofile unconfined > /proc/self/attr/current'
    try 'echo other > /proc/self/comm'
    try 'echo 1 > /tmp/file'";

#[tokio::test]
#[ignore = "runs in user-mode Linux"]
async fn profile_denies_what_capabilities_allow() {
    let node = node();
    let (status, output) = node.run(&container(&node, ATTEMPTS, DEFAULT_PROFILE)).await;
    assert_eq!(status.code, 0);
    let denied = "Permission denied\nPermission denied\nPermission denied\n";
    assert_eq!(output, format!("{CONFINED}{denied}done\ndone\n"));
}

#[tokio::test]
#[ignore = "runs in user-mode Linux"]
async fn unconfined_container_is_denied_nothing() {
    let node = node();
    let (status, output) = node.run(&container(&node, ATTEMPTS, UNCONFINED)).await;
    assert_eq!(status.code, 0);
    assert_eq!(output, "unconfined\ndone\ndone\ndone\ndone\ndone\n");
}

/// Reading its label is all that the program does: it had it before its first instruction.
#[tokio::test]
#[ignore = "runs in user-mode Linux"]
async fn program_has_its_label_from_the_start() {
    let node = node();
    for (init, no_new_privileges) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut container = node.container(&["cat", "/proc/self/attr/current"]);
        container.init = init;
        container.process()["apparmorProfile"] = json!(DEFAULT_PROFILE);
        container.process()["noNewPrivileges"] = json!(no_new_privileges);
        let (status, output) = node.run(&container).await;
        assert_eq!((status.code, output.as_str()), (0, CONFINED), "init: {init}");
    }
}

#[tokio::test]
#[ignore = "runs in user-mode Linux"]
async fn exec_has_the_label_from_the_start() {
    let node = node();
    let wait = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done";
    let mut container = container(&node, wait, DEFAULT_PROFILE);
    container.init = true;
    let monitor = node.start(&container).await.unwrap().monitor;
    container.until_logged("ready").await;
    let exec = |arguments: &[&str], profile: &str| {
        let mut process = process(arguments);
        process.set_apparmor_profile(Some(profile.to_owned()));
        monitor.exec(ExecRequest {
            process,
            terminal: false,
            console_size: None,
            stdin_open: false,
            output: true,
        })
    };
    // The tiny init, which no exec replaces, has it too.
    for file in ["/proc/self/attr/current", "/proc/1/attr/current"] {
        let mut session = within(exec(&["cat", file], DEFAULT_PROFILE)).await.unwrap();
        let (out, err) = collect(&mut session.stream.output).await;
        assert_eq!(out, CONFINED, "{file}: {err}");
        assert_eq!(within(session.wait()).await.unwrap(), 0);
    }
    match within(exec(&["true"], "muster-unknown")).await {
        Err(error) => check_unknown(&error),
        Ok(session) => panic!("process {} runs without its profile", session.pid),
    }
    within(monitor.signal(libc::SIGTERM, false)).await.unwrap();
    assert_eq!(within(monitor.wait()).await.unwrap().code, 0);
}

#[tokio::test]
#[ignore = "runs in user-mode Linux"]
async fn unknown_profile_is_refused_at_the_start() {
    let node = node();
    let error = node
        .start(&container(&node, "true", "muster-unknown"))
        .await
        .unwrap_err();
    check_unknown(&error);
}

fn check_unknown(error: &RuntimeError) {
    let message = muster_runtime::describe(error);
    assert!(
        message.contains(
            "AppArmor profile \"muster-unknown\" is not loaded on this node: load it with apparmor_parser"
        ),
        "{message}"
    );
}
