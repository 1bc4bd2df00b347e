//! Ports that every node publishes: they lead to the containers of all, and the clients' addresses stay.

use crate::support::{IMAGE, LONG, Lab, eventually, fetch_inside};
use std::collections::{BTreeMap, BTreeSet};

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
/// Serves who asks: the client's address and the server's name.
const WHO: &str = "trap 'exit 0' TERM; mkdir -p /www/cgi-bin; \
    echo '#!/bin/sh' > /www/cgi-bin/who; \
    echo 'printf \"\\r\\n\"; echo $REMOTE_ADDR $(hostname)' >> /www/cgi-bin/who; \
    /bin/busybox chmod 755 /www/cgi-bin/who; httpd -f -p 80 -h /www & wait";

/// Who answers which client, with how often, to a few requests.
fn answers(fetch: impl Fn() -> Result<String, String>) -> Result<BTreeMap<String, BTreeSet<String>>, String> {
    let mut answers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for _ in 0..6 {
        let page = fetch()?;
        let (client, server) = page.trim().split_once(' ').ok_or(format!("{page:?}"))?;
        // A server of both families names those of IPv4 so.
        let client = client.trim_start_matches("[::ffff:").trim_end_matches(']');
        answers
            .entry(client.to_owned())
            .or_default()
            .insert(server.to_owned());
    }
    Ok(answers)
}

#[test]
fn a_published_port_is_served_by_every_node_with_the_clients_address() {
    let lab = Lab::with_image("e2emesh", 3, 1);
    let docker = lab.docker("node-1");
    let create = ["service", "create", "-d", "--name", "web", "--replicas", "2"];
    let what = [
        "--publish",
        "8080:80",
        "--hostname",
        "{{.Task.Name}}",
        IMAGE,
        "sh",
        "-c",
        WHO,
    ];
    docker.run(&[&create[..], &what[..]].concat());
    let tasks = lab.await_running("node-1", "web", 2, |tasks| {
        tasks.values().collect::<BTreeSet<_>>().len() == 2
    });
    let servers: BTreeSet<String> = eventually("both servers", LONG, || {
        let found = answers(|| lab.fetch("node-1", 8080, "cgi-bin/who"))?;
        let servers: BTreeSet<String> = found.into_values().flatten().collect();
        if servers.len() == 2 {
            Ok(servers)
        } else {
            Err(format!("{servers:?}"))
        }
    });
    // From outside: every node leads to both, and each sees the same client, which is none of the nodes.
    let mut clients = BTreeSet::new();
    for node in NODES {
        let found = answers(|| lab.fetch(node, 8080, "cgi-bin/who")).unwrap();
        assert_eq!(found.values().collect::<Vec<_>>(), [&servers], "{node} {found:?}");
        clients.extend(found.into_keys());
    }
    let client = clients.first().cloned().unwrap_or_default();
    assert_eq!(clients.len(), 1, "{clients:?}");
    let own: BTreeSet<String> = NODES.iter().map(|node| lab.address(node)).collect();
    let network = |address: &str| address.rsplit_once('.').map(|(network, _)| network.to_owned());
    assert!(
        !own.contains(&client) && network(&client) == network(&lab.address("node-1")),
        "{client}"
    );

    // From a node itself, whether it has a replica or not, over its loopback and to the others.
    for node in NODES {
        for target in ["127.0.0.1".to_owned(), lab.address(node), lab.address("node-1")] {
            let target = format!("{target}:8080");
            let found = answers(|| fetch_inside(&lab.netns(node), &target, "cgi-bin/who")).unwrap();
            assert_eq!(
                found.values().collect::<Vec<_>>(),
                [&servers],
                "{node} {target} {found:?}"
            );
        }
    }
    // From a container, standalone or of the service.
    let node = tasks.values().next().cloned().unwrap_or_default();
    let container = lab.containers(&node).into_keys().next().unwrap_or_default();
    for target in NODES {
        let url = format!("http://{}:8080/cgi-bin/who", lab.address(target));
        let found =
            answers(|| Ok(lab.docker(&node).run(&["exec", &container, "wget", "-qO-", &url]))).unwrap();
        assert_eq!(
            found.values().collect::<Vec<_>>(),
            [&servers],
            "{target} {found:?}"
        );
    }

    // One replica less, and then none: nobody is led to what is gone.
    docker.run(&["service", "scale", "-d", "web=1"]);
    lab.await_running("node-1", "web", 1, |_| true);
    for node in NODES {
        eventually("one server", LONG, || {
            let found = answers(|| lab.fetch(node, 8080, "cgi-bin/who"))?;
            let servers: BTreeSet<String> = found.into_values().flatten().collect();
            if servers.len() == 1 {
                Ok(())
            } else {
                Err(format!("{servers:?}"))
            }
        });
    }
    docker.run(&["service", "rm", "web"]);
    for node in NODES {
        eventually("the port is closed", LONG, || {
            match lab.fetch(node, 8080, "cgi-bin/who") {
                Err(_) => Ok(()),
                Ok(page) => Err(page),
            }
        });
    }
}

#[test]
fn containers_keep_serving_while_daemons_are_killed_and_start_again() {
    let lab = Lab::with_image("e2emshk", 2, 1);
    let docker = lab.docker("node-1");
    let create = ["service", "create", "-d", "--name", "web", "--replicas", "2"];
    let what = ["--publish", "8080:80", IMAGE, "sh", "-c", WHO];
    docker.run(&[&create[..], &what[..]].concat());
    lab.await_running("node-1", "web", 2, |_| true);
    let served = |node: &str| answers(|| lab.fetch(node, 8080, "cgi-bin/who"));
    for node in ["node-1", "node-2"] {
        eventually("served", LONG, || served(node).map(|_| ()));
    }
    for node in ["node-1", "node-2"] {
        lab.await_saved(node);
        lab.kill_daemon(node);
        served(node).unwrap();
    }
    for node in ["node-1", "node-2"] {
        lab.start(node);
        lab.await_daemon(node);
        served(node).unwrap();
    }
}
