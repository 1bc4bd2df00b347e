//! What an image says of its containers, in the domain's words.

use crate::error::{Error, Result};
use muster_images::{Directories, Image, ImageStore};
use muster_types::Timestamp;
use muster_types::container::HealthCheck;
use muster_types::image::{ImageConfig, ImageSummary, OverlayDirectories};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// Docker's additions to the OCI configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Additions {
    config: Option<DockerConfig>,
    container: String,
    parent: String,
    container_config: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DockerConfig {
    healthcheck: Option<DockerHealth>,
    on_build: Option<Vec<String>>,
    shell: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DockerHealth {
    test: Option<Vec<String>>,
    interval: i64,
    timeout: i64,
    start_period: i64,
    start_interval: i64,
    retries: i64,
}

/// The id and the defaults of an image. Blocks.
pub(crate) fn of(images: &ImageStore, reference: &str) -> Result<(String, ImageConfig)> {
    let image = images.resolve(reference)?;
    let summary = summary(images, &image)?;
    Ok((summary.id, summary.config))
}

/// An image as clients see it. Blocks.
pub(crate) fn summary(images: &ImageStore, image: &Image) -> Result<ImageSummary> {
    let bytes = images.config_bytes(&image.id)?;
    let additions: Additions = serde_json::from_slice(&bytes).map_err(|source| Error::DamagedRow {
        key: image.id.to_string(),
        source,
    })?;
    // A parent that is not here, or not any more, is none.
    let known = |id: &String| !id.is_empty() && images.resolve(id).is_ok();
    let docker = additions.config.unwrap_or_default();
    let steps = image.config.history().iter().flatten();
    Ok(ImageSummary {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        created: Timestamp::from_secs(image.created_unix_s),
        size_bytes: image.size_bytes,
        architecture: image.architecture.clone(),
        os: image.os.clone(),
        author: image.config.author().clone().unwrap_or_default(),
        layers: image.diff_ids.iter().map(ToString::to_string).collect(),
        comment: steps
            .last()
            .and_then(|step| step.comment().clone())
            .unwrap_or_default(),
        config: config(image, docker.healthcheck.map(health)),
        on_build: docker.on_build.unwrap_or_default(),
        shell: docker.shell.unwrap_or_default(),
        parent: Some(additions.parent).filter(known).unwrap_or_default(),
        container: additions.container,
        container_config: additions.container_config,
        directories: None,
    })
}

/// Where the files lie, as clients see it.
pub(crate) fn directories(directories: Directories) -> OverlayDirectories {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    OverlayDirectories {
        lower: directories.lower.into_iter().map(text).collect(),
        upper: text(directories.upper),
        work: directories.work.map(text).unwrap_or_default(),
    }
}

fn config(image: &Image, health: Option<HealthCheck>) -> ImageConfig {
    let labels = image.labels.clone().into_iter().collect();
    let Some(config) = image.config.config() else {
        return ImageConfig {
            labels,
            health,
            ..ImageConfig::default()
        };
    };
    ImageConfig {
        user: config.user().clone().unwrap_or_default(),
        env: config.env().clone().unwrap_or_default(),
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        cmd: config.cmd().clone().unwrap_or_default(),
        working_dir: config.working_dir().clone().unwrap_or_default(),
        labels,
        exposed_ports: config.exposed_ports().clone().unwrap_or_default(),
        volumes: config.volumes().clone().unwrap_or_default(),
        stop_signal: config.stop_signal().clone(),
        stop_grace: None,
        health,
    }
}

fn health(health: DockerHealth) -> HealthCheck {
    let nanos = |value: i64| Duration::from_nanos(u64::try_from(value).unwrap_or_default());
    HealthCheck {
        test: health.test.unwrap_or_default(),
        interval: nanos(health.interval),
        timeout: nanos(health.timeout),
        retries: u64::try_from(health.retries).unwrap_or_default(),
        start_period: nanos(health.start_period),
        start_interval: nanos(health.start_interval),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_health_check_is_read() {
        let config = br#"{"architecture":"amd64","config":{"Healthcheck":{"Test":["CMD","true"],"Interval":5000000000,"Retries":2}}}"#;
        let parse_health = |config: &[u8]| {
            let additions: Additions = serde_json::from_slice(config).unwrap();
            additions.config.and_then(|config| config.healthcheck).map(health)
        };
        let health = parse_health(config).unwrap();
        assert_eq!(health.test, ["CMD", "true"]);
        assert_eq!((health.interval, health.retries), (Duration::from_secs(5), 2));
        assert!(parse_health(b"{\"config\":{}}").is_none());
        assert!(parse_health(b"{}").is_none());
    }
}
