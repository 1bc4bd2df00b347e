//! Making a container.

use crate::check;
use crate::clock;
use crate::container::Container;
use crate::engine::{Created, Inner};
use crate::error::{Error, Result};
use crate::files;
use crate::health;
use crate::image_config;
use crate::layout::{make_directory, remove_directory};
use crate::log_driver;
use crate::network;
use crate::record::{Record, Unfinished};
use crate::signal;
use crate::spec::{self, Purpose, SecurityOptions, merged_environment};
use crate::store::Table;
use crate::user_namespace;
use muster_runtime::label::selinux::Level;
use muster_types::container::{ContainerConfig, NetworkMode};
use muster_types::image::ImageConfig;
use muster_types::{ContainerId, Timestamp};
use rand::Rng;
use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

/// Most mounts of one container; more is a mistake.
const MOUNTS_MAX: usize = 1024;

pub(crate) fn random_id() -> ContainerId {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    ContainerId::from_bytes(bytes)
}

impl Inner {
    pub(crate) async fn create(self: &Arc<Self>, name: &str, mut config: ContainerConfig) -> Result<Created> {
        config.host.log = Some(log_driver::completed(config.host.log.take(), &self.log));
        let mut warnings = self.check(&config)?;
        self.resolve_joined(&mut config.host)?;
        let resources = &mut config.host.resources;
        warnings.extend(spec::admit(resources, &self.host.abilities, Purpose::Create)?);
        let reference = config.image.clone();
        let (image_id, image) = self
            .blocking(move |inner| image_config::of(&inner.images, &reference))
            .await?;
        apply_image(&mut config, &image);
        let id = random_id();
        let wanted = self.networking.wanted(&config).await;
        let wanted = wanted.map_err(as_bad_request)?;
        self.check_links(&config)?;
        let mut record = record(&id, config, image_id, &image)?;
        record.networks = Some(wanted);
        let name = self.enlist(record, name)?;
        let container = self.find(id.as_str())?;
        // Nobody else may use it before it is whole.
        let _owned = container.operation.lock().await;
        if let Err(error) = self.furnish(&container, &image).await {
            self.containers().remove(&id);
            self.unfurnish(&container).await;
            return Err(error);
        }
        self.container_event(&container, "create", &[]);
        tracing::debug!(container = id.short(), name, "created");
        Ok(Created { id, warnings })
    }

    /// Gives a container its name, and an SELinux level that no other one has.
    fn enlist(&self, mut record: Record, name: &str) -> Result<String> {
        // Two that are made at once must not both take what is free.
        let _reserving = self.reserving.lock().unwrap_or_else(PoisonError::into_inner);
        record.level = self.free_level(&record)?;
        let id = record.id.clone();
        self.containers().insert(&id, name, |name| {
            let record = Record {
                name: name.to_owned(),
                ..record
            };
            Arc::new(Container::new(record, self.metrics.clone()))
        })
    }

    fn free_level(&self, record: &Record) -> Result<Option<Level>> {
        if self.host.selinux.is_none() {
            return Ok(None);
        }
        let options = SecurityOptions::parse(&record.config.host.security_opt)?;
        if let Some(asked) = options.level() {
            return Ok(Some(asked));
        }
        let others = self.containers().all();
        let taken: HashSet<Level> = others
            .iter()
            .map(|other| other.with(|cell| cell.record.level()))
            .collect();
        Ok(Some(Level::reserve(record.id.as_str(), |level| {
            taken.contains(&level)
        })))
    }

    /// Makes what a container has on disk.
    async fn furnish(self: &Arc<Self>, container: &Arc<Container>, image: &ImageConfig) -> Result<()> {
        let record = container.record();
        let made = self.blocking(move |inner| {
            make_directory(&inner.layout.container(&record.id))?;
            inner.images.prepare(record.id.as_str(), &record.image_id)?;
            Ok(())
        });
        made.await?;
        self.make_mounts(container, image).await?;
        self.record_as(container, Unfinished::Nothing).await
    }

    /// Makes durable what is under way with a container.
    pub(crate) async fn record_as(&self, container: &Container, unfinished: Unfinished) -> Result<()> {
        let record = container.with(|cell| {
            cell.record.unfinished = unfinished;
            cell.record.clone()
        });
        self.store
            .put(Table::Containers, record.id.as_str(), &record)
            .await
    }

