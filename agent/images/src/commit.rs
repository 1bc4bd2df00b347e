//! New images of this node's own making: of what a container wrote, and of an archive of a root file system.

use std::io::Read;
use std::os::fd::AsFd;

use serde_json::{Map, Value, json};

use crate::blobs::StagedBlob;
use crate::changes::mount_stubs;
use crate::compression::{ByteBudget, Compression, decompress};
use crate::digest::{Digest, ImageId};
use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::limits::{DOCUMENT_BYTES_MAX, LAYERS_MAX, LoadLimits};
use crate::manifest::{Document, LayerBlob, Manifest, synthesise};
use crate::pack::{Form, Packer};
use crate::reference::Reference;
use crate::register::PlannedImage;
use crate::staged_layers::StagedLayers;
use crate::store::ImageStore;
use crate::unpack::open_directory;

/// Bytes of an archive without entries: its two closing blocks.
const EMPTY_ARCHIVE_BYTES: u64 = 1024;

/// What a new image says of itself.
#[derive(Debug, Clone, Default)]
pub struct NewImage {
    /// Its name; none leaves it without one.
    pub reference: Option<String>,
    /// The `config` object of its configuration, in Docker's form.
    pub config: Value,
    /// When, as RFC 3339.
    pub created: String,
    /// Author; may be empty.
    pub author: String,
    /// How its last layer was made.
    pub created_by: String,
    /// For the user.
    pub comment: String,
    /// Docker's name of its architecture, for an image without a parent.
    pub architecture: String,
    /// The container that it is made of.
    pub container: Option<SourceContainer>,
    /// A build makes it on its way: lists do not show it until it has a name or the build is done.
    pub is_step: bool,
    /// Paths without a leading slash that were mounted over, the deepest first: what a start made there is no file of it.
    pub mount_places: Vec<String>,
    /// Later times of its files become this one, in seconds since 1970.
    pub modified_max: Option<i64>,
}

/// A container that an image is made of.
#[derive(Debug, Clone, Default)]
pub struct SourceContainer {
    /// Its id.
    pub id: String,
    /// The id of its own image.
    pub image_id: String,
    /// Its `Config` in Docker's form.
    pub config: Value,
}

impl ImageStore {
    /// Makes an image of the container's image and what the container wrote. Nothing may write meanwhile. The lease keeps
    /// it, as a step's image has no name.
    pub fn commit(&self, container_id: &str, image: &NewImage) -> Result<(ImageId, Lease)> {
        let snapshot = self.snapshot(container_id)?;
        let (document, manifest, _parent_lease) = self.parent(&snapshot.image_id)?;
        let upper = self.upper_dir(container_id)?;
        let below = self.layers_below(container_id)?;
        let top = open_directory(&upper)?;
        let stubs = mount_stubs(&top, &below, &image.mount_places)
            .map_err(|error| Error::io("read", &upper, error))?;
        let leave_out = |path: &[u8]| stubs.contains(path);
        let layer = StagedBlob::written(&self.inner.layout, |output| {
            let mut packer =
                Packer::new(output, Form::Overlay, &leave_out).with_modified_max(image.modified_max);
            packer.directory_as(top.as_fd(), None)?;
            packer.finish().map(drop)
        })?;
        let layer = Some(layer).filter(|layer| layer.bytes > EMPTY_ARCHIVE_BYTES);
        self.add(document, Some(&manifest), layer, image)
    }

    /// Makes an image of an archive of a root file system, compressed or not.
    pub fn import_rootfs(
        &self,
        archive: impl Read,
        image: &NewImage,
        limits: &LoadLimits,
    ) -> Result<ImageId> {
        let budget = ByteBudget::new("the size of the archive", limits.unpacked_bytes_max);
        let (_, stream) = decompress(archive, &budget, limits)?;
        let layer = StagedBlob::write(&self.inner.layout, stream, limits.unpacked_bytes_max)?;
        let mut document = Map::new();
        document.insert("architecture".into(), image.architecture.clone().into());
        document.insert("os".into(), "linux".into());
        self.add(document, None, Some(layer), image).map(|(id, _)| id)
    }

    /// Makes an image of another one's files, and keeps it.
    pub fn derive(&self, parent: &ImageId, image: &NewImage) -> Result<(ImageId, Lease)> {
        let (document, manifest, _parent_lease) = self.parent(parent)?;
        self.add(document, Some(&manifest), None, image)
    }

    /// Makes an image without files, and keeps it.
    pub fn empty_image(&self, image: &NewImage) -> Result<(ImageId, Lease)> {
        let mut document = Map::new();
        document.insert("architecture".into(), image.architecture.clone().into());
        document.insert("os".into(), "linux".into());
        self.add(document, None, None, image)
    }

