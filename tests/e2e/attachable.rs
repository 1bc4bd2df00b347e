//! Standalone containers on attachable networks of the cluster: places that neither collide nor leak, whatever happens to
//! daemons, nodes and leaders.

use crate::support::{IMAGE, LONG, Lab, Output, SERVER, eventually};
use std::collections::BTreeSet;
use std::process::Command;

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// Waits until a container gets one of these answers.
#[track_caller]
fn gets(lab: &Lab, (node, container): (&str, &str), host: &str, expected: &[&str]) {
    eventually(
        &format!("{container} gets {expected:?} from {host}"),
        LONG,
        || {
            let answer = lab.docker(node).ask(container, host);
            let is_expected = expected.contains(&answer.stdout.trim());
            is_expected.then_some(()).ok_or(answer)
        },
    );
}

/// Starts a server on an attachable network.
fn serve(lab: &Lab, node: &str, name: &str, args: &[&str]) -> Output {
    let run = ["run", "-d", "--name", name, "--hostname", name];
    lab.docker(node)
        .try_run(&[&run[..], args, &[IMAGE, "sh", "-c", SERVER]].concat())
}

#[track_caller]
fn address(lab: &Lab, node: &str, container: &str) -> String {
    let format = "{{(index .NetworkSettings.Networks \"open\").IPAddress}}";
    lab.docker(node).run(&["inspect", "-f", format, container])
}

fn make_network(lab: &Lab, subnet: &str) {
    let create = ["network", "create", "-d", "overlay", "--attachable", "--subnet"];
    lab.docker("node-1")
        .run(&[&create[..], &[subnet, "open"]].concat());
}

/// A network goes only once nobody has a place in it.
#[track_caller]
fn is_left_by_all(lab: &Lab, asked: &str) {
    eventually("nobody has a place in the network", LONG, || {
        let removed = lab.docker(asked).try_run(&["network", "rm", "open"]);
        if removed.code == 0 { Ok(()) } else { Err(removed) }
    });
}

#[test]
fn standalone_containers_join_attachable_networks_from_every_node() {
    let lab = Lab::with_image("e2eatt", 3, 1);
    let docker = lab.docker("node-1");
    make_network(&lab, "10.77.0.0/24");
    docker.run(&["network", "create", "-d", "overlay", "closed"]);
    let web = ["service", "create", "-d", "--name", "web", "--replicas", "2"];
    let on = [
        "--network",
        "open",
        "--hostname",
        "web",
        IMAGE,
        "sh",
        "-c",
        SERVER,
    ];
    docker.run(&[&web[..], &on].concat());
    lab.await_running("node-1", "web", 2, |_| true);
    refusals(&lab);
    names(&lab);
    restarts(&lab);
    connecting(&lab);
    composed(&lab);
    lost_daemons(&lab);
    for node in NODES {
        lab.docker(node).try_run(&["rm", "-f", "box-1", "box-2", "box-3"]);
    }
    docker.run(&["service", "rm", "web"]);
    is_left_by_all(&lab, "node-1");
}

fn refusals(lab: &Lab) {
    // A controller and a worker refuse in the same words.
    for node in ["node-1", "node-2"] {
        let docker = lab.docker(node);
        for (network, words) in [
            (
                "closed",
                "Could not attach to network closed: rpc error: code = PermissionDenied desc = network closed not \
                 manually attachable",
            ),
            ("nowhere", "network nowhere not found"),
        ] {
            let refused = docker.refuse(&["run", "--rm", "--network", network, IMAGE, "true"]);
            assert!(refused.contains(words), "{node} {refused}");
            docker.run(&["create", "--name", "plain", IMAGE]);
            let refused = docker.refuse(&["network", "connect", network, "plain"]);
            assert!(refused.contains(words), "{node} {refused}");
            docker.run(&["rm", "plain"]);
        }
        let outside = [
            "run",
            "--rm",
            "--network",
            "open",
            "--ip",
            "10.78.0.9",
            IMAGE,
            "true",
        ];
        let refused = docker.refuse(&outside);
        assert!(refused.contains("10.78.0.9"), "{node} {refused}");
    }
}

