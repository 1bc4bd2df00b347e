//! The cluster's root certificate: shown, and replaced while everything runs.

use crate::support::{Docker, LONG, Lab, eventually};
use muster_controller::authority::make_root;
use std::time::SystemTime;

fn trust_roots(docker: &Docker, nodes: &[&str]) -> Vec<String> {
    let format = [
        "node",
        "inspect",
        "--format",
        "{{.Description.TLSInfo.TrustRoot}}",
    ];
    let roots = |node: &&str| docker.run(&[&format[..], &[node]].concat()).trim().to_owned();
    nodes.iter().map(roots).collect()
}

#[test]
fn the_root_is_replaced_while_tasks_run_and_nodes_believe_each_other() {
    let nodes = ["node-1", "node-2", "node-3", "node-4"];
    let lab = Lab::with_image("e2eroot", 4, 3);
    let docker = lab.docker("node-1");
    lab.create_web(4);
    lab.await_running("node-1", "web", 4, |_| true);
    let containers: Vec<_> = nodes.iter().map(|node| lab.containers(node)).collect();
    let before = docker.run(&["swarm", "ca"]);
    assert!(before.contains("BEGIN CERTIFICATE"), "{before}");
    assert_eq!(trust_roots(&docker, &nodes), vec![before.trim(); 4]);
    let old_token = docker.run(&["swarm", "join-token", "-q", "worker"]);

    // The client waits until every node has a certificate of the new root and trusts it.
    let rotated = docker.run(&["swarm", "ca", "--rotate"]);
    let after = docker.run(&["swarm", "ca"]);
    assert!(rotated.contains(after.trim()) && after != before, "{rotated}");
    assert_eq!(trust_roots(&docker, &nodes), vec![after.trim(); 4]);
    let now: Vec<_> = nodes.iter().map(|node| lab.containers(node)).collect();
    assert_eq!(now, containers, "no container was touched");

    // New connections in every direction: another leader, a daemon that starts, a node that joins.
    let leader = lab.leader("node-1");
    lab.kill_daemon(&leader);
    let other = nodes
        .iter()
        .find(|node| **node != leader)
        .copied()
        .expect("there are four");
    eventually("another leader", LONG, || {
        let found = lab.nodes(other)?;
        let leads = found
            .iter()
            .any(|(name, how)| *name != leader && how.ends_with("Leader"));
        if leads {
            Ok(())
        } else {
            Err(crate::support::Output {
                code: 0,
                stdout: format!("{found:?}"),
                stderr: String::new(),
            })
        }
    });
    lab.start(&leader);
    lab.await_daemon(&leader);
    lab.await_listed(other, &leader, "Ready Active Reachable");
    let token = docker.run(&["swarm", "join-token", "-q", "worker"]);
    let secret = |token: &str| token.trim().rsplit('-').next().map(str::to_owned);
    assert_ne!(secret(&token), secret(&old_token), "the secret is another, too");
    let worker = lab.docker("node-4");
    worker.run(&["swarm", "leave"]);
    let address = format!("{}:2377", lab.address("node-1"));
    let refused = worker.refuse(&["swarm", "join", "--token", &old_token, &address]);
    assert!(
        refused.contains("remote CA does not match fingerprint"),
        "{refused}"
    );
    worker.run(&["swarm", "join", "--token", &token, &address]);
    lab.await_running("node-1", "web", 4, |_| true);
}

#[test]
fn a_root_of_the_users_own_takes_the_place_of_the_one_that_is_there() {
    let lab = Lab::up("e2eroown", 2, 1);
    let docker = lab.docker("node-1");
    let now = SystemTime::now().into();
    let (own, other) = (
        make_root(now).expect("it is made"),
        make_root(now).expect("it is made"),
    );
    let write = |name: &str, content: &str| {
        let path = lab.directory().join(name);
        std::fs::write(&path, content).expect("the test's directory can be written");
        path.to_string_lossy().into_owned()
    };
    let certificate = write("own.crt", &own.certificate_pem);
    let (key, wrong) = (write("own.key", &own.key_pem), write("other.key", &other.key_pem));
    let rotate = ["swarm", "ca", "--rotate", "--ca-cert", &certificate, "--ca-key"];
    let refused = docker.refuse(&[&rotate[..], &[&wrong]].concat());
    assert!(
        refused.contains("the key is not that of the certificate"),
        "{refused}"
    );
    // What is beside the certificate would be shown to everybody.
    let bundle = write("bundle.pem", &format!("{}{}", own.certificate_pem, own.key_pem));
    let refused = docker.refuse(&["swarm", "ca", "--rotate", "--ca-cert", &bundle, "--ca-key", &key]);
    assert!(refused.contains("something else too"), "{refused}");
    docker.run(&[&rotate[..], &[&key]].concat());
    let refused = docker.refuse(&[&rotate[..], &[&key]].concat());
    assert!(
        refused.contains("Cannot update to a cert with an identical key"),
        "{refused}"
    );
    assert_eq!(docker.run(&["swarm", "ca"]).trim(), own.certificate_pem.trim());
    assert_eq!(
        trust_roots(&docker, &["node-1", "node-2"]),
        vec![own.certificate_pem.trim(); 2]
    );
    // A node that is away has to come back, or to be removed, before the next one is through.
    lab.kill("node-2");
    lab.await_listed("node-1", "node-2", "Down Active");
    docker.run(&["swarm", "ca", "--rotate", "--detach"]);
    let in_progress =
        |docker: &Docker| docker.run(&["info", "--format", "{{.Swarm.Cluster.RootRotationInProgress}}"]);
    assert_eq!(in_progress(&docker), "true");
    docker.run(&["node", "rm", "--force", "node-2"]);
    eventually("the end of the rotation", LONG, || {
        let shown = in_progress(&docker);
        if shown == "false" { Ok(()) } else { Err(shown) }
    });
}