    async fn unfurnish(self: &Arc<Self>, container: &Arc<Container>) {
        let record = container.record();
        for volume in &record.anonymous_volumes {
            if let Err(error) = self.volumes.remove(volume).await {
                tracing::warn!(
                    volume,
                    error = error.chain(),
                    "a volume of a failed create is left over"
                );
            }
        }
        let id = record.id.clone();
        let cleared = self.blocking(move |inner| {
            inner.images.release(id.as_str())?;
            remove_directory(&inner.layout.container(&id))
        });
        let mut cleared = cleared.await;
        if cleared.is_ok() && record.unfinished != Unfinished::Nothing {
            cleared = self.store.remove(Table::Containers, record.id.as_str()).await;
        }
        if let Err(error) = cleared {
            tracing::warn!(
                container = record.id.short(),
                error = error.chain(),
                "a failed create left something"
            );
        }
    }

    /// Refuses at once what could never start; returns warnings.
    fn check(&self, config: &ContainerConfig) -> Result<Vec<String>> {
        if config.image.is_empty() {
            return Err(Error::invalid("no image specified"));
        }
        SecurityOptions::parse(&config.host.security_opt)?;
        check::settings(config)?;
        network::check_mode(config)?;
        if self.remap_of(&config.host).is_some() {
            user_namespace::check(&config.host)?;
        }
        if config.host.auto_remove && config.host.restart != muster_types::container::EngineRestart::No {
            return Err(Error::invalid(
                "can't create 'AutoRemove' container with restart policy",
            ));
        }
        if config.host.mounts.len() > MOUNTS_MAX {
            return Err(Error::invalid(format!(
                "a container can have {MOUNTS_MAX} mounts"
            )));
        }
        let mut warnings = Vec::new();
        if let Some(log) = &config.host.log {
            log_driver::settings(log)?;
        }
        if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
            return Err(Error::invalid(format!(
                "the working directory '{}' is invalid, it needs to be an absolute path",
                config.working_dir
            )));
        }
        // Elsewhere the engine resolves names itself.
        if matches!(config.host.network, NetworkMode::Bridge | NetworkMode::None) {
            let resolver = files::host_resolver();
            warnings.extend(
                files::resolv_conf(&resolver, &self.dns_of(config), &config.host.network)
                    .1
                    .map(str::to_owned),
            );
        }
        if config.host.network == NetworkMode::Host && !config.host.ports.is_empty() {
            warnings.push("Published ports are discarded when using host network mode".to_owned());
        }
        Ok(warnings)
    }

    /// The resolver settings of a container: its own, else the engine's.
    pub(crate) fn dns_of(&self, config: &ContainerConfig) -> muster_types::service::DnsSpec {
        let own = &config.host.dns;
        let pick = |own: &Vec<String>, engine: &Vec<String>| {
            if own.is_empty() {
                engine.clone()
            } else {
                own.clone()
            }
        };
        muster_types::service::DnsSpec {
            nameservers: pick(&own.nameservers, &self.dns.nameservers),
            search: pick(&own.search, &self.dns.search),
            options: pick(&own.options, &self.dns.options),
        }
    }
}

/// What is not found when a container is made is its image, to clients: they would pull that for want of a network.
fn as_bad_request(error: Error) -> Error {
    match error {
        missing @ Error::NoSuchNetwork { .. } => Error::invalid(missing.to_string()),
        other => other,
    }
}