    /// The documents of a parent, which stays while the lease is held.
    fn parent(&self, id: &ImageId) -> Result<(Map<String, Value>, Manifest, Lease)> {
        let (digest, manifest) = self.manifest(&id.to_string())?;
        let lease = self.lease([digest, *id]);
        let Document::Manifest(manifest) = Document::parse(&manifest, "the parent's manifest")? else {
            return Err(Error::NoSuchBlob { digest });
        };
        Ok((self.document(id)?, manifest, lease))
    }

    fn document(&self, id: &ImageId) -> Result<Map<String, Value>> {
        let damaged = |source| Error::Damaged {
            what: format!("configuration {id}"),
            source,
        };
        serde_json::from_slice(&self.config_bytes(id)?).map_err(damaged)
    }

    /// Adds a layer to a parent's documents, or an image without parent, and registers and keeps the result.
    fn add(
        &self,
        mut document: Map<String, Value>,
        parent: Option<&Manifest>,
        layer: Option<StagedBlob>,
        image: &NewImage,
    ) -> Result<(ImageId, Lease)> {
        let references = match &image.reference {
            Some(name) => vec![Reference::parse(name)?.with_default_tag()],
            None => Vec::new(),
        };
        describe(&mut document, image, layer.as_ref().map(|layer| layer.digest));
        let config = serde_json::to_vec(&document).map_err(|source| Error::Damaged {
            what: "the new configuration".to_string(),
            source,
        })?;
        let id = Digest::of(&config);
        let new_blob = layer.as_ref().map(|layer| LayerBlob {
            digest: layer.digest,
            bytes: layer.bytes,
            compression: Compression::None,
        });
        let manifest = match parent {
            Some(parent) => parent.extended(id, config.len() as u64, new_blob),
            None => synthesise(id, config.len() as u64, new_blob.as_slice()),
        };
        let mut blobs: Vec<Digest> = parent
            .map(|parent| parent.layers.iter().map(|layer| layer.digest).collect())
            .unwrap_or_default();
        blobs.extend(new_blob.map(|layer| layer.digest));
        if blobs.len() > LAYERS_MAX {
            return Err(crate::ArchiveError::Limit {
                what: "the number of layers",
                limit: LAYERS_MAX as u64,
            }
            .into());
        }
        let planned = PlannedImage {
            is_step: image.is_step,
            ..PlannedImage::new(id, &config, manifest, blobs, references)?
        };
        let mut lease = self.lease(planned.blobs());
        let layout = &self.inner.layout;
        let staged = StagedLayers::new(layer, planned.layer_blobs.iter().copied());
        let mut made = || {
            for document in [&config, &planned.manifest] {
                StagedBlob::write(layout, document.as_slice(), DOCUMENT_BYTES_MAX)?.store(layout)?;
            }
            let images = std::slice::from_ref(&planned);
            self.register(images, Some(&staged), &LoadLimits::default(), &mut lease)
        };
        let stored = made();
        if let Err(error) = stored {
            drop(lease);
            self.collect_quietly();
            return Err(error);
        }
        // Of what is kept, the layer stands without its blob.
        let layers = Digest::chain_ids(&planned.diff_ids);
        let kept = self.lease(layers.into_iter().chain([id, planned.manifest_digest]));
        drop(lease);
        self.discard_unpacked(new_blob.map(|layer| layer.digest).as_slice(), Some(&kept));
        Ok((id, kept))
    }
}

/// Writes what is new into a configuration document; what it does not know stays as it is.
fn describe(document: &mut Map<String, Value>, image: &NewImage, layer: Option<Digest>) {
    document.insert("created".into(), image.created.clone().into());
    match image.author.is_empty() {
        true => drop(document.remove("author")),
        false => drop(document.insert("author".into(), image.author.clone().into())),
    }
    document.insert("config".into(), image.config.clone());
    // What Docker once kept of the container that an image was made of would be the parent's.
    for stale in ["container", "container_config", "docker_version", "id", "parent"] {
        document.remove(stale);
    }
    if let Some(source) = &image.container {
        document.insert("container".into(), source.id.clone().into());
        document.insert("container_config".into(), source.config.clone());
        document.insert("parent".into(), source.image_id.clone().into());
    }
    let rootfs = document
        .entry("rootfs")
        .or_insert_with(|| json!({"type": "layers", "diff_ids": []}));
    if let (Some(digest), Some(Value::Array(diff_ids))) = (layer, rootfs.get_mut("diff_ids")) {
        diff_ids.push(digest.to_string().into());
    }
    if layer.is_none() && image.created_by.is_empty() && image.comment.is_empty() {
        // What an empty image begins with.
        return;
    }
    let mut step = json!({"created": image.created});
    for (key, text) in [
        ("author", &image.author),
        ("created_by", &image.created_by),
        ("comment", &image.comment),
    ] {
        if !text.is_empty() {
            step[key] = text.clone().into();
        }
    }
    if layer.is_none() {
        step["empty_layer"] = true.into();
    }
    match document.entry("history").or_insert_with(|| json!([])) {
        Value::Array(steps) => steps.push(step),
        other => *other = json!([step]),
    }
}
