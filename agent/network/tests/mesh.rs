//! The routing mesh: ports of every node that lead to containers of any node, in real network namespaces.

mod isolation;
mod nodes;

use isolation::*;
use muster_network::{
    Attachment, Interface, IpNet, MacAddress, MeshEntries, MeshPort, MeshSpec, Protocol, Sandbox, SandboxSpec,
};
use nodes::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

const GATEWAYS: &[&str] = &["10.0.0.1/24", "fd00:5::1/64"];
/// The nodes' own places in the network of the mesh.
const PLACES: [[&str; 2]; 2] = [["10.0.0.2/24", "fd00:5::2/64"], ["10.0.0.3/24", "fd00:5::3/64"]];

/// Two nodes on a wire with a client; one container of service `a` on each, and one that is nobody's on the first.
struct Fixture {
    nodes: [Node; 2],
    client: OwnedFd,
    servers: [Sandbox; 2],
    stranger: Sandbox,
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    let nets = texts.iter().map(|text| text.parse::<IpNet>().unwrap());
    nets.map(|net| net.address()).collect()
}

fn mesh(own: usize, endpoints: &[&str]) -> MeshSpec {
    let to = |port: u16| {
        let endpoints = endpoints
            .iter()
            .map(|address| SocketAddr::new(address.parse().unwrap(), port));
        MeshPort {
            endpoints: endpoints.collect(),
            at: BTreeSet::new(),
        }
    };
    MeshSpec {
        overlay: "ingress".to_owned(),
        addresses: PLACES[own].iter().map(|text| text.parse().unwrap()).collect(),
        ports: BTreeMap::from([
            ((Protocol::Tcp, 8080), to(80)),
            ((Protocol::Udp, 8080), to(80)),
            ((Protocol::Tcp, 8081), to(81)),
        ]),
        lost: BTreeSet::new(),
    }
}

const BOTH: &[&str] = &["10.0.0.10", "fd00:5::10", "10.0.0.11", "fd00:5::11"];

async fn set_mesh(node: &Node, spec: Option<MeshSpec>) {
    node.run(|network| async move { network.set_mesh(spec).await })
        .await
        .unwrap();
}

/// A container with a place in the mesh's network, one on overlay `blue`, and its way out over a bridge of its node.
async fn server(node: &Node, id: &'static str, last: u32) -> Sandbox {
    let way_out = bridge("gw0", "172.30.0.1/24");
    let on = |overlay: &str, name: &str, texts: &[String]| {
        let addresses: Vec<IpNet> = texts.iter().map(|text| text.parse().unwrap()).collect();
        Interface {
            attachment: Attachment::Overlay(overlay.to_owned()),
            name: name.to_owned(),
            mac: MacAddress::for_address(addresses[0].address()),
            addresses,
            gateways: Vec::new(),
            mtu: None,
        }
    };
    let mut interfaces = vec![interface("eth0", &way_out, last)];
    interfaces.push(on("blue", "eth1", &[format!("10.0.1.{last}/24")]));
    interfaces.push(on(
        "ingress",
        "eth2",
        &[format!("10.0.0.{last}/24"), format!("fd00:5::{last}/64")],
    ));
    let spec = SandboxSpec {
        container_id: id.to_owned(),
        interfaces,
        sysctls: Vec::new(),
    };
    let entries = MeshEntries {
        subnets: GATEWAYS.iter().map(|text| text.parse().unwrap()).collect(),
        nodes: Arc::new(PLACES.iter().map(|place| addresses(place)).collect()),
    };
    let sandbox = node
        .run(|network| async move {
            network.ensure_bridge(&way_out).await.unwrap();
            let sandbox = network.create_sandbox(&spec).await.unwrap();
            network.set_mesh_entries(id, entries.clone()).await.unwrap();
            // Told again, it stays as it is.
            network.set_mesh_entries(id, entries).await.unwrap();
            sandbox
        })
        .await;
    serve(&sandbox.netns, 80, id);
    echo(&sandbox.netns, id);
    sandbox
}

/// On TCP port 81 what it is sent, on UDP port 80 the name and the client's address.
fn echo(netns: impl AsFd, name: &'static str) {
    let (listener, socket) = inside(netns, || {
        (
            std::net::TcpListener::bind("[::]:81").unwrap(),
            UdpSocket::bind("[::]:80").unwrap(),
        )
    });
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || std::io::copy(&mut &client, &mut &client));
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let answer = format!("{name} {}", from.ip().to_canonical());
            drop(socket.send_to(answer.as_bytes(), from));
        }
    });
}

