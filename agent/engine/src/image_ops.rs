//! Images, as clients see them.

use crate::engine::{Engine, Inner};
use crate::error::Result;
use crate::image_config;
use muster_images::{
    Digest, HistoryEntry, ImageUser, LoadLimits, LoadedImage, RemoveOptions, RemovedEvent, UserState,
};
use muster_types::container::MountKind;
use muster_types::event::EventKind;
use muster_types::image::ImageSummary;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

impl Engine {
    /// Reads an archive of images. Nothing is left behind when it is refused.
    pub async fn image_load(&self, archive: impl Read + Send + 'static) -> Result<Vec<LoadedImage>> {
        let inner = Arc::clone(&self.inner);
        self.carry("image_load", async move {
            let loaded = inner
                .blocking(move |inner| Ok(inner.images.load(archive, &LoadLimits::default())?))
                .await?;
            for image in &loaded {
                inner.image_event("load", &image.id.to_string(), image.reference.as_deref());
            }
            Ok(loaded)
        })
        .await
    }

    /// Tells everybody who listens that an image came from a registry or went to one.
    pub fn note_image(&self, action: &str, reference: &str) {
        let name = match reference.rsplit_once([':', '@']) {
            Some((name, rest)) if !rest.contains('/') => name,
            _ => reference,
        };
        let name = name.split('@').next();
        self.inner.image_event(action, reference, name);
    }

    /// All images, newest first.
    pub async fn image_list(&self) -> Result<Vec<ImageSummary>> {
        self.inner
            .blocking(|inner| {
                let images = inner.images.list()?;
                let summaries = images
                    .iter()
                    .map(|image| image_config::summary(&inner.images, image));
                let mut summaries = summaries.collect::<Result<Vec<_>>>()?;
                summaries.sort_by_key(|image| std::cmp::Reverse(image.created));
                Ok(summaries)
            })
            .await
    }

    /// Bytes of all layers, and of those that each image shares with others, by its id.
    pub async fn image_usage(&self) -> Result<(u64, BTreeMap<String, u64>)> {
        self.inner
            .blocking(|inner| {
                let shared = inner.images.shared_bytes()?;
                let shared = shared.into_iter().map(|(id, bytes)| (id.to_string(), bytes));
                Ok((inner.images.layer_bytes()?, shared.collect()))
            })
            .await
    }

    /// One image.
    pub async fn image_inspect(&self, reference: &str) -> Result<ImageSummary> {
        let reference = reference.to_owned();
        self.inner
            .blocking(move |inner| {
                let image = inner.images.resolve(&reference)?;
                let directories = inner.images.image_directories(&image.id.to_string())?;
                Ok(ImageSummary {
                    directories: directories.map(image_config::directories),
                    ..image_config::summary(&inner.images, &image)?
                })
            })
            .await
    }

    /// How an image was built, newest layer first.
    pub async fn image_history(&self, reference: &str) -> Result<Vec<HistoryEntry>> {
        let reference = reference.to_owned();
        self.inner
            .blocking(move |inner| Ok(inner.images.history(&reference)?))
            .await
    }

    /// Gives an image another name.
    pub async fn image_tag(&self, reference: &str, target: &str) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let (reference, target) = (reference.to_owned(), target.to_owned());
        self.carry("image_tag", async move {
            let name = target.clone();
            let id = inner
                .blocking(move |inner| {
                    inner.images.tag(&reference, &target)?;
                    Ok(inner.images.resolve(&target)?.id.to_string())
                })
                .await?;
            inner.image_event("tag", &id, Some(&name));
            Ok(())
        })
        .await
    }

    /// Removes a name, and the image with its last one. Refused while containers use it, unless forced.
    pub async fn image_remove(&self, reference: &str, force: bool) -> Result<Vec<RemovedEvent>> {
        let (inner, reference) = (Arc::clone(&self.inner), reference.to_owned());
        self.carry("image_remove", async move {
            let (id, removed) = inner
                .blocking(move |inner| {
                    let id = inner.images.resolve(&reference)?.id.to_string();
                    let users = inner.image_users();
                    Ok((
                        id,
                        inner.images.remove(&reference, RemoveOptions { force }, &users)?,
                    ))
                })
                .await?;
            for event in &removed {
                // Docker names the image by its id in both.
                match event {
                    RemovedEvent::Untagged(_) => inner.image_event("untag", &id, Some(&id)),
                    RemovedEvent::Deleted(id) => inner.image_event("delete", id, Some(id)),
                }
            }
            Ok(removed)
        })
        .await
    }
}

impl Inner {
    /// The images of all containers.
    pub(crate) fn images_in_use(&self) -> BTreeSet<Digest> {
        let users = self.image_users();
        users.into_iter().map(|user| user.image_id).collect()
    }

    fn image_users(&self) -> Vec<ImageUser> {
        let containers = self.containers().all();
        let users = containers.iter().flat_map(|container| {
            container.with(|cell| {
                let state = match cell.record.phase.is_live() {
                    true => UserState::Running,
                    false => UserState::Stopped,
                };
                let mounted = cell
                    .record
                    .mounts
                    .iter()
                    .filter(|point| point.kind == MountKind::Image);
                let images = mounted.map(|point| &point.source).chain([&cell.record.image_id]);
                let users = images.filter_map(|image| {
                    Some(ImageUser {
                        container_id: cell.record.id.to_string(),
                        image_id: image.parse().ok()?,
                        state,
                    })
                });
                users.collect::<Vec<_>>()
            })
        });
        users.collect()
    }

    pub(crate) fn image_event(&self, action: &str, id: &str, name: Option<&str>) {
        let mut attributes = BTreeMap::new();
        if let Some(name) = name {
            attributes.insert("name".to_owned(), name.to_owned());
        }
        self.events.publish(EventKind::Image, action, id, attributes);
    }
}
