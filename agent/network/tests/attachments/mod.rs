//! What containers are attached by: both families, macvlan, default routes that move, the resolver's sockets.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use crate::isolation::*;
use muster_network::{
    Attachment, BridgeSpec, DefaultRoute, Entry, Interface, MacAddress, MacvlanMode, NetworkError,
    PortMapping, Protocol, SandboxSpec,
};

const BOTH: &str = "10.1.0.1/24 fd00:1::1/64";

fn tcp_v6(host: &str, host_port: u16, container: &str) -> PortMapping {
    PortMapping {
        entry: Entry::Host {
            ip: host.parse().unwrap(),
            port: host_port,
        },
        protocol: Protocol::Tcp,
        container_ip: container.parse().unwrap(),
        container_port: 80,
    }
}

#[test]
fn containers_talk_and_publish_over_ipv6() {
    isolated(|run_dir| async move {
        let network = open(&run_dir).await;
        let br0 = bridge("br0", BOTH);
        let br1 = bridge("br1", "10.2.0.1/24 fd00:2::1/64");
        network.ensure_bridge(&br0).await.unwrap();
        network.ensure_bridge(&br1).await.unwrap();
        network.ensure_bridge(&br0).await.unwrap();
        let a = network.create_sandbox(&sandbox("a", &br0, 2)).await.unwrap();
        let b = network.create_sandbox(&sandbox("b", &br0, 3)).await.unwrap();
        let c = network.create_sandbox(&sandbox("c", &br1, 2)).await.unwrap();
        serve(&a.netns, 80, "a");
        let from = |netns, address: &str, timeout| ask_from(netns, address, timeout);
        assert_eq!(
            from(&b.netns, "[fd00:1::2]:80", DEADLINE).as_deref(),
            Some("a fd00:1::3")
        );
        assert_eq!(
            from(&b.netns, "10.1.0.2:80", DEADLINE).as_deref(),
            Some("a 10.1.0.3")
        );
        assert_eq!(from(&c.netns, "[fd00:1::2]:80", REFUSAL), None, "another bridge");
        let ports = [
            tcp_v6("0.0.0.0", 0, "10.1.0.2"),
            tcp_v6("::", 0, "fd00:1::2"),
            tcp_v6("fd00:2::1", 81, "fd00:1::2"),
        ];
        let published = network.publish("a", &ports).await.unwrap();
        let port = published[0].entry.host_port().unwrap();
        assert_eq!(
            published[1].entry.host_port(),
            Some(port),
            "one port for both families"
        );
        let here = format!("[fd00:1::1]:{port}");
        assert_eq!(
            from(&b.netns, &here, DEADLINE).as_deref(),
            Some("a fd00:1::1"),
            "hairpin"
        );
        let other = format!("[fd00:2::1]:{port}");
        assert_eq!(from(&c.netns, &other, DEADLINE).as_deref(), Some("a fd00:2::2"));
        assert_eq!(
            from(&c.netns, "[fd00:2::1]:81", DEADLINE).as_deref(),
            Some("a fd00:2::2")
        );
        assert!(ask(other.parse().unwrap(), DEADLINE).is_some(), "from the host");
        let taken = network.publish("b", &[tcp_v6("::", port, "fd00:1::3")]).await;
        assert!(matches!(taken, Err(NetworkError::PortInUse { .. })), "{taken:?}");
        // A later daemon finds them again.
        let later = open(&run_dir).await;
        assert_eq!(later.published().await.unwrap().len(), 3);
        later.unpublish("a").await.unwrap();
        assert_eq!(from(&c.netns, &other, REFUSAL), None);
    });
}