async fn fixture(run_dir: &std::path::Path) -> Fixture {
    wire();
    let one = node(run_dir, "one", &["192.0.2.1/24", "fd00:9::1/64"]);
    let two = node(run_dir, "two", &["192.0.2.2/24", "fd00:9::2/64"]);
    let client = node(
        run_dir,
        "client",
        &["192.0.2.9/24", "fd00:9::9/64", "10.0.1.77/32"],
    );
    let client = client.netns.try_clone().unwrap();
    let stations = |node: &'static str, place: &'static [&'static str]| (place, node);
    let on_one = [
        stations("192.0.2.1", &["10.0.0.2", "fd00:5::2"]),
        stations("192.0.2.1", &["10.0.0.10", "fd00:5::10"]),
        stations("192.0.2.1", &["10.0.0.9"]),
    ];
    let on_two = [
        stations("192.0.2.2", &["10.0.0.3", "fd00:5::3"]),
        stations("192.0.2.2", &["10.0.0.11", "fd00:5::11"]),
    ];
    let blue = |underlay| overlay("blue", 4097, &["10.0.1.1/24"], underlay, &[]);
    one.set_overlays(&[
        overlay("ingress", 4096, GATEWAYS, "192.0.2.1", &on_two),
        blue("192.0.2.1"),
    ])
    .await;
    two.set_overlays(&[
        overlay("ingress", 4096, GATEWAYS, "192.0.2.2", &on_one),
        blue("192.0.2.2"),
    ])
    .await;
    set_mesh(&one, Some(mesh(0, BOTH))).await;
    set_mesh(&two, Some(mesh(1, BOTH))).await;
    let servers = [server(&one, "a0", 10).await, server(&two, "a1", 11).await];
    let stranger = one.container("d", &[("ingress", &["10.0.0.9/24"])]).await;
    // A client whose address lies in a network that the containers are on themselves.
    for node in [&one, &two] {
        inside(&node.netns, || {
            run("ip", &["route", "add", "10.0.1.77", "dev", "eth0"])
        });
    }
    Fixture {
        nodes: [one, two],
        client,
        servers,
        stranger,
    }
}

/// The answers of as many connections to a port, each with how often it was given.
fn answers(netns: impl AsFd, target: &str, count: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        let answer = ask_from(&netns, target, DEADLINE).unwrap_or_else(|| "nothing".to_owned());
        *answers.entry(answer).or_default() += 1;
    }
    answers
}

fn each(client: &str, count: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([(format!("a0 {client}"), count), (format!("a1 {client}"), count)])
}

#[test]
fn every_node_leads_its_port_to_the_containers_of_all_and_the_clients_address_stays() {
    isolated(|run_dir| async move {
        let all = fixture(&run_dir).await;
        for (target, client) in [
            ("192.0.2.1:8080", "192.0.2.9"),
            ("192.0.2.2:8080", "192.0.2.9"),
            ("[fd00:9::1]:8080", "fd00:9::9"),
            ("[fd00:9::2]:8080", "fd00:9::9"),
        ] {
            assert_eq!(answers(&all.client, target, 6), each(client, 3), "{target}");
        }
        // From an address of a network that the container is on itself.
        for node in ["192.0.2.1:8081", "192.0.2.2:8081"] {
            let echoed = inside(&all.client, move || {
                let socket = connect_from("10.0.1.77", node);
                socket.map(|mut stream| {
                    stream.write_all(b"hello").unwrap();
                    let mut buffer = [0; 5];
                    stream.read_exact(&mut buffer).map(|()| buffer).ok()
                })
            });
            assert_eq!(echoed.flatten().as_ref(), Some(b"hello"), "{node}");
        }
    });
}

/// A connection from this address, or nothing.
fn connect_from(own: &str, target: &str) -> Option<TcpStream> {
    let target: SocketAddr = target.parse().unwrap();
    let own: SocketAddr = format!("{own}:0").parse().unwrap();
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    rustix::net::bind(&socket, &own).unwrap();
    rustix::net::connect(&socket, &target).ok()?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    Some(stream)
}