/// Fills in what the image says and the user does not, so that the container tells all of it.
fn apply_image(config: &mut ContainerConfig, image: &ImageConfig) {
    let given = |command: &Vec<String>| (!command.is_empty()).then(|| command.clone());
    if config.entrypoint.is_none() {
        // A user's own entrypoint clears the image's command, as with Docker.
        config.cmd = config.cmd.take().or_else(|| given(&image.cmd));
        config.entrypoint = given(&image.entrypoint);
    }
    for (own, images) in [
        (&mut config.exposed_ports, &image.exposed_ports),
        (&mut config.volumes, &image.volumes),
    ] {
        own.extend(images.iter().cloned());
        own.sort();
        own.dedup();
    }
    if config.stop_signal.is_empty() {
        config.stop_signal = image.stop_signal.clone().unwrap_or_default();
    }
    if config.health.is_none() {
        config.health.clone_from(&image.health);
    }
    for (key, value) in &image.labels {
        config.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

/// Fills what the container's configuration leaves to its image, as users see it afterwards.
fn complete(config: &mut ContainerConfig, image: &ImageConfig) {
    let given = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    // A user's own entrypoint, also an empty one, clears the image's command.
    if config.entrypoint.is_none() {
        config.cmd = config.cmd.take().or_else(|| given(&image.cmd));
        config.entrypoint = given(&image.entrypoint);
    }
    for path in &image.volumes {
        if !config.volumes.contains(path) {
            config.volumes.push(path.clone());
        }
    }
    for port in &image.exposed_ports {
        if !config.exposed_ports.contains(port) {
            config.exposed_ports.push(port.clone());
        }
    }
    if config.stop_signal.is_empty() {
        config.stop_signal = image.stop_signal.clone().unwrap_or_default();
    }
    config.health = health::in_effect(config.health.as_ref(), image.health.as_ref());
}

/// The record of a container that is about to be made, with what the image says filled in.
fn record(
    id: &ContainerId,
    mut config: ContainerConfig,
    image_id: String,
    image: &ImageConfig,
) -> Result<Record> {
    complete(&mut config, image);
    let mut command = config.entrypoint.clone().unwrap_or_default();
    command.extend(config.cmd.iter().flatten().cloned());
    if command.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("no command specified"));
    }
    let or_image = |own: &String, image: &String| {
        if own.is_empty() {
            image.clone()
        } else {
            own.clone()
        }
    };
    let working_dir = or_image(&config.working_dir, &image.working_dir);
    let mut exposed_ports = config.exposed_ports.clone();
    exposed_ports.sort();
    exposed_ports.dedup();
    let host_name = match config.hostname.as_str() {
        "" if config.host.uts_host || config.host.network == NetworkMode::Host => crate::host::host_name(),
        "" => id.short().to_owned(),
        name => name.to_owned(),
    };
    Ok(Record {
        id: id.clone(),
        name: String::new(),
        image_id,
        command,
        env: merged_environment(&image.env, &config.env),
        working_dir: if working_dir.is_empty() {
            "/".to_owned()
        } else {
            working_dir
        },
        user: or_image(&config.user, &image.user),
        host_name,
        stop_signal: if config.stop_signal.is_empty() {
            signal::TERM
        } else {
            signal::parse(&config.stop_signal)?
        },
        stop_grace: Record::grace_of(&config),
        health: config.health.clone(),
        exposed_ports,
        mounts: Vec::new(),
        anonymous_volumes: Vec::new(),
        networks: None,
        created: clock::now(),
        phase: Default::default(),
        exit_code: 0,
        oom_killed: false,
        error: String::new(),
        started_at: Timestamp::ZERO,
        finished_at: Timestamp::ZERO,
        restart_count: 0,
        stopped_by_user: false,
        level: None,
        unfinished: Unfinished::Nothing,
        config,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["default".into()],
            user: "web".into(),
            stop_signal: Some("SIGINT".into()),
            ..ImageConfig::default()
        }
    }

    fn command(entrypoint: Option<&[&str]>, cmd: Option<&[&str]>) -> Result<Vec<String>> {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let config = ContainerConfig {
            entrypoint: entrypoint.map(owned),
            cmd: cmd.map(owned),
            ..ContainerConfig::default()
        };
        record(&random_id(), config, "sha256:x".into(), &image()).map(|record| record.command)
    }

    #[test]
    fn entrypoint_and_command_combine_as_in_docker() {
        assert_eq!(command(None, None).unwrap(), ["/entry", "default"]);
        assert_eq!(command(None, Some(&["x"])).unwrap(), ["/entry", "x"]);
        assert_eq!(command(Some(&["/own"]), None).unwrap(), ["/own"]);
        assert_eq!(command(Some(&[]), Some(&["sh"])).unwrap(), ["sh"]);
        assert!(command(Some(&[]), None).is_err());
    }

    #[test]
    fn what_the_image_says_is_the_default() {
        let made = record(
            &random_id(),
            ContainerConfig::default(),
            "sha256:x".into(),
            &image(),
        )
        .unwrap();
        assert_eq!((made.user.as_str(), made.stop_signal), ("web", 2));
        assert_eq!(made.working_dir, "/");
        assert_eq!(made.host_name, made.id.short());
    }
}
