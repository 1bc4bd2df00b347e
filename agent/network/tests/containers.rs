//! Bridges, sandboxes and published ports in real network namespaces.

mod attachments;
mod isolation;

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use isolation::*;
use muster_network::{Entry, Network, NetworkConfig, NetworkError, PortMapping, Protocol, SandboxSpec};

/// A machine outside, reached over a wire with 192.0.2.1 here and 192.0.2.2 there.
async fn outside(run_dir: &std::path::Path) -> OwnedFd {
    let elsewhere = NetworkConfig {
        table_prefix: "elsewhere".to_owned(),
        ..NetworkConfig::new(run_dir.join("outside"))
    };
    let network = Network::open(elsewhere).await.unwrap();
    let wire = SandboxSpec {
        container_id: "outside".to_owned(),
        ..SandboxSpec::default()
    };
    let netns = network.create_sandbox(&wire).await.unwrap().netns;
    run("nft", &["delete", "table", "ip", "elsewhere"]);
    let pin = run_dir.join("outside/netns/outside");
    run(
        "ip",
        &[
            "link",
            "add",
            "wire",
            "type",
            "veth",
            "peer",
            "name",
            "wire",
            "netns",
            pin.to_str().unwrap(),
        ],
    );
    run("ip", &["addr", "add", "192.0.2.1/24", "dev", "wire"]);
    run("ip", &["link", "set", "wire", "up"]);
    inside(&netns, || {
        run("ip", &["addr", "add", "192.0.2.2/24", "dev", "wire"]);
        run("ip", &["link", "set", "wire", "up"]);
        // It knows the way to containers, so that only rules keep it from them.
        run("ip", &["route", "add", "10.0.0.0/8", "via", "192.0.2.1"]);
    });
    netns
}

fn tcp(host: &str, host_port: u16, container: u32, container_port: u16) -> PortMapping {
    PortMapping {
        entry: Entry::Host {
            ip: host.parse().unwrap(),
            port: host_port,
        },
        protocol: Protocol::Tcp,
        container_ip: nth("10.1.0.1/24".parse().unwrap(), container).address(),
        container_port,
    }
}

#[test]
fn containers_reach_each_other_the_host_and_the_outside() {
    isolated(|run_dir| async move {
        let network = open(&run_dir).await;
        let outside = outside(&run_dir).await;
        let br0 = bridge("br0", "10.1.0.1/24");
        network.ensure_bridge(&br0).await.unwrap();
        let a = network.create_sandbox(&sandbox("a", &br0, 2)).await.unwrap();
        let b = network.create_sandbox(&sandbox("b", &br0, 3)).await.unwrap();
        serve(&b.netns, 80, "b");
        serve(&outside, 80, "outside");
        assert_eq!(ask_from(&a.netns, "10.1.0.3:80", DEADLINE).unwrap(), "b 10.1.0.2");
        assert_eq!(
            ask_from(&a.netns, "192.0.2.2:80", DEADLINE).unwrap(),
            "outside 192.0.2.1",
            "masqueraded"
        );
        assert_eq!(
            ask("10.1.0.3:80".parse().unwrap(), DEADLINE).unwrap(),
            "b 10.1.0.1",
            "from the host"
        );
        inside(&outside, || {
            run("ip", &["route", "add", "10.1.0.0/24", "via", "192.0.2.1"])
        });
        assert_eq!(
            ask_from(&outside, "10.1.0.3:80", REFUSAL),
            None,
            "unpublished ports are closed to the outside"
        );
        let stats = network.interface_stats("a").await.unwrap();
        assert_eq!(stats[0].0, "eth0");
        assert!(stats[0].1.rx_bytes > 0 && stats[0].1.tx_packets > 0, "{stats:?}");
    });
}

