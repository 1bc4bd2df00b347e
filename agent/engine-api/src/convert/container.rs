//! Containers in answers: `inspect` and `list`.

use super::{duration, health, host_answer, mount, port, signed};
use crate::http::{ApiVersion, Object, lives};
use crate::wire::container::{
    Command, Config, Container, Endpoint, HostPort, MountPoint, NetworkSettings, State,
};
use crate::wire::container_list::{ContainerSummary, Port, SummaryHost, SummaryNetworks};
use muster_types::Timestamp;
use muster_types::container::{
    self, ContainerConfig, ContainerInfo, ContainerState, HealthState, MountKind, MountSpec, NetworkEndpoint,
};
use muster_types::image::OverlayDirectories;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Docker prints a time that never was as year one.
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

/// Writes a time.
pub(crate) fn time(at: Timestamp) -> String {
    if at == Timestamp::ZERO {
        NEVER.to_owned()
    } else {
        at.to_string()
    }
}

/// Fields of endpoints that only some versions have. They are left out here and not by the table's way through untyped
/// JSON, which costs a list of a thousand containers most of its time.
#[derive(Debug, Clone, Copy)]
struct EndpointFields {
    dns_names: bool,
    gateway_priority: bool,
}

impl EndpointFields {
    fn of(version: ApiVersion) -> Self {
        let lives = |field| lives(Object::Endpoint, field, version);
        Self {
            dns_names: lives("DNSNames"),
            gateway_priority: lives("GwPriority"),
        }
    }
}

/// Answer of `GET /containers/{id}/json`.
pub(crate) fn inspect(info: &ContainerInfo, version: ApiVersion) -> Container {
    let (path, args) = match info.command.split_first() {
        Some((path, args)) => (path.clone(), args.to_vec()),
        None => (String::new(), Vec::new()),
    };
    Container {
        id: info.id.to_string(),
        created: time(info.created),
        path,
        args,
        state: state(info),
        image: info.image_id.clone(),
        resolv_conf_path: info.resolv_conf_path.clone(),
        hostname_path: info.hostname_path.clone(),
        hosts_path: info.hosts_path.clone(),
        log_path: info.log_path.clone(),
        name: format!("/{}", info.name),
        restart_count: info.restart_count,
        driver: "overlayfs".to_owned(),
        platform: "linux".to_owned(),
        mount_label: info.selinux_labels.1.clone(),
        process_label: info.selinux_labels.0.clone(),
        app_armor_profile: info.apparmor_profile.clone(),
        exec_ids: (!info.execs.is_empty()).then(|| info.execs.clone()),
        host_config: host_answer::write(&info.config),
        graph_driver: graph_driver(info.directories.as_ref()),
        size_rw: info.size_rw,
        size_root_fs: info.size_root,
        mounts: mounts(info),
        config: config(info),
        network_settings: network_settings(info, EndpointFields::of(version)),
    }
}

/// `GraphDriver`. There is no `MergedDir`: a container's file system is mounted in its own mount namespace only.
pub(crate) fn graph_driver(directories: Option<&OverlayDirectories>) -> Value {
    let data = directories.map(|directories| {
        let data = [
            ("LowerDir", directories.lower.join(":")),
            ("UpperDir", directories.upper.clone()),
            ("WorkDir", directories.work.clone()),
        ];
        let data = data.into_iter().filter(|(_, path)| !path.is_empty());
        data.collect::<BTreeMap<_, _>>()
    });
    json!({"Name": "overlayfs", "Data": data})
}

fn state(info: &ContainerInfo) -> State {
    let is = |state| info.state == state;
    State {
        status: info.state.name(),
        // A frozen or restarting container counts as running, as in Docker.
        running: matches!(
            info.state,
            ContainerState::Running | ContainerState::Paused | ContainerState::Restarting
        ),
        paused: is(ContainerState::Paused),
        restarting: is(ContainerState::Restarting),
        oom_killed: info.oom_killed,
        dead: is(ContainerState::Dead),
        pid: info.pid,
        exit_code: info.exit_code,
        error: info.error.clone(),
        started_at: time(info.started_at),
        finished_at: time(info.finished_at),
        health: info.health.as_ref().map(health_state),
    }
}

