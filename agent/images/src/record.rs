//! What the store writes down of each thing that it has.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, ImageId};
use crate::limits::MANIFESTS_PER_IMAGE_MAX;

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) id: ImageId,
    /// The manifests that lead to this image, the preferred one first.
    pub(crate) manifests: Vec<ManifestRecord>,
    /// The indexes that led to one of the manifests; kept so that other nodes can verify the way from a digest.
    #[serde(default)]
    pub(crate) indexes: Vec<Digest>,
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) chain_ids: Vec<Digest>,
    /// Bytes of all files in all layers.
    pub(crate) content_bytes: u64,
    /// A build made it on its way; only a name makes it an image that users see.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_step: bool,
    /// Since when something that it needs to run is missing, in seconds since 1970: it is hidden until it is fetched
    /// again, and what is left of it is kept for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) damaged_since_unix_s: Option<i64>,
}

/// A manifest of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestRecord {
    pub(crate) digest: Digest,
    /// The layers' blobs, lowest first.
    pub(crate) layer_blobs: Vec<Digest>,
    /// This store compressed the layers for a registry, and keeps what it made.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) is_packed: bool,
    /// Layers, counted from the lowest, whose blobs nobody has compared with their content here, which came otherwise: that
    /// they are forms of it is what the manifest says.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) unseen: BTreeSet<usize>,
}

/// An unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) diff_id: Digest,
    /// Bytes of its files.
    pub(crate) content_bytes: u64,
    /// Bytes of its archive, where that can be made again of its directory and what was written down beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) archive_bytes: Option<u64>,
}

/// A container's root filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub(crate) image_id: ImageId,
    /// Its layers stay while it exists, also when the image is removed.
    pub(crate) chain_ids: Vec<Digest>,
}

/// What a step of a build made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StepRecord {
    pub(crate) image_id: ImageId,
    /// The step, as a user reads it.
    pub(crate) description: String,
    /// When it was made, in seconds since 1970.
    pub(crate) created_unix_s: i64,
    /// When a build used it last.
    pub(crate) used_unix_s: i64,
    /// How often builds used it.
    pub(crate) uses: u64,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl ImageRecord {
    /// Remembers one more index that leads here, in place of the oldest where there are too many.
    pub(crate) fn note_index(&mut self, index: Option<Digest>) {
        if let Some(index) = index.filter(|index| !self.indexes.contains(index)) {
            self.indexes.push(index);
            if self.indexes.len() > MANIFESTS_PER_IMAGE_MAX {
                self.indexes.remove(0);
            }
        }
    }

    /// Whether this is the digest of one of its manifests or of an index that leads to one.
    pub(crate) fn leads_by(&self, digest: &Digest) -> bool {
        self.indexes.contains(digest) || self.manifests.iter().any(|manifest| manifest.digest == *digest)
    }

    /// Whether this blob is the layer of this number in one of its manifests, and was compared with its content.
    pub(crate) fn has_form(&self, layer: usize, blob: &Digest) -> bool {
        self.forms(layer).any(|form| form == blob)
    }

    /// Which of these blobs, one a layer, are neither the layer's content nor were compared with it.
    pub(crate) fn unseen<'a>(&'a self, blobs: &'a [Digest]) -> impl Iterator<Item = usize> + 'a {
        let is_unseen = |(place, blob): &(usize, &Digest)| {
            self.diff_ids.get(*place) != Some(*blob) && !self.has_form(*place, blob)
        };
        blobs.iter().enumerate().filter(is_unseen).map(|(place, _)| place)
    }

    /// The blobs that were found to have the content of this layer.
    pub(crate) fn forms(&self, layer: usize) -> impl Iterator<Item = &Digest> {
        let seen = move |manifest: &&ManifestRecord| !manifest.unseen.contains(&layer);
        let manifests = self.manifests.iter().filter(seen);
        manifests.filter_map(move |manifest| manifest.layer_blobs.get(layer))
    }

    /// The blobs that are not layers: manifests, indexes and the configuration.
    pub(crate) fn documents(&self) -> impl Iterator<Item = Digest> + '_ {
        let manifests = self.manifests.iter().map(|manifest| manifest.digest);
        manifests.chain(self.indexes.iter().copied()).chain([self.id])
    }
}
