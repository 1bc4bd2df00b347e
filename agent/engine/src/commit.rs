//! Images that are made of containers and archives, and images that leave as archives.

use crate::archive::{ArchiveStream, PIECES_AHEAD, write_archive};
use crate::clock;
use crate::commit_config::RunConfig;
use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::error::{Error, Result};
use crate::phase::Phase;
use crate::piece_writer::PieceWriter;
use crate::record::Record;
use muster_images::{FileChange, LoadLimits, NewImage, Reference, SourceContainer};
use muster_types::container::HealthCheck;
use serde_json::{Map, Value, json};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How a container becomes an image.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// The image's name; none leaves it without one.
    pub reference: Option<String>,
    /// For the user.
    pub comment: String,
    /// Author.
    pub author: String,
    /// Freeze the container meanwhile.
    pub pause: bool,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// Docker's `Config`, which wins over the container's.
    pub config: Option<Value>,
}

/// How an archive becomes an image.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The image's name; none leaves it without one.
    pub reference: Option<String>,
    /// For the user.
    pub message: String,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// `os[/architecture]`; this machine's when empty.
    pub platform: String,
}

impl Engine {
    /// What a container changed in its image's files.
    pub async fn changes(&self, reference: &str) -> Result<Vec<FileChange>> {
        let (inner, container) = (Arc::clone(&self.inner), self.inner.find(reference)?);
        self.carry("changes", async move {
            // Nobody removes it meanwhile.
            let _owned = container.operation.lock().await;
            let id = container.id.to_string();
            inner.blocking(move |inner| Ok(inner.images.changes(&id)?)).await
        })
        .await
    }

    /// Makes an image of a container; returns its id.
    pub async fn commit(&self, reference: &str, options: CommitOptions) -> Result<String> {
        let (inner, container) = (Arc::clone(&self.inner), self.inner.find(reference)?);
        self.carry("commit", async move { inner.commit(&container, options).await })
            .await
    }

    /// Makes an image of an archive of a root file system; returns its id.
    pub async fn image_import(
        &self,
        archive: impl Read + Send + 'static,
        options: ImportOptions,
    ) -> Result<String> {
        let inner = Arc::clone(&self.inner);
        self.carry("image_import", async move {
            let architecture = architecture(&options.platform)?;
            let config = RunConfig::default().changed(&options.changes)?;
            let image = NewImage {
                reference: options.reference.clone(),
                config: value(config)?,
                created: clock::now().to_string(),
                author: String::new(),
                created_by: String::new(),
                comment: options.message,
                architecture,
                ..NewImage::default()
            };
            let id = inner
                .blocking(move |inner| {
                    Ok(inner
                        .images
                        .import_rootfs(archive, &image, &LoadLimits::default())?)
                })
                .await?
                .to_string();
            let name = options.reference.as_deref().map(familiar).transpose()?;
            inner.image_event("import", &id, name.as_deref());
            Ok(id)
        })
        .await
    }

    /// An archive of images by name or id.
    pub async fn image_save(&self, names: Vec<String>) -> Result<ArchiveStream> {
        let found = self
            .inner
            .blocking(move |inner| Ok(inner.images.find_saved(&names)?))
            .await?;
        let lease = self
            .inner
            .images
            .lease(found.iter().flat_map(|image| image.digests()));
        let (pieces, stream) = mpsc::channel(PIECES_AHEAD);
        let output = PieceWriter::new(pieces, self.inner.stopping.clone());
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.spawn(async move {
            let ids: Vec<String> = found.iter().map(|image| image.id().to_string()).collect();
            let saved = inner
                .blocking(move |inner| {
                    let _lease = lease;
                    write_archive(output, |output| {
                        inner
                            .images
                            .save(&found, output)
                            .map_err(|error| io::Error::other(error.full_message()))
                    })
                })
                .await;
            if saved.is_ok() {
                for id in ids {
                    inner.image_event("save", &id, None);
                }
            }
        });
        Ok(stream)
    }
}

impl Inner {
    async fn commit(self: &Arc<Self>, container: &Arc<Container>, options: CommitOptions) -> Result<String> {
        // Nobody starts, freezes, thaws or removes it meanwhile.
        let _owned = container.operation.lock().await;
        committable(container)?;
        let pauses = options.pause && container.phase() == Phase::Running;
        let frozen = match pauses {
            true => self.pause_owned(container).await,
            false => Ok(()),
        };
        match frozen {
            // It ended just now, and what has ended needs no pause.
            Ok(()) | Err(Error::WrongState { .. }) => {}
            Err(error) => return Err(error),
        }
        let committed = self.commit_still(container, options).await;
        if pauses && let Err(error) = self.unpause_owned(container).await {
            // It ended meanwhile.
            tracing::debug!(
                container = container.id.short(),
                error = error.chain(),
                "not thawed after a commit"
            );
        }
        committed
    }

