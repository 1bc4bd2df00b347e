//! Controllers that lose their Raft log.

use crate::support::{LONG, Lab, eventually};
use serde_json::Value;
use std::path::PathBuf;

fn cluster_directory(lab: &Lab, node: &str) -> PathBuf {
    lab.node_directory(node).join("data/cluster")
}

/// The Raft id that a node keeps.
fn raft_id(lab: &Lab, node: &str) -> Option<u64> {
    let path = cluster_directory(lab, node).join("membership.json");
    let text = std::fs::read(path).expect("a member keeps its membership");
    let membership: Value = serde_json::from_slice(&text).expect("the membership is JSON");
    membership["raft_id"].as_u64()
}

#[test]
fn a_controller_that_lost_its_log_joins_again_under_a_new_raft_id() {
    let lab = Lab::up("e2ellg", 3, 3);
    let docker = lab.docker("node-1");
    let before = raft_id(&lab, "node-3").expect("a controller has a Raft id");
    lab.kill_daemon("node-3");
    docker.run(&["node", "update", "--label-add", "a=1", "node-1"]);
    std::fs::remove_dir_all(cluster_directory(&lab, "node-3").join("raft")).unwrap();
    lab.start("node-3");
    eventually("another Raft id", LONG, || {
        let now = raft_id(&lab, "node-3");
        if now.is_some_and(|now| now != before) {
            Ok(())
        } else {
            Err(now)
        }
    });
    lab.await_listed("node-1", "node-3", "Ready Active Reachable");
    // It has the state of the others, and votes: without node-2 it makes the majority.
    let label = "{{index .Spec.Labels \"a\"}}";
    let back = lab.docker("node-3");
    eventually("the state of the others", LONG, || {
        let read = back.try_run(&["node", "inspect", "--format", label, "node-1"]);
        if read.stdout.trim() == "1" {
            Ok(())
        } else {
            Err(read)
        }
    });
    lab.kill_daemon("node-2");
    eventually("a write without node-2", LONG, || {
        let write = back.try_run(&["node", "update", "--label-add", "a=2", "node-1"]);
        if write.code == 0 { Ok(()) } else { Err(write) }
    });
    assert_eq!(docker.run(&["node", "inspect", "--format", label, "node-1"]), "2");

    // The new id outlasts a restart like any other.
    let new = raft_id(&lab, "node-3");
    lab.start("node-2");
    lab.await_listed("node-1", "node-2", "Ready Active Reachable");
    lab.kill_daemon("node-3");
    lab.start("node-3");
    lab.await_listed("node-1", "node-3", "Ready Active Reachable");
    assert_eq!(raft_id(&lab, "node-3"), new);
}

#[test]
fn the_only_controller_without_its_log_makes_no_new_cluster() {
    let lab = Lab::up("e2ello", 1, 1);
    let docker = lab.docker("node-1");
    docker.run(&["node", "update", "--label-add", "a=1", "node-1"]);
    let log = cluster_directory(&lab, "node-1").join("raft");
    let away = cluster_directory(&lab, "node-1").join("raft.away");
    let before = raft_id(&lab, "node-1");
    lab.kill_daemon("node-1");
    std::fs::rename(&log, &away).unwrap();
    lab.try_command(&["start", "node-1"]);
    lab.await_daemon("node-1");
    let refused = docker.refuse(&["node", "ls"]);
    assert!(
        refused.contains("the log of this cluster's only controller is gone from")
            && refused.contains("put the directory back from a copy"),
        "{refused}"
    );
    assert_eq!(
        docker.run(&["info", "--format", "{{.Swarm.LocalNodeState}}"]),
        "error"
    );

    // It kept its id, so the log is taken up again when it is back.
    assert_eq!(raft_id(&lab, "node-1"), before);
    lab.kill_daemon("node-1");
    std::fs::remove_dir_all(&log).unwrap();
    std::fs::rename(&away, &log).unwrap();
    lab.start("node-1");
    lab.await_listed("node-1", "node-1", "Ready Active Leader");
    let label = "{{index .Spec.Labels \"a\"}}";
    assert_eq!(docker.run(&["node", "inspect", "--format", label, "node-1"]), "1");
}
