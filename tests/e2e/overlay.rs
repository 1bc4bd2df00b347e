//! Networks of the cluster: services on several nodes find and reach each other, and nobody else.

use crate::support::{IMAGE, LONG, Lab, SERVER, eventually};
use std::collections::BTreeSet;

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

#[test]
fn services_reach_each_other_over_nodes_by_name_and_by_virtual_address() {
    let lab = Lab::with_image("e2eover", 3, 1);
    let docker = lab.docker("node-1");
    for (network, service) in [("blue", "web"), ("green", "other")] {
        docker.run(&["network", "create", "-d", "overlay", network]);
        let what = [
            "--replicas",
            "3",
            "--network",
            network,
            "--hostname",
            "{{.Task.Name}}",
        ];
        let create = ["service", "create", "-d", "--name", service];
        docker.run(&[&create[..], &what, &[IMAGE, "sh", "-c", SERVER]].concat());
        lab.await_running("node-1", service, 3, |tasks| {
            tasks.values().collect::<BTreeSet<_>>().len() == 3
        });
    }
    let container = |node: &str, service: &str| {
        let name = format!("name={service}.");
        lab.docker(node).run(&["ps", "-q", "--filter", &name])
    };
    for node in NODES {
        let web = container(node, "web");
        eventually("all replicas behind one address", LONG, || {
            let found: BTreeSet<String> = (0..6).map(|_| lab.docker(node).ask(&web, "web").stdout).collect();
            if found.len() == 3 && found.iter().all(|name| name.starts_with("web.")) {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        });
        for slot in ["web.1", "web.2", "web.3"] {
            let answer = lab.docker(node).ask(&web, slot);
            assert!(answer.stdout.starts_with(slot), "{node} {slot}: {answer:?}");
        }
        let stranger = lab.docker(node).ask(&web, "other");
        assert_ne!(stranger.code, 0, "{stranger:?}");
    }
    // Nor by address.
    let address = "{{(index .NetworkSettings.Networks \"green\").IPAddress}}";
    let other = container("node-2", "other");
    let address = lab.docker("node-2").run(&["inspect", "-f", address, &other]);
    let reached = lab.docker("node-3").ask(&container("node-3", "other"), &address);
    assert!(reached.stdout.starts_with("other."), "{address}: {reached:?}");
    let reached = lab.docker("node-3").ask(&container("node-3", "web"), &address);
    assert_ne!(reached.code, 0, "{address}: {reached:?}");

    let standalone = docker.refuse(&["run", "--rm", "--network", "blue", IMAGE, "true"]);
    assert!(
        standalone.contains("network blue not manually attachable"),
        "{standalone}"
    );
    let used = docker.refuse(&["network", "rm", "blue"]);
    assert!(used.contains("is in use"), "{used}");
    docker.run(&["service", "rm", "web", "other"]);
    docker.run(&["network", "rm", "blue", "green"]);
    docker.run(&["network", "prune", "-f"]);
    for node in NODES {
        eventually("the networks are gone", LONG, || {
            let left = lab
                .docker(node)
                .lines(&["network", "ls", "--format", "{{.Name}}"]);
            let own = ["bridge", "docker_gwbridge", "host", "ingress", "none"];
            if left == own {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        });
    }
}