#[test]
fn bridges_are_kept_apart() {
    isolated(|run_dir| async move {
        let network = open(&run_dir).await;
        let outside = outside(&run_dir).await;
        let br0 = bridge("br0", "10.1.0.1/24");
        let br1 = bridge("br1", "10.2.0.1/24");
        let inner = muster_network::BridgeSpec {
            internal: true,
            ..bridge("br2", "10.3.0.1/24")
        };
        let lonely = muster_network::BridgeSpec {
            icc: false,
            ..bridge("br3", "10.4.0.1/24")
        };
        let bare = muster_network::BridgeSpec {
            unprotected: muster_network::Families {
                ipv4: true,
                ipv6: false,
            },
            ..bridge("br4", "10.5.0.1/24")
        };
        for spec in [&br0, &br1, &inner, &lonely, &bare] {
            network.ensure_bridge(spec).await.unwrap();
        }
        let a = network.create_sandbox(&sandbox("a", &br0, 2)).await.unwrap();
        let b = network.create_sandbox(&sandbox("b", &br1, 2)).await.unwrap();
        let c = network.create_sandbox(&sandbox("c", &inner, 2)).await.unwrap();
        let d = network.create_sandbox(&sandbox("d", &inner, 3)).await.unwrap();
        let e = network.create_sandbox(&sandbox("e", &lonely, 2)).await.unwrap();
        let f = network.create_sandbox(&sandbox("f", &lonely, 3)).await.unwrap();
        let g = network.create_sandbox(&sandbox("g", &bare, 2)).await.unwrap();
        serve(&outside, 80, "outside");
        for (sandbox, name) in [(&b, "b"), (&d, "d"), (&f, "f"), (&g, "g")] {
            serve(&sandbox.netns, 80, name);
        }
        assert_eq!(
            ask_from(&outside, "10.5.0.2:80", DEADLINE).unwrap(),
            "g 192.0.2.2",
            "an unprotected bridge"
        );
        assert_eq!(
            ask_from(&a.netns, "10.5.0.2:80", REFUSAL),
            None,
            "an unprotected bridge from another bridge"
        );
        assert_eq!(ask_from(&a.netns, "10.2.0.2:80", REFUSAL), None, "another bridge");
        assert_eq!(
            ask_from(&c.netns, "10.3.0.3:80", DEADLINE).unwrap(),
            "d 10.3.0.2",
            "within an internal bridge"
        );
        assert_eq!(
            ask_from(&c.netns, "192.0.2.2:80", REFUSAL),
            None,
            "from an internal bridge"
        );
        assert_eq!(ask_from(&e.netns, "10.4.0.3:80", REFUSAL), None, "without icc");
        assert_eq!(
            ask_from(&e.netns, "192.0.2.2:80", DEADLINE).unwrap(),
            "outside 192.0.2.1"
        );
    });
}

/// Lets bridges hand packets to the packet filter, or not; without the module they never do.
fn filter_bridged(on: bool) {
    let setting = std::path::Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if setting.exists() {
        std::fs::write(setting, if on { "1" } else { "0" }).unwrap();
    }
}

#[test]
fn a_container_reaches_its_own_published_port_through_a_filtering_bridge() {
    isolated(|run_dir| async move {
        let network = open(&run_dir).await;
        let br0 = bridge("br0", "10.1.0.1/24");
        network.ensure_bridge(&br0).await.unwrap();
        let a = network.create_sandbox(&sandbox("a", &br0, 2)).await.unwrap();
        let b = network.create_sandbox(&sandbox("b", &br0, 3)).await.unwrap();
        serve(&a.netns, 8080, "a");
        network
            .publish("a", &[tcp("0.0.0.0", 80, 2, 8080)])
            .await
            .unwrap();
        for on in [true, false] {
            filter_bridged(on);
            for (who, netns) in [("itself", &a.netns), ("its neighbour", &b.netns)] {
                let reply = ask_from(netns, "10.1.0.1:80", DEADLINE);
                assert_eq!(reply.as_deref(), Some("a 10.1.0.1"), "{who}, filtering: {on}");
            }
            let here = ask("10.1.0.1:80".parse().unwrap(), DEADLINE);
            assert_eq!(here.as_deref(), Some("a 10.1.0.1"));
        }
    });
}