#[test]
fn what_the_packet_filter_cannot_redirect_is_passed_on() {
    isolated(|run_dir| async move {
        run("ip", &["-6", "addr", "add", "fd00:9::9/128", "dev", "lo"]);
        let network = open(&run_dir).await;
        let br0 = bridge("br0", BOTH);
        network.ensure_bridge(&br0).await.unwrap();
        let a = network.create_sandbox(&sandbox("a", &br0, 2)).await.unwrap();
        serve(&a.netns, 80, "a");
        let echo = inside(&a.netns, || UdpSocket::bind("[::]:80").unwrap());
        std::thread::spawn(move || {
            let mut datagram = [0; 2000];
            while let Ok((length, from)) = echo.recv_from(&mut datagram) {
                drop(echo.send_to(&datagram[..length], from));
            }
        });
        let udp = |mapping: PortMapping| PortMapping {
            protocol: Protocol::Udp,
            ..mapping
        };
        let ports = [
            tcp_v6("::1", 81, "fd00:1::2"),
            tcp_v6("::1", 82, "10.1.0.2"),
            tcp_v6("fd00:9::9", 83, "10.1.0.2"),
            tcp_v6("::", 84, "fd00:1::2"),
            udp(tcp_v6("::1", 81, "fd00:1::2")),
            udp(tcp_v6("fd00:9::9", 83, "10.1.0.2")),
        ];
        let passed_on = [
            ("[::1]:81", "a fd00:1::1"),
            ("[::1]:82", "a 10.1.0.1"),
            ("[fd00:9::9]:83", "a 10.1.0.1"),
            ("[::1]:84", "a fd00:1::1"),
        ];
        let asked = async |address: &'static str| {
            let asking = tokio::task::spawn_blocking(move || ask(address.parse().unwrap(), DEADLINE));
            asking.await.unwrap()
        };
        let echoed = async |address: &str| {
            let client = tokio::net::UdpSocket::bind("[::]:0").await.unwrap();
            client.connect(address).await.unwrap();
            client.send(&[7; 1400]).await.unwrap();
            let mut answer = [0; 2000];
            tokio::time::timeout(DEADLINE, client.recv(&mut answer))
                .await
                .unwrap()
                .unwrap()
        };
        let published = network.publish("a", &ports).await.unwrap();
        assert_eq!(network.publish("a", &ports).await.unwrap(), published, "it stays");
        assert_eq!(network.published().await.unwrap().len(), ports.len());
        for _ in 0..2 {
            for (address, answer) in passed_on {
                assert_eq!(asked(address).await.as_deref(), Some(answer), "{address}");
            }
            assert_eq!(
                (echoed("[::1]:81").await, echoed("[fd00:9::9]:83").await),
                (1400, 1400)
            );
        }
        let taken = network.publish("b", &[tcp_v6("::1", 82, "10.1.0.3")]).await;
        assert!(matches!(taken, Err(NetworkError::PortInUse { .. })), "{taken:?}");
        // A later daemon opens them again at once, whatever became of the connections of the earlier one.
        drop(network);
        tokio::task::yield_now().await;
        let later = open(&run_dir).await;
        assert_eq!(asked("[::1]:84").await.as_deref(), Some("a fd00:1::1"));
        later.publish("a", &ports).await.unwrap();
        for (address, answer) in passed_on {
            assert_eq!(asked(address).await.as_deref(), Some(answer), "{address}, later");
        }
        later.unpublish("a").await.unwrap();
        for (address, _) in passed_on {
            assert_eq!(asked(address).await, None, "{address} is closed");
        }
        for (host, protocol) in [("fe80::1", Protocol::Tcp), ("::1", Protocol::Sctp)] {
            let mapping = PortMapping {
                protocol,
                ..tcp_v6(host, 85, "fd00:1::3")
            };
            let refused = later.publish("b", &[mapping]).await;
            assert!(matches!(refused, Err(NetworkError::Invalid(_))), "{refused:?}");
        }
    });
}

