//! Services with one task on every node.

use crate::support::{IMAGE, LONG, Lab, eventually};
use std::collections::BTreeSet;

/// Waits until the service runs exactly once on each of these nodes.
#[track_caller]
fn await_nodes(lab: &Lab, nodes: &[&str]) {
    let tasks = lab.await_running("node-1", "web", nodes.len(), |tasks| {
        let on: BTreeSet<&str> = tasks.values().map(String::as_str).collect();
        on == nodes.iter().copied().collect()
    });
    assert_eq!(tasks.len(), nodes.len());
}

#[test]
fn a_global_service_runs_once_on_every_node_that_takes_tasks() {
    let lab = Lab::with_image("e2eglob", 3, 1);
    let docker = lab.docker("node-1");
    let late = lab.docker("node-3");
    late.run(&["swarm", "leave"]);
    lab.await_listed("node-1", "node-3", "Down Active");
    docker.run(&["node", "rm", "node-3"]);

    docker.run(&[
        "service", "create", "-d", "-q", "--name", "web", "--mode", "global", IMAGE,
    ]);
    await_nodes(&lab, &["node-1", "node-2"]);
    let listed = "{{.Name}} {{.Mode}} {{.Replicas}}";
    assert_eq!(
        docker.run(&["service", "ls", "--format", listed]),
        "web global 2/2"
    );
    let refused = docker.refuse(&["service", "scale", "-d", "web=5"]);
    assert!(
        refused.contains("scale can only be used with replicated"),
        "{refused}"
    );

    // A node that joins gets a task.
    let token = docker.run(&["swarm", "join-token", "-q", "worker"]);
    let leader = format!("{}:2377", lab.address("node-1"));
    late.run(&["swarm", "join", "--token", &token, &leader]);
    await_nodes(&lab, &["node-1", "node-2", "node-3"]);

    // A drained one stops its task, which runs nowhere else, and starts one when it is active again.
    docker.run(&["node", "update", "--availability", "drain", "node-2"]);
    await_nodes(&lab, &["node-1", "node-3"]);
    eventually("node-2 to be empty", LONG, || {
        let left = lab.docker("node-2").run(&["ps", "-q"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    docker.run(&["node", "update", "--availability", "active", "node-2"]);
    await_nodes(&lab, &["node-1", "node-2", "node-3"]);

    // Constraints choose among the nodes.
    docker.run(&[
        "service",
        "update",
        "-d",
        "--constraint-add",
        "node.role==worker",
        "web",
    ]);
    await_nodes(&lab, &["node-2", "node-3"]);
}