#[test]
fn published_ports_lead_into_the_container_from_everywhere() {
    isolated(|run_dir| async move {
        filter_bridged(false);
        let network = open(&run_dir).await;
        let outside = outside(&run_dir).await;
        let br0 = bridge("br0", "10.1.0.1/24");
        let br1 = bridge("br1", "10.2.0.1/24");
        network.ensure_bridge(&br0).await.unwrap();
        network.ensure_bridge(&br1).await.unwrap();
        let a = network.create_sandbox(&sandbox("a", &br0, 2)).await.unwrap();
        let b = network.create_sandbox(&sandbox("b", &br0, 3)).await.unwrap();
        let c = network.create_sandbox(&sandbox("c", &br1, 2)).await.unwrap();
        serve(&a.netns, 8080, "a");
        let published = network
            .publish("a", &[tcp("0.0.0.0", 80, 2, 8080), tcp("127.0.0.1", 81, 2, 8080)])
            .await
            .unwrap();
        assert_eq!(published[0].entry.host_port(), Some(80));
        assert_eq!(
            ask_from(&outside, "192.0.2.1:80", DEADLINE).unwrap(),
            "a 192.0.2.2"
        );
        let here = |text: &str, timeout| ask(text.parse().unwrap(), timeout);
        assert_eq!(here("192.0.2.1:80", DEADLINE).unwrap(), "a 192.0.2.1");
        assert_eq!(here("127.0.0.1:80", DEADLINE).unwrap(), "a 10.1.0.1");
        assert_eq!(here("127.0.0.1:81", DEADLINE).unwrap(), "a 10.1.0.1");
        assert_eq!(
            ask_from(&outside, "192.0.2.1:81", REFUSAL),
            None,
            "for the host alone"
        );
        assert_eq!(
            ask_from(&b.netns, "192.0.2.1:80", DEADLINE).unwrap(),
            "a 10.1.0.1",
            "hairpin"
        );
        assert_eq!(
            ask_from(&a.netns, "192.0.2.1:80", DEADLINE).unwrap(),
            "a 10.1.0.1",
            "to itself"
        );
        assert_eq!(
            ask_from(&c.netns, "192.0.2.1:80", DEADLINE).unwrap(),
            "a 10.2.0.2",
            "from another bridge"
        );
        network.unpublish("a").await.unwrap();
        network.unpublish("a").await.unwrap();
        assert_eq!(ask_from(&outside, "192.0.2.1:80", REFUSAL), None);
        TcpListener::bind("0.0.0.0:80").unwrap();
    });
}

#[test]
fn containers_cannot_reach_the_loopback_of_the_host() {
    isolated(|run_dir| async move {
        let network = open(&run_dir).await;
        let br0 = bridge("br0", "10.1.0.1/24");
        network.ensure_bridge(&br0).await.unwrap();
        let a = network.create_sandbox(&sandbox("a", &br0, 2)).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:7000").unwrap();
        listener.set_nonblocking(true).unwrap();
        inside(&a.netns, || {
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            run("ip", &["addr", "del", "127.0.0.1/8", "dev", "lo"]);
            run("ip", &["route", "flush", "table", "local", "127.0.0.0/8"]);
            run("ip", &["route", "add", "127.0.0.1/32", "via", "10.1.0.1"]);
        });
        assert_eq!(ask_from(&a.netns, "127.0.0.1:7000", REFUSAL), None);
        assert_eq!(
            listener.accept().unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock
        );
    });
}

