//! Which connections a container accepts on an overlay, in real network namespaces.

mod isolation;
mod nodes;

use isolation::*;
use muster_network::{Guard, Guards, Protocol, Sandbox, Services};
use nix::net::if_::if_nametoindex;
use nodes::*;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A node with a server on TCP ports 80 and 81 and UDP port 53, and two clients.
async fn fixture(run_dir: &std::path::Path) -> (Node, Sandbox, [Sandbox; 2]) {
    wire();
    let node = node(run_dir, "one", &["192.0.2.1/24"]);
    let gateways = ["10.0.1.1/24", "fd00:1::1/64"];
    node.set_overlays(&[overlay("net", 4097, &gateways, "192.0.2.1", &[])])
        .await;
    let container = async |id, last| {
        let (v4, v6) = (format!("10.0.1.{last}/24"), format!("fd00:1::{last}/64"));
        node.container(id, &[("net", &[&v4, &v6])]).await
    };
    let server = container("server", 2).await;
    let clients = [container("web", 3).await, container("other", 4).await];
    serve(&server.netns, 80, "eighty");
    serve(&server.netns, 81, "more");
    let socket = inside(&server.netns, || UdpSocket::bind("0.0.0.0:53").unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(b"named", from));
        }
    });
    (node, server, clients)
}

async fn guard(node: &Node, guard: Option<Guard>) {
    let guards: Guards = match guard {
        Some(guard) => {
            let guard = Arc::new(guard);
            let others = (ip("10.0.1.4"), Arc::default());
            let own = ["10.0.1.2", "fd00:1::2"].map(|own| (ip(own), Arc::clone(&guard)));
            own.into_iter().chain([others]).collect()
        }
        None => Guards::new(),
    };
    let services = Services {
        guards: Arc::new(guards),
        ..Services::default()
    };
    node.run(|network| async move { network.set_services("server", services).await })
        .await
        .unwrap();
}

fn resolves(netns: impl AsFd) -> bool {
    inside(netns, || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(REFUSAL)).unwrap();
        socket.connect("10.0.1.2:53").unwrap();
        socket.send(b"?").is_ok() && socket.recv(&mut [0; 16]).is_ok()
    })
}

/// Whether ports 80 over each family, 81 and 53 of the server answer.
fn reached(client: &Sandbox) -> [bool; 4] {
    let tcp = |target| ask_from(&client.netns, target, REFUSAL).is_some();
    [
        tcp("10.0.1.2:80"),
        tcp("[fd00:1::2]:80"),
        tcp("10.0.1.2:81"),
        resolves(&client.netns),
    ]
}

#[test]
fn a_container_accepts_what_it_is_told_to_and_refuses_the_rest_at_once() {
    isolated(|run_dir| async move {
        let (node, server, [web, other]) = fixture(&run_dir).await;
        guard(&node, None).await;
        assert_eq!((reached(&web), reached(&other)), ([true; 4], [true; 4]));
        let mut open = inside(&other.netns, || {
            TcpStream::connect_timeout(&"10.0.1.2:81".parse().unwrap(), DEADLINE).unwrap()
        });
        let from_web = Guard {
            from: [ip("10.0.1.3")].into(),
            ports: [
                (ip("fd00:1::3"), Protocol::Tcp, 80),
                (ip("10.0.1.4"), Protocol::Tcp, 81),
            ]
            .into(),
            open: [(Protocol::Udp, 53)].into(),
        };
        guard(&node, Some(from_web.clone())).await;
        assert_eq!(reached(&web), [true; 4]);
        assert_eq!(reached(&other), [false, false, true, true]);
        let refused = inside(&other.netns, || {
            let target: SocketAddr = "10.0.1.2:80".parse().unwrap();
            TcpStream::connect_timeout(&target, DEADLINE).unwrap_err().kind()
        });
        assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
        assert!(
            ask_from(&server.netns, "10.0.1.2:80", DEADLINE).is_some(),
            "itself"
        );

        // Less is accepted now; what stands goes on.
        let nothing_of_other = Guard {
            ports: [(ip("fd00:1::3"), Protocol::Tcp, 80)].into(),
            open: Default::default(),
            ..from_web
        };
        guard(&node, Some(nothing_of_other.clone())).await;
        assert_eq!(reached(&web), [true; 4]);
        assert_eq!(reached(&other), [false; 4]);
        open.write_all(b"hello\n").unwrap();
        open.set_read_timeout(Some(DEADLINE)).unwrap();
        assert!(open.read(&mut [0; 16]).unwrap() > 0);

        // A container that takes its table away gets it back with the next change.
        inside(&server.netns, || {
            run("nft", &["delete", "table", "ip", "muster-guard"])
        });
        assert!(reached(&other)[0]);
        let changed = Guard {
            from: [ip("10.0.1.3"), ip("10.0.1.9")].into(),
            ..nothing_of_other
        };
        guard(&node, Some(changed)).await;
        assert_eq!(reached(&other), [false; 4]);
        guard(&node, None).await;
        assert_eq!(reached(&other), [true; 4]);
        let tables = inside(&server.netns, || run("nft", &["list", "tables"]));
        assert!(!tables.contains("guard"), "{tables}");
    });
}