fn health_state(health: &HealthState) -> Value {
    let log: Vec<Value> = health
        .log
        .iter()
        .map(|probe| {
            json!({
                "Start": time(probe.start),
                "End": time(probe.end),
                "ExitCode": probe.exit_code,
                "Output": probe.output,
            })
        })
        .collect();
    json!({"Status": health.status, "FailingStreak": health.failing_streak, "Log": log})
}

/// `Config` as it is in effect.
fn config(info: &ContainerInfo) -> Config {
    let config = &info.config;
    let hostname = if config.hostname.is_empty() {
        info.id.short().to_owned()
    } else {
        config.hostname.clone()
    };
    Config {
        hostname,
        domainname: config.domainname.clone(),
        user: info.user.clone(),
        attach_stdin: config.attach.0,
        attach_stdout: config.attach.1,
        attach_stderr: config.attach.2,
        exposed_ports: config
            .exposed_ports
            .iter()
            .map(|port| (port.clone(), json!({})))
            .collect(),
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        env: env(info),
        cmd: config.cmd.clone().map(Command::List),
        healthcheck: config.health.as_ref().map(health::write),
        image: config.image.clone(),
        volumes: volumes(config),
        working_dir: info.working_dir.clone(),
        entrypoint: config.entrypoint.clone().map(Command::List),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone(),
        stop_timeout: config.stop_grace.map(stop_timeout),
        mac_address: config.host.mac.clone(),
        ..Config::default()
    }
}

/// The user's entries first, as they were given, then those of the image that they leave alone.
fn env(info: &ContainerInfo) -> Vec<String> {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let own: BTreeSet<String> = info.config.env.iter().map(|entry| name(entry)).collect();
    let others = info.env.iter().filter(|entry| !own.contains(&name(entry)));
    info.config.env.iter().chain(others).cloned().collect()
}

fn stop_timeout(grace: Duration) -> i64 {
    if grace == Duration::MAX {
        -1
    } else {
        signed(grace.as_secs())
    }
}

fn volumes(config: &ContainerConfig) -> Option<BTreeMap<String, Value>> {
    let volumes: BTreeMap<String, Value> = config
        .volumes
        .iter()
        .map(|path| (path.clone(), json!({})))
        .collect();
    (!volumes.is_empty()).then_some(volumes)
}

fn mounts(info: &ContainerInfo) -> Vec<MountPoint> {
    info.mounts
        .iter()
        .map(|point| MountPoint {
            r#type: mount::name(point.kind),
            name: point.name.clone(),
            source: point.source.clone(),
            destination: point.target.clone(),
            driver: if point.kind == MountKind::Volume {
                "local"
            } else {
                ""
            }
            .to_owned(),
            mode: mount_mode(&info.config.host.mounts, point),
            writable: point.writable,
            propagation: point.propagation.clone(),
        })
        .collect()
}

/// The options that the user wrote. Docker adds `z` to volumes that were asked for, whatever becomes of it.
fn mount_mode(asked: &[MountSpec], point: &container::MountPoint) -> String {
    let Some(spec) = asked
        .iter()
        .find(|spec| spec.target.trim_end_matches('/') == point.target)
    else {
        return String::new();
    };
    let written = spec
        .as_written
        .as_deref()
        .filter(|_| spec.kind != MountKind::Tmpfs);
    match written.and_then(|text| text.splitn(3, ':').nth(2)) {
        Some(options) => options.to_owned(),
        None if point.kind == MountKind::Volume => "z".to_owned(),
        None => String::new(),
    }
}

