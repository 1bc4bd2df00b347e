//! Whatever happens to a cluster: reconcile comes to rest, an incremental look finds what a full one finds, every
//! invariant holds, and in the end services have what they want.

mod world;

use muster_types::node::Availability;
use muster_types::service::{FailureAction, PublishMode, PublishedPort, RestartCondition, UpdateOrder};
use muster_types::{NodeState, ServiceMode, ServiceSpec, TaskState};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;
use world::World;

const NODES: [&str; 4] = ["a", "b", "c", "d"];
const SERVICES: [&str; 3] = ["x", "y", "z"];

#[derive(Debug, Clone)]
enum Event {
    Create(usize, Want),
    Update(usize, Want),
    RollBack(usize),
    Remove(usize),
    State(usize, NodeState),
    Availability(usize, Availability),
    Memory(usize, u64),
    Label(usize, bool),
    Hold(usize, bool),
    End(usize, u64, TaskState),
    Agents,
    Reconcile,
    Wait(u64),
}

#[derive(Debug, Clone)]
struct Want {
    replicas: Option<u64>,
    memory_mib: u64,
    image: &'static str,
    constrained: bool,
    condition: RestartCondition,
    attempts: u64,
    delay_s: u64,
    start_first: bool,
    parallelism: u64,
    action: FailureAction,
    port: Option<(PublishMode, u16)>,
    job: bool,
}

fn want() -> impl Strategy<Value = Want> {
    let template = (
        prop_oneof![Just(0u64), Just(300), Just(900)],
        prop_oneof![3 => Just("v1"), 3 => Just("v2"), 1 => Just("bad"), 1 => Just("once")],
        any::<bool>(),
        prop_oneof![
            Just(RestartCondition::Any),
            Just(RestartCondition::OnFailure),
            Just(RestartCondition::None)
        ],
        0u64..4,
        0u64..4,
    );
    let update = (
        any::<bool>(),
        0u64..3,
        prop_oneof![
            Just(FailureAction::Pause),
            Just(FailureAction::Continue),
            Just(FailureAction::Rollback)
        ],
        prop::option::weighted(
            0.3,
            (
                prop_oneof![Just(PublishMode::Ingress), Just(PublishMode::Host)],
                prop_oneof![Just(0u16), Just(8080)],
            ),
        ),
        prop::bool::weighted(0.25),
    );
    (prop::option::weighted(0.8, 0u64..7), template, update).prop_map(|(replicas, template, update)| Want {
        replicas,
        memory_mib: template.0,
        image: template.1,
        constrained: template.2,
        condition: template.3,
        attempts: template.4,
        delay_s: template.5,
        start_first: update.0,
        parallelism: update.1,
        action: update.2,
        port: update.3,
        job: update.4,
    })
}

fn event() -> impl Strategy<Value = Event> {
    let state = prop_oneof![
        3 => Just(NodeState::Ready),
        2 => Just(NodeState::Down),
        1 => Just(NodeState::Unknown),
        1 => Just(NodeState::Disconnected)
    ];
    let availability = prop_oneof![
        Just(Availability::Active),
        Just(Availability::Pause),
        Just(Availability::Drain)
    ];
    let end = prop_oneof![Just(TaskState::Failed), Just(TaskState::Complete)];
    prop_oneof![
        4 => (0..SERVICES.len(), want()).prop_map(|(service, want)| Event::Create(service, want)),
        4 => (0..SERVICES.len(), want()).prop_map(|(service, want)| Event::Update(service, want)),
        1 => (0..SERVICES.len()).prop_map(Event::RollBack),
        1 => (0..SERVICES.len()).prop_map(Event::Remove),
        4 => (0..NODES.len(), state).prop_map(|(node, state)| Event::State(node, state)),
        2 => (0..NODES.len(), availability).prop_map(|(node, to)| Event::Availability(node, to)),
        1 => (0..NODES.len(), 200u64..2000).prop_map(|(node, mib)| Event::Memory(node, mib)),
        1 => (0..NODES.len(), any::<bool>()).prop_map(|(node, on)| Event::Label(node, on)),
        2 => (0..NODES.len(), any::<bool>()).prop_map(|(node, held)| Event::Hold(node, held)),
        3 => (0..SERVICES.len(), 1u64..7, end).prop_map(|(service, slot, state)| Event::End(service, slot, state)),
        4 => Just(Event::Agents),
        4 => Just(Event::Reconcile),
        3 => (0u64..100).prop_map(Event::Wait),
    ]
}