#[test]
fn default_routes_move_and_go() {
    isolated(|run_dir| async move {
        let network = open(&run_dir).await;
        let (br0, br1) = (bridge("br0", BOTH), bridge("br1", "10.2.0.1/24"));
        network.ensure_bridge(&br0).await.unwrap();
        network.ensure_bridge(&br1).await.unwrap();
        let a = network.create_sandbox(&sandbox("a", &br0, 2)).await.unwrap();
        let second = Interface {
            gateways: Vec::new(),
            ..interface("eth1", &br1, 2)
        };
        network.attach("a", &second).await.unwrap();
        let routes = |family: &'static str| {
            let shown = inside(&a.netns, move || run("ip", &[family, "route", "show", "default"]));
            shown.trim().to_owned()
        };
        assert!(routes("-6").starts_with("default via fd00:1::1 dev eth0"));
        let moved = DefaultRoute {
            interface: "eth1".to_owned(),
            gateway: "10.2.0.1".parse().unwrap(),
        };
        network
            .set_default_routes("a", std::slice::from_ref(&moved))
            .await
            .unwrap();
        assert!(
            routes("-4").starts_with("default via 10.2.0.1 dev eth1"),
            "{}",
            routes("-4")
        );
        assert_eq!(routes("-6"), "");
        network.set_default_routes("a", &[]).await.unwrap();
        assert_eq!(routes("-4"), "");
        let missing = DefaultRoute {
            interface: "eth7".to_owned(),
            ..moved
        };
        let refused = network.set_default_routes("a", &[missing]).await;
        assert!(
            matches!(refused, Err(NetworkError::NoSuchInterface { .. })),
            "{refused:?}"
        );
    });
}

#[test]
fn macvlan_interfaces_reach_each_other_on_a_vlan_and_on_a_link_that_leads_nowhere() {
    isolated(|run_dir| async move {
        let network = open(&run_dir).await;
        run("ip", &["link", "add", "trunk0", "type", "bridge"]);
        run("ip", &["link", "set", "trunk0", "up"]);
        let refused = network.ensure_parent("nolink").await;
        assert!(
            matches!(refused, Err(NetworkError::NoSuchParent { .. })),
            "{refused:?}"
        );
        let vlan = match network.ensure_parent("trunk0.20").await {
            Ok(made) => {
                assert!(made && !network.ensure_parent("trunk0.20").await.unwrap());
                "trunk0.20"
            }
            // Not every kernel has VLANs.
            Err(NetworkError::Link { source, .. }) if source.to_string().contains("Unknown device type") => {
                "trunk0"
            }
            Err(other) => panic!("{other:?}"),
        };
        network.ensure_isolated_parent("dm-1").await.unwrap();
        network.ensure_isolated_parent("dm-1").await.unwrap();
        for (parent, third) in [(vlan, 5), ("dm-1", 6)] {
            let on = |id: &str, last: u8| SandboxSpec {
                container_id: id.to_owned(),
                interfaces: vec![Interface {
                    attachment: Attachment::Macvlan {
                        parent: parent.to_owned(),
                        mode: MacvlanMode::Bridge,
                    },
                    name: "eth0".to_owned(),
                    addresses: vec![format!("10.{third}.0.{last}/24").parse().unwrap()],
                    mac: MacAddress([2, 0x42, 10, third, 0, last]),
                    gateways: Vec::new(),
                    mtu: None,
                }],
                sysctls: Vec::new(),
            };
            let (one, two) = (format!("one{third}"), format!("two{third}"));
            let one = network.create_sandbox(&on(&one, 2)).await.unwrap();
            let two = network.create_sandbox(&on(&two, 3)).await.unwrap();
            serve(&two.netns, 80, "two");
            let reply = ask_from(&one.netns, &format!("10.{third}.0.3:80"), DEADLINE);
            assert_eq!(reply, Some(format!("two 10.{third}.0.2")), "{parent}");
            network.remove_parent(parent).await.unwrap();
            network.remove_parent(parent).await.unwrap();
        }
        let left = run("ip", &["-o", "link"]);
        assert!(!left.contains("trunk0") && !left.contains("dm-1"), "{left}");
    });
}

