//! Processes that are started in a running container, with control groups v2 alone. Runs inside user-mode Linux.

use crate::support::{Container, Node, collect, process, within};
use muster_runtime::cgroup::Cgroup;
use muster_runtime::{ExecRequest, Monitor, RuntimeError};
use serde_json::{Value, json};

fn request(arguments: &[&str]) -> ExecRequest {
    ExecRequest {
        process: process(arguments),
        terminal: false,
        console_size: None,
        stdin_open: false,
        output: true,
    }
}

/// Starts a container that says `ready` after `script` and then runs until it is told to end.
async fn running(node: &Node, script: &str, resources: Value, groups: &str) -> (Container, Monitor) {
    let wait = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done";
    let mut container = node.shell(&format!("{script}\n{wait}"));
    container.config["linux"]["resources"] = resources;
    let mounts = container.config["mounts"].as_array_mut().unwrap();
    let mount = mounts.iter_mut().find(|mount| mount["type"] == "cgroup").unwrap();
    mount["options"] = json!([groups, "nosuid", "noexec", "nodev"]);
    let monitor = node.start(&container).await.unwrap().monitor;
    container.until_logged("ready").await;
    (container, monitor)
}

async fn output_of(monitor: &Monitor, arguments: &[&str]) -> String {
    let mut session = within(monitor.exec(request(arguments))).await.unwrap();
    let (out, err) = collect(&mut session.stream.output).await;
    assert_eq!(within(session.wait()).await.unwrap(), 0, "{out}{err}");
    out
}

async fn stop(monitor: &Monitor) {
    within(monitor.signal(libc::SIGTERM, false)).await.unwrap();
    assert_eq!(within(monitor.wait()).await.unwrap().code, 0);
}

/// A program that only reads has what it reads from before its first instruction.
#[tokio::test]
#[ignore = "runs in user-mode Linux"]
async fn exec_has_group_filter_and_capabilities_from_the_start() {
    let node = Node::new();
    let limits = json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 50 } });
    let (container, monitor) = running(&node, "", limits, "ro").await;
    assert_eq!(output_of(&monitor, &["cat", "/proc/self/cgroup"]).await, "0::/\n");
    let limit = output_of(&monitor, &["cat", "/sys/fs/cgroup/memory.max"]).await;
    assert_eq!(limit.trim(), (64 << 20).to_string());
    let rights = ["grep", "-E", "^(Seccomp|Cap...):"];
    let of_init = output_of(&monitor, &[&rights[..], &["/proc/1/status"]].concat()).await;
    let of_exec = output_of(&monitor, &[&rights[..], &["/proc/self/status"]].concat()).await;
    assert_eq!(of_exec, of_init);
    assert!(
        of_exec.contains("Seccomp:\t2") && of_exec.contains("CapEff:\t00000000a80425fb"),
        "{of_exec}"
    );

    let session = within(monitor.exec(request(&["sleep", "1000"]))).await.unwrap();
    let group = Cgroup::open(&node.root, container.cgroup_path()).unwrap();
    assert!(group.pids().unwrap().contains(&session.pid));
    stop(&monitor).await;
}

/// The kernel refuses to make the process: it is born in the group, not moved there.
#[tokio::test]
#[ignore = "runs in user-mode Linux"]
async fn exec_is_refused_where_the_group_has_no_room_for_a_process() {
    let node = Node::new();
    let limits = json!({ "pids": { "limit": 3 } });
    let script = "sleep 1000 & sleep 1000 & trap 'exit 0' TERM; echo ready; while :; do wait; done";
    let (_container, monitor) = running(&node, script, limits, "ro").await;
    match within(monitor.exec(request(&["true"]))).await {
        Err(error) => {
            let message = muster_runtime::describe(&error);
            assert!(message.contains("Resource temporarily unavailable"), "{message}");
        }
        Ok(session) => panic!("process {} was started beyond the limit", session.pid),
    }
    stop(&monitor).await;
}

/// A container that manages groups of its own (systemd, an engine) has no processes in its group's root.
#[tokio::test]
#[ignore = "runs in user-mode Linux"]
async fn exec_joins_the_group_that_the_containers_init_moved_to() {
    let node = Node::new();
    let script = "cd /sys/fs/cgroup && mkdir init && echo 1 > init/cgroup.procs && \
                  echo +memory > cgroup.subtree_control || exit 9";
    let (_container, monitor) = running(&node, script, json!({}), "rw").await;
    assert_eq!(
        output_of(&monitor, &["cat", "/proc/self/cgroup"]).await,
        "0::/init\n"
    );
    stop(&monitor).await;
}

#[tokio::test]
#[ignore = "runs in user-mode Linux"]
async fn exec_of_a_missing_program_leaves_the_group_as_it_was() {
    let node = Node::new();
    let (container, monitor) = running(&node, "", json!({}), "ro").await;
    match within(monitor.exec(request(&["no-such-command"]))).await {
        Err(RuntimeError::Start { code: 127, .. }) => {}
        other => panic!("{other:?}"),
    }
    let group = Cgroup::open(&node.root, container.cgroup_path()).unwrap();
    let own = monitor.pid();
    let init_and_its_sleep = |pids: &[i32]| pids.contains(&own) && pids.len() <= 2;
    let pids = group.pids().unwrap();
    assert!(init_and_its_sleep(&pids), "{pids:?}");
    stop(&monitor).await;
}