fn spec(name: &str, want: &Want) -> ServiceSpec {
    let mut spec = world::spec(name, 0);
    spec.mode = match (want.replicas, want.job) {
        (Some(replicas), false) => ServiceMode::Replicated { replicas },
        (Some(completions), true) => ServiceMode::ReplicatedJob {
            concurrent_max: want.parallelism,
            completions,
        },
        (None, false) => ServiceMode::Global,
        (None, true) => ServiceMode::GlobalJob,
    };
    let template = &mut spec.template;
    template.container.image = want.image.to_owned();
    template.reservations.memory_bytes = want.memory_mib << 20;
    template.restart.condition = want.condition;
    template.restart.attempts_max = want.attempts;
    template.restart.delay = Duration::from_secs(want.delay_s);
    if want.constrained {
        template.placement.constraints = vec!["node.labels.good==yes".to_owned()];
    }
    spec.update.parallelism = want.parallelism;
    spec.update.failure_action = want.action;
    if want.start_first {
        spec.update.order = UpdateOrder::StartFirst;
        spec.rollback.order = UpdateOrder::StartFirst;
    }
    spec.ports = want
        .port
        .iter()
        .map(|(mode, published_port)| PublishedPort {
            name: String::new(),
            protocol: Default::default(),
            target_port: 80,
            published_port: *published_port,
            mode: *mode,
        })
        .collect();
    spec
}

fn happen(world: &mut World, event: &Event) {
    // As on a leader, whose clock goes on between two decisions: what an update makes is told by its time.
    world.now = world.now.after(Duration::from_nanos(1));
    let exists = |world: &World, service: usize| world.state.service_by_name(SERVICES[service]).is_some();
    match event {
        Event::Create(service, want) => {
            world.create_service(spec(SERVICES[*service], want));
        }
        Event::Update(service, want) if exists(world, *service) => {
            world.update_service(SERVICES[*service], |old| {
                let mode = old.mode;
                *old = spec(SERVICES[*service], want);
                // A service's mode never changes.
                if std::mem::discriminant(&mode) != std::mem::discriminant(&old.mode) {
                    old.mode = mode;
                }
            });
        }
        Event::RollBack(service)
            if exists(world, *service) && world.service(SERVICES[*service]).previous_spec.is_some() =>
        {
            world.roll_back(SERVICES[*service]);
        }
        Event::Remove(service) if exists(world, *service) => world.remove_service(SERVICES[*service]),
        Event::End(service, slot, state) if exists(world, *service) => {
            world.end(SERVICES[*service], *slot, *state);
        }
        Event::Update(..) | Event::RollBack(_) | Event::Remove(_) | Event::End(..) => {}
        Event::State(node, state) => world.set_state(NODES[*node], *state),
        Event::Availability(node, availability) => world.set_availability(NODES[*node], *availability),
        Event::Memory(node, mib) => world.set_memory(NODES[*node], *mib),
        Event::Label(node, good) => world.set_label(NODES[*node], "good", if *good { "yes" } else { "no" }),
        Event::Hold(node, held) => world.hold(NODES[*node], *held),
        Event::Agents => {
            world.agents();
        }
        Event::Reconcile => {
            world.reconcile();
        }
        Event::Wait(seconds) => world.now = world.now.after(Duration::from_secs(*seconds)),
    }
}

/// Everything is well again, and stays so for an hour.
fn heal(world: &mut World) {
    for node in NODES {
        world.hold(node, false);
        world.set_memory(node, 100_000);
        world.set_label(node, "good", "yes");
        world.set_availability(node, Availability::Active);
        world.set_state(node, NodeState::Ready);
    }
    // A task whose image ends at once restarts as long as its policy lets it; nothing rests until then.
    for service in SERVICES {
        if world.state.service_by_name(service).is_some() {
            world.update_service(service, |spec| spec.template.container.image = "v9".to_owned());
        }
    }
    world.tick(Duration::from_secs(3600));
}

fn assert_wishes_hold(world: &World) {
    for service in world.state.services() {
        let host_port = service
            .spec
            .ports
            .iter()
            .any(|port| port.mode == PublishMode::Host && port.published_port != 0);
        // Each node has a port once: start-first has nowhere to start, and another service may hold the port.
        if host_port {
            continue;
        }
        let mut running: BTreeMap<_, u64> = BTreeMap::new();
        for task in world.state.tasks_of_service(service.id) {
            if task.wants_to_run() && task.status.state == TaskState::Running {
                *running.entry(task.slot).or_default() += 1;
                assert_eq!(
                    task.template_version,
                    service.template_version,
                    "{}",
                    world.show_all()
                );
            }
        }
        assert!(running.values().all(|tasks| *tasks == 1), "{}", world.show_all());
        let wanted = match service.spec.mode {
            ServiceMode::Replicated { replicas } => replicas,
            // What runs does not end.
            ServiceMode::ReplicatedJob {
                concurrent_max,
                completions,
            } => concurrent_max.min(completions),
            ServiceMode::Global | ServiceMode::GlobalJob => NODES.len() as u64,
        };
        assert_eq!(running.len() as u64, wanted, "{}", world.show_all());
    }
}

