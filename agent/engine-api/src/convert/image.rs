//! Images in answers.

use super::container::{graph_driver, time};
use super::{health, signed};
use crate::backend::{ImageLayer, RemovedImage};
use crate::wire::image as wire;
use muster_types::Timestamp;
use muster_types::container::ContainerInfo;
use muster_types::image::ImageSummary;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many containers use an image.
pub(crate) fn users(id: &str, containers: &[Arc<ContainerInfo>]) -> i64 {
    let count = containers
        .iter()
        .filter(|container| container.image_id == id)
        .count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// An element of `GET /images/json`.
pub(crate) fn summary(image: &ImageSummary, containers: i64) -> wire::ImageSummary {
    wire::ImageSummary {
        containers,
        created: image.created.unix_secs(),
        id: image.id.clone(),
        labels: (!image.config.labels.is_empty()).then(|| image.config.labels.clone()),
        parent_id: image.parent.clone(),
        repo_digests: image.repo_digests.clone(),
        repo_tags: image.repo_tags.clone(),
        shared_size: -1,
        size: image.size_bytes,
        virtual_size: image.size_bytes,
    }
}

/// As [`summary`], with the bytes of the layers that it shares with other images.
pub(crate) fn shared_summary(image: &ImageSummary, containers: i64, shared_bytes: u64) -> wire::ImageSummary {
    wire::ImageSummary {
        shared_size: signed(shared_bytes),
        ..summary(image, containers)
    }
}

/// Answer of `GET /images/{name}/json`.
pub(crate) fn inspect(image: &ImageSummary) -> wire::Image {
    wire::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        parent: image.parent.clone(),
        comment: image.comment.clone(),
        created: if image.created == Timestamp::ZERO {
            String::new()
        } else {
            time(image.created)
        },
        container: image.container.clone(),
        container_config: image.container_config.clone().unwrap_or_else(|| json!({})),
        docker_version: String::new(),
        author: image.author.clone(),
        config: config(image),
        architecture: image.architecture.clone(),
        os: image.os.clone(),
        size: image.size_bytes,
        virtual_size: image.size_bytes,
        graph_driver: graph_driver(image.directories.as_ref()),
        root_fs: wire::RootFs {
            r#type: "layers",
            layers: image.layers.clone(),
        },
        metadata: json!({"LastTagTime": super::container::NEVER}),
    }
}

fn config(image: &ImageSummary) -> wire::ImageConfig {
    let config = &image.config;
    let set = |names: &[String]| -> BTreeMap<String, Value> {
        names.iter().map(|name| (name.clone(), json!({}))).collect()
    };
    let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    wire::ImageConfig {
        user: config.user.clone(),
        exposed_ports: set(&config.exposed_ports),
        env: config.env.clone(),
        cmd: list(&config.cmd),
        healthcheck: config.health.as_ref().map(health::write),
        volumes: Some(set(&config.volumes)).filter(|volumes| !volumes.is_empty()),
        working_dir: config.working_dir.clone(),
        entrypoint: list(&config.entrypoint),
        labels: (!config.labels.is_empty()).then(|| config.labels.clone()),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
        on_build: list(&image.on_build),
        shell: image.shell.clone(),
        ..wire::ImageConfig::default()
    }
}

/// An element of `GET /images/{name}/history`.
pub(crate) fn layer(layer: &ImageLayer) -> Value {
    json!({
        "Id": if layer.id.is_empty() { "<missing>" } else { &layer.id },
        "Created": layer.created.unix_secs(),
        "CreatedBy": layer.created_by,
        "Tags": (!layer.tags.is_empty()).then_some(&layer.tags),
        "Size": layer.size_bytes,
        "Comment": layer.comment,
    })
}

/// An element of the answer of `DELETE /images/{name}`.
pub(crate) fn removed(removed: &RemovedImage) -> Value {
    match removed {
        RemovedImage::Untagged(name) => json!({"Untagged": name}),
        RemovedImage::Deleted(id) => json!({"Deleted": id}),
    }
}
