//! Networks that nodes share: two engines, each on a node of its own, with a wire between them.

use crate::members::{Member, Members, answers, ask_from, connect, serve, served};
use crate::names::{ask, data};
use crate::node::{info, names, run, shell, until};
use hickory_proto::op::ResponseCode;
use muster_engine::{Engine, ErrorKind, RemoveOptions, SharedNetwork};
use muster_types::container::{EndpointSpec, NetworkMode};
use muster_types::network::{AddressRange, NetworkSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::IpAddr;

const ID: &str = "blue0000000000000000000id";
const VIP: &str = "10.40.0.100";

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What the cluster knows of network `blue`: addresses of containers with the number of their node, and which of them
/// are endpoints of service `web`.
#[derive(Clone)]
pub struct Map {
    containers: Vec<(&'static str, usize)>,
    web: Vec<&'static str>,
    internal: bool,
}

impl Map {
    pub fn new() -> Self {
        Self {
            containers: vec![
                ("10.40.0.2", 0),
                ("10.40.0.7", 0),
                ("10.40.0.9", 0),
                ("10.40.0.3", 1),
                ("10.40.0.4", 1),
            ],
            web: vec!["10.40.0.3", "10.40.0.4"],
            internal: false,
        }
    }

    /// The network as the node with this number is told of it.
    pub fn on(&self, own: usize) -> SharedNetwork {
        let elsewhere = self.containers.iter().filter(|(_, node)| *node != own);
        let web: Vec<IpAddr> = self.web.iter().map(|address| ip(address)).collect();
        let named = [
            ("web", vec![ip(VIP)]),
            ("front", vec![ip(VIP)]),
            ("tasks.web", web.clone()),
            ("web.1", web.iter().take(1).copied().collect()),
        ];
        SharedNetwork {
            id: ID.to_owned(),
            spec: NetworkSpec {
                name: "blue".to_owned(),
                driver: "overlay".to_owned(),
                internal: self.internal,
                ranges: vec![AddressRange {
                    subnet: "10.40.0.0/24".to_owned(),
                    gateway: Some(ip("10.40.0.1")),
                    ..AddressRange::default()
                }],
                ..NetworkSpec::default()
            },
            vni: 4097,
            underlay: Member::address_of(own),
            port: 4789,
            mtu: None,
            stations: elsewhere
                .map(|(address, node)| (vec![ip(address)], Member::address_of(*node)))
                .collect(),
            virtuals: BTreeMap::from([(ip(VIP), web.into_iter().collect())]),
            in_use: self.containers.iter().map(|(address, _)| ip(address)).collect(),
            names: named.map(|(name, addresses)| (name.to_owned(), addresses)).into(),
            addresses: BTreeMap::from([(ip(VIP), "web".to_owned())]),
            mesh: None,
            guards: BTreeMap::new(),
        }
    }

    async fn tell(&self, members: &Members) {
        for (number, member) in members.iter().enumerate() {
            let network = self.on(number);
            member
                .run(async move |engine| tell(&engine, vec![network]).await)
                .await;
        }
    }
}

pub async fn tell(engine: &Engine, networks: Vec<SharedNetwork>) {
    let failures = engine.set_shared_networks(networks).await.unwrap();
    assert!(failures.is_empty(), "{failures:?}");
}

fn on_blue(address: &str) -> muster_types::container::ContainerConfig {
    on(ID, address)
}

pub fn on(network: &str, address: &str) -> muster_types::container::ContainerConfig {
    let mut config = shell("sleep 600");
    let IpAddr::V4(address) = ip(address) else {
        panic!("{address}")
    };
    let place = EndpointSpec {
        ipv4: Some(address),
        ..EndpointSpec::default()
    };
    config.host.network = NetworkMode::Named(network.to_owned());
    config.host.endpoints.insert(network.to_owned(), place);
    config
}

async fn start(engine: Engine, name: &'static str, address: &'static str) -> i32 {
    engine.create(Some(name), on_blue(address)).await.unwrap();
    engine.start(name).await.unwrap();
    info(&engine, name).await.pid
}

pub async fn remove(engine: &Engine, name: &str) {
    let options = RemoveOptions {
        force: true,
        volumes: true,
    };
    engine.remove(name, options).await.unwrap();
}

/// Two nodes that were told of the map, with a container on the first and two on the second.
async fn idle_containers(map: &Map) -> (Members, i32, [i32; 2]) {
    let members = Members::open().await;
    map.tell(&members).await;
    let a = members[0]
        .run(async |engine| start(engine, "aa", "10.40.0.2").await)
        .await;
    let b = members[1]
        .run(async |engine| start(engine, "bb", "10.40.0.3").await)
        .await;
    let c = members[1]
        .run(async |engine| start(engine, "cc", "10.40.0.4").await)
        .await;
    (members, a, [b, c])
}

/// As [`idle_containers`]; those on the second node serve, and keep their network as long as the test runs.
async fn three_containers(map: &Map) -> (Members, i32, [i32; 2]) {
    let (members, a, [b, c]) = idle_containers(map).await;
    serve(b, "bb");
    serve(c, "cc");
    (members, a, [b, c])
}

#[test]
fn containers_of_two_nodes_are_on_one_network_until_it_goes() {
    Members::test(async {
        let mut map = Map::new();
        let (members, a, [b, _]) = three_containers(&map).await;
        assert_eq!(ask_from(a, "10.40.0.3:80").as_deref(), Some("bb 10.40.0.2"));
        serve(a, "aa");
        assert_eq!(ask_from(b, "10.40.0.2:80").as_deref(), Some("aa 10.40.0.3"));

        // The virtual address leads to each as often; a container that is an endpoint itself reaches both, too.
        for client in [a, b] {
            assert_eq!(
                answers(client, "10.40.0.100:80", 60),
                BTreeMap::from([("bb".to_owned(), 30), ("cc".to_owned(), 30)])
            );
        }
        let named = [
            ("web.", vec![VIP]),
            ("FRONT.", vec![VIP]),
            ("web.blue.", vec![VIP]),
            ("tasks.web.", vec!["10.40.0.3", "10.40.0.4"]),
            ("web.1.", vec!["10.40.0.3"]),
        ];
        members[0]
            .run(async move |engine| {
                for (name, expected) in named {
                    let mut found = data(&ask(&engine, "aa", name, false).await);
                    found.sort();
                    assert_eq!(found, expected, "{name}");
                }
                let (code, text) = run(&engine, {
                    let mut config = on_blue("10.40.0.9");
                    config.cmd = shell("nc web 80 </dev/null; ip -o -4 addr; ip route").cmd;
                    config
                })
                .await;
                assert_eq!(code, 0, "{text}");
                assert!(text.starts_with("bb ") || text.starts_with("cc "), "{text}");
                assert!(
                    text.contains("10.40.0.9/24") && text.contains("default via"),
                    "{text}"
                );
                let shown = info(&engine, "aa").await.networks;
                assert_eq!(shown.keys().collect::<Vec<_>>(), ["blue"]);
            })
            .await;

        // One endpoint leaves: nobody is led to it any more, and its name goes.
        map.containers.pop();
        map.web.pop();
        map.tell(&members).await;
        members[1].run(async |engine| remove(&engine, "cc").await).await;
        assert_eq!(
            answers(a, "10.40.0.100:80", 20),
            BTreeMap::from([("bb".to_owned(), 20)])
        );
        members[0]
            .run(async |engine| {
                assert_eq!(
                    data(&ask(&engine, "aa", "tasks.web.", false).await),
                    ["10.40.0.3"]
                );
            })
            .await;
        // Without any, the address refuses at once and the name stands for nobody.
        map.web.pop();
        map.tell(&members).await;
        assert_eq!(ask_from(a, "10.40.0.100:80"), None);
        members[0]
            .run(async |engine| {
                let nobody = ask(&engine, "aa", "tasks.web.", false).await;
                assert_eq!(
                    (nobody.metadata.response_code, nobody.answers.len()),
                    (ResponseCode::NoError, 0)
                );
            })
            .await;
        members.close().await;
    });
}

#[test]
fn a_network_that_cannot_be_made_holds_no_other_back() {
    Members::test(async {
        let mut map = Map::new();
        let (members, a, _) = three_containers(&map).await;
        // Somebody else has the identifier of one.
        let own = Member::address_of(0).to_string();
        let other = [
            "link", "add", "taken", "type", "vxlan", "id", "4098", "dstport", "4789",
        ];
        members[0].inside(move || served("ip", &[&other[..], &["local", &own]].concat()));
        let mut red = map.on(0);
        red.id = "red00000000000000000000id".to_owned();
        red.spec.name = "red".to_owned();
        red.spec.ranges[0].subnet = "10.41.0.0/24".to_owned();
        red.spec.ranges[0].gateway = Some(ip("10.41.0.1"));
        red.vni = 4098;
        // The other one changes all the same.
        map.web.pop();
        let both = vec![red, map.on(0)];
        let told = both.clone();
        members[0]
            .run(async move |engine| {
                let failures = engine.set_shared_networks(told).await.unwrap();
                let failed: Vec<_> = failures.networks.into_iter().collect();
                let [(id, failure)] = &failed[..] else {
                    panic!("{failed:?}")
                };
                assert_eq!(id, "red00000000000000000000id");
                assert!(!failure.is_used && failures.host.is_none());
                assert!(failure.error.chain().contains("VXLAN device 4098"), "{failure:?}");
            })
            .await;
        assert_eq!(
            answers(a, "10.40.0.100:80", 20),
            BTreeMap::from([("bb".to_owned(), 20)])
        );
        members[0].inside(|| served("ip", &["link", "delete", "taken"]));
        members[0]
            .run(async move |engine| tell(&engine, both).await)
            .await;
        members.close().await;
    });
}

#[test]
fn nothing_of_a_shared_network_is_left_in_the_kernel() {
    Members::test(async {
        let (members, ..) = idle_containers(&Map::new()).await;
        for (member, names_here) in [(&members[0], vec!["aa"]), (&members[1], vec!["bb", "cc"])] {
            member
                .run(async move |engine| {
                    let refused = engine.network_remove("blue").await.unwrap_err();
                    assert_eq!(refused.kind(), ErrorKind::Forbidden);
                    // What containers are on stays until they are gone.
                    tell(&engine, Vec::new()).await;
                    assert!(engine.network_list().iter().any(|network| network.id == ID));
                    for name in names_here {
                        remove(&engine, name).await;
                    }
                    until("the network is gone", || {
                        engine.network_list().iter().all(|network| network.id != ID)
                    })
                    .await;
                })
                .await;
            assert!(names(&member.path("run/overlays")).is_empty());
            // The kernel takes a namespace down in its own time.
            until("the containers' links are gone", || {
                let links = member.inside(|| served("ip", &["-br", "link"]));
                let links = links.lines().filter_map(|line| line.split([' ', '@']).next());
                links.collect::<BTreeSet<_>>() == ["docker_gwbridge", "lo", "mt0", "wire"].into()
            })
            .await;
            let tables = member.inside(|| served("nft", &["list", "tables"]));
            assert!(!tables.contains("tunnels"), "{tables}");
        }
        members.close().await;
    });
}

#[test]
fn connections_outlive_the_daemon_and_names_are_answered_again() {
    Members::test(async {
        let map = Map::new();
        let (mut members, a, _) = three_containers(&map).await;
        let mut open = connect(a, "10.40.0.100:81").expect("a connection");
        let mut word = |text: &str| {
            open.write_all(text.as_bytes()).unwrap();
            let mut buffer = vec![0; text.len()];
            open.read_exact(&mut buffer).unwrap();
            assert_eq!(buffer, text.as_bytes());
        };
        word("before");
        for member in members.iter_mut() {
            member.restart().await;
        }
        word("while nobody has told of the network");
        map.tell(&members).await;
        word("after");
        assert_eq!(
            answers(a, "10.40.0.100:80", 20),
            BTreeMap::from([("bb".to_owned(), 10), ("cc".to_owned(), 10)])
        );
        members[0]
            .run(async |engine| {
                assert_eq!(data(&ask(&engine, "aa", "web.", false).await), [VIP]);
                // A container that starts as the daemon does waits for the network.
                engine.stop("aa", Default::default()).await.unwrap();
            })
            .await;
        members[0].restart().await;
        let network = map.on(0);
        members[0]
            .run(async move |engine| {
                let starting = engine.clone();
                let started = tokio::spawn(async move { starting.start("aa").await });
                tell(&engine, vec![network]).await;
                started.await.unwrap().unwrap();
            })
            .await;
        members.close().await;
    });
}

#[test]
fn a_running_container_is_put_on_a_shared_network_and_off_it() {
    Members::test(async {
        let map = Map::new();
        let (members, ..) = three_containers(&map).await;
        members[0]
            .run(async |engine| {
                let inner = NetworkSpec {
                    name: "inner".to_owned(),
                    internal: true,
                    ..NetworkSpec::default()
                };
                engine.network_create(inner).await.unwrap();
                let mut config = shell("sleep 600");
                config.host.network = NetworkMode::Named("inner".to_owned());
                engine.create(Some("dd"), config).await.unwrap();
                engine.start("dd").await.unwrap();
                let pid = info(&engine, "dd").await.pid;
                let routes = move || crate::members::inside(pid, || served("ip", &["route"]));
                assert!(!routes().contains("default"), "{}", routes());

                let place = EndpointSpec {
                    ipv4: "10.40.0.7".parse().ok(),
                    ..EndpointSpec::default()
                };
                let nowhere = engine
                    .network_connect("blue", "dd", EndpointSpec::default())
                    .await;
                assert_eq!(nowhere.unwrap_err().kind(), ErrorKind::Conflict);
                engine.network_connect("blue", "dd", place).await.unwrap();
                assert!(routes().contains("default via"), "{}", routes());
                assert_eq!(ask_from(pid, "10.40.0.100:80").map(|text| text.len()), Some(12));

                engine
                    .network_connect("bridge", "dd", EndpointSpec::default())
                    .await
                    .unwrap();
                assert!(routes().contains("default via 10.211.0.1"), "{}", routes());
                engine.network_disconnect("bridge", "dd", false).await.unwrap();
                assert!(routes().contains("default via"), "{}", routes());

                engine.network_disconnect("blue", "dd", false).await.unwrap();
                assert!(!routes().contains("default"), "{}", routes());
                assert_eq!(ask_from(pid, "10.40.0.100:80"), None);
                remove(&engine, "dd").await;
                engine.network_remove("inner").await.unwrap();
            })
            .await;
        members.close().await;
    });
}

#[test]
fn an_internal_network_has_no_way_out() {
    Members::test(async {
        let map = Map {
            internal: true,
            ..Map::new()
        };
        let (members, a, _) = three_containers(&map).await;
        assert_eq!(ask_from(a, "10.40.0.100:80").map(|text| text.len()), Some(12));
        let routes = crate::members::inside(a, || served("ip", &["route"]));
        assert!(!routes.contains("default"), "{routes}");
        members.close().await;
    });
}
