//! Virtual addresses of services, in real network namespaces.

mod isolation;
mod nodes;

use isolation::*;
use muster_network::{Sandbox, Services, VirtualService};
use nodes::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

const VIP: &str = "10.0.1.100";

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn services(virtuals: &[(&str, &[&str])], in_use: &[&str]) -> Services {
    let virtuals = virtuals.iter().map(|(vip, endpoints)| VirtualService {
        vip: address(vip),
        endpoints: endpoints.iter().map(|text| address(text)).collect(),
    });
    Services {
        virtuals: Arc::new(virtuals.collect()),
        in_use: Arc::new(in_use.iter().map(|text| address(text)).collect()),
        ..Services::default()
    }
}

async fn set(node: &Node, id: &'static str, services: Services) {
    node.run(|network| async move { network.set_services(id, services).await })
        .await
        .unwrap();
}

/// A node with a client, and as many containers that serve TCP and UDP port 80 with their names.
async fn fixture(run_dir: &std::path::Path, count: u8) -> (Node, Sandbox, Vec<Sandbox>) {
    wire();
    let node = node(run_dir, "one", &["192.0.2.1/24"]);
    node.set_overlays(&[overlay(
        "net",
        4097,
        &["10.0.1.1/24", "fd00:1::1/64"],
        "192.0.2.1",
        &[],
    )])
    .await;
    let client = node
        .container("client", &[("net", &["10.0.1.9/24", "fd00:1::9/64"])])
        .await;
    let mut servers = Vec::new();
    for n in 0..count {
        let (v4, v6) = (format!("10.0.1.1{n}/24"), format!("fd00:1::1{n}/64"));
        let name: &'static str = ["e0", "e1", "e2", "e3"][usize::from(n)];
        let server = node.container(name, &[("net", &[&v4, &v6])]).await;
        serve(&server.netns, 80, name);
        echo(&server.netns, name);
        servers.push(server);
    }
    (node, client, servers)
}

/// Answers datagrams to port 80 with a name, until the test ends.
fn echo(netns: impl AsFd, name: &'static str) {
    let socket = inside(netns, || UdpSocket::bind("0.0.0.0:80").unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(name.as_bytes(), from));
        }
    });
}

/// Who answers how many of so many connections.
fn answers(netns: impl AsFd, target: &str, count: usize) -> BTreeMap<String, usize> {
    let target: SocketAddr = target.parse().unwrap();
    inside(netns, move || {
        let mut answers = BTreeMap::new();
        for _ in 0..count {
            let answer = ask(target, DEADLINE).expect("a connection is answered");
            let name = answer.split(' ').next().unwrap().to_owned();
            *answers.entry(name).or_default() += 1;
        }
        answers
    })
}

fn names(answers: &BTreeMap<String, usize>) -> Vec<&str> {
    answers.keys().map(String::as_str).collect()
}

#[test]
fn connections_are_shared_out_evenly_in_both_families() {
    isolated(|run_dir| async move {
        let (node, client, _servers) = fixture(&run_dir, 4).await;
        let v4: &[&str] = &["10.0.1.10", "10.0.1.11", "10.0.1.12", "10.0.1.13"];
        let v6: &[&str] = &["fd00:1::10", "fd00:1::11"];
        let in_use = [v4, v6].concat();
        set(
            &node,
            "client",
            services(&[(VIP, v4), ("fd00:1::100", v6)], &in_use),
        )
        .await;
        let found = answers(&client.netns, "10.0.1.100:80", 400);
        assert!(
            found.len() == 4 && found.values().all(|count| (95..=105).contains(count)),
            "{found:?}"
        );
        let found = answers(&client.netns, "[fd00:1::100]:80", 100);
        assert!(
            found.len() == 2 && found.values().all(|count| (45..=55).contains(count)),
            "{found:?}"
        );
        assert_eq!(
            ask_from(&client.netns, "10.0.1.12:80", DEADLINE).unwrap(),
            "e2 10.0.1.9"
        );
    });
}