#[test]
fn clients_on_the_node_and_in_its_containers_are_served_as_well() {
    isolated(|run_dir| async move {
        let all = fixture(&run_dir).await;
        let [one, _] = &all.nodes;
        assert_eq!(answers(&one.netns, "127.0.0.1:8080", 6), each("10.0.0.2", 3));
        assert_eq!(answers(&one.netns, "192.0.2.1:8080", 6), each("192.0.2.1", 3));
        assert_eq!(answers(&one.netns, "192.0.2.2:8080", 6), each("192.0.2.1", 3));
        // Containers of every node have the same addresses behind it.
        let [server, ..] = &all.servers;
        assert_eq!(answers(&server.netns, "192.0.2.1:8080", 6), each("10.0.0.2", 3));
        assert_eq!(answers(&server.netns, "192.0.2.2:8080", 6), each("192.0.2.1", 3));
    });
}

#[test]
fn a_port_may_answer_at_some_addresses_of_the_host_alone() {
    isolated(|run_dir| async move {
        let all = fixture(&run_dir).await;
        let at = |nets: &[&str]| {
            let mut spec = mesh(0, BOTH);
            for port in spec.ports.values_mut() {
                port.at = nets.iter().map(|net| net.parse().unwrap()).collect();
            }
            spec
        };
        let node = &all.nodes[0];
        let answered = || {
            let from = |netns: &OwnedFd, target| ask_from(netns, target, REFUSAL).is_some();
            [
                from(&all.client, "192.0.2.1:8080"),
                from(&all.client, "[fd00:9::1]:8080"),
                from(&node.netns, "127.0.0.1:8080"),
            ]
        };
        for (nets, expected) in [
            (&["192.0.2.1/32"][..], [true, false, false]),
            (&["192.0.2.0/25", "fd00:9::/64"], [true, true, false]),
            (&["127.0.0.0/8"], [false, false, true]),
            (&["0.0.0.0/0"], [true, false, true]),
            (&[], [true, true, true]),
        ] {
            set_mesh(node, Some(at(nets))).await;
            assert_eq!(answered(), expected, "{nets:?}");
        }
        // Where it does not answer, the port is free.
        set_mesh(node, Some(at(&["192.0.2.1/32"]))).await;
        serve(&node.netns, 8080, "own");
        assert_eq!(
            answers(&node.netns, "127.0.0.1:8080", 1),
            BTreeMap::from([("own 127.0.0.1".to_owned(), 1)])
        );
        assert_eq!(answers(&all.client, "192.0.2.1:8080", 6), each("192.0.2.9", 3));
    });
}

#[test]
fn the_network_of_the_mesh_carries_nothing_but_published_ports() {
    isolated(|run_dir| async move {
        let all = fixture(&run_dir).await;
        serve(&all.nodes[0].netns, 2222, "host");
        let open = all.nodes[0]
            .container("e", &[("ingress", &["10.0.0.8/24"])])
            .await;
        serve(&open.netns, 80, "e");
        assert_eq!(
            ask_from(&all.stranger.netns, "10.0.0.8:80", DEADLINE).unwrap(),
            "e 10.0.0.9"
        );
        assert_eq!(ask_from(&all.stranger.netns, "10.0.0.10:80", REFUSAL), None);
        assert_eq!(ask_from(&all.stranger.netns, "10.0.0.2:2222", REFUSAL), None);
        assert_eq!(ask_from(&all.servers[0].netns, "10.0.0.2:2222", REFUSAL), None);
        assert_eq!(
            ask_from(&all.client, "192.0.2.1:2222", DEADLINE).unwrap(),
            "host 192.0.2.9"
        );
        let taken = inside(&all.nodes[0].netns, || {
            std::net::TcpListener::bind("0.0.0.0:8080").is_err()
        });
        assert!(taken, "a program of the host could take the port");
    });
}

