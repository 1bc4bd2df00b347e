//! Daemons and nodes that are killed without warning.

use crate::support::{IMAGE, LONG, Lab, eventually};
use std::time::{Duration, Instant};

/// The issue asks for one second on a quiet machine; this leaves room for a busy one.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn containers_of_a_killed_daemon_run_on_and_are_found_again() {
    let lab = Lab::with_image("e2eworkr", 2, 1);
    lab.create_web(4);
    let tasks = lab.await_running("node-1", "web", 4, |_| true);
    lab.docker("node-2").run(&["run", "-d", "--name", "own", IMAGE]);
    let before = lab.containers("node-2");
    assert_eq!(before.len(), 3, "{before:?}");
    lab.kill_daemon("node-2");
    lab.start("node-2");
    lab.await_daemon("node-2");
    assert_eq!(lab.containers("node-2"), before);
    assert_eq!(
        lab.docker("node-2").run(&["exec", "own", "echo", "alive"]),
        "alive"
    );
    lab.await_running("node-1", "web", 4, |now| *now == tasks);
}

#[test]
fn logs_and_exit_statuses_of_the_time_without_a_daemon_are_kept() {
    let lab = Lab::with_image("e2edown", 1, 1);
    let docker = lab.docker("node-1");
    let directory = lab.directory().join("shared");
    std::fs::create_dir(&directory).unwrap();
    let bind = format!("{}:/shared", directory.display());
    let script =
        "echo before; while ! test -e /shared/go; do sleep 0.1; done; echo after; touch /shared/gone; exit 7";
    docker.run(&[
        "run", "-d", "--name", "one", "-v", &bind, IMAGE, "sh", "-c", script,
    ]);
    eventually("the first line", LONG, || match docker.run(&["logs", "one"]) {
        logs if logs == "before" => Ok(()),
        logs => Err(logs),
    });
    lab.kill_daemon("node-1");
    std::fs::write(directory.join("go"), "").unwrap();
    eventually("the container to end", LONG, || {
        std::fs::metadata(directory.join("gone"))
    });
    lab.start("node-1");
    lab.await_daemon("node-1");
    assert_eq!(docker.run(&["wait", "one"]), "7");
    assert_eq!(
        docker.run(&[
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.ExitCode}}",
            "one"
        ]),
        "exited 7"
    );
    assert_eq!(docker.run(&["logs", "one"]), "before\nafter");
}

#[test]
fn a_killed_follower_comes_back_as_a_voter() {
    let lab = Lab::with_image("e2efkill", 3, 3);
    lab.create_web(3);
    let tasks = lab.await_running("node-1", "web", 3, |_| true);
    let before = lab.containers("node-3");
    assert_eq!(lab.leader("node-1"), "node-1");
    lab.kill_daemon("node-3");
    lab.docker("node-2")
        .run(&["service", "update", "-d", "--label-add", "a=b", "web"]);
    lab.start("node-3");
    lab.await_daemon("node-3");
    eventually("the follower to be reachable", LONG, || {
        let nodes = lab.nodes("node-3").map_err(|output| format!("{output:?}"))?;
        if nodes["node-3"] == "Ready Active Reachable" {
            Ok(())
        } else {
            Err(format!("{nodes:?}"))
        }
    });
    let label = lab
        .docker("node-3")
        .run(&["service", "inspect", "--format", "{{.Spec.Labels.a}}", "web"]);
    assert_eq!(label, "b");
    assert_eq!(lab.containers("node-3"), before);
    lab.await_running("node-3", "web", 3, |now| *now == tasks);
}