fn network_settings(info: &ContainerInfo, fields: EndpointFields) -> NetworkSettings {
    // Docker repeats the default bridge's address outside `Networks`.
    let bridge = info.networks.get("bridge").map(|place| endpoint(place, fields));
    let of = |field: fn(&Endpoint) -> &String| bridge.as_ref().map(field).cloned().unwrap_or_default();
    let (sandbox_id, sandbox_key) = match info.pid {
        0 => (String::new(), String::new()),
        pid => (info.id.to_string(), format!("/proc/{pid}/ns/net")),
    };
    NetworkSettings {
        bridge: String::new(),
        sandbox_id,
        sandbox_key,
        ports: ports(info),
        endpoint_id: of(|endpoint| &endpoint.endpoint_id),
        global_ipv6_address: of(|endpoint| &endpoint.global_ipv6_address),
        global_ipv6_prefix_len: bridge
            .as_ref()
            .map_or(0, |endpoint| endpoint.global_ipv6_prefix_len),
        ipv6_gateway: of(|endpoint| &endpoint.ipv6_gateway),
        gateway: of(|endpoint| &endpoint.gateway),
        ip_address: of(|endpoint| &endpoint.ip_address),
        ip_prefix_len: bridge.as_ref().map_or(0, |endpoint| endpoint.ip_prefix_len),
        mac_address: of(|endpoint| &endpoint.mac_address),
        networks: info
            .networks
            .iter()
            .map(|(name, place)| (name.clone(), endpoint(place, fields)))
            .collect(),
    }
}

/// Published ports in effect, and exposed ones with `null`, while it runs.
fn ports(info: &ContainerInfo) -> BTreeMap<String, Option<Vec<HostPort>>> {
    let mut ports = port::write_bindings(&info.ports);
    for hosts in ports.values_mut().flatten().flatten() {
        if hosts.host_ip.is_empty() {
            "0.0.0.0".clone_into(&mut hosts.host_ip);
        }
    }
    if info.state == ContainerState::Running {
        for exposed in &info.config.exposed_ports {
            ports.entry(exposed.clone()).or_insert(None);
        }
    }
    ports
}

fn endpoint(place: &NetworkEndpoint, fields: EndpointFields) -> Endpoint {
    fn text(address: Option<impl ToString>) -> String {
        address.map(|address| address.to_string()).unwrap_or_default()
    }
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let spec = &place.spec;
    Endpoint {
        ipam_config: super::network::write_ipam(spec),
        links: some(&spec.links),
        aliases: some(&spec.aliases),
        mac_address: if place.mac.is_empty() {
            spec.mac.clone()
        } else {
            place.mac.clone()
        },
        driver_opts: (!spec.driver_options.is_empty()).then(|| spec.driver_options.clone()),
        gw_priority: fields.gateway_priority.then_some(spec.gateway_priority),
        network_id: place.network_id.clone(),
        endpoint_id: place.endpoint_id.clone(),
        gateway: text(place.gateway),
        ip_address: text(place.address),
        ip_prefix_len: place.prefix_len,
        ipv6_gateway: text(place.ipv6_gateway),
        global_ipv6_address: text(place.ipv6),
        global_ipv6_prefix_len: place.ipv6_prefix_len,
        dns_names: fields.dns_names.then(|| some(&place.dns_names)),
    }
}

/// Wall-clock time, for texts such as `Up 5 minutes` only.
fn now() -> Timestamp {
    let since_epoch = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::ZERO.after(since_epoch)
}

/// Elements of `GET /containers/json`, with the status texts as of now.
pub(crate) fn summaries<'a>(
    containers: impl Iterator<Item = &'a ContainerInfo>,
    version: ApiVersion,
) -> Vec<ContainerSummary<'a>> {
    let (now, fields) = (now(), EndpointFields::of(version));
    containers.map(|info| summary(info, now, fields)).collect()
}