    /// Commits a container that stands still. The caller holds its operation.
    async fn commit_still(
        self: &Arc<Self>,
        container: &Arc<Container>,
        options: CommitOptions,
    ) -> Result<String> {
        let (record, comment, reference) = (
            container.record(),
            options.comment.clone(),
            options.reference.as_deref().map(familiar).transpose()?,
        );
        let id = self
            .blocking(move |inner| {
                let image = inner.new_image(&record, options)?;
                Ok(inner.images.commit(record.id.as_str(), &image)?.0)
            })
            .await?
            .to_string();
        if let Some(name) = &reference {
            self.image_event("tag", &id, Some(name));
        }
        self.container_event(
            container,
            "commit",
            &[
                ("comment", comment),
                ("imageID", id.clone()),
                ("imageRef", reference.unwrap_or_default()),
            ],
        );
        Ok(id)
    }

    fn new_image(&self, record: &Record, options: CommitOptions) -> Result<NewImage> {
        let image_id = record.image_id.parse().map_err(muster_images::Error::from)?;
        let document = self.images.config_bytes(&image_id)?;
        let mut document: Value = serde_json::from_slice(&document).map_err(|source| Error::DamagedRow {
            key: record.image_id.clone(),
            source,
        })?;
        let base = RunConfig::read(document["config"].take())?;
        let own = container_config(record).or(base);
        let asked = match options.config {
            Some(config) => RunConfig {
                // The rest of it speaks of the container, not of its image.
                other: Map::new(),
                ..RunConfig::read(config)?
            },
            None => own.clone(),
        };
        Ok(NewImage {
            reference: options.reference,
            config: value(asked.changed(&options.changes)?.or(own))?,
            created: clock::now().to_string(),
            author: options.author,
            created_by: record.config.cmd.clone().unwrap_or_default().join(" "),
            comment: options.comment,
            container: Some(SourceContainer {
                id: record.id.to_string(),
                image_id: record.image_id.clone(),
                config: whole_config(record)?,
            }),
            ..NewImage::default()
        })
    }
}

/// Refuses a container whose files are gone, or about to go.
fn committable(container: &Container) -> Result<()> {
    let refused = |why| {
        Error::wrong_state(format!(
            "You cannot commit container {} which is {why}",
            container.id
        ))
    };
    match container.phase() {
        Phase::Removed => Err(Error::NoSuchContainer {
            reference: container.id.to_string(),
        }),
        Phase::Removing => Err(refused("being removed")),
        Phase::Dead => Err(refused("Dead")),
        Phase::Created
        | Phase::Starting
        | Phase::Running
        | Phase::Paused
        | Phase::Restarting
        | Phase::Exited => Ok(()),
    }
}

/// A name as users write it.
pub(crate) fn familiar(name: &str) -> Result<String> {
    let reference = Reference::parse(name).map_err(muster_images::Error::from)?;
    Ok(reference.with_default_tag().familiar())
}

pub(crate) fn value(config: RunConfig) -> Result<Value> {
    serde_json::to_value(config)
        .map_err(|error| Error::invalid(format!("invalid image configuration: {error}")))
}

/// What the container was asked to be, as an image says it.
fn container_config(record: &Record) -> RunConfig {
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let set = |names: &[String]| {
        let names = names.iter().map(|name| (name.clone(), json!({})));
        Some(names.collect()).filter(|set: &std::collections::BTreeMap<_, _>| !set.is_empty())
    };
    let config = &record.config;
    RunConfig {
        user: text(&record.user),
        exposed_ports: set(&record.exposed_ports),
        env: Some(record.env.clone()).filter(|env| !env.is_empty()),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        volumes: set(&config.volumes),
        working_dir: text(&config.working_dir),
        labels: Some(config.labels.clone()).filter(|labels| !labels.is_empty()),
        stop_signal: text(&config.stop_signal),
        healthcheck: config.health.as_ref().map(health),
        ..RunConfig::default()
    }
}

/// The container's `Config`, with what no image passes on to its containers.
fn whole_config(record: &Record) -> Result<Value> {
    let config = &record.config;
    let hostname = match config.hostname.as_str() {
        "" => record.id.short(),
        name => name,
    };
    let mut whole = value(container_config(record))?;
    for (key, field) in [
        ("Hostname", json!(hostname)),
        ("Domainname", json!(config.domainname)),
        ("AttachStdin", json!(config.attach.0)),
        ("AttachStdout", json!(config.attach.1)),
        ("AttachStderr", json!(config.attach.2)),
        ("Tty", json!(config.tty)),
        ("OpenStdin", json!(config.open_stdin)),
        ("StdinOnce", json!(config.stdin_once)),
        ("Image", json!(config.image)),
    ] {
        whole[key] = field;
    }
    Ok(whole)
}

fn health(check: &HealthCheck) -> Value {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let mut value = json!({"Test": check.test});
    for (key, number) in [
        ("Interval", nanos(check.interval)),
        ("Timeout", nanos(check.timeout)),
        ("StartPeriod", nanos(check.start_period)),
        ("StartInterval", nanos(check.start_interval)),
        ("Retries", check.retries),
    ] {
        if number != 0 {
            value[key] = number.into();
        }
    }
    value
}

/// Docker's name of the architecture that an imported image is for.
pub(crate) fn architecture(platform: &str) -> Result<String> {
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let (os, architecture) = platform.split_once('/').unwrap_or((platform, own));
    match os {
        "" | "linux" if !architecture.is_empty() => Ok(architecture.to_owned()),
        _ => Err(Error::invalid(format!(
            "operating system is not supported: {platform}"
        ))),
    }
}
