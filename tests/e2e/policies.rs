//! Policies of networks: which services may open connections to which, on several nodes.

use crate::support::{IMAGE, LONG, Lab, SERVER, eventually};
use std::process::Command;

/// `muster network policy ARGS…` against a node.
fn policy(lab: &Lab, node: &str, args: &[&str]) -> (bool, String) {
    muster_network(lab, node, &[&["policy"], args].concat())
}

/// `muster network ARGS…` against a node: whether it succeeded, and what it said.
fn muster_network(lab: &Lab, node: &str, args: &[&str]) -> (bool, String) {
    let socket = format!("unix://{}", lab.docker(node).socket().display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.args(["network", "-H", &socket]).args(args);
    let output = command.output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn start(lab: &Lab, network: &str, service: &str, node: &str) {
    let constraint = format!("node.hostname=={node}");
    let create = ["service", "create", "-d", "--name", service, "--network", network];
    let what = ["--constraint", &constraint, IMAGE, "sh", "-c", SERVER];
    lab.docker("node-1").run(&[&create[..], &what].concat());
    lab.await_running("node-1", service, 1, |_| true);
}

/// Whether the container of one service reaches another one by its name.
fn reaches(lab: &Lab, node: &str, from: &str, to: &str) -> bool {
    let docker = lab.docker(node);
    let container = docker.run(&["ps", "-q", "--filter", &format!("name={from}.")]);
    docker.ask(&container, to).code == 0
}

#[test]
fn a_service_accepts_connections_that_its_networks_rules_allow() {
    let lab = Lab::with_image("e2epol", 2, 1);
    let docker = lab.docker("node-1");
    docker.run(&["network", "create", "-d", "overlay", "net"]);
    for (service, node) in [("web", "node-1"), ("db", "node-2"), ("other", "node-2")] {
        start(&lab, "net", service, node);
    }
    let expect = |what: &str, expected: [bool; 3]| {
        eventually(what, LONG, || {
            let found = [
                reaches(&lab, "node-1", "web", "db"),
                reaches(&lab, "node-2", "other", "db"),
                reaches(&lab, "node-2", "db", "other"),
            ];
            (found == expected).then_some(()).ok_or(found)
        });
    };
    expect("everybody reaches everybody without rules", [true, true, true]);
    let set = policy(&lab, "node-1", &["set", "net", "web -> db:80"]);
    assert!(set.0, "{set:?}");
    expect("only web reaches db", [true, false, true]);
    let shown = policy(&lab, "node-1", &["show", "net"]);
    assert_eq!(shown, (true, "default: allow\nweb -> db:80/tcp\n".to_owned()));

    let traced = muster_network(&lab, "node-1", &["trace", "web", "db:80"]);
    assert!(traced.0 && traced.1.contains("VXLAN 4097"), "{traced:?}");
    let traced = muster_network(&lab, "node-1", &["trace", "other", "db:80"]);
    assert!(
        !traced.0 && traced.1.contains("FAILS policy   db refuses"),
        "{traced:?}"
    );

    // A task that comes later is known.
    docker.run(&["service", "update", "-d", "--force", "web"]);
    lab.await_running("node-1", "web", 1, |_| true);
    expect("the new task of web reaches db", [true, false, true]);
    assert!(
        policy(
            &lab,
            "node-1",
            &["set", "--default", "deny", "net", "* -> db:81", "other -> db"]
        )
        .0
    );
    expect("nobody reaches other", [false, true, false]);
    assert!(policy(&lab, "node-1", &["set", "net", "other -> db"]).0);
    let shown = policy(&lab, "node-1", &["show", "net"]);
    assert_eq!(shown, (true, "default: deny\nother -> db\n".to_owned()));
    expect("still nobody reaches other", [false, true, false]);
    for (args, says) in [
        (&["set", "net", "web > db"][..], "FROM -> TO"),
        (&["set", "none", "web -> db"], "network none not found"),
        (&["set", "ingress", "web -> db"], "has no policy"),
    ] {
        let refused = policy(&lab, "node-1", args);
        assert!(!refused.0 && refused.1.contains(says), "{refused:?}");
    }
    let worker = policy(&lab, "node-2", &["show", "net"]);
    assert!(
        !worker.0 && worker.1.contains("not a swarm manager"),
        "{worker:?}"
    );
    assert!(policy(&lab, "node-1", &["clear", "net"]).0);
    expect("everybody reaches everybody again", [true, true, true]);
}

#[test]
fn a_networks_labels_are_its_first_rules() {
    let lab = Lab::with_image("e2elab", 1, 1);
    let docker = lab.docker("node-1");
    let create = ["network", "create", "-d", "overlay", "--label"];
    let bad = docker.refuse(&[&create[..], &["muster.network.policy=web -> db:x", "bad"]].concat());
    assert!(bad.contains("\"x\" is no port"), "{bad}");
    docker.run(&[&create[..], &["muster.network.policy=web -> db", "net"]].concat());
    for service in ["web", "db", "other"] {
        start(&lab, "net", service, "node-1");
    }
    eventually("only web reaches db", LONG, || {
        let found = [
            reaches(&lab, "node-1", "web", "db"),
            reaches(&lab, "node-1", "other", "db"),
        ];
        (found == [true, false]).then_some(()).ok_or(found)
    });
}