#[test]
fn a_routed_bridge_is_reached_by_its_containers_own_addresses_at_published_ports() {
    isolated(|run_dir| async move {
        let network = open(&run_dir).await;
        let outside = outside(&run_dir).await;
        let routed = muster_network::BridgeSpec {
            routed: muster_network::Families {
                ipv4: true,
                ipv6: false,
            },
            ..bridge("br0", "10.1.0.1/24")
        };
        let other = bridge("br1", "10.2.0.1/24");
        network.ensure_bridge(&routed).await.unwrap();
        network.ensure_bridge(&other).await.unwrap();
        let a = network.create_sandbox(&sandbox("a", &routed, 2)).await.unwrap();
        let b = network.create_sandbox(&sandbox("b", &other, 2)).await.unwrap();
        for port in [80, 81] {
            serve(&a.netns, port, "a");
        }
        serve(&outside, 80, "outside");
        let own = PortMapping {
            entry: Entry::Container,
            ..tcp("0.0.0.0", 80, 2, 80)
        };
        // No port of the host is taken.
        let _taken = TcpListener::bind("0.0.0.0:80").unwrap();
        for _ in 0..2 {
            assert_eq!(network.publish("a", &[own]).await.unwrap(), [own]);
        }
        assert_eq!(network.published().await.unwrap(), [("a".to_owned(), own)]);
        for _ in 0..2 {
            let reached = ask_from(&outside, "10.1.0.2:80", DEADLINE);
            assert_eq!(reached.as_deref(), Some("a 192.0.2.2"));
            assert_eq!(ask_from(&outside, "10.1.0.2:81", REFUSAL), None, "not published");
            let from_other = ask_from(&b.netns, "10.1.0.2:80", DEADLINE);
            assert_eq!(from_other.as_deref(), Some("a 10.2.0.2"));
            let out = ask_from(&a.netns, "192.0.2.2:80", DEADLINE);
            assert_eq!(out.as_deref(), Some("outside 10.1.0.2"), "its own address");
            inside(&outside, || {
                run("busybox", &["ping", "-c", "1", "-W", "5", "10.1.0.2"])
            });
            // A later daemon finds it as it is.
            drop(open(&run_dir).await);
        }
        network.unpublish("a").await.unwrap();
        assert_eq!(ask_from(&outside, "10.1.0.2:80", REFUSAL), None, "closed");
    });
}

#[test]
fn a_port_that_is_taken_is_refused_and_nothing_is_kept() {
    isolated(|run_dir| async move {
        let network = open(&run_dir).await;
        network
            .ensure_bridge(&bridge("br0", "10.1.0.1/24"))
            .await
            .unwrap();
        let other = TcpListener::bind("127.0.0.1:90").unwrap();
        let refused = network
            .publish("a", &[tcp("0.0.0.0", 91, 2, 1), tcp("0.0.0.0", 90, 2, 1)])
            .await;
        assert!(
            matches!(refused, Err(NetworkError::PortInUse { port: 90, .. })),
            "{refused:?}"
        );
        assert_eq!(
            refused.unwrap_err().to_string(),
            "Bind for 0.0.0.0:90 failed: port is already allocated"
        );
        assert_eq!(network.published().await.unwrap(), []);
        drop(other);
        network
            .publish("a", &[tcp("0.0.0.0", 91, 2, 1), tcp("0.0.0.0", 90, 2, 1)])
            .await
            .unwrap();
        let refused = network.publish("b", &[tcp("127.0.0.1", 91, 3, 1)]).await;
        assert!(
            matches!(refused, Err(NetworkError::PortInUse { port: 91, .. })),
            "{refused:?}"
        );
        assert!(
            TcpListener::bind("0.0.0.0:91").is_err(),
            "held against other processes"
        );
        let mixed = PortMapping {
            container_ip: IpAddr::from([1; 16]),
            ..tcp("0.0.0.0", 92, 2, 1)
        };
        assert!(matches!(
            network.publish("b", &[mixed]).await,
            Err(NetworkError::Invalid(_))
        ));
        let not_of_host = network.publish("b", &[tcp("10.1.0.2", 80, 2, 80)]).await;
        assert!(
            matches!(not_of_host, Err(NetworkError::PortUnavailable { .. })),
            "{not_of_host:?}"
        );
    });
}

#[test]
fn any_port_is_chosen_once_and_kept() {
    isolated(|run_dir| async move {
        let network = open(&run_dir).await;
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40002").unwrap();
        let any = tcp("0.0.0.0", 0, 2, 1);
        let first = network.publish("a", &[any]).await.unwrap();
        assert_eq!(network.publish("a", &[any]).await.unwrap(), first);
        let second = network.publish("b", &[any, any]).await.unwrap();
        let mut ports: Vec<u16> = first
            .iter()
            .chain(&second)
            .map(|mapping| mapping.entry.host_port().unwrap())
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, [40000, 40001, 40002]);
        assert!(matches!(
            network.publish("c", &[any]).await,
            Err(NetworkError::NoFreePort { .. })
        ));
        network.unpublish("a").await.unwrap();
        assert_eq!(
            network.publish("c", &[any]).await.unwrap()[0].entry,
            first[0].entry
        );
    });
}