#[test]
fn a_resolver_answers_on_its_own_address_and_leaves_port_53_to_the_container() {
    isolated(|run_dir| async move {
        let network = open(&run_dir).await;
        let br0: BridgeSpec = bridge("br0", "10.1.0.1/24");
        network.ensure_bridge(&br0).await.unwrap();
        let a = network.create_sandbox(&sandbox("a", &br0, 2)).await.unwrap();
        let own = inside(&a.netns, || UdpSocket::bind("0.0.0.0:53").unwrap());
        // The second time is a later daemon's.
        for round in 0..2 {
            let sockets = network.open_resolver("a").await.unwrap();
            sockets.udp.set_nonblocking(false).unwrap();
            sockets.udp.set_read_timeout(Some(DEADLINE)).unwrap();
            let client = inside(&a.netns, || UdpSocket::bind("127.0.0.1:0").unwrap());
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            client.connect("127.0.0.11:53").unwrap();
            client.send(b"question").unwrap();
            let mut buffer = [0; 16];
            let (length, from) = sockets.udp.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"question", "{round}");
            sockets.udp.send_to(b"answer", from).unwrap();
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"answer");
            sockets.tcp.set_nonblocking(false).unwrap();
            let connected = inside(&a.netns, || {
                std::net::TcpStream::connect("127.0.0.11:53").unwrap()
            });
            sockets.tcp.accept().unwrap();
            drop(connected);
        }
        drop(own);
        assert!(matches!(
            network.open_resolver("b").await.map(drop),
            Err(NetworkError::NoSandbox { .. })
        ));
    });
}

#[test]
fn the_administrators_chain_is_made_once_and_comes_first() {
    isolated(|run_dir| async move {
        let network = open(&run_dir).await;
        let (br0, br1) = (bridge("br0", BOTH), bridge("br1", "10.2.0.1/24 fd00:2::1/64"));
        network.ensure_bridge(&br0).await.unwrap();
        network.ensure_bridge(&br1).await.unwrap();
        let a = network.create_sandbox(&sandbox("a", &br0, 2)).await.unwrap();
        let b = network.create_sandbox(&sandbox("b", &br1, 2)).await.unwrap();
        serve(&a.netns, 80, "a");
        let ports = [tcp_v6("0.0.0.0", 80, "10.1.0.2"), tcp_v6("::", 80, "fd00:1::2")];
        network.publish("a", &ports).await.unwrap();
        let rule = "add rule inet muster-user forward iifname br1 drop";
        run("nft", &rule.split(' ').collect::<Vec<_>>());
        let later = open(&run_dir).await;
        later.ensure_bridge(&br0).await.unwrap();
        for address in ["10.2.0.1:80", "[fd00:2::1]:80"] {
            assert_eq!(ask_from(&b.netns, address, REFUSAL), None, "{address}");
        }
        let kept = run("nft", &["list", "chain", "inet", "muster-user", "forward"]);
        assert!(kept.contains("iifname \"br1\" drop"), "{kept}");
        run("nft", &["flush", "chain", "inet", "muster-user", "forward"]);
        for address in ["10.2.0.1:80", "[fd00:2::1]:80"] {
            assert!(ask_from(&b.netns, address, DEADLINE).is_some(), "{address}");
        }
    });
}

#[test]
fn macvlan_interfaces_have_the_mode_that_their_network_asks_for() {
    isolated(|run_dir| async move {
        let network = open(&run_dir).await;
        let modes = [
            (MacvlanMode::Private, "private"),
            (MacvlanMode::Vepa, "vepa"),
            (MacvlanMode::Bridge, "bridge"),
            (MacvlanMode::Passthru, "passthru"),
        ];
        for (number, (mode, name)) in (1..).zip(modes) {
            let parent = format!("dm-{number}");
            network.ensure_isolated_parent(&parent).await.unwrap();
            let spec = SandboxSpec {
                container_id: name.to_owned(),
                interfaces: vec![Interface {
                    attachment: Attachment::Macvlan { parent, mode },
                    name: "eth0".to_owned(),
                    addresses: Vec::new(),
                    mac: MacAddress([2, 0x42, 10, 0, 0, number]),
                    gateways: Vec::new(),
                    mtu: None,
                }],
                sysctls: Vec::new(),
            };
            let sandbox = network.create_sandbox(&spec).await.unwrap();
            let (process, netns) = (std::process::id(), sandbox.netns.as_raw_fd());
            let netns = format!("--net=/proc/{process}/fd/{netns}");
            let shown = run("nsenter", &[&netns, "ip", "-d", "link", "show", "eth0"]);
            assert!(shown.contains(&format!("macvlan mode {name}")), "{shown}");
        }
    });
}
