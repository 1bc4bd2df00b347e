//! Controllers that leave the cluster.

use crate::support::{LONG, Lab, eventually};

#[test]
fn a_controller_leaves_by_force_is_removed_and_joins_again() {
    let lab = Lab::up("e2elefc", 3, 3);
    let docker = lab.docker("node-1");
    let leaving = lab.docker("node-3");
    let refused = leaving.refuse(&["swarm", "leave"]);
    assert_eq!(
        refused,
        "Error response from daemon: You are attempting to leave the swarm on a node that is participating as a \
         manager. The only way to restore a swarm that has lost consensus is to reinitialize it with \
         `--force-new-cluster`. Use `--force` to suppress this message."
    );
    let member = docker.refuse(&["node", "rm", "--force", "node-3"]);
    assert!(
        member.contains("must be demoted to worker before removal"),
        "{member}"
    );

    leaving.run(&["swarm", "leave", "--force"]);
    let outside = leaving.refuse(&["node", "ls"]);
    assert!(outside.contains("This node is not a swarm manager"), "{outside}");
    eventually("node-3 to be down", LONG, || {
        let nodes = lab.nodes("node-1").map_err(|output| format!("{output:?}"))?;
        if nodes["node-3"].starts_with("Down") {
            Ok(())
        } else {
            Err(format!("{nodes:?}"))
        }
    });
    // Two are left, and they are a majority of two.
    docker.run(&["node", "update", "--label-add", "a=b", "node-2"]);
    let two = lab.docker("node-2").refuse(&["swarm", "leave"]);
    assert!(
        two.contains("Removing this node leaves 1 managers out of 2. Without a Raft quorum"),
        "{two}"
    );
    docker.run(&["node", "rm", "--force", "node-3"]);
    assert_eq!(lab.nodes("node-1").unwrap().len(), 2);

    let token = docker.run(&["swarm", "join-token", "-q", "manager"]);
    let leader = format!("{}:2377", lab.address("node-1"));
    leaving.run(&["swarm", "join", "--token", &token, &leader]);
    lab.await_listed("node-1", "node-3", "Ready Active Reachable");
    // It votes: without node-2 it makes the majority.
    lab.kill_daemon("node-2");
    docker.run(&["node", "update", "--label-add", "a=c", "node-3"]);
    lab.start("node-2");
    lab.await_listed("node-3", "node-2", "Ready Active Reachable");
}

#[test]
fn the_last_controller_is_told_what_is_lost() {
    let lab = Lab::up("e2elefl", 1, 1);
    let docker = lab.docker("node-1");
    let refused = docker.refuse(&["swarm", "leave"]);
    assert!(
        refused.ends_with(
            "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message."
        ),
        "{refused}"
    );
    docker.run(&["swarm", "leave", "--force"]);
    let state = docker.run(&["info", "--format", "{{.Swarm.LocalNodeState}}"]);
    assert_eq!(state, "inactive");
    // Events of a node by itself end in time, too.
    docker.run(&["events", "--since", "1h", "--until", "0s"]);
    let outside = docker.refuse(&["swarm", "leave"]);
    assert!(outside.contains("This node is not part of a swarm"), "{outside}");
    docker.run(&["swarm", "init", "--advertise-addr", &lab.address("node-1")]);
    lab.await_listed("node-1", "node-1", "Ready Active Leader");
}

#[test]
fn a_worker_that_was_away_finds_controllers_that_it_never_knew() {
    let lab = Lab::up("e2elefa", 3, 1);
    let docker = lab.docker("node-1");
    lab.kill_daemon("node-3");
    lab.await_listed("node-1", "node-3", "Down Active");
    docker.run(&["node", "promote", "node-2"]);
    // It is reachable before it votes; the only voter is not let go.
    eventually("node-1 to be let go", LONG, || {
        let output = docker.try_run(&["node", "demote", "node-1"]);
        if output.code == 0 { Ok(()) } else { Err(output) }
    });
    lab.await_listed("node-2", "node-1", "Ready Active");
    lab.start("node-3");
    lab.await_listed("node-2", "node-3", "Ready Active");
}
