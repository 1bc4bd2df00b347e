//! Three controllers and two workers.

use crate::support::{IMAGE, LONG, Lab, eventually};
use std::collections::BTreeSet;

#[test]
fn an_image_loaded_on_one_node_runs_on_all_and_replicas_spread() {
    let lab = Lab::with_image("e2espr", 5, 3);
    let nodes = lab.nodes("node-3").unwrap();
    assert_eq!(nodes["node-1"], "Ready Active Leader");
    assert_eq!(nodes["node-2"], "Ready Active Reachable");
    assert_eq!(nodes["node-3"], "Ready Active Reachable");
    assert_eq!(nodes["node-4"], "Ready Active");
    assert_eq!(nodes["node-5"], "Ready Active");
    lab.create_web(10);
    let tasks = lab.await_running("node-2", "web", 10, |_| true);
    for node in nodes.keys() {
        assert_eq!(tasks.values().filter(|on| *on == node).count(), 2, "{tasks:?}");
        assert_eq!(lab.docker(node).lines(&["ps", "-q"]).len(), 2);
    }
}

#[test]
fn a_follower_answers_as_the_leader_and_a_worker_refuses() {
    let lab = Lab::with_image("e2efol", 3, 2);
    // The image is on node-1 alone: a worker and a follower fetch it where a user names it.
    for node in ["node-2", "node-3"] {
        let docker = lab.docker(node);
        assert_eq!(docker.run(&["run", "--rm", IMAGE, "echo", "here"]), "here");
        let again = docker.run(&["pull", IMAGE]);
        assert!(again.contains("Image is up to date"), "{again}");
        let nowhere = docker.refuse(&["pull", "nosuch:1"]);
        assert!(
            nowhere.contains("no node of the cluster has nosuch:1"),
            "{node}: {nowhere}"
        );
    }
    let (follower, worker) = (lab.docker("node-2"), lab.docker("node-3"));
    follower.run(&[
        "service",
        "create",
        "-d",
        "-q",
        "--name",
        "web",
        "--replicas",
        "2",
        IMAGE,
    ]);
    lab.await_running("node-2", "web", 2, |_| true);
    assert_eq!(
        follower.run(&["service", "ls", "--format", "{{.Name}} {{.Replicas}}"]),
        "web 2/2"
    );
    follower.run(&["service", "scale", "-d", "web=3"]);
    lab.await_running("node-2", "web", 3, |_| true);
    follower.run(&["service", "update", "-d", "--label-add", "a=b", "web"]);
    assert_eq!(
        follower.run(&["service", "inspect", "--format", "{{.Spec.Labels.a}}", "web"]),
        "b"
    );
    follower.run(&["node", "update", "--label-add", "zone=a", "node-3"]);
    assert_eq!(
        follower.run(&["node", "inspect", "--format", "{{.Spec.Labels.zone}}", "node-3"]),
        "a"
    );
    for node in ["node-1", "node-2", "node-3"] {
        let states = follower.lines(&["node", "ps", "--format", "{{.Name}} {{.Node}}", node]);
        assert_eq!(states.len(), 1, "{states:?}");
        assert!(states[0].ends_with(node), "{states:?}");
    }
    let token = follower.run(&["swarm", "join-token", "-q", "worker"]);
    assert!(token.starts_with("SWMTKN-1-"), "{token}");
    assert_eq!(
        token,
        lab.docker("node-1").run(&["swarm", "join-token", "-q", "worker"])
    );
    let rotated = follower.run(&["swarm", "join-token", "-q", "--rotate", "worker"]);
    assert_ne!(rotated, token);
    follower.run(&["service", "rm", "web"]);
    assert_eq!(lab.docker("node-1").run(&["service", "ls", "-q"]), "");

    for command in [
        &["node", "ls"][..],
        &["service", "ls"],
        &["swarm", "join-token", "worker"],
    ] {
        let refused = worker.refuse(command);
        assert!(refused.contains("This node is not a swarm manager"), "{refused}");
    }
    let state = worker.run(&[
        "info",
        "--format",
        "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}",
    ]);
    assert_eq!(state, "active false");
}