#[test]
fn a_container_reaches_itself_by_its_services_address() {
    isolated(|run_dir| async move {
        let (node, _client, servers) = fixture(&run_dir, 1).await;
        set(&node, "e0", services(&[(VIP, &["10.0.1.10"])], &["10.0.1.10"])).await;
        assert_eq!(
            ask_from(&servers[0].netns, "10.0.1.100:80", DEADLINE).unwrap(),
            "e0 10.0.1.10"
        );
    });
}

#[test]
fn a_service_without_endpoints_refuses_at_once_and_comes_back() {
    isolated(|run_dir| async move {
        let (node, client, _servers) = fixture(&run_dir, 1).await;
        for vip in [VIP, "fd00:1::100"] {
            set(&node, "client", services(&[(vip, &[])], &[])).await;
            let target = SocketAddr::new(address(vip), 80);
            let refused = inside(&client.netns, move || {
                TcpStream::connect_timeout(&target, DEADLINE).unwrap_err()
            });
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{vip}");
        }
        set(&node, "client", services(&[(VIP, &["10.0.1.10"])], &[])).await;
        assert_eq!(names(&answers(&client.netns, "10.0.1.100:80", 3)), ["e0"]);
        set(&node, "client", Services::default()).await;
        assert_eq!(ask_from(&client.netns, "10.0.1.100:80", REFUSAL), None);
    });
}

