//! The container that a task asks for.

use super::templates::{TemplateError, TemplateNode, expand};
use muster_types::container::{ContainerConfig, ContainerResources, HostConfig, NetworkMode, PortBinding};
use muster_types::leading::{LABEL_ADDRESS, Leading};
use muster_types::service::PublishMode;
use muster_types::{AssignedTask, NodeId};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The container that a task asks for.
pub(super) fn container_config(
    task: &AssignedTask,
    node: &TemplateNode,
) -> Result<ContainerConfig, TemplateError> {
    let spec = &task.template.container;
    let list = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let expanded = |text: &String| expand(text, task, node);
    let mut host = host_config(task);
    for mount in &mut host.mounts {
        mount.source = expanded(&mount.source)?;
        mount.target = expanded(&mount.target)?;
    }
    Ok(ContainerConfig {
        image: spec.image.clone(),
        entrypoint: list(&spec.command),
        cmd: list(&spec.args).or_else(|| (!spec.command.is_empty()).then(Vec::new)),
        env: spec.env.iter().map(expanded).collect::<Result<_, _>>()?,
        working_dir: spec.dir.clone().unwrap_or_default(),
        user: spec.user.clone().unwrap_or_default(),
        groups: spec.groups.clone(),
        hostname: spec
            .hostname
            .as_ref()
            .map(expanded)
            .transpose()?
            .unwrap_or_default(),
        labels: labels(task, node.id),
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        stop_signal: spec.stop_signal.clone().unwrap_or_default(),
        stop_grace: spec.stop_grace,
        health: spec.health.clone(),
        host,
        task: Some(task.id),
        needs_files: task.template.files().next().is_some(),
        ..ContainerConfig::default()
    })
}

/// The ports that the task's own node publishes, which has the addresses `own`: at all of them, unless the service says
/// at which.
pub(super) fn published(task: &AssignedTask, own: &[IpAddr]) -> Result<Vec<PortBinding>, String> {
    let ports = task.ports.iter().filter(|port| port.mode == PublishMode::Host);
    let ports: Vec<_> = ports.collect();
    if ports.is_empty() {
        return Ok(Vec::new());
    }
    // Labels that say something wrong were refused; of a later version they may say what is not known here.
    let leading = Leading::read(&task.service_labels).map_err(|problems| problems.join("; "))?;
    let at: Vec<Option<IpAddr>> = match leading.addresses.is_empty() {
        true => vec![None],
        false => own
            .iter()
            .filter(|own| leading.answers_at(**own))
            .map(|own| Some(*own))
            .collect(),
    };
    if at.is_empty() {
        let wanted: Vec<String> = leading.addresses.iter().map(ToString::to_string).collect();
        return Err(format!(
            "this node has no address of those at which the service's ports are to answer ({LABEL_ADDRESS}={}): give it \
             one, or keep the service off the node with a constraint",
            wanted.join(",")
        ));
    }
    let bindings = ports.iter().flat_map(|port| {
        at.iter().map(|host_ip| PortBinding {
            host_port_last: 0,
            container_port: port.target_port,
            protocol: port.protocol,
            host_ip: *host_ip,
            host_port: port.published_port,
        })
    });
    Ok(bindings.collect())
}

/// Swarm's labels beside the user's.
fn labels(task: &AssignedTask, node: NodeId) -> BTreeMap<String, String> {
    let mut labels = task.template.container.labels.clone();
    for (key, value) in [
        ("com.docker.swarm.task", String::new()),
        ("com.docker.swarm.task.id", task.id.to_string()),
        ("com.docker.swarm.task.name", task.container_name()),
        ("com.docker.swarm.node.id", node.to_string()),
        ("com.docker.swarm.service.id", task.service.to_string()),
        ("com.docker.swarm.service.name", task.service_name.clone()),
    ] {
        labels.insert(key.to_owned(), value);
    }
    labels
}

fn host_config(task: &AssignedTask) -> HostConfig {
    let (spec, limits) = (&task.template.container, task.template.limits);
    let (places, first) = (super::networks::places(task), task.networks.first());
    let target = task
        .template
        .networks
        .first()
        .map(|network| network.target.as_str());
    let network = match target {
        _ if first.is_some() => {
            NetworkMode::Named(first.map(|place| place.network.to_string()).unwrap_or_default())
        }
        None | Some("bridge") => NetworkMode::Bridge,
        Some("host") => NetworkMode::Host,
        Some("none") => NetworkMode::None,
        Some(other) => NetworkMode::Named(other.to_owned()),
    };
    let mut security_opt = Vec::new();
    if spec.no_new_privileges {
        security_opt.push("no-new-privileges".to_owned());
    }
    HostConfig {
        init: spec.init.unwrap_or(false),
        network,
        endpoints: places,
        mounts: spec.mounts.clone(),
        resources: ContainerResources {
            nano_cpus: limits.nano_cpus,
            memory_bytes: limits.memory_bytes,
            memory_reservation_bytes: task.template.reservations.memory_bytes,
            pids: i64::try_from(limits.pids).unwrap_or(i64::MAX),
            ..ContainerResources::default()
        },
        cap_add: spec.cap_add.clone(),
        cap_drop: spec.cap_drop.clone(),
        security_opt,
        read_only: spec.read_only,
        extra_hosts: spec.hosts.iter().filter_map(|line| host_entry(line)).collect(),
        dns: spec.dns.clone(),
        sysctls: spec.sysctls.clone(),
        ulimits: spec.ulimits.clone(),
        oom_score_adj: spec.oom_score_adj,
        log: task.template.log_driver.clone(),
        ..HostConfig::default()
    }
}

/// `address name` of a service as `name:address` of a container.
fn host_entry(line: &str) -> Option<String> {
    let (address, name) = line.split_once(' ')?;
    Some(format!("{}:{address}", name.trim()))
}