#[test]
fn datagrams_are_answered_over_both_families_and_no_connection_strays_into_the_mesh() {
    isolated(|run_dir| async move {
        let all = fixture(&run_dir).await;
        for (own, target, client) in [
            ("0.0.0.0:0", "192.0.2.1:8080", "192.0.2.9"),
            ("0.0.0.0:0", "192.0.2.2:8080", "192.0.2.9"),
            ("[::]:0", "[fd00:9::1]:8080", "fd00:9::9"),
            ("[::]:0", "[fd00:9::2]:8080", "fd00:9::9"),
        ] {
            let answers = inside(&all.client, move || {
                let answers = (0..6).map(|_| {
                    let socket = UdpSocket::bind(own).unwrap();
                    socket.set_read_timeout(Some(DEADLINE)).unwrap();
                    socket.connect(target).unwrap();
                    socket.send(b"?").unwrap();
                    let mut buffer = [0; 64];
                    let length = socket.recv(&mut buffer).unwrap();
                    String::from_utf8(buffer[..length].to_vec()).unwrap()
                });
                answers.collect::<Vec<_>>()
            });
            let mut counted = BTreeMap::new();
            for answer in answers {
                *counted.entry(answer).or_default() += 1;
            }
            assert_eq!(counted, each(client, 3), "{target}");
        }
        // The way that answers take is none for what a container begins itself.
        let begun = inside(&all.servers[0].netns, || {
            let target = "[2001:db8::7]:80".parse().unwrap();
            TcpStream::connect_timeout(&target, DEADLINE).unwrap_err().kind()
        });
        assert!(
            matches!(
                begun,
                std::io::ErrorKind::NetworkUnreachable | std::io::ErrorKind::HostUnreachable
            ),
            "{begun:?}"
        );
    });
}

#[test]
fn an_endpoint_that_leaves_gets_no_new_clients_and_keeps_its_connections() {
    isolated(|run_dir| async move {
        let all = fixture(&run_dir).await;
        let mut open = Vec::new();
        for _ in 0..2 {
            open.push(inside(&all.client, || {
                TcpStream::connect_timeout(&"192.0.2.1:8081".parse().unwrap(), DEADLINE).unwrap()
            }));
        }
        let datagrams = inside(&all.client, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket.connect("192.0.2.1:8080").unwrap();
            socket
        });
        let answer = || {
            datagrams.send(b"?").unwrap();
            let mut buffer = [0; 32];
            let length = datagrams.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        let first = answer();
        assert!(first.ends_with(" 192.0.2.9"), "{first}");
        // Whichever it was leaves.
        let (left, stays) = if first.starts_with("a0") {
            (0, "a1")
        } else {
            (1, "a0")
        };
        let rest: Vec<&str> = BOTH
            .iter()
            .enumerate()
            .filter(|(n, _)| n / 2 != left)
            .map(|(_, address)| *address)
            .collect();
        set_mesh(&all.nodes[0], Some(mesh(0, &rest))).await;
        assert_eq!(
            answers(&all.client, "192.0.2.1:8080", 4),
            BTreeMap::from([(format!("{stays} 192.0.2.9"), 4)])
        );
        assert_eq!(answer(), format!("{stays} 192.0.2.9"));
        for stream in &mut open {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.write_all(b"still").unwrap();
            let mut buffer = [0; 5];
            stream.read_exact(&mut buffer).unwrap();
        }
        // Without any, connections are refused.
        set_mesh(&all.nodes[0], Some(mesh(0, &[]))).await;
        assert_eq!(ask_from(&all.client, "192.0.2.1:8080", DEADLINE), None);
    });
}

#[test]
fn nothing_is_left_of_a_mesh_that_goes() {
    isolated(|run_dir| async move {
        let all = fixture(&run_dir).await;
        let node = &all.nodes[0];
        set_mesh(node, Some(mesh(0, BOTH))).await;
        set_mesh(node, None).await;
        set_mesh(node, None).await;
        let (links, rules) = inside(&node.netns, || {
            (run("ip", &["-br", "link"]), run("nft", &["list", "ruleset"]))
        });
        assert!(!links.contains("muster-mesh"), "{links}");
        assert!(
            !rules.contains("muster-mesh") && !rules.contains("8080"),
            "{rules}"
        );
        assert_eq!(ask_from(&all.client, "192.0.2.1:8080", REFUSAL), None);
        let free = inside(&node.netns, || {
            std::net::TcpListener::bind("0.0.0.0:8080").is_ok()
        });
        assert!(free, "the port is still reserved");
        set_mesh(node, Some(mesh(0, BOTH))).await;
        assert_eq!(answers(&all.client, "192.0.2.1:8080", 6), each("192.0.2.9", 3));
    });
}
