//! The network between a lab's nodes, with faults.

mod isolation;

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;

use isolation::*;
use muster_network::{Protocol, Topology, TopologyError};
use nix::sched::{CloneFlags, unshare};

/// A node: nothing but a network namespace.
fn node() -> OwnedFd {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()
    });
    made.join().unwrap()
}

fn three_nodes(root: &Path) -> (Topology, Vec<OwnedFd>) {
    let mut topology = Topology::create(root, "lab", "10.9.0.0/24".parse().unwrap()).unwrap();
    let nodes: Vec<OwnedFd> = (1..=3)
        .map(|n: u8| {
            let netns = node();
            let address = topology
                .add_node(&format!("node-{n}"), netns.try_clone().unwrap())
                .unwrap();
            assert_eq!(address, Ipv4Addr::new(10, 9, 0, n + 1));
            serve(&netns, 80, "node");
            netns
        })
        .collect();
    (topology, nodes)
}

fn reaches(from: &OwnedFd, last: u8) -> bool {
    ask_from(from, &format!("10.9.0.{last}:80"), REFUSAL).is_some()
}

#[test]
fn nodes_reach_each_other_until_they_are_parted() {
    isolated(|root| async move {
        let (mut topology, nodes) = three_nodes(&root);
        assert!(reaches(&nodes[0], 3) && reaches(&nodes[1], 2) && reaches(&nodes[2], 2));
        assert!(reaches(topology.netns(), 2), "from the bridge");

        topology.partition(&["node-1", "node-2"], &["node-3"]).unwrap();
        assert!(!reaches(&nodes[0], 4) && !reaches(&nodes[2], 2) && !reaches(&nodes[2], 3));
        assert!(reaches(&nodes[0], 3), "within a group");
        topology.heal().unwrap();
        assert!(reaches(&nodes[0], 4) && reaches(&nodes[2], 3));

        topology.cut("node-2").unwrap();
        assert!(!reaches(&nodes[0], 3) && !reaches(&nodes[1], 2) && !reaches(topology.netns(), 3));
        assert!(reaches(&nodes[0], 4));
        topology.heal().unwrap();

        topology
            .block_port(&["node-1"], &["node-2"], Protocol::Tcp, 80)
            .unwrap();
        assert!(!reaches(&nodes[0], 3));
        assert!(reaches(&nodes[1], 2), "the other direction");
        topology.heal().unwrap();
        assert!(reaches(&nodes[0], 3));
        assert!(matches!(
            topology.cut("node-9"),
            Err(TopologyError::NoSuchNode { .. })
        ));
        topology.remove().unwrap();
    });
}

#[test]
fn one_way_faults_lose_one_way_only() {
    isolated(|root| async move {
        let (mut topology, nodes) = three_nodes(&root);
        let receiver = inside(&nodes[1], || std::net::UdpSocket::bind("0.0.0.0:99").unwrap());
        receiver.set_read_timeout(Some(DEADLINE)).unwrap();
        let sender = inside(&nodes[0], || std::net::UdpSocket::bind("0.0.0.0:98").unwrap());
        sender.set_read_timeout(Some(REFUSAL)).unwrap();
        topology.block(&["node-2"], &["node-1"]).unwrap();
        sender.send_to(b"ping", "10.9.0.3:99").unwrap();
        let mut buffer = [0; 8];
        let (length, from) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..length], from.to_string().as_str()),
            (&b"ping"[..], "10.9.0.2:98")
        );
        receiver.send_to(b"pong", from).unwrap();
        assert!(sender.recv_from(&mut buffer).is_err());
        topology.heal().unwrap();
        receiver.send_to(b"pong", from).unwrap();
        assert_eq!(sender.recv_from(&mut buffer).unwrap().0, 4);
        topology.remove().unwrap();
    });
}

#[test]
fn a_topology_is_found_again_and_leaves_nothing_behind() {
    isolated(|root| async move {
        let (mut topology, mut nodes) = three_nodes(&root);
        topology.partition(&["node-1"], &["node-3"]).unwrap();
        drop(topology);
        let again = Topology::create(&root, "lab", "10.9.0.0/24".parse().unwrap());
        assert!(matches!(again, Err(TopologyError::Exists { .. })));

        let mut topology = Topology::find(&root, "lab").unwrap().unwrap();
        assert_eq!(topology.nodes().len(), 3);
        assert!(!reaches(&nodes[0], 4), "faults outlive the process");
        topology.heal().unwrap();
        // The node is started again while its old namespace still exists.
        let restarted = node();
        serve(&restarted, 80, "node");
        let address = topology
            .add_node("node-3", restarted.try_clone().unwrap())
            .unwrap();
        assert_eq!(address, Ipv4Addr::new(10, 9, 0, 4));
        nodes.push(restarted);
        assert!(reaches(&nodes[0], 4) && reaches(&nodes[3], 2));
        assert!(!reaches(&nodes[2], 2), "the old cable is gone");
        drop(topology);
        Topology::remove_by_name(&root, "lab").unwrap();
        Topology::remove_by_name(&root, "lab").unwrap();
        assert!(Topology::find(&root, "lab").unwrap().is_none());
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(!mounts.contains(root.to_str().unwrap()), "{mounts}");
        assert!(matches!(
            Topology::find(&root, "../x"),
            Err(TopologyError::Name { .. })
        ));
    });
}
