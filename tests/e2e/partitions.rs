//! Nodes that run but do not hear each other.

use crate::support::{IMAGE, LONG, Lab, Output, eventually, json_request};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// A cluster call without quorum fails within five seconds; the rest is for starting the CLI on a busy machine.
const REFUSED_WITHIN: Duration = Duration::from_secs(8);

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

fn refused_for_want_of_a_leader(output: &Output) -> bool {
    output.code != 0 && output.stderr.contains("The swarm does not have a leader")
}

#[test]
fn an_isolated_leader_is_replaced_and_follows_after_the_heal() {
    let lab = Lab::with_image("e2eplead", 3, 3);
    lab.create_web(3);
    lab.await_running("node-1", "web", 3, |_| true);
    assert_eq!(lab.leader("node-1"), "node-1");
    lab.command(&["partition", "node-1", "node-2,node-3"]);
    let update = ["service", "update", "-d", "--label-add", "a=b", "web"];
    eventually("a write on the other side", LONG, || {
        let output = lab.docker("node-2").try_run(&update);
        if output.code == 0 { Ok(()) } else { Err(output) }
    });
    assert_ne!(lab.leader("node-2"), "node-1");
    eventually("the isolated leader to know", LONG, || {
        let asked = Instant::now();
        let output = lab.docker("node-1").try_run(&["service", "ls"]);
        assert!(
            asked.elapsed() < REFUSED_WITHIN,
            "{:?} {output:?}",
            asked.elapsed()
        );
        if refused_for_want_of_a_leader(&output) {
            Ok(())
        } else {
            Err(output)
        }
    });
    let asked = Instant::now();
    let write = lab
        .docker("node-1")
        .try_run(&["service", "create", "-d", "-q", "--name", "lost", IMAGE]);
    assert!(refused_for_want_of_a_leader(&write), "{write:?}");
    assert!(asked.elapsed() < REFUSED_WITHIN, "{:?}", asked.elapsed());
    // Its containers run, and it still obeys for them.
    assert!(!lab.docker("node-1").lines(&["ps", "-q"]).is_empty());
    assert_eq!(
        lab.docker("node-1").run(&["run", "--rm", IMAGE, "echo", "local"]),
        "local"
    );

    lab.command(&["heal"]);
    eventually("one leader, known to all", LONG, || {
        let nodes = lab.nodes("node-1").map_err(|output| format!("{output:?}"))?;
        let leaders = nodes.values().filter(|how| how.ends_with("Leader")).count();
        let whole = nodes
            .values()
            .all(|how| how.starts_with("Ready") && !how.ends_with("Unreachable"));
        if leaders == 1 && whole {
            Ok(())
        } else {
            Err(format!("{nodes:?}"))
        }
    });
    let docker = lab.docker("node-1");
    assert_eq!(
        docker.run(&["service", "inspect", "--format", "{{.Spec.Labels.a}}", "web"]),
        "b"
    );
    assert_eq!(docker.run(&["service", "ls", "--format", "{{.Name}}"]), "web");
    lab.await_running("node-1", "web", 3, |_| true);
}

#[test]
fn an_isolated_worker_runs_on_and_stops_the_surplus_after_the_heal() {
    let lab = Lab::with_image("e2epwork", 3, 1);
    lab.create_web(6);
    lab.await_running("node-1", "web", 6, |_| true);
    let before = lab.containers("node-3");
    lab.command(&["partition", "node-3", "node-1,node-2"]);
    let moved = lab.await_running("node-1", "web", 6, |tasks| {
        tasks.values().all(|node| node != "node-3")
    });
    assert_eq!(lab.containers("node-3"), before);
    lab.command(&["heal"]);
    eventually("the surplus to stop", LONG, || {
        let left = lab.docker("node-3").run(&["ps", "-q"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    assert_eq!(lab.nodes("node-1").unwrap()["node-3"], "Ready Active");
    lab.await_running("node-1", "web", 6, |now| *now == moved);
}

/// Daemons that neither run nor close their connections, until dropped.
struct Halted(Vec<Pid>);

impl Halted {
    fn halt(lab: &Lab, nodes: &[&str]) -> Self {
        let pid = |node: &&str| Pid::from_raw(lab.daemon(node).try_into().expect("a process id"));
        let pids: Vec<Pid> = nodes.iter().map(pid).collect();
        for pid in &pids {
            kill(*pid, Signal::SIGSTOP).expect("the daemon runs");
        }
        Self(pids)
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

#[test]
fn a_write_that_no_quorum_answered_has_an_unknown_outcome_and_says_so() {
    let lab = Lab::with_image("e2eunkn", 3, 3);
    let body = format!(r#"{{"Name":"maybe","TaskTemplate":{{"ContainerSpec":{{"Image":"{IMAGE}"}}}}}}"#);
    // The leader takes the write if it has not noticed yet that nobody follows, for which it needs some hundred
    // milliseconds: on a busy machine it may be too late, and is tried again.
    eventually("a write that was taken and not committed", LONG, || {
        let leader = lab.leader("node-1");
        let socket = lab.docker(&leader).socket().to_owned();
        let others: Vec<_> = NODES.into_iter().filter(|node| *node != leader).collect();
        let halted = Halted::halt(&lab, &others);
        let asked = Instant::now();
        let (status, answer) = json_request(&socket, "POST /v1.41/services/create", &body);
        assert!(asked.elapsed() < REFUSED_WITHIN, "{:?}", asked.elapsed());
        assert!(status.contains(" 503 "), "{status} {answer}");
        drop(halted);
        if answer.contains("the outcome of the request is unknown") {
            Ok(())
        } else {
            Err(answer)
        }
    });

    // Who looks, as the answer says, learns what became of it, and everybody sees the same.
    let listed = |node: &str| {
        let output = lab
            .docker(node)
            .try_run(&["service", "ls", "--format", "{{.Name}}"]);
        if output.code == 0 {
            Ok(output.stdout.trim().to_owned())
        } else {
            Err(output)
        }
    };
    let found = eventually("a leader again", LONG, || listed("node-1"));
    let create = ["service", "create", "-d", "-q", "--name", "maybe", IMAGE];
    if found.is_empty() {
        lab.docker("node-1").run(&create);
    } else {
        let refused = lab.docker("node-1").refuse(&create);
        assert!(refused.contains("name conflicts"), "{refused}");
    }
    for node in NODES {
        assert_eq!(eventually("the list", LONG, || listed(node)), "maybe", "{node}");
    }
}
