//! Stories as scripts: lines that begin with `>` are commands, the others what is printed then.
//!
//! With `UPDATE_SCRIPTS=1` in the environment the scripts are rewritten with what happens.

mod world;

use muster_types::image::RegistryAuth;
use muster_types::node::Availability;
use muster_types::service::{
    EndpointMode, FailureAction, NetworkAttachment, PublishMode, PublishedPort, RestartCondition, SpreadOver,
    UpdateOrder,
};
use muster_types::{NodeState, ServiceMode, ServiceSpec, TaskState};
use std::path::Path;
use std::time::Duration;
use world::World;

#[test]
fn scripts_print_what_they_say() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let script = std::fs::read_to_string(&path).unwrap();
        let printed = play(&script);
        if std::env::var_os("UPDATE_SCRIPTS").is_some() {
            std::fs::write(&path, &printed).unwrap();
        }
        assert!(
            printed == script || std::env::var_os("UPDATE_SCRIPTS").is_some(),
            "{}\n--- expected\n{script}\n--- printed\n{printed}",
            path.display()
        );
    }
}

/// The script with what its commands print.
fn play(script: &str) -> String {
    let mut world = World::new();
    let mut printed = String::new();
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            printed.push_str(line);
            printed.push('\n');
            printed.push_str(&run(&mut world, command));
        } else if line.starts_with('#') || line.is_empty() {
            printed.push_str(line);
            printed.push('\n');
        }
    }
    printed
}

fn run(world: &mut World, command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    match words.as_slice() {
        ["node", name, options @ ..] => add_node(world, name, options),
        ["service", name, options @ ..] => {
            let mut spec = world::spec(name, 1);
            options.iter().for_each(|option| set(&mut spec, option));
            world.create_service(spec);
        }
        ["update", name, options @ ..] => {
            world.update_service(name, |spec| options.iter().for_each(|option| set(spec, option)));
        }
        ["rollback", name] => world.roll_back(name),
        ["rm", name] => world.remove_service(name),
        ["down", name] => world.set_state(name, NodeState::Down),
        ["up", name] => world.set_state(name, NodeState::Ready),
        ["unknown", name] => world.set_state(name, NodeState::Unknown),
        ["drain", name] => world.set_availability(name, Availability::Drain),
        ["pause", name] => world.set_availability(name, Availability::Pause),
        ["active", name] => world.set_availability(name, Availability::Active),
        ["label", name, key, value] => world.set_label(name, key, value),
        ["memory", name, mib] => world.set_memory(name, mib.parse().unwrap()),
        ["level", name, level] => world.describe(name, |node| node.feature_level = level.parse().unwrap()),
        ["remove", name] => world.remove_node(name),
        ["hold", name] => world.hold(name, true),
        ["release", name] => world.hold(name, false),
        ["fail", name, slot] => world.end(name, slot.parse().unwrap(), TaskState::Failed),
        ["complete", name, slot] => world.end(name, slot.parse().unwrap(), TaskState::Complete),
        ["late", name, slot] => world.end_late(name, slot.parse().unwrap(), TaskState::Complete),
        ["quiesce"] => world.quiesce(),
        ["settle"] => world.settle(),
        ["wait", seconds] => world.tick(Duration::from_secs(seconds.parse().unwrap())),
        ["show"] => return world.show_all(),
        ["network", name, subnets @ ..] => world.create_network(name, subnets),
        ["policy", name, rules @ ..] => world.set_policy(name, rules),
        ["rm-network", name] => {
            let refused = world.remove_network(name);
            return refused.map_or(String::new(), |refused| format!("{refused}\n"));
        }
        ["attach", node, network] => return format!("{}\n", world.attach(node, network)),
        ["detach"] => world.detach(),
        ["addresses", name] => return world.addresses(name),
        ["ports", name] => {
            let ports = world.service(name).allocated_ports.iter();
            return ports.map(|port| format!("{}\n", port.published_port)).collect();
        }
        other => panic!("unknown command {other:?}"),
    }
    String::new()
}

fn add_node(world: &mut World, name: &str, options: &[&str]) {
    let mut memory = 4096;
    let mut labels = Vec::new();
    for option in options {
        match option.split_once('=').unwrap() {
            ("memory", mib) => memory = mib.parse().unwrap(),
            label => labels.push(label),
        }
    }
    world.add_node(name, memory, &labels);
}

fn set(spec: &mut ServiceSpec, option: &str) {
    let (key, value) = option.split_once('=').unwrap();
    let seconds = || Duration::from_secs(value.parse().unwrap());
    let template = &mut spec.template;
    match key {
        "replicas" => {
            spec.mode = ServiceMode::Replicated {
                replicas: value.parse().unwrap(),
            }
        }
        "mode" if value == "global" => spec.mode = ServiceMode::Global,
        "mode" if value == "global-job" => spec.mode = ServiceMode::GlobalJob,
        "job" => {
            let (completions, concurrent_max) = value.split_once('/').unwrap();
            spec.mode = ServiceMode::ReplicatedJob {
                concurrent_max: concurrent_max.parse().unwrap(),
                completions: completions.parse().unwrap(),
            };
        }
        "network" => template.networks.push(NetworkAttachment {
            target: value.to_owned(),
            ..NetworkAttachment::default()
        }),
        "without-networks" => template.networks.clear(),
        "endpoint-mode" => {
            spec.endpoint_mode = match value {
                "vip" => EndpointMode::Vip,
                _ => EndpointMode::DnsRoundRobin,
            }
        }
        "image" => template.container.image = value.to_owned(),
        "auth" => template.container.registry_auth = RegistryAuth(value.to_owned()),
        "memory" => template.reservations.memory_bytes = value.parse::<u64>().unwrap() << 20,
        "label" => {
            let (key, value) = value.split_once('=').unwrap();
            spec.labels.insert(key.to_owned(), value.to_owned());
        }
        "constraint" => template.placement.constraints.push(value.to_owned()),
        "spread" => template.placement.preferences.push(SpreadOver {
            descriptor: value.to_owned(),
        }),
        "per-node" => template.placement.replicas_per_node_max = value.parse().unwrap(),
        "delay" => template.restart.delay = seconds(),
        "attempts" => template.restart.attempts_max = value.parse().unwrap(),
        "window" => template.restart.window = seconds(),
        "restart" => {
            template.restart.condition = match value {
                "none" => RestartCondition::None,
                "on-failure" => RestartCondition::OnFailure,
                _ => RestartCondition::Any,
            }
        }
        "parallelism" => spec.update.parallelism = value.parse().unwrap(),
        "update-delay" => spec.update.delay = seconds(),
        "start-first" => spec.update.order = UpdateOrder::StartFirst,
        "on-failure" => {
            spec.update.failure_action = match value {
                "continue" => FailureAction::Continue,
                "rollback" => FailureAction::Rollback,
                _ => FailureAction::Pause,
            }
        }
        "publish" | "publish-host" => spec.ports.push(PublishedPort {
            name: String::new(),
            protocol: Default::default(),
            target_port: 80,
            published_port: value.parse().unwrap(),
            mode: if key == "publish" {
                PublishMode::Ingress
            } else {
                PublishMode::Host
            },
        }),
        "unpublish" => spec.ports.retain(|port| port.published_port.to_string() != value),
        other => panic!("unknown option {other:?}"),
    }
}