fn names(lab: &Lab) {
    for (number, node) in NODES.into_iter().enumerate() {
        let name = format!("box-{}", number + 1);
        let alias = format!("alias-{}", number + 1);
        let place = ["--network", "open", "--network-alias", &alias];
        let started = serve(lab, node, &name, &place);
        assert_eq!(started.code, 0, "{node} {started:?}");
        let members = [
            "network",
            "inspect",
            "-f",
            "{{range .Containers}}{{.Name}} {{.IPv4Address}};{{end}}",
            "open",
        ];
        let members = lab.docker(node).run(&members);
        let own = format!("{name} {}/24;", address(lab, node, &name));
        assert!(members.contains(&own), "{own} {members}");
    }
    let addresses: BTreeSet<String> = NODES
        .into_iter()
        .zip(["box-1", "box-2", "box-3"])
        .map(|(node, name)| address(lab, node, name))
        .collect();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    for (node, own) in NODES.into_iter().zip(["box-1", "box-2", "box-3"]) {
        for (host, expected) in [
            ("box-1", "box-1"),
            ("box-2", "box-2"),
            ("alias-2", "box-2"),
            ("alias-3.open", "box-3"),
            ("web", "web"),
            ("tasks.web", "web"),
        ] {
            gets(lab, (node, own), host, &[expected]);
        }
    }
    // Tasks find containers, too.
    for node in NODES {
        for task in lab.docker(node).lines(&["ps", "-q", "--filter", "name=web."]) {
            gets(lab, (node, &task), "box-3", &["box-3"]);
        }
    }
    // A new name is known everywhere.
    lab.docker("node-3").run(&["rename", "box-3", "moved"]);
    gets(lab, ("node-1", "box-1"), "moved", &["box-3"]);
    lab.docker("node-3").run(&["rename", "moved", "box-3"]);
    gets(lab, ("node-1", "box-1"), "box-3", &["box-3"]);
}

fn restarts(lab: &Lab) {
    let boxes = ["box-1", "box-2", "box-3"];
    for (node, name) in NODES.into_iter().zip(boxes) {
        let docker = lab.docker(node);
        let pid = || docker.run(&["inspect", "-f", "{{.State.Pid}}", name]);
        // The node may be leaving the network at any moment of the next start: nobody else of it is on it.
        for _ in 0..5 {
            let before = pid();
            docker.run(&["restart", "-t", "1", name]);
            assert_ne!(pid(), before, "{node}");
        }
        for (other, own) in NODES.into_iter().zip(boxes) {
            gets(lab, (other, own), name, &[name]);
            gets(lab, (node, name), own, &[own]);
        }
        gets(lab, (node, name), "tasks.web", &["web"]);
    }
    let docker = lab.docker("node-2");
    let fixed = ["--network", "open", "--ip", "10.77.0.210", "--restart", "always"];
    let started = serve(lab, "node-2", "fixed", &fixed);
    assert_eq!(started.code, 0, "{started:?}");
    docker.run(&["restart", "-t", "1", "fixed"]);
    assert_eq!(address(lab, "node-2", "fixed"), "10.77.0.210");
    gets(lab, ("node-1", "box-1"), "fixed", &["fixed"]);
    // Its process ends by itself, and the policy starts it again.
    docker.run(&["exec", "-d", "fixed", "/bin/busybox", "kill", "1"]);
    let format =
        "{{.RestartCount}} {{.State.Status}} {{(index .NetworkSettings.Networks \"open\").IPAddress}}";
    eventually("the policy starts it again", LONG, || {
        let state = docker.run(&["inspect", "-f", format, "fixed"]);
        if state == "1 running 10.77.0.210" {
            Ok(())
        } else {
            Err(state)
        }
    });
    gets(lab, ("node-3", "box-3"), "fixed", &["fixed"]);
    docker.run(&["rm", "-f", "fixed"]);
}

fn connecting(lab: &Lab) {
    let docker = lab.docker("node-3");
    let started = serve(lab, "node-3", "late", &[]);
    assert_eq!(started.code, 0, "{started:?}");
    docker.run(&[
        "network",
        "connect",
        "--alias",
        "extra",
        "--ip",
        "10.77.0.200",
        "open",
        "late",
    ]);
    assert_eq!(address(lab, "node-3", "late"), "10.77.0.200");
    gets(lab, ("node-1", "box-1"), "extra", &["late"]);
    gets(lab, ("node-3", "late"), "box-1", &["box-1"]);
    let taken = [
        "run",
        "--rm",
        "--network",
        "open",
        "--ip",
        "10.77.0.200",
        IMAGE,
        "true",
    ];
    let refused = lab.docker("node-1").refuse(&taken);
    assert!(refused.contains("10.77.0.200"), "{refused}");
    docker.run(&["network", "disconnect", "open", "late"]);
    eventually(
        "another container gets the address that was given back",
        LONG,
        || {
            let taken = lab.docker("node-1").try_run(&taken);
            if taken.code == 0 { Ok(()) } else { Err(taken) }
        },
    );
    // A container that does not run joins with its next start.
    docker.run(&["stop", "-t", "1", "late"]);
    docker.run(&["network", "connect", "open", "late"]);
    docker.run(&["start", "late"]);
    gets(lab, ("node-1", "box-1"), "late", &["late"]);
    docker.run(&["rm", "-f", "late"]);
}

