//! Overlays between nodes, in real network namespaces.

mod isolation;
mod nodes;

use isolation::*;
use muster_network::{MacAddress, Network, NetworkConfig};
use nodes::*;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Instant;

const GATEWAY: &[&str] = &["10.0.1.1/24"];

/// Two nodes, each with a container on overlay `blue`.
async fn pair(run_dir: &std::path::Path) -> (Node, Node, muster_network::Sandbox, muster_network::Sandbox) {
    wire();
    let one = node(run_dir, "one", &["192.0.2.1/24"]);
    let two = node(run_dir, "two", &["192.0.2.2/24"]);
    let here = overlay(
        "blue",
        4097,
        GATEWAY,
        "192.0.2.1",
        &[(&["10.0.1.3"], "192.0.2.2")],
    );
    let there = overlay(
        "blue",
        4097,
        GATEWAY,
        "192.0.2.2",
        &[(&["10.0.1.2"], "192.0.2.1")],
    );
    one.set_overlays(&[here]).await;
    two.set_overlays(&[there]).await;
    let a = one.container("a", &[("blue", &["10.0.1.2/24"])]).await;
    let b = two.container("b", &[("blue", &["10.0.1.3/24"])]).await;
    (one, two, a, b)
}

/// Counts the packets of tunnels that a node sends from now on.
fn count_tunnelled(netns: impl AsFd) {
    inside(netns, || {
        let rules = "add table inet count; add counter inet count sent; \
                     add chain inet count out { type filter hook output priority 0; }; \
                     add rule inet count out udp dport 4789 counter name sent";
        run("nft", &[rules]);
    });
}

fn tunnelled(netns: impl AsFd) -> u64 {
    let text = inside(netns, || {
        run("nft", &["-j", "list", "counter", "inet", "count", "sent"])
    });
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
    parsed["nftables"][1]["counter"]["packets"].as_u64().unwrap()
}

fn links(netns: impl AsFd) -> String {
    inside(netns, || run("ip", &["-br", "link"]))
}

#[test]
fn containers_of_two_nodes_reach_each_other() {
    isolated(|run_dir| async move {
        let (_one, _two, a, b) = pair(&run_dir).await;
        serve(&b.netns, 80, "b");
        serve(&a.netns, 80, "a");
        assert_eq!(ask_from(&a.netns, "10.0.1.3:80", DEADLINE).unwrap(), "b 10.0.1.2");
        assert_eq!(ask_from(&b.netns, "10.0.1.2:80", DEADLINE).unwrap(), "a 10.0.1.3");
        let shown = inside(&a.netns, || run("ip", &["link", "show", "dev", "eth0"]));
        assert!(shown.contains("mtu 1450"), "{shown}");
    });
}

#[test]
fn both_families_travel_over_nodes_with_ipv6_addresses() {
    isolated(|run_dir| async move {
        wire();
        let one = node(&run_dir, "one", &["fd00:9::1/64"]);
        let two = node(&run_dir, "two", &["fd00:9::2/64"]);
        let gateways = &["10.0.1.1/24", "fd00:1::1/64"];
        let (first, second): (&[&str], &[&str]) = (&["10.0.1.2", "fd00:1::2"], &["10.0.1.3", "fd00:1::3"]);
        one.set_overlays(&[overlay(
            "blue",
            4097,
            gateways,
            "fd00:9::1",
            &[(second, "fd00:9::2")],
        )])
        .await;
        two.set_overlays(&[overlay(
            "blue",
            4097,
            gateways,
            "fd00:9::2",
            &[(first, "fd00:9::1")],
        )])
        .await;
        let a = one
            .container("a", &[("blue", &["10.0.1.2/24", "fd00:1::2/64"])])
            .await;
        let b = two
            .container("b", &[("blue", &["10.0.1.3/24", "fd00:1::3/64"])])
            .await;
        serve(&b.netns, 80, "b");
        assert_eq!(ask_from(&a.netns, "10.0.1.3:80", DEADLINE).unwrap(), "b 10.0.1.2");
        assert_eq!(
            ask_from(&a.netns, "[fd00:1::3]:80", DEADLINE).unwrap(),
            "b fd00:1::2"
        );
        let shown = inside(&a.netns, || run("ip", &["link", "show", "dev", "eth0"]));
        assert!(shown.contains("mtu 1430"), "{shown}");
    });
}

