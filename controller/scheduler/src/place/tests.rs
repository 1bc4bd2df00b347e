use super::*;
use muster_types::node::Availability;
use muster_types::service::{Platform, Protocol, SpreadOver};
use muster_types::{
    Meta, Node, NodeDescription, NodeSpec, NodeState, NodeStatus, Resources, TaskTemplate, Timestamp,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// A ready node with 4 CPUs and 4 GiB.
pub(crate) fn node(id: u128) -> Node {
    Node {
        id: NodeId::from_u128(id),
        meta: Meta::default(),
        spec: NodeSpec::default(),
        description: Arc::new(NodeDescription {
            resources: Resources {
                nano_cpus: 4_000_000_000,
                memory_bytes: 4 << 30,
                pids: 0,
            },
            ..Default::default()
        }),
        status: NodeStatus {
            state: NodeState::Ready,
            since: Timestamp::ZERO,
            message: String::new(),
            address: String::new(),
            restarting_until: None,
        },
        controller: None,
        addresses: Vec::new(),
    }
}

fn views(nodes: impl IntoIterator<Item = Node>) -> Vec<NodeView> {
    nodes
        .into_iter()
        .map(|node| NodeView::empty(Arc::new(node)))
        .collect()
}

fn group(tasks: u128, template: TaskTemplate) -> Group {
    Group {
        template: Arc::new(template),
        ports: Vec::new(),
        feature_level: 3,
        tasks: (0..tasks).map(TaskId::from_u128).collect(),
    }
}

fn memory(bytes: u64) -> TaskTemplate {
    TaskTemplate {
        reservations: Resources {
            memory_bytes: bytes,
            ..Default::default()
        },
        ..Default::default()
    }
}

fn per_node(placements: &Placements) -> BTreeMap<u128, usize> {
    let mut counts = BTreeMap::new();
    for (_, node) in &placements.placed {
        *counts.entry(node.as_u128()).or_default() += 1;
    }
    counts
}

fn why(placements: &Placements) -> String {
    placements
        .explanation
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default()
}

#[test]
fn tasks_spread_evenly() {
    let placements = place(&group(7, TaskTemplate::default()), &mut views((1..=3).map(node)));
    assert_eq!(per_node(&placements), BTreeMap::from([(1, 3), (2, 2), (3, 2)]));
    assert_eq!(placements.explanation, None);
}

#[test]
fn the_service_counts_before_other_tasks_and_failures_before_both() {
    let mut nodes = views((1..=3).map(node));
    (nodes[0].service_tasks, nodes[0].tasks) = (1, 1);
    (nodes[1].service_tasks, nodes[1].tasks) = (0, 9);
    (nodes[2].failures, nodes[2].tasks) = (5, 0);
    let placements = place(&group(1, TaskTemplate::default()), &mut nodes);
    assert_eq!(per_node(&placements), BTreeMap::from([(2, 1)]));
    nodes[0].node = Arc::new(Node {
        status: NodeStatus {
            state: NodeState::Down,
            ..nodes[0].node.status.clone()
        },
        ..nodes[0].node.as_ref().clone()
    });
    nodes[1].failures = 4;
    let placements = place(&group(1, TaskTemplate::default()), &mut nodes);
    assert_eq!(per_node(&placements), BTreeMap::from([(2, 1)]));
}

#[test]
fn each_filter_explains_itself() {
    let mut down = node(1);
    down.status.state = NodeState::Down;
    let mut paused = node(2);
    paused.spec.availability = Availability::Pause;
    let mut drained = node(3);
    drained.spec.availability = Availability::Drain;
    let mut template = memory(5 << 30);
    template.placement.constraints = vec!["node.labels.zone==a".into()];
    let mut fits = node(4);
    fits.spec.labels.insert("zone".into(), "a".into());
    let placements = place(
        &group(1, template),
        &mut views([down, paused, drained, fits, node(5), node(6)]),
    );
    assert_eq!(
        why(&placements),
        "2 nodes: constraint node.labels.zone==a; 1 node: 1024 MiB memory short; 1 node: down; \
         1 node: availability pause; 1 node: availability drain"
    );
}

#[test]
fn reservations_fill_nodes_and_no_more() {
    let placements = place(&group(10, memory(1 << 30)), &mut views((1..=2).map(node)));
    assert_eq!(per_node(&placements), BTreeMap::from([(1, 4), (2, 4)]));
    assert_eq!(placements.unplaced.len(), 2);
    assert_eq!(why(&placements), "2 nodes: 1024 MiB memory short");
}

#[test]
fn a_host_port_is_used_once_per_node() {
    let mut group = group(3, TaskTemplate::default());
    group.ports = vec![(Protocol::Tcp, 80)];
    let placements = place(&group, &mut views((1..=2).map(node)));
    assert_eq!(placements.placed.len(), 2);
    assert_eq!(why(&placements), "2 nodes: host port 80/tcp in use");
}

#[test]
fn max_replicas_per_node_holds() {
    let mut template = TaskTemplate::default();
    template.placement.replicas_per_node_max = 2;
    let placements = place(&group(5, template), &mut views((1..=2).map(node)));
    assert_eq!(placements.placed.len(), 4);
    assert_eq!(why(&placements), "2 nodes: max replicas per node 2 reached");
}

#[test]
fn platforms_have_two_names() {
    let mut arm = node(1);
    Arc::make_mut(&mut arm.description).platform = Platform {
        os: "linux".into(),
        architecture: "aarch64".into(),
    };
    let mut intel = node(2);
    Arc::make_mut(&mut intel.description).platform = Platform {
        os: "linux".into(),
        architecture: "x86_64".into(),
    };
    let mut template = TaskTemplate::default();
    template.placement.platforms = vec![Platform {
        os: "linux".into(),
        architecture: "amd64".into(),
    }];
    let placements = place(&group(2, template), &mut views([arm, intel]));
    assert_eq!(per_node(&placements), BTreeMap::from([(2, 2)]));
}

#[test]
fn preferences_spread_over_zones_before_nodes() {
    let zoned = |id: u128, zone: &str| {
        let mut node = node(id);
        node.spec.labels.insert("zone".into(), zone.into());
        node
    };
    let mut template = TaskTemplate::default();
    template.placement.preferences = vec![SpreadOver {
        descriptor: "node.labels.zone".into(),
    }];
    let mut nodes = views([
        zoned(1, "a"),
        zoned(2, "a"),
        zoned(3, "a"),
        zoned(4, "b"),
        node(5),
    ]);
    let placements = place(&group(9, template), &mut nodes);
    assert_eq!(
        per_node(&placements),
        BTreeMap::from([(1, 1), (2, 1), (3, 1), (4, 3), (5, 3)])
    );
}

#[test]
fn a_full_zone_leaves_its_share_to_the_others() {
    let mut template = memory(2 << 30);
    template.placement.preferences = vec![SpreadOver {
        descriptor: "node.labels.zone".into(),
    }];
    let mut zoned = node(1);
    zoned.spec.labels.insert("zone".into(), "a".into());
    let placements = place(&group(6, template), &mut views([zoned, node(2), node(3)]));
    assert_eq!(per_node(&placements), BTreeMap::from([(1, 2), (2, 2), (3, 2)]));
}

#[test]
fn a_hundred_thousand_tasks_on_a_thousand_nodes() {
    let mut nodes = views((1..=1000).map(node));
    let group = group(100_000, TaskTemplate::default());
    let begin = Instant::now();
    let placements = place(&group, &mut nodes);
    let elapsed = begin.elapsed();
    assert!(per_node(&placements).values().all(|tasks| *tasks == 100));
    // Unoptimised builds on a busy machine; an optimised build needs a few per cent of this.
    assert!(elapsed.as_secs() < 10, "{elapsed:?}");
}

proptest! {
    #[test]
    fn placing_never_exceeds_capacity_and_leaves_nothing_out_that_fits(
        reservation in 0u64..3000,
        tasks in 0u128..40,
        capacities in prop::collection::vec(0u64..6000, 0..6),
    ) {
        let mut nodes = views(capacities.iter().enumerate().map(|(position, capacity)| {
            let mut node = node(position as u128);
            Arc::make_mut(&mut node.description).resources.memory_bytes = *capacity;
            node
        }));
        let placements = place(&group(tasks, memory(reservation)), &mut nodes);
        prop_assert_eq!(placements.placed.len() + placements.unplaced.len(), tasks as usize);
        for (id, count) in per_node(&placements) {
            prop_assert!(count as u64 * reservation <= capacities[id as usize]);
        }
        if !placements.unplaced.is_empty() {
            prop_assert!(nodes.iter().all(|view| view.free.memory_bytes < reservation));
        }
    }
}

#[test]
fn a_node_of_an_older_version_gets_no_task_that_it_would_run_wrongly() {
    let mut older = node(1);
    Arc::make_mut(&mut older.description).feature_level = 2;
    let mut newer = node(2);
    Arc::make_mut(&mut newer.description).feature_level = 3;
    let mut views = views([older, newer]);
    let placed = place(&group(2, TaskTemplate::default()), &mut views);
    assert_eq!(per_node(&placed), BTreeMap::from([(2, 2)]));
    let placed = place(&group(1, TaskTemplate::default()), &mut views[..1]);
    assert_eq!(
        placed.explanation.unwrap().to_string(),
        "1 node: its version of Muster is too old for the service: update it"
    );
}