#[test]
fn a_new_daemon_takes_over_what_the_old_one_left() {
    isolated(|run_dir| async move {
        let br0 = bridge("br0", "10.1.0.1/24");
        let network = open(&run_dir).await;
        network.ensure_bridge(&br0).await.unwrap();
        let a = network.create_sandbox(&sandbox("a", &br0, 2)).await.unwrap();
        serve(&a.netns, 8080, "a");
        network
            .publish("a", &[tcp("0.0.0.0", 80, 2, 8080)])
            .await
            .unwrap();
        let published = network.published().await.unwrap();
        drop((network, a));
        run("nft", &["add", "rule", "ip", "muster", "forward", "drop"]);
        std::fs::write(run_dir.join("netns/left-by-a-reboot"), "").unwrap();

        let network = open(&run_dir).await;
        assert_eq!(network.published().await.unwrap(), published);
        assert_eq!(network.sandboxes().await.unwrap(), ["a"]);
        assert!(TcpListener::bind("0.0.0.0:80").is_err());
        let a = network.open_sandbox("a").await.unwrap().unwrap();
        assert_eq!(
            ask("127.0.0.1:80".parse().unwrap(), DEADLINE).unwrap(),
            "a 10.1.0.1"
        );
        let rules = run("nft", &["list", "chain", "ip", "muster", "forward"]);
        assert!(!rules.lines().any(|line| line.trim() == "drop"), "{rules}");
        // The bridge is known without being specified again.
        let b = network.create_sandbox(&sandbox("b", &br0, 3)).await.unwrap();
        assert_eq!(
            ask_from(&b.netns, "10.1.0.2:8080", DEADLINE).unwrap(),
            "a 10.1.0.3"
        );
        drop(a);
        network.remove_sandbox("a").await.unwrap();
        network.remove_sandbox("a").await.unwrap();
        assert!(network.open_sandbox("a").await.unwrap().is_none());
        network.unpublish("a").await.unwrap();
        assert_eq!(network.published().await.unwrap(), []);
    });
}

#[test]
fn a_sandbox_can_be_made_again_at_once_with_the_same_address() {
    isolated(|run_dir| async move {
        let br0 = bridge("br0", "10.1.0.1/24");
        let network = open(&run_dir).await;
        network.ensure_bridge(&br0).await.unwrap();
        for _ in 0..20 {
            let a = network.create_sandbox(&sandbox("a", &br0, 2)).await.unwrap();
            let again = network.create_sandbox(&sandbox("a", &br0, 2)).await;
            assert!(matches!(again, Err(NetworkError::SandboxExists { .. })));
            let server = inside(&a.netns, || TcpListener::bind("0.0.0.0:80").unwrap());
            let connected = std::net::TcpStream::connect_timeout(&"10.1.0.2:80".parse().unwrap(), DEADLINE);
            connected.unwrap();
            drop((server, a));
            network.remove_sandbox("a").await.unwrap();
        }
    });
}

#[test]
fn parameters_and_further_interfaces_reach_the_sandbox_alone() {
    isolated(|run_dir| async move {
        let network = open(&run_dir).await;
        let (br0, br1) = (bridge("br0", "10.1.0.1/24"), bridge("br1", "10.2.0.1/24"));
        network.ensure_bridge(&br0).await.unwrap();
        network.ensure_bridge(&br1).await.unwrap();
        let parameter = ("net.ipv4.ip_unprivileged_port_start".to_owned(), "7".to_owned());
        let spec = SandboxSpec {
            sysctls: vec![parameter],
            ..sandbox("a", &br0, 2)
        };
        let a = network.create_sandbox(&spec).await.unwrap();
        let read = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
        assert_eq!(inside(&a.netns, read).trim(), "7");
        assert_ne!(read().trim(), "7");
        let mut second = sandbox("a", &br1, 2).interfaces.remove(0);
        second.name = "eth1".to_owned();
        second.gateways.clear();
        second.mtu = Some(1400);
        network.attach("a", &second).await.unwrap();
        assert!(network.attach("a", &second).await.is_err());
        let shown = inside(&a.netns, || run("ip", &["-o", "addr", "show", "eth1"]));
        assert!(shown.contains("10.2.0.2/24"), "{shown}");
        let shown = inside(&a.netns, || run("ip", &["-o", "link"]));
        assert!(
            shown.contains("mtu 1400") && shown.contains("02:42:0a:02:00:02"),
            "{shown}"
        );
        network.detach("a", "eth1").await.unwrap();
        network.detach("a", "eth1").await.unwrap();
        assert_eq!(network.interface_stats("a").await.unwrap().len(), 1);
        let missing = SandboxSpec {
            container_id: "b".to_owned(),
            ..sandbox("b", &bridge("br9", "10.9.0.1/24"), 2)
        };
        assert!(matches!(
            network.create_sandbox(&missing).await,
            Err(NetworkError::NoSuchBridge { .. })
        ));
        assert_eq!(network.sandboxes().await.unwrap(), ["a"]);
    });
}

