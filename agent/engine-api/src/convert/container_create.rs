//! The body of `POST /containers/create` becomes a [`ContainerConfig`].

use super::{Read, health, host, port};
use crate::http::Failure;
use crate::wire::container::{Config, CreateBody};
use hyper::StatusCode;
use muster_types::container::{ContainerConfig, HostConfig, MountKind, NetworkMode};
use std::time::Duration;

/// Reads the body.
pub(crate) fn read(body: CreateBody) -> Read<ContainerConfig> {
    if body.config.image.is_empty() {
        return Err(Failure::invalid(
            "config cannot be empty in order to create a container: no image is given",
        ));
    }
    let network_disabled = body.config.network_disabled;
    let requested = body.networking_config.endpoints_config;
    let mode = body.host_config.network_mode.clone();
    let mut host = host::read(body.host_config)?;
    if network_disabled {
        host.network = NetworkMode::None;
    } else if let Some(name) = requested.keys().next()
        && matches!(mode.as_str(), "" | "default")
    {
        host.network = host::read_network(name);
    }
    if !network_disabled {
        host.endpoints = requested
            .into_iter()
            .map(|(name, wire)| Ok((name, super::network::read_endpoint(wire)?)))
            .collect::<Read<_>>()?;
    }
    host.mac.clone_from(&body.config.mac_address);
    let mut config = read_config(body.config)?;
    check_volume_driver(&config, &host.config)?;
    config.groups = std::mem::take(&mut host.groups);
    config.host = host.config;
    Ok(config)
}

/// Docker looks a driver up when a volume needs it, and not before.
fn check_volume_driver(config: &ContainerConfig, host: &HostConfig) -> Read<()> {
    let driver = host.volume_driver.as_str();
    let mut short = host.mounts.iter().filter(|mount| mount.as_written.is_some());
    let needed = short.find(|mount| mount.kind == MountKind::Volume);
    match needed.map(|mount| &mount.source).or(config.volumes.first()) {
        Some(volume) if !matches!(driver, "" | "local") => Err(Failure::new(
            StatusCode::NOT_FOUND,
            format!(
                "create {volume}: error looking up volume plugin {driver}: plugin \"{driver}\" not found"
            ),
        )),
        _ => Ok(()),
    }
}

fn read_config(wire: Config) -> Read<ContainerConfig> {
    if let Some(bad) = wire
        .env
        .iter()
        .find(|entry| entry.is_empty() || entry.starts_with('='))
    {
        return Err(Failure::invalid(format!("invalid environment variable: {bad:?}")));
    }
    let mut exposed_ports = Vec::with_capacity(wire.exposed_ports.len());
    for text in wire.exposed_ports.keys() {
        let (number, protocol) = port::read_port(text)?;
        exposed_ports.push(format!("{number}/{protocol}"));
    }
    // A negative time-out means to wait for ever.
    let grace = |seconds: i64| u64::try_from(seconds).map_or(Duration::MAX, Duration::from_secs);
    let stop_grace = wire.stop_timeout.map(grace);
    let is_set = |command: &Vec<String>| !command.is_empty();
    // An entrypoint of one empty text clears the image's; an empty list leaves it alone.
    let entrypoint = wire.entrypoint.map(Vec::from).filter(is_set);
    let entrypoint = match entrypoint.as_deref() {
        Some([only]) if only.is_empty() => Some(Vec::new()),
        _ => entrypoint,
    };
    Ok(ContainerConfig {
        image: wire.image,
        entrypoint,
        cmd: wire.cmd.map(Vec::from).filter(is_set),
        env: wire.env,
        working_dir: wire.working_dir,
        user: wire.user,
        hostname: wire.hostname,
        domainname: wire.domainname,
        labels: wire.labels,
        tty: wire.tty,
        open_stdin: wire.open_stdin,
        stdin_once: wire.stdin_once,
        attach: (wire.attach_stdin, wire.attach_stdout, wire.attach_stderr),
        stop_signal: wire.stop_signal,
        stop_grace,
        health: health::read(wire.healthcheck)?,
        exposed_ports,
        volumes: wire.volumes.unwrap_or_default().into_keys().collect(),
        ..ContainerConfig::default()
    })
}