#[test]
fn a_survivor_accepts_writes_soon_after_the_leader_is_killed() {
    let lab = Lab::with_image("e2elkill", 3, 3);
    lab.create_web(3);
    let tasks = lab.await_running("node-1", "web", 3, |_| true);
    let leader = lab.leader("node-1");
    let survivor = if leader == "node-2" { "node-3" } else { "node-2" };
    let before = lab.containers(&leader);
    lab.kill_daemon(&leader);
    let killed = Instant::now();
    eventually("a write", WRITE_WITHIN, || {
        let output = lab
            .docker(survivor)
            .try_run(&["service", "update", "-d", "--label-add", "a=b", "web"]);
        if output.code == 0 { Ok(()) } else { Err(output) }
    });
    eprintln!("write accepted after {:?}", killed.elapsed());
    assert_ne!(lab.leader(survivor), leader);
    lab.start(&leader);
    lab.await_daemon(&leader);
    eventually("the old leader to follow", LONG, || {
        let nodes = lab.nodes(&leader).map_err(|output| format!("{output:?}"))?;
        if nodes[&leader] == "Ready Active Reachable" {
            Ok(())
        } else {
            Err(format!("{nodes:?}"))
        }
    });
    assert_eq!(lab.containers(&leader), before);
    lab.await_running(survivor, "web", 3, |now| *now == tasks);
}

#[test]
fn replicas_of_a_killed_node_run_elsewhere_and_it_stops_them_when_it_returns() {
    let lab = Lab::with_image("e2enkill", 3, 1);
    lab.create_web(6);
    lab.await_running("node-1", "web", 6, |_| true);
    lab.kill("node-3");
    let moved = lab.await_running("node-1", "web", 6, |tasks| {
        tasks.values().all(|node| node != "node-3")
    });
    assert!(lab.nodes("node-1").unwrap()["node-3"].starts_with("Down"));
    lab.start("node-3");
    lab.await_daemon("node-3");
    eventually("node-3 to be ready and empty", LONG, || {
        let nodes = lab.nodes("node-1").map_err(|output| format!("{output:?}"))?;
        let left = lab.docker("node-3").run(&["ps", "-q"]);
        if nodes["node-3"] == "Ready Active" && left.is_empty() {
            Ok(())
        } else {
            Err(format!("{nodes:?} {left}"))
        }
    });
    lab.await_running("node-1", "web", 6, |now| *now == moved);
}

#[test]
fn containers_outlive_all_controllers() {
    let lab = Lab::with_image("e2eallc", 4, 3);
    lab.create_web(8);
    let tasks = lab.await_running("node-1", "web", 8, |_| true);
    let nodes = ["node-1", "node-2", "node-3", "node-4"];
    let before: Vec<_> = nodes.iter().map(|node| lab.containers(node)).collect();
    for node in &nodes[..3] {
        lab.kill_daemon(node);
    }
    // The worker is told nothing for a while, and stops nothing.
    let refused = lab.docker("node-4").refuse(&["service", "ls"]);
    assert!(refused.contains("This node is not a swarm manager"), "{refused}");
    // Ten heartbeats go unanswered, thrice of what makes a node count as lost, while it runs what it is asked for here.
    lab.docker("node-4").run(&["run", "--rm", IMAGE, "sleep", "10"]);
    assert_eq!(lab.containers("node-4"), before[3]);
    for node in &nodes[..3] {
        lab.start(node);
    }
    for node in nodes {
        lab.await_daemon(node);
    }
    eventually("all nodes to be ready", LONG, || {
        let nodes = lab.nodes("node-2").map_err(|output| format!("{output:?}"))?;
        if nodes.values().all(|how| how.starts_with("Ready")) {
            Ok(())
        } else {
            Err(format!("{nodes:?}"))
        }
    });
    lab.await_running("node-1", "web", 8, |now| *now == tasks);
    // The cluster decides again, and everything that ran still does.
    lab.docker("node-3").run(&["service", "scale", "-d", "web=9"]);
    lab.await_running("node-1", "web", 9, |_| true);
    for (node, containers) in nodes.iter().zip(before) {
        let now = lab.containers(node);
        assert!(
            containers.iter().all(|(id, how)| now.get(id) == Some(how)),
            "{node}: {containers:?} {now:?}"
        );
    }
}