#[test]
fn roles_change_at_run_time() {
    let lab = Lab::up("e2erole", 3, 1);
    let docker = lab.docker("node-1");
    let last = docker.refuse(&["node", "demote", "node-1"]);
    assert!(last.contains("last manager"), "{last}");
    docker.run(&["node", "promote", "node-2"]);
    lab.await_listed("node-1", "node-2", "Ready Active Reachable");
    docker.run(&["node", "promote", "node-3"]);
    lab.await_listed("node-1", "node-3", "Ready Active Reachable");
    assert_eq!(lab.nodes("node-3").unwrap().len(), 3);

    docker.run(&["node", "demote", "node-2"]);
    lab.await_listed("node-1", "node-2", "Ready Active");
    eventually("the demoted node to refuse", LONG, || {
        let output = lab.docker("node-2").try_run(&["node", "ls"]);
        if output.stderr.contains("This node is not a swarm manager") {
            Ok(())
        } else {
            Err(output)
        }
    });
}

#[test]
fn a_node_leaves_and_is_removed() {
    let lab = Lab::with_image("e2eleav", 3, 1);
    let docker = lab.docker("node-1");
    lab.create_web(3);
    lab.await_running("node-1", "web", 3, |_| true);
    let ready = docker.refuse(&["node", "rm", "node-3"]);
    assert!(ready.contains("is not down and can't be removed"), "{ready}");
    lab.docker("node-3").run(&["swarm", "leave"]);
    lab.await_listed("node-1", "node-3", "Down Active");
    docker.run(&["node", "rm", "node-3"]);
    assert!(!lab.nodes("node-1").unwrap().contains_key("node-3"));
    lab.await_running("node-1", "web", 3, |tasks| {
        tasks.values().all(|node| node != "node-3")
    });
    let state = lab
        .docker("node-3")
        .run(&["info", "--format", "{{.Swarm.LocalNodeState}}"]);
    assert_eq!(state, "inactive");

    let token = docker.run(&["swarm", "join-token", "-q", "worker"]);
    // Whoever joins compares the root's digest in the token with the root that it is shown.
    let digit = if &token[9..10] == "0" { "1" } else { "0" };
    let other_root = format!("{}{digit}{}", &token[..9], &token[10..]);
    let refused = lab
        .docker("node-3")
        .refuse(&["swarm", "join", "--token", &other_root, "10.77.0.2:2377"]);
    assert!(
        refused.contains("remote CA does not match fingerprint"),
        "{refused}"
    );
    let wrong = format!("{token}x");
    let refused = lab
        .docker("node-3")
        .refuse(&["swarm", "join", "--token", &wrong, "10.77.0.2:2377"]);
    assert!(refused.contains("token"), "{refused}");
    lab.docker("node-3")
        .run(&["swarm", "join", "--token", &token, "10.77.0.2:2377"]);
    lab.await_listed("node-1", "node-3", "Ready Active");
}

#[test]
fn a_drained_node_is_emptied_and_used_again_when_active() {
    let lab = Lab::with_image("e2edrn", 3, 1);
    let docker = lab.docker("node-1");
    lab.create_web(6);
    lab.await_running("node-1", "web", 6, |_| true);
    docker.run(&["node", "update", "--availability", "drain", "node-3"]);
    lab.await_running("node-1", "web", 6, |tasks| {
        tasks.values().all(|node| node != "node-3")
    });
    eventually("the drained node to be empty", LONG, || {
        let left = lab.docker("node-3").run(&["ps", "-q"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    docker.run(&["node", "update", "--availability", "active", "node-3"]);
    docker.run(&["service", "scale", "-d", "web=9"]);
    let tasks = lab.await_running("node-1", "web", 9, |_| true);
    let nodes: BTreeSet<&str> = tasks.values().map(String::as_str).collect();
    assert!(nodes.contains("node-3"), "{tasks:?}");
}
