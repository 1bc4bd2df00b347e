//! What images take of the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use crate::blobs;
use crate::digest::{Digest, ImageId};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::records::{ImageRecord, Lookup};
use crate::store::{ImageStore, find};

/// What the store holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskUsage {
    /// Number of images.
    pub images: usize,
    /// Number of unpacked layers.
    pub layers: usize,
    /// Number of container root filesystems.
    pub containers: usize,
    /// Bytes of files in unpacked layers.
    pub layer_bytes: u64,
    /// Bytes of what is kept of their archives beside their files.
    pub split_bytes: u64,
    /// Bytes of blobs, compressed as they came.
    pub blob_bytes: u64,
}

impl ImageStore {
    /// Bytes of files over all layers of the image, as Docker counts them.
    pub fn size(&self, reference_or_id: &str) -> Result<u64> {
        Ok(find(&self.inner.records.view()?, reference_or_id)?.content_bytes)
    }

    /// Bytes of all that is kept for images but what only steps of builds have, each thing counted once: the files of the
    /// layers, what is kept of their archives beside these, and blobs of layers.
    pub fn layer_bytes(&self) -> Result<u64> {
        let layout = &self.inner.layout;
        let hidden = self.step_images()?;
        let view = self.inner.records.view()?;
        let images = view.images()?;
        let (steps, images): (Vec<_>, Vec<_>) = images.iter().partition(|image| hidden.contains(&image.id));
        let mut only_steps: BTreeSet<Digest> =
            steps.iter().flat_map(|image| image.chain_ids.clone()).collect();
        let snapshots = view.snapshots()?;
        let seen = images.iter().flat_map(|image| &image.chain_ids);
        for chain_id in seen.chain(snapshots.iter().flat_map(|(_, snapshot)| &snapshot.chain_ids)) {
            only_steps.remove(chain_id);
        }
        let mut bytes = 0;
        for (key, layer) in view.layers()? {
            let chain_id = key.parse().ok();
            if chain_id.is_some_and(|chain_id| only_steps.contains(&chain_id)) {
                continue;
            }
            bytes += layer.content_bytes;
            if let Some(chain_id) = chain_id {
                bytes += split_bytes(layout, &chain_id)?;
            }
        }
        let manifests = images.iter().flat_map(|image| &image.manifests);
        let of_manifests = manifests.flat_map(|manifest| &manifest.layer_blobs);
        let contents = images.iter().flat_map(|image| &image.diff_ids);
        let blobs: BTreeSet<&Digest> = of_manifests.chain(contents).collect();
        for blob in blobs {
            bytes += blobs::size_on_disk(layout, blob)?.unwrap_or(0);
        }
        Ok(bytes)
    }

    /// Bytes of the layers that each image shares with another one.
    pub fn shared_bytes(&self) -> Result<BTreeMap<ImageId, u64>> {
        let hidden = self.step_images()?;
        let view = self.inner.records.view()?;
        let mut images = view.images()?;
        images.retain(|image| !hidden.contains(&image.id));
        let mut users: BTreeMap<Digest, u32> = BTreeMap::new();
        for chain_id in images.iter().flat_map(|image| &image.chain_ids) {
            *users.entry(*chain_id).or_default() += 1;
        }
        let mut sizes: BTreeMap<Digest, u64> = BTreeMap::new();
        for chain_id in users.keys() {
            let layer = view.layer(chain_id)?;
            sizes.insert(*chain_id, layer.map_or(0, |layer| layer.content_bytes));
        }
        let shared = |image: &ImageRecord| {
            let layers = image
                .chain_ids
                .iter()
                .filter(|id| users.get(*id).is_some_and(|count| *count > 1));
            layers.filter_map(|id| sizes.get(id)).sum()
        };
        Ok(images.iter().map(|image| (image.id, shared(image))).collect())
    }

    /// What the store holds.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        let layout = &self.inner.layout;
        let view = self.inner.records.view()?;
        let layers = view.layers()?;
        let mut blob_bytes = 0;
        for digest in self.stored_blobs()? {
            blob_bytes += blobs::size_on_disk(layout, &digest)?.unwrap_or(0);
        }
        let mut kept_bytes = 0;
        for chain_id in layers.iter().filter_map(|(key, _)| key.parse().ok()) {
            kept_bytes += split_bytes(layout, &chain_id)?;
        }
        Ok(DiskUsage {
            images: view.images()?.len(),
            layers: layers.len(),
            containers: view.snapshots()?.len(),
            layer_bytes: layers.iter().map(|(_, layer)| layer.content_bytes).sum(),
            split_bytes: kept_bytes,
            blob_bytes,
        })
    }
}

/// Bytes of what is kept of a layer's archive beside its files.
pub(crate) fn split_bytes(layout: &Layout, chain_id: &Digest) -> Result<u64> {
    let path = layout.split(chain_id);
    match fs::metadata(&path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Error::io("look at", &path, error)),
    }
}