fn summary(info: &ContainerInfo, now: Timestamp, fields: EndpointFields) -> ContainerSummary<'_> {
    let networks = info.networks.iter();
    ContainerSummary {
        id: info.id.as_str(),
        names: [format!("/{}", info.name)],
        image: &info.config.image,
        image_id: &info.image_id,
        command: command_line(&info.command),
        created: info.created.unix_secs(),
        ports: summary_ports(info),
        size_rw: info.size_rw,
        size_root_fs: info.size_root,
        labels: &info.config.labels,
        state: info.state.name(),
        status: status(info, now),
        host_config: SummaryHost {
            network_mode: host_answer::network_name(&info.config.host.network),
        },
        network_settings: SummaryNetworks {
            networks: networks
                .map(|(name, place)| (name.as_str(), endpoint(place, fields)))
                .collect(),
        },
        mounts: mounts(info),
    }
}

/// A command on one line; arguments with spaces are between quotes, as Docker lists them.
fn command_line(command: &[String]) -> String {
    let mut line = String::new();
    for (index, word) in command.iter().enumerate() {
        match index {
            0 => line.push_str(word),
            _ if word.contains(' ') => line.extend([" '", word, "'"]),
            _ => line.extend([" ", word]),
        }
    }
    line
}

fn summary_ports(info: &ContainerInfo) -> Vec<Port> {
    let mut ports: Vec<Port> = info
        .ports
        .iter()
        .map(|binding| Port {
            ip: binding
                .host_ip
                .map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string()),
            private_port: binding.container_port,
            public_port: binding.host_port,
            r#type: binding.protocol.to_string(),
        })
        .collect();
    if info.state == ContainerState::Running {
        for exposed in &info.config.exposed_ports {
            if let Ok((number, protocol)) = port::read_port(exposed)
                && !info
                    .ports
                    .iter()
                    .any(|bound| (bound.container_port, bound.protocol) == (number, protocol))
            {
                ports.push(Port {
                    ip: String::new(),
                    private_port: number,
                    public_port: 0,
                    r#type: protocol.to_string(),
                });
            }
        }
    }
    ports
}

/// `Up 5 minutes (healthy)`, `Exited (1) 2 hours ago`, `Created`, …
fn status(info: &ContainerInfo, now: Timestamp) -> String {
    let up = || duration::human(now.since(info.started_at));
    let ago = || duration::human(now.since(info.finished_at));
    match info.state {
        ContainerState::Created => "Created".to_owned(),
        ContainerState::Running => match info.health.as_ref().map(|health| health.status.as_str()) {
            None | Some("" | "none") => format!("Up {}", up()),
            Some("starting") => format!("Up {} (health: starting)", up()),
            Some(health) => format!("Up {} ({health})", up()),
        },
        ContainerState::Paused => format!("Up {} (Paused)", up()),
        ContainerState::Restarting => format!("Restarting ({}) {} ago", info.exit_code, ago()),
        ContainerState::Removing => "Removal In Progress".to_owned(),
        ContainerState::Exited if info.finished_at == Timestamp::ZERO => "Created".to_owned(),
        ContainerState::Exited => format!("Exited ({}) {} ago", info.exit_code, ago()),
        ContainerState::Dead => "Dead".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_say_the_options_that_they_were_written_with() {
        let asked = |text: &str| MountSpec {
            as_written: Some(text.to_owned()),
            ..mount::read_bind(text).unwrap()
        };
        let mode = |asked: &[MountSpec], kind| {
            let point = container::MountPoint {
                kind,
                name: String::new(),
                source: String::new(),
                subpath: String::new(),
                target: "/t".to_owned(),
                writable: true,
                propagation: String::new(),
            };
            mount_mode(asked, &point)
        };
        assert_eq!(mode(&[asked("/a:/t:ro,rslave")], MountKind::Bind), "ro,rslave");
        assert_eq!(mode(&[asked("/a:/t/")], MountKind::Bind), "");
        assert_eq!(mode(&[asked("v:/t:nocopy")], MountKind::Volume), "nocopy");
        assert_eq!(mode(&[asked("v:/t")], MountKind::Volume), "z");
        assert_eq!(mode(&[], MountKind::Volume), "", "an anonymous one of the image");
    }
}
