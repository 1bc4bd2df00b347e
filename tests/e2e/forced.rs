//! `swarm init --force-new-cluster`: what is left of a cluster that lost its quorum goes on.

use crate::support::{LONG, Lab, eventually};

#[test]
fn a_survivor_goes_on_with_services_and_tasks_and_takes_the_others_back() {
    let lab = Lab::with_image("e2eforce", 4, 3);
    let docker = lab.docker("node-1");
    lab.create_web(4);
    let before = lab.await_running("node-1", "web", 4, |_| true);
    let kept = lab.containers("node-1");
    assert!(!kept.is_empty(), "{before:?}");
    // One that cannot begin leaves the cluster as it is, and its controllers what they are.
    let force = ["swarm", "init", "--force-new-cluster", "--advertise-addr"];
    let address = lab.address("node-1");
    docker.refuse(&[&force[..], &[&address, "--listen-addr", "192.0.2.9:2377"]].concat());
    eventually("three controllers", LONG, || {
        let nodes = lab.nodes("node-1")?;
        match nodes
            .values()
            .filter(|found| found.ends_with("Leader") || found.ends_with("Reachable"))
            .count()
        {
            3 => Ok(()),
            _ => Err(docker.try_run(&["node", "ls"])),
        }
    });
    let worker = lab.containers("node-4");
    lab.kill("node-2");
    lab.kill("node-3");
    eventually("the loss of the quorum", LONG, || {
        let output = docker.try_run(&["node", "ls"]);
        if output.stderr.contains("does not have a leader") {
            Ok(())
        } else {
            Err(output)
        }
    });
    let refused = lab
        .docker("node-4")
        .refuse(&["swarm", "init", "--force-new-cluster"]);
    assert!(refused.contains("not a swarm manager"), "{refused}");

    docker.run(&["swarm", "init", "--force-new-cluster"]);
    // Tasks of the lost nodes are replaced, the others run on in their containers.
    lab.await_running("node-1", "web", 4, |tasks| {
        tasks.values().all(|node| node == "node-1" || node == "node-4")
    });
    for (node, containers) in [("node-1", &kept), ("node-4", &worker)] {
        let now = lab.containers(node);
        for container in containers {
            assert!(
                now.contains_key(container.0) && now[container.0] == *container.1,
                "{node}: {now:?}"
            );
        }
    }
    lab.await_listed("node-1", "node-1", "Ready Active Leader");
    lab.await_listed("node-1", "node-2", "Down Active");
    docker.run(&["service", "scale", "-d", "web=5"]);
    lab.await_running("node-1", "web", 5, |_| true);

    // A restart of the daemon changes nothing of it.
    lab.kill_daemon("node-1");
    lab.start("node-1");
    lab.await_daemon("node-1");
    lab.await_listed("node-1", "node-1", "Ready Active Leader");

    // A lost controller that comes back finds that it is a worker, and can be promoted.
    lab.start("node-2");
    lab.await_listed("node-1", "node-2", "Ready Active");
    docker.run(&["node", "promote", "node-2"]);
    lab.await_listed("node-1", "node-2", "Ready Active Reachable");
    lab.await_running("node-2", "web", 5, |_| true);

    // That it began anew is over: another restart takes nobody's vote away.
    lab.kill_daemon("node-1");
    lab.start("node-1");
    lab.await_daemon("node-1");
    lab.await_listed("node-2", "node-1", "Ready Active Reachable");
    lab.await_listed("node-2", "node-2", "Ready Active Leader");
}
