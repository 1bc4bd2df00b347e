use super::*;
use muster_state::{Entry, Outcome};
use muster_types::{NodeDescription, NodeSpec, Timestamp};

struct Cluster {
    state: ClusterState,
    settings: ClusterSpec,
    routes: Vec<IpNet>,
}

impl Cluster {
    fn new() -> Self {
        Self {
            state: ClusterState::new(),
            settings: ClusterSpec::default(),
            routes: Vec::new(),
        }
    }

    fn plan(&self, spec: &NetworkSpec) -> Result<ClusterNetwork, NetworkProblem> {
        let surroundings = Surroundings {
            state: &self.state,
            settings: &self.settings,
            cluster: ClusterId::from_u128(0xabcd << 96),
            routes: self.routes.clone(),
        };
        surroundings.plan(NetworkId::from_u128(u128::from(self.state.index()) + 1), spec)
    }

    fn apply(&mut self, changes: Vec<Change>) -> Outcome {
        let entry = Entry::new(Timestamp(1), Changeset::new(Reason::UserRequest, changes));
        self.state.apply(self.state.index() + 1, &entry).outcome
    }

    fn make(&mut self, spec: &NetworkSpec) -> ClusterNetwork {
        let network = self.plan(spec).unwrap();
        let outcome = self.apply(vec![Change::NetworkCreate(Box::new(network.clone()))]);
        assert_eq!(outcome, Outcome::Applied);
        network
    }

    fn node(&mut self, number: u128) -> NodeId {
        let node = NodeId::from_u128(number);
        let outcome = self.apply(vec![Change::NodeCreate {
            node,
            spec: NodeSpec::default(),
            description: Arc::new(NodeDescription::default()),
        }]);
        assert_eq!(outcome, Outcome::Applied);
        node
    }
}

fn named(name: &str) -> NetworkSpec {
    NetworkSpec {
        name: name.to_owned(),
        driver: "overlay".to_owned(),
        attachable: true,
        ..NetworkSpec::default()
    }
}

fn with_range(subnet: &str, ip_range: &str, gateway: Option<&str>) -> NetworkSpec {
    NetworkSpec {
        ranges: vec![AddressRange {
            subnet: subnet.to_owned(),
            ip_range: ip_range.to_owned(),
            gateway: gateway.map(|text| text.parse().unwrap()),
            ..AddressRange::default()
        }],
        ..named("ranged")
    }
}

fn subnets(network: &ClusterNetwork) -> Vec<String> {
    let subnets = network.subnets.iter();
    subnets
        .map(|subnet| format!("{} {}", subnet.subnet, subnet.gateway))
        .collect()
}

#[test]
fn networks_get_the_next_subnets_and_identifiers() {
    let mut cluster = Cluster::new();
    let ingress = cluster.make(&ingress_spec());
    assert_eq!(
        (ingress.vni, subnets(&ingress)),
        (4096, vec!["10.0.0.0/24 10.0.0.1".to_owned()])
    );
    let first = cluster.make(&named("first"));
    assert_eq!(
        (first.vni, subnets(&first)),
        (4097, vec!["10.0.1.0/24 10.0.1.1".to_owned()])
    );
    let second = cluster.make(&named("second"));
    assert_eq!(second.vni, 4098);
    let outcome = cluster.apply(vec![Change::NetworkRemove { network: first.id }]);
    assert_eq!(outcome, Outcome::Applied);
    let third = cluster.make(&named("third"));
    assert_eq!(
        (third.vni, subnets(&third)),
        (4099, vec!["10.0.1.0/24 10.0.1.1".to_owned()])
    );
}

#[test]
fn subnets_with_routes_on_a_node_are_left_out() {
    let mut cluster = Cluster::new();
    cluster.routes = vec!["10.0.0.0/23".parse().unwrap(), "10.0.3.7/32".parse().unwrap()];
    assert_eq!(subnets(&cluster.make(&named("one"))), ["10.0.2.0/24 10.0.2.1"]);
    assert_eq!(subnets(&cluster.make(&named("two"))), ["10.0.4.0/24 10.0.4.1"]);
    cluster.routes = vec!["10.0.0.0/8".parse().unwrap()];
    assert_eq!(
        subnets(&cluster.make(&named("three"))),
        ["172.16.0.0/24 172.16.0.1"]
    );
    cluster.settings.address_pools = vec!["10.1.0.0/16".parse().unwrap()];
    assert!(matches!(
        cluster.plan(&named("four")),
        Err(NetworkProblem::Conflict(_))
    ));
}