#[test]
fn overlays_are_kept_apart_even_with_the_same_subnet() {
    isolated(|run_dir| async move {
        let (one, two, a, b) = pair(&run_dir).await;
        let blue = overlay(
            "blue",
            4097,
            GATEWAY,
            "192.0.2.1",
            &[(&["10.0.1.3"], "192.0.2.2")],
        );
        let red = overlay("red", 4098, GATEWAY, "192.0.2.1", &[(&["10.0.1.3"], "192.0.2.2")]);
        one.set_overlays(&[blue, red]).await;
        let there = |id, vni| overlay(id, vni, GATEWAY, "192.0.2.2", &[(&["10.0.1.2"], "192.0.2.1")]);
        two.set_overlays(&[there("blue", 4097), there("red", 4098)]).await;
        let c = one.container("c", &[("red", &["10.0.1.2/24"])]).await;
        let d = two.container("d", &[("red", &["10.0.1.3/24"])]).await;
        serve(&b.netns, 80, "b");
        serve(&d.netns, 80, "d");
        assert_eq!(ask_from(&a.netns, "10.0.1.3:80", DEADLINE).unwrap(), "b 10.0.1.2");
        assert_eq!(ask_from(&c.netns, "10.0.1.3:80", DEADLINE).unwrap(), "d 10.0.1.2");
    });
}

#[test]
fn what_is_for_nobody_is_not_sent_anywhere() {
    isolated(|run_dir| async move {
        let (one, _two, a, b) = pair(&run_dir).await;
        let c = one.container("c", &[("blue", &["10.0.1.4/24"])]).await;
        serve(&c.netns, 80, "c");
        assert_eq!(ask_from(&a.netns, "10.0.1.4:80", DEADLINE).unwrap(), "c 10.0.1.2");
        count_tunnelled(&one.netns);
        let seen = received(&c.netns);
        inside(&a.netns, || {
            run(
                "ip",
                &[
                    "neigh",
                    "add",
                    "10.0.1.99",
                    "lladdr",
                    "02:42:0a:00:01:63",
                    "dev",
                    "eth0",
                ],
            );
            let socket = UdpSocket::bind("10.0.1.2:0").unwrap();
            for _ in 0..50 {
                socket.send_to(b"nobody", "10.0.1.99:9").unwrap();
            }
            // Nobody answers who has this one, so nothing follows but the question, which stays on the node.
            assert!(std::net::TcpStream::connect_timeout(&"10.0.1.98:9".parse().unwrap(), REFUSAL).is_err());
        });
        assert_eq!(tunnelled(&one.netns), 0, "on the wire");
        let questions = received(&c.netns) - seen;
        serve(&b.netns, 80, "b");
        assert!(ask_from(&a.netns, "10.0.1.3:80", DEADLINE).is_some());
        assert!(tunnelled(&one.netns) > 0, "what is for somebody is counted");
        assert!(
            questions < 10,
            "another container of the node saw {questions} packets"
        );
    });
}

fn received(netns: impl AsFd) -> u64 {
    let text = inside(netns, || run("ip", &["-s", "-j", "link", "show", "dev", "eth0"]));
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
    parsed[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
}

#[test]
fn a_node_with_another_address_is_found_again() {
    isolated(|run_dir| async move {
        let (one, two, a, b) = pair(&run_dir).await;
        serve(&b.netns, 80, "b");
        assert!(ask_from(&a.netns, "10.0.1.3:80", DEADLINE).is_some());
        inside(&two.netns, || {
            run("ip", &["addr", "del", "192.0.2.2/24", "dev", "eth0"]);
            run("ip", &["addr", "add", "192.0.2.7/24", "dev", "eth0"]);
        });
        two.set_overlays(&[overlay(
            "blue",
            4097,
            GATEWAY,
            "192.0.2.7",
            &[(&["10.0.1.2"], "192.0.2.1")],
        )])
        .await;
        assert_eq!(
            ask_from(&a.netns, "10.0.1.3:80", REFUSAL),
            None,
            "the old address leads nowhere"
        );
        one.set_overlays(&[overlay(
            "blue",
            4097,
            GATEWAY,
            "192.0.2.1",
            &[(&["10.0.1.3"], "192.0.2.7")],
        )])
        .await;
        assert_eq!(ask_from(&a.netns, "10.0.1.3:80", DEADLINE).unwrap(), "b 10.0.1.2");
    });
}

/// A datagram for 10.0.1.2:7777 inside of the overlay's tunnel, as 10.0.1.3 would send it.
fn injected() -> Vec<u8> {
    let payload = b"hello";
    let mut udp = vec![0x1e, 0x61, 0x1e, 0x61, 0, 8 + payload.len() as u8, 0, 0];
    udp.extend_from_slice(payload);
    let mut ip = vec![0x45, 0, 0, 20 + udp.len() as u8, 0, 0, 0, 0, 64, 17, 0, 0];
    ip.extend_from_slice(&[10, 0, 1, 3, 10, 0, 1, 2]);
    let sum: u32 = ip
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let folded = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&folded.to_be_bytes());
    let mac = |address: [u8; 4]| MacAddress::for_ipv4(Ipv4Addr::from(address)).0;
    let ethernet = [&mac([10, 0, 1, 2])[..], &mac([10, 0, 1, 3]), &[8, 0]].concat();
    let vni = 4097_u32.to_be_bytes();
    let vxlan = [8, 0, 0, 0, vni[1], vni[2], vni[3], 0];
    [&vxlan[..], &ethernet, &ip, &udp].concat()
}