/// Few histories per run, as each costs hundreds of reconcile calls; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(64),
        failure_persistence: None,
        max_shrink_time: 20_000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn reconcile_comes_to_rest_and_grants_what_is_wanted(
        events in prop::collection::vec(event(), 1..40),
        // A slot or two at a time: what waits for its turn must not be lost, and an update waits for it.
        slots in prop_oneof![Just(1usize), Just(2), Just(1000)],
    ) {
        let mut world = World::new();
        world.limits.slots = slots;
        for node in NODES {
            world.add_node(node, 1000, &[("good", "yes")]);
        }
        for event in &events {
            happen(&mut world, event);
        }
        world.quiesce();
        heal(&mut world);
        assert_wishes_hold(&world);
    }

    #[test]
    fn an_incremental_look_decides_what_a_full_one_does(events in prop::collection::vec(event(), 1..40)) {
        let mut worlds = [World::new(), World::new()];
        worlds[1].looks_at_everything = true;
        for world in &mut worlds {
            for node in NODES {
                world.add_node(node, 1000, &[("good", "yes")]);
            }
        }
        for event in &events {
            for world in &mut worlds {
                happen(world, event);
                world.quiesce();
            }
            let [incremental, full] = &worlds;
            prop_assert_eq!(incremental.show_all(), full.show_all());
            prop_assert_eq!(incremental.dirty.wake_at(), full.dirty.wake_at());
        }
    }
}

#[test]
fn a_large_service_is_made_in_bounded_plans_and_scaled_away_again() {
    let mut world = World::new();
    for node in NODES {
        world.add_node(node, 1000, &[]);
    }
    world.create_service(world::spec("x", 2500));
    let plan = world.reconcile();
    assert!(plan.change_count() > 900 && plan.change_count() <= muster_orchestration::CHANGES_MAX);
    assert_eq!(plan.wake_at, Some(world.now));
    world.create_service(world::spec("y", 3));
    world.reconcile();
    let small = world.service("y").id;
    assert_eq!(
        world.state.tasks_of_service(small).count(),
        3,
        "a large service must not starve a small one"
    );
    world.quiesce();
    assert_eq!(world.state.counts().2, 2503);
}

/// Not a test of behaviour: prints how long a large cluster takes. Run with `--ignored --no-capture`.
#[test]
#[ignore = "a measurement"]
fn measure_a_hundred_thousand_tasks_on_a_thousand_nodes() {
    use muster_orchestration::{Dirty, reconcile};
    use muster_state::{Change, Entry};
    let mut world = World::new();
    let mut index = world.state.index();
    let mut apply = |world: &mut World, change: Change| {
        index += 1;
        let changeset = muster_state::Changeset::new(muster_types::Reason::UserRequest, vec![change]);
        world.state.apply(index, &Entry::new(world.now, changeset));
    };
    for number in 0..1000 {
        let node = muster_types::NodeId::from_u128(number);
        apply(
            &mut world,
            Change::NodeCreate {
                node,
                spec: Default::default(),
                description: Default::default(),
            },
        );
        apply(
            &mut world,
            Change::NodeStatus {
                node,
                state: NodeState::Ready,
                message: String::new(),
                address: String::new(),
            },
        );
    }
    let service = muster_types::ServiceId::from_u128(1);
    let spec = std::sync::Arc::new(world::spec("x", 100_000));
    apply(&mut world, Change::ServiceCreate { service, spec });
    let (mut dirty, mut calls, mut ids) = (Dirty::everything(), 0, world::Counter(0));
    let begin = std::time::Instant::now();
    let (mut deciding, mut longest) = (Duration::ZERO, Duration::ZERO);
    while dirty.is_due(world.now) {
        let call = std::time::Instant::now();
        let plan = reconcile(&world.state, &dirty, world.now, &mut ids);
        deciding += call.elapsed();
        longest = longest.max(call.elapsed());
        calls += 1;
        dirty = plan.leftover;
        for changeset in plan.changesets {
            index += 1;
            let applied = world.state.apply(index, &Entry::new(world.now, changeset));
            dirty.touch(&applied.touched);
        }
    }
    let bytes = world.state.snapshot().unwrap().len();
    eprintln!(
        "{:?} in all, {calls} calls, {deciding:?} deciding, longest {longest:?}, snapshot {bytes} bytes",
        begin.elapsed()
    );
    assert_eq!(world.state.counts().2, 100_000);
}
