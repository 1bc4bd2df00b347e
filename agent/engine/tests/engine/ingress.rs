//! Ports that every node publishes, which lead to containers of any node.

use crate::members::{Member, Members, serve, served};
use crate::node::info;
use crate::overlays::{Map, ip, on, remove, tell};
use muster_engine::{SharedMesh, SharedNetwork, SharedPort};
use muster_types::network::AddressRange;
use muster_types::service::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const INGRESS: &str = "ingress00000000000000000id";

/// The network of published ports as the node with this number is told of it: 8080 leads to the second node's container.
fn ingress(own: usize) -> SharedNetwork {
    let places: [Vec<IpAddr>; 2] = [vec![ip("10.41.0.2")], vec![ip("10.41.0.3")]];
    let stations = match own {
        0 => vec!["10.41.0.3", "10.41.0.10"],
        _ => vec!["10.41.0.2"],
    };
    let mut network = Map::new().on(own);
    network.id = INGRESS.to_owned();
    network.spec.name = "ingress".to_owned();
    network.spec.ingress = true;
    network.spec.ranges[0] = AddressRange {
        subnet: "10.41.0.0/24".to_owned(),
        gateway: Some(ip("10.41.0.1")),
        ..AddressRange::default()
    };
    network.vni = 4096;
    network.stations = stations
        .into_iter()
        .map(|address| (vec![ip(address)], Member::address_of(1 - own)))
        .collect();
    network.virtuals.clear();
    network.names.clear();
    network.addresses.clear();
    let led = SharedPort {
        endpoints: ["10.41.0.10:80".parse().unwrap()].into(),
        ..SharedPort::default()
    };
    network.mesh = Some(SharedMesh {
        own: places[own].clone(),
        nodes: places.to_vec(),
        ports: BTreeMap::from([((Protocol::Tcp, 8080), led)]),
        lost: BTreeSet::new(),
    });
    network
}

#[test]
fn a_published_port_is_served_by_every_node_also_after_the_daemon_restarts() {
    Members::test(async {
        let mut members = Members::open().await;
        for number in 0..2 {
            let network = ingress(number);
            members[number]
                .run(async move |engine| tell(&engine, vec![network]).await)
                .await;
        }
        let pid = members[1]
            .run(async |engine| {
                let mut config = on(INGRESS, "10.41.0.10");
                config.host.dns.nameservers = vec!["192.0.2.9".to_owned()];
                engine.create(Some("bb"), config).await.unwrap();
                engine.start("bb").await.unwrap();
                info(&engine, "bb").await.pid
            })
            .await;
        serve(pid, "bb");
        for restarted in [false, true] {
            if restarted {
                for number in 0..2 {
                    members[number].restart().await;
                    let network = ingress(number);
                    members[number]
                        .run(async move |engine| tell(&engine, vec![network]).await)
                        .await;
                }
            }
            for (number, target, client) in [
                (0, "192.0.2.1:8080", "192.0.2.1"),
                (0, "192.0.2.2:8080", "192.0.2.1"),
                (1, "192.0.2.1:8080", "192.0.2.2"),
                (1, "127.0.0.1:8080", "10.41.0.3"),
            ] {
                let answer = members[number].inside(move || crate::members::ask(target));
                assert_eq!(
                    answer.unwrap(),
                    format!("bb {client}"),
                    "{number} {target} {restarted}"
                );
            }
        }
        for number in 0..2 {
            members[number]
                .run(async move |engine| {
                    if number == 1 {
                        remove(&engine, "bb").await;
                    }
                    tell(&engine, Vec::new()).await;
                })
                .await;
            let (links, rules) = members[number].inside(|| {
                (
                    served("ip", &["-br", "link"]),
                    served("nft", &["list", "ruleset"]),
                )
            });
            assert!(!links.contains("muster-mesh"), "{links}");
            assert!(
                !rules.contains("8080") && !rules.contains("muster-mesh"),
                "{rules}"
            );
        }
        members.close().await;
    });
}