#[test]
fn udp_clients_follow_a_published_port_to_its_next_container() {
    isolated(|run_dir| async move {
        let network = open(&run_dir).await;
        let outside = outside(&run_dir).await;
        let br0 = bridge("br0", "10.1.0.1/24");
        network.ensure_bridge(&br0).await.unwrap();
        let a = network.create_sandbox(&sandbox("a", &br0, 2)).await.unwrap();
        let b = network.create_sandbox(&sandbox("b", &br0, 3)).await.unwrap();
        let udp = |container| PortMapping {
            protocol: Protocol::Udp,
            ..tcp("0.0.0.0", 53, container, 5353)
        };
        let server = |netns: &OwnedFd| {
            let socket = inside(netns, || UdpSocket::bind("0.0.0.0:5353").unwrap());
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket
        };
        let (server_a, server_b) = (server(&a.netns), server(&b.netns));
        let client = inside(&outside, || UdpSocket::bind("0.0.0.0:7777").unwrap());
        let mut buffer = [0; 8];
        // Before anything is published, the flow ends at the host.
        client.send_to(b"0", "192.0.2.1:53").unwrap();
        network.publish("a", &[udp(2)]).await.unwrap();
        client.send_to(b"1", "192.0.2.1:53").unwrap();
        let (length, from) = server_a.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..length], from.to_string().as_str()),
            (&b"1"[..], "192.0.2.2:7777")
        );
        network.unpublish("a").await.unwrap();
        network.publish("b", &[udp(3)]).await.unwrap();
        client.send_to(b"2", "192.0.2.1:53").unwrap();
        let (length, _) = server_b.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"2");
    });
}

#[test]
fn a_hundred_sandboxes_at_once() {
    isolated(|run_dir| async move {
        let network = open(&run_dir).await;
        let br0 = bridge("br0", "10.1.0.1/24");
        network.ensure_bridge(&br0).await.unwrap();
        let started = std::time::Instant::now();
        let created: Vec<_> = (0..100)
            .map(|n| {
                let (network, spec) = (network.clone(), sandbox(&format!("c{n}"), &br0, 2 + n));
                tokio::spawn(async move {
                    let sandbox = network.create_sandbox(&spec).await.unwrap();
                    let address = spec.interfaces[0].addresses[0].address();
                    let port = PortMapping {
                        container_ip: address,
                        ..tcp("0.0.0.0", 0, 2, 80)
                    };
                    network.publish(&spec.container_id, &[port]).await.unwrap();
                    sandbox
                })
            })
            .collect();
        let mut sandboxes = Vec::new();
        for task in created {
            sandboxes.push(task.await.unwrap());
        }
        println!("100 sandboxes with a port each: {:?}", started.elapsed());
        serve(&sandboxes[99].netns, 80, "last");
        assert_eq!(
            ask_from(&sandboxes[0].netns, "10.1.0.101:80", DEADLINE).unwrap(),
            "last 10.1.0.2"
        );
        assert_eq!(network.published().await.unwrap().len(), 100);
        drop(sandboxes);
        let started = std::time::Instant::now();
        for n in 0..100 {
            network.unpublish(&format!("c{n}")).await.unwrap();
            network.remove_sandbox(&format!("c{n}")).await.unwrap();
        }
        println!("removed in {:?}", started.elapsed());
        assert_eq!(network.sandboxes().await.unwrap(), Vec::<String>::new());
    });
}