/// A compose file whose network is the cluster's.
fn composed(lab: &Lab) {
    let file = lab.directory().join("compose.yml");
    let text = format!(
        "version: '3.5'\nservices:\n  app:\n    image: {IMAGE}\n    hostname: app\n    command: [\"sh\", \"-c\", \"{SERVER}\"]\n    \
         networks: [open]\nnetworks:\n  open:\n    external: true\n    name: open\n"
    );
    std::fs::write(&file, text).expect("the directory is the test's");
    let compose = lab.docker("node-1").by("docker-compose");
    let file = file.to_string_lossy();
    let of_file = ["-p", "att", "-f", &file];
    compose.run(&[&of_file[..], &["up", "-d"]].concat());
    gets(lab, ("node-2", "box-2"), "app", &["app"]);
    compose.run(&[&of_file[..], &["down", "-t", "1"]].concat());
}

fn lost_daemons(lab: &Lab) {
    let held = address(lab, "node-2", "box-2");
    lab.kill_daemon("node-2");
    gets(lab, ("node-1", "box-1"), &held, &["box-2"]);
    lab.start("node-2");
    gets(lab, ("node-1", "box-1"), "box-2", &["box-2"]);
    assert_eq!(address(lab, "node-2", "box-2"), held);
    let taken = ["run", "--rm", "--network", "open", "--ip", &held, IMAGE, "true"];
    let refused = lab.docker("node-1").refuse(&taken);
    assert!(refused.contains(&held), "{refused}");

    // What ends while no daemon sees it gives its place back.
    let docker = lab.docker("node-3");
    let pid = docker.run(&["inspect", "-f", "{{.State.Pid}}", "box-3"]);
    let held = address(lab, "node-3", "box-3");
    lab.kill_daemon("node-3");
    let (node, pids) = (lab.init("node-3").to_string(), ["-p", "-m", "kill", "-9", &pid]);
    let killed = Command::new("nsenter").args(["-t", &node]).args(pids).status();
    assert!(killed.expect("`nsenter` is in the path").success());
    lab.start("node-3");
    let taken = ["run", "--rm", "--network", "open", "--ip", &held, IMAGE, "true"];
    eventually("the address of a container that nobody saw end", LONG, || {
        let taken = lab.docker("node-1").try_run(&taken);
        if taken.code == 0 { Ok(()) } else { Err(taken) }
    });
}

#[test]
fn places_of_containers_survive_leaders_and_nodes_and_end_with_the_last_address() {
    let lab = Lab::with_image("e2elease", 3, 3);
    // Room for five beside the gateway.
    make_network(&lab, "10.78.0.0/29");
    let place = ["--network", "open", "--restart", "always"];
    for (node, name) in NODES.into_iter().zip(["a1", "a2", "a3"]) {
        let started = serve(&lab, node, name, &place);
        assert_eq!(started.code, 0, "{node} {started:?}");
    }
    let leader = lab.leader("node-1");
    let others: Vec<&str> = NODES.into_iter().filter(|node| *node != leader).collect();
    let [first, second] = others[..] else {
        panic!("{others:?}");
    };
    lab.kill(&leader);
    // While the others find a leader, and know nothing of the third node's containers.
    for (node, name) in [(first, "b1"), (second, "b2")] {
        eventually("a place without the old leader", LONG, || {
            let started = serve(&lab, node, name, &["--network", "open"]);
            if started.code == 0 {
                return Ok(());
            }
            lab.docker(node).try_run(&["rm", "-f", name]);
            Err(started)
        });
    }
    gets(&lab, (first, "b1"), "b2", &["b2"]);
    let full = serve(&lab, first, "b3", &["--network", "open"]);
    assert!(
        full.stderr.contains("no address is free on network open"),
        "{full:?}"
    );
    lab.docker(first).try_run(&["rm", "-f", "b3"]);

    // The node's container comes back with it, to a place of its own.
    lab.start(&leader);
    let back = match leader.as_str() {
        "node-1" => "a1",
        "node-2" => "a2",
        _ => "a3",
    };
    gets(&lab, (first, "b1"), back, &[back]);
    let mut held = BTreeSet::new();
    for (node, name) in NODES
        .into_iter()
        .zip(["a1", "a2", "a3"])
        .chain([(first, "b1"), (second, "b2")])
    {
        assert!(held.insert(address(&lab, node, name)), "{name} {held:?}");
    }
    let all: BTreeSet<String> = (2..7).map(|last| format!("10.78.0.{last}")).collect();
    assert_eq!(held, all);

    // One that goes makes room for one that comes, as often as it likes.
    lab.docker(second).run(&["rm", "-f", "b2"]);
    for _ in 0..3 {
        let run = ["run", "--rm", "--network", "open", IMAGE, "true"];
        eventually("an address that came free", LONG, || {
            let ran = lab.docker(first).try_run(&run);
            if ran.code == 0 { Ok(()) } else { Err(ran) }
        });
    }
    for node in NODES {
        lab.docker(node).try_run(&["rm", "-f", "a1", "a2", "a3", "b1"]);
    }
    is_left_by_all(&lab, first);
}