#[test]
fn endpoints_that_leave_get_nothing_new_but_keep_what_is_established() {
    isolated(|run_dir| async move {
        let (node, client, servers) = fixture(&run_dir, 3).await;
        let all: &[&str] = &["10.0.1.10", "10.0.1.11", "10.0.1.12"];
        let listener = inside(&servers[2].netns, || TcpListener::bind("0.0.0.0:90").unwrap());
        set(&node, "client", services(&[(VIP, &["10.0.1.12"])], all)).await;
        let mut established = inside(&client.netns, || {
            TcpStream::connect_timeout(&"10.0.1.100:90".parse().unwrap(), DEADLINE).unwrap()
        });
        let (mut server, _) = listener.accept().unwrap();
        set(&node, "client", services(&[(VIP, all)], all)).await;
        assert_eq!(
            names(&answers(&client.netns, "10.0.1.100:80", 30)),
            ["e0", "e1", "e2"]
        );
        set(
            &node,
            "client",
            services(&[(VIP, &["10.0.1.10", "10.0.1.11"])], all),
        )
        .await;
        assert_eq!(names(&answers(&client.netns, "10.0.1.100:80", 30)), ["e0", "e1"]);
        established.write_all(b"still").unwrap();
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut heard = [0; 5];
        server.read_exact(&mut heard).unwrap();
        // When nobody has the address any more, the connection has nobody to go on with: it is told so.
        set(
            &node,
            "client",
            services(&[(VIP, &["10.0.1.10", "10.0.1.11"])], &all[..2]),
        )
        .await;
        established.write_all(b"more").unwrap();
        established.set_read_timeout(Some(DEADLINE)).unwrap();
        let ended = established.read(&mut heard).unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn datagrams_leave_an_endpoint_that_is_none_any_more() {
    isolated(|run_dir| async move {
        let (node, client, _servers) = fixture(&run_dir, 2).await;
        let all: &[&str] = &["10.0.1.10", "10.0.1.11"];
        set(&node, "client", services(&[(VIP, &["10.0.1.10"])], all)).await;
        let socket = inside(&client.netns, || UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.connect("10.0.1.100:80").unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let who = || {
            let mut buffer = [0; 16];
            socket.send(b"who").unwrap();
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        assert_eq!(who(), "e0");
        set(&node, "client", services(&[(VIP, &["10.0.1.11"])], all)).await;
        assert_eq!(who(), "e1", "although it has the address still");
    });
}

#[test]
fn a_new_daemon_replaces_what_it_finds_and_a_container_harms_only_itself() {
    isolated(|run_dir| async move {
        let (node, client, _servers) = fixture(&run_dir, 2).await;
        set(
            &node,
            "client",
            services(&[(VIP, &["10.0.1.10"])], &["10.0.1.10"]),
        )
        .await;
        let config = muster_network::NetworkConfig::new(run_dir.join("one"));
        let again = node.run(|_| muster_network::Network::open(config)).await.unwrap();
        let wanted = services(&[(VIP, &["10.0.1.11"])], &["10.0.1.10", "10.0.1.11"]);
        let daemon = again.clone();
        node.run(|_| async move { daemon.set_services("client", wanted).await })
            .await
            .unwrap();
        assert_eq!(names(&answers(&client.netns, "10.0.1.100:80", 5)), ["e1"]);
        inside(&client.netns, || run("nft", &["flush", "ruleset"]));
        let wanted = services(&[(VIP, &["10.0.1.10", "10.0.1.11"])], &["10.0.1.10", "10.0.1.11"]);
        node.run(|_| async move { again.set_services("client", wanted).await })
            .await
            .unwrap();
        assert_eq!(names(&answers(&client.netns, "10.0.1.100:80", 10)), ["e0", "e1"]);
    });
}

#[test]
fn nft_reads_back_the_table_that_was_meant() {
    isolated(|run_dir| async move {
        let (node, client, _servers) = fixture(&run_dir, 0).await;
        let wanted = services(
            &[
                (VIP, &["10.0.1.10"]),
                ("10.0.1.101", &[]),
                ("fd00:1::100", &["fd00:1::10"]),
            ],
            &[],
        );
        set(&node, "client", wanted).await;
        let listed = inside(&client.netns, || run("nft", &["list", "ruleset"]));
        assert_eq!(listed, include_str!("services/expected.nft"), "{listed}");
        set(&node, "client", services(&[], &[])).await;
        assert_eq!(inside(&client.netns, || run("nft", &["list", "ruleset"])), "");
    });
}

#[test]
fn a_thousand_services_are_there_in_one_step_and_changes_stay_small() {
    isolated(|run_dir| async move {
        let (node, client, _servers) = fixture(&run_dir, 1).await;
        let endpoints = |service: u8, last: u8| -> BTreeSet<IpAddr> {
            (10..last).map(|n| IpAddr::from([10, 0, service, n])).collect()
        };
        let all = |last: u8| {
            let virtuals = (0..1000_u16).map(|n| {
                let [high, low] = n.to_be_bytes();
                VirtualService {
                    vip: IpAddr::from([10, 9, high, low]),
                    endpoints: if n == 0 {
                        endpoints(1, 11)
                    } else {
                        endpoints(low, last)
                    },
                }
            });
            Services {
                virtuals: Arc::new(virtuals.collect()),
                in_use: Arc::default(),
                ..Services::default()
            }
        };
        inside(&client.netns, || {
            run("ip", &["route", "add", "default", "via", "10.0.1.1"])
        });
        let began = Instant::now();
        set(&node, "client", all(20)).await;
        let whole = began.elapsed();
        let mut more = all(20);
        Arc::make_mut(&mut more.virtuals)[7].endpoints = endpoints(3, 21);
        let began = Instant::now();
        set(&node, "client", more).await;
        let one = began.elapsed();
        println!("1,000 services of 10 endpoints: {whole:?}, one endpoint: {one:?}");
        assert!(whole < DEADLINE && one < DEADLINE, "{whole:?} {one:?}");
        assert_eq!(names(&answers(&client.netns, "10.9.0.0:80", 5)), ["e0"]);
    });
}

/// The container's socket would keep its namespace, and the address in it.
#[test]
fn nothing_keeps_a_container_that_goes_while_it_is_led_to_services() {
    isolated(|run_dir| async move {
        let (node, client, servers) = fixture(&run_dir, 0).await;
        drop((client, servers));
        for round in 0..150 {
            let id = format!("c{round}");
            drop(node.container(&id, &[("net", &["10.0.1.20/24"])]).await);
            node.run(|network| async move {
                let wanted = services(&[(VIP, &["10.0.1.10"])], &["10.0.1.10"]);
                let (_, removed) =
                    tokio::join!(network.set_services(&id, wanted), network.remove_sandbox(&id));
                removed.unwrap();
            })
            .await;
        }
        let overlay = std::fs::File::open(run_dir.join("one/overlays/net")).unwrap();
        let begun = Instant::now();
        // The bridge's ports: the tunnel's and the client's.
        while inside(&overlay, || run("ip", &["-br", "link", "show", "master", "br0"]))
            .lines()
            .count()
            > 2
        {
            assert!(begun.elapsed() < DEADLINE, "containers are left");
        }
    });
}