#[test]
fn only_nodes_can_send_into_an_overlay() {
    isolated(|run_dir| async move {
        let (_one, two, a, _b) = pair(&run_dir).await;
        let stranger = node(&run_dir, "stranger", &["192.0.2.66/24"]);
        let socket = inside(&a.netns, || UdpSocket::bind("10.0.1.2:7777").unwrap());
        let send_from = |from: &Node| {
            inside(&from.netns, || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.send_to(&injected(), "192.0.2.1:4789").unwrap();
            });
        };
        let mut buffer = [0; 16];
        send_from(&stranger);
        send_from(&two);
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..length], from.ip()),
            (&b"hello"[..], IpAddr::from([10, 0, 1, 3]))
        );
        socket.set_read_timeout(Some(REFUSAL)).unwrap();
        assert!(socket.recv_from(&mut buffer).is_err(), "only the node's came in");
    });
}

/// What a container sends to other machines bears its node's address there.
#[test]
fn containers_cannot_send_into_the_overlays_of_other_nodes() {
    isolated(|run_dir| async move {
        let (one, two, a, _b) = pair(&run_dir).await;
        inside(&two.netns, || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        });
        let outside = bridge("br0", "10.9.0.1/24");
        let spec = sandbox("outside", &outside, 2);
        let c = two.run(|network| async move {
            network.ensure_bridge(&outside).await.unwrap();
            network.create_sandbox(&spec).await.unwrap()
        });
        let c = c.await;
        let socket = inside(&a.netns, || UdpSocket::bind("10.0.1.2:7777").unwrap());
        let other = inside(&one.netns, || UdpSocket::bind("192.0.2.1:4790").unwrap());
        inside(&c.netns, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(&injected(), "192.0.2.1:4789").unwrap();
            socket.send_to(b"else", "192.0.2.1:4790").unwrap();
        });
        let mut buffer = [0; 16];
        other.set_read_timeout(Some(DEADLINE)).unwrap();
        let (length, from) = other.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..length], from.ip()),
            (&b"else"[..], IpAddr::from([192, 0, 2, 2]))
        );
        socket.set_read_timeout(Some(REFUSAL)).unwrap();
        assert!(socket.recv_from(&mut buffer).is_err(), "it came in");
    });
}

#[test]
fn an_overlay_without_other_nodes_admits_nobody_in_either_family() {
    isolated(|run_dir| async move {
        wire();
        for (number, (own, other)) in [("192.0.2.1", "192.0.2.66"), ("fd00:9::1", "fd00:9::66")]
            .iter()
            .enumerate()
        {
            let prefix = if own.contains(':') { 64 } else { 24 };
            let one = node(&run_dir, ["one", "uno"][number], &[&format!("{own}/{prefix}")]);
            let stranger = node(
                &run_dir,
                ["stranger", "extraneo"][number],
                &[&format!("{other}/{prefix}")],
            );
            one.set_overlays(&[overlay("blue", 4097, GATEWAY, own, &[])])
                .await;
            let a = one.container("a", &[("blue", &["10.0.1.2/24"])]).await;
            let socket = inside(&a.netns, || UdpSocket::bind("10.0.1.2:7777").unwrap());
            let (from, to) = (
                SocketAddr::new(other.parse().unwrap(), 0),
                SocketAddr::new(own.parse().unwrap(), 4789),
            );
            inside(&stranger.netns, move || {
                let socket = UdpSocket::bind(from).unwrap();
                socket.send_to(&injected(), to).unwrap();
            });
            socket.set_read_timeout(Some(REFUSAL)).unwrap();
            assert!(socket.recv_from(&mut [0; 16]).is_err(), "{other}");
        }
    });
}