/// Ports of UDP, 54 of IPv4 and 55 of IPv6, that remember what they were sent.
fn listens(netns: impl AsFd) -> Arc<Mutex<Vec<String>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let sockets = inside(netns, || {
        ["0.0.0.0:54", "[::]:55"].map(|at| UdpSocket::bind(at).unwrap())
    });
    for socket in sockets {
        let hears = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                hears.lock().unwrap().push(text);
                drop(socket.send_to(b"heard", from));
            }
        });
    }
    heard
}

/// The address that IPv6 made for the interface by itself.
fn link_local(netns: impl AsFd) -> String {
    let listed = inside(netns, || {
        run(
            "ip",
            &["-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"],
        )
    });
    let address = listed.split_whitespace().find(|word| word.starts_with("fe80"));
    address.unwrap().split('/').next().unwrap().to_owned()
}

/// Which of these the server hears of, sent one after the other and then a last one to each port that it may hear.
fn heard_of(client: &Sandbox, heard: &Mutex<Vec<String>>, last: &Sandbox, targets: &[String]) -> Vec<String> {
    heard.lock().unwrap().clear();
    let all = targets.to_vec();
    inside(&client.netns, move || {
        for target in all {
            let any = if target.starts_with('[') {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            };
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_broadcast(true).unwrap();
            let mut to: SocketAddr = target.parse().unwrap();
            if let SocketAddr::V6(to) = &mut to {
                to.set_scope_id(if_nametoindex("eth0").unwrap());
            }
            // One may be told of an earlier refusal.
            drop(socket.send_to(target.as_bytes(), to));
        }
    });
    for (from, to) in [("0.0.0.0:0", "10.0.1.2:54"), ("[::]:0", "[fd00:1::2]:55")] {
        let answered = inside(&last.netns, move || {
            let socket = UdpSocket::bind(from).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket.connect(to).unwrap();
            socket.send(b"last").is_ok() && socket.recv(&mut [0; 16]).is_ok()
        });
        assert!(answered, "{to}");
    }
    let heard = heard.lock().unwrap();
    let is_heard = |target: &&String| heard.contains(*target);
    targets.iter().filter(is_heard).cloned().collect()
}

#[test]
fn what_a_container_refuses_does_not_come_by_another_address_either() {
    isolated(|run_dir| async move {
        let (node, server, [web, other]) = fixture(&run_dir).await;
        let heard = listens(&server.netns);
        for client in [&web, &other] {
            inside(&client.netns, || {
                run("ip", &["route", "add", "default", "dev", "eth0"])
            });
        }
        let own = link_local(&server.netns);
        let v4 = ["10.0.1.2", "10.0.1.255", "255.255.255.255", "224.0.0.1"].map(|to| format!("{to}:54"));
        let v6 = ["fd00:1::2", "ff02::1", &own].map(|to| format!("[{to}]:55"));
        let all = [&v4[..], &v6[..]].concat();
        let by_link = |client: &Sandbox| {
            let own = own.clone();
            inside(&client.netns, move || {
                let scope = if_nametoindex("eth0").unwrap();
                let target = format!("[{own}%{scope}]:80").parse().unwrap();
                ask(target, REFUSAL).is_some()
            })
        };
        guard(&node, None).await;
        assert_eq!(heard_of(&other, &heard, &web, &all), all);
        assert!(by_link(&other));

        let from_web = Guard {
            from: [ip("10.0.1.3"), ip("fd00:1::3")].into(),
            ..Guard::default()
        };
        guard(&node, Some(from_web.clone())).await;
        assert_eq!(heard_of(&other, &heard, &web, &all), Vec::<String>::new());
        assert!(!by_link(&other));
        // Who may is known by its addresses on the network, and goes on finding the container.
        for container in [&server, &web] {
            inside(&container.netns, || run("ip", &["neigh", "flush", "dev", "eth0"]));
        }
        let of_web = [&v4[..], &v6[..1]].concat();
        assert_eq!(heard_of(&web, &heard, &web, &all), of_web);
        assert_eq!(reached(&web), [true; 4]);

        let open = Guard {
            open: [(Protocol::Udp, 54), (Protocol::Udp, 55)].into(),
            ..from_web
        };
        guard(&node, Some(open)).await;
        assert_eq!(heard_of(&other, &heard, &web, &all), all);
        assert!(!by_link(&other));
    });
}