#[test]
fn both_families_have_pools() {
    let mut cluster = Cluster::new();
    let dual = NetworkSpec {
        ipv6: true,
        ..named("dual")
    };
    let network = cluster.make(&dual);
    assert_eq!(network.subnets.len(), 2);
    assert!(
        network.subnets[1].subnet.to_string().starts_with("fd"),
        "{network:?}"
    );
    let six = NetworkSpec { ipv4: false, ..dual };
    assert_eq!(
        cluster.plan(&six),
        Err(NetworkProblem::Conflict(
            "network with name dual already exists".to_owned()
        ))
    );
    let six = NetworkSpec {
        name: "six".to_owned(),
        ..six
    };
    assert_eq!(cluster.make(&six).subnets.len(), 1);
}

#[test]
fn what_was_asked_for_is_checked() {
    let mut cluster = Cluster::new();
    for (subnet, range, gateway) in [
        ("nonsense", "", None),
        ("10.1.0.5/24", "", None),
        ("10.1.0.0/31", "", None),
        ("10.1.0.0/24", "10.2.0.0/28", None),
        ("10.1.0.0/24", "", Some("10.2.0.1")),
        ("224.0.0.0/24", "", None),
        ("127.0.0.0/8", "", None),
        ("::ffff:10.0.0.0/120", "", None),
    ] {
        let planned = cluster.plan(&with_range(subnet, range, gateway));
        assert!(
            matches!(planned, Err(NetworkProblem::Invalid(_))),
            "{subnet}: {planned:?}"
        );
    }
    let network = cluster.make(&with_range("10.1.0.0/24", "10.1.0.128/25", Some("10.1.0.254")));
    assert_eq!(subnets(&network), ["10.1.0.0/24 10.1.0.254"]);
    let overlapping = NetworkSpec {
        name: "other".to_owned(),
        ..with_range("10.1.0.0/16", "", None)
    };
    assert!(matches!(
        cluster.plan(&overlapping),
        Err(NetworkProblem::Forbidden(_))
    ));
    for name in ["bridge", "host", "docker_gwbridge"] {
        assert!(
            matches!(cluster.plan(&named(name)), Err(NetworkProblem::Forbidden(_))),
            "{name}"
        );
    }
    assert!(matches!(
        cluster.plan(&named("a b")),
        Err(NetworkProblem::Invalid(_))
    ));
}

#[test]
fn containers_are_attached_at_the_address_that_they_ask_for_or_a_free_one() {
    let mut cluster = Cluster::new();
    let node = cluster.node(1);
    let network = cluster.make(&with_range("10.1.0.0/29", "", None)).id;
    let attach = |cluster: &Cluster, number: u8, wanted: &[&str]| {
        let wanted: Vec<IpAddr> = wanted.iter().map(|text| text.parse().unwrap()).collect();
        let id = AttachmentId::from_u128(u128::from(number));
        let container = ContainerId::from_bytes([number; 32]);
        plan_attachment(&cluster.state, id, (node, &container), network, &[], &wanted)
    };
    for number in 0..5 {
        let wanted: &[&str] = if number == 0 { &["10.1.0.4"] } else { &[] };
        let attachment = attach(&cluster, number, wanted).unwrap();
        let outcome = cluster.apply(vec![Change::AttachmentCreate(Box::new(attachment))]);
        assert_eq!(outcome, Outcome::Applied);
    }
    let taken = attach(&cluster, 9, &["10.1.0.4"]);
    assert!(matches!(taken, Err(NetworkProblem::Forbidden(_))), "{taken:?}");
    match attach(&cluster, 9, &[]) {
        Err(NetworkProblem::Conflict(text)) => assert!(text.contains("ranged (10.1.0.0/29)"), "{text}"),
        other => panic!("{other:?}"),
    }
    let closed = NetworkSpec {
        attachable: false,
        ..named("closed")
    };
    let closed = cluster.make(&closed).id;
    let container = ContainerId::from_bytes([1; 32]);
    let refused = plan_attachment(
        &cluster.state,
        AttachmentId::from_u128(1),
        (node, &container),
        closed,
        &[],
        &[],
    );
    assert!(matches!(refused, Err(NetworkProblem::Forbidden(_))));
}

#[test]
fn every_node_gets_one_place_in_the_ingress_network() {
    let mut cluster = Cluster::new();
    cluster.node(1);
    assert_eq!(address_nodes(&cluster.state), None);
    cluster.make(&ingress_spec());
    cluster.node(2);
    let changeset = address_nodes(&cluster.state).unwrap();
    assert_eq!(changeset.changes.len(), 2);
    assert_eq!(cluster.apply(changeset.changes), Outcome::Applied);
    assert_eq!(address_nodes(&cluster.state), None);
    cluster.node(3);
    assert_eq!(address_nodes(&cluster.state).unwrap().changes.len(), 1);
}