#[test]
fn no_overlay_is_made_that_would_admit_anybody() {
    isolated(|run_dir| async move {
        wire();
        let one = node(&run_dir, "one", &["192.0.2.1/24"]);
        // Another process owns the table as long as it lives.
        let mut owner = inside(&one.netns, || {
            let mut nft = Command::new("nft");
            nft.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null());
            let mut owner = nft.spawn().unwrap();
            let table = b"add table ip muster-tunnels { flags owner; }\n";
            owner.stdin.as_mut().unwrap().write_all(table).unwrap();
            let begun = Instant::now();
            while !run("nft", &["list", "tables"]).contains("muster-tunnels") {
                assert!(begun.elapsed() < DEADLINE, "the table is not made");
            }
            owner
        });
        let blue = overlay("blue", 4097, GATEWAY, "192.0.2.1", &[]);
        let wanted = vec![blue.clone()];
        let made = one.run(|network| async move { network.set_overlays(wanted).await });
        made.await.unwrap_err();
        assert_eq!(one.network.overlays().await.unwrap(), [""; 0]);
        drop(owner.stdin.take());
        owner.wait().unwrap();
        one.set_overlays(&[blue]).await;
        assert_eq!(one.network.overlays().await.unwrap(), ["blue"]);
    });
}

#[test]
fn an_overlay_that_cannot_be_made_keeps_no_other_from_it() {
    isolated(|run_dir| async move {
        wire();
        let one = node(&run_dir, "one", &["192.0.2.1/24"]);
        // Somebody else has the identifier.
        let other = [
            "link", "add", "taken", "type", "vxlan", "id", "4097", "dstport", "4789",
        ];
        inside(&one.netns, move || {
            run("ip", &[&other[..], &["local", "192.0.2.1"]].concat())
        });
        let wanted = [
            overlay("blue", 4097, GATEWAY, "192.0.2.1", &[]),
            overlay("red", 4098, &["10.0.2.1/24"], "192.0.2.1", &[]),
            overlay("wrong", 0, &["10.0.3.1/24"], "192.0.2.1", &[]),
        ];
        let overlays = wanted.to_vec();
        let made = one.run(|network| async move { network.set_overlays(overlays).await });
        let failures = made.await.unwrap();
        assert_eq!(
            failures.keys().collect::<Vec<_>>(),
            ["blue", "wrong"],
            "{failures:?}"
        );
        one.container("a", &[("red", &["10.0.2.2/24"])]).await;
        inside(&one.netns, || run("ip", &["link", "delete", "taken"]));
        one.set_overlays(&wanted[..2]).await;
        one.container("b", &[("blue", &["10.0.1.2/24"])]).await;
    });
}

#[test]
fn nothing_is_left_of_removed_overlays_and_their_identifiers_are_free() {
    isolated(|run_dir| async move {
        wire();
        let one = node(&run_dir, "one", &["192.0.2.1/24"]);
        let before = (
            links(&one.netns),
            inside(&one.netns, || run("nft", &["list", "ruleset"])),
        );
        for round in 0..3 {
            let overlays: Vec<_> = (0..20)
                .map(|n| {
                    let gateway = format!("10.0.{n}.1/24");
                    let remote = format!("10.0.{n}.9");
                    let id = format!("net{round}x{n}");
                    overlay(
                        &id,
                        5000 + n,
                        &[&gateway],
                        "192.0.2.1",
                        &[(&[&remote], "192.0.2.2")],
                    )
                })
                .collect();
            one.set_overlays(&overlays).await;
            assert_eq!(one.network.overlays().await.unwrap().len(), 20);
        }
        let a = one.container("a", &[("net2x3", &["10.0.3.2/24"])]).await;
        drop(a);
        one.run(|network| async move { network.remove_sandbox("a").await })
            .await
            .unwrap();
        one.set_overlays(&[]).await;
        assert_eq!(one.network.overlays().await.unwrap(), [""; 0]);
        let after = (
            links(&one.netns),
            inside(&one.netns, || run("nft", &["list", "ruleset"])),
        );
        assert_eq!(before, after);
    });
}

#[test]
fn a_new_daemon_takes_overlays_over_and_disturbs_no_connection() {
    isolated(|run_dir| async move {
        let (one, _two, a, b) = pair(&run_dir).await;
        let listener = inside(&b.netns, || std::net::TcpListener::bind("10.0.1.3:90").unwrap());
        let mut client = inside(&a.netns, || {
            let address: SocketAddr = "10.0.1.3:90".parse().unwrap();
            std::net::TcpStream::connect_timeout(&address, DEADLINE).unwrap()
        });
        let (mut server, _) = listener.accept().unwrap();
        let config = NetworkConfig::new(run_dir.join("one"));
        let again = one.run(|_| Network::open(config)).await.unwrap();
        let wanted = overlay(
            "blue",
            4097,
            GATEWAY,
            "192.0.2.1",
            &[(&["10.0.1.3"], "192.0.2.2")],
        );
        let failures = one.run(|_| async move { again.set_overlays(vec![wanted]).await });
        assert!(failures.await.unwrap().is_empty());
        client.write_all(b"still").unwrap();
        let mut heard = [0; 5];
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"still");
    });
}
