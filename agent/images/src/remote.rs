//! Images that a registry has: their documents as they came, and the way into the store while their layers come.

use crate::check::LayerState;
use crate::digest::{Digest, ImageId};
use crate::error::Result;
use crate::import::BlobDescriptor;
use crate::layer_feed::LayerFeed;
use crate::limits::LoadLimits;
use crate::manifest::{Descriptor, Document, choose, choose_for, parse_config};
use crate::records::{ImageRecord, Lookup, Persist};
use crate::reference::Reference;
use crate::register::PlannedImage;
use crate::store::ImageStore;

/// What lies behind a name or digest of a registry.
#[derive(Debug)]
pub enum RemoteDocument {
    /// One image.
    Image(RemoteImage),
    /// The same image for several platforms.
    Index(RemoteIndex),
}

/// A manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteImage {
    /// The configuration; its digest is the image's id.
    pub config: BlobDescriptor,
    /// The layers' blobs, lowest first.
    pub layers: Vec<BlobDescriptor>,
}

/// An index (a manifest list).
#[derive(Debug)]
pub struct RemoteIndex(Vec<Descriptor>);

/// A platform that an image is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePlatform {
    /// `linux`.
    pub os: String,
    /// As in Go: `amd64`.
    pub architecture: String,
    /// `v8` and the like.
    pub variant: Option<String>,
}

impl ImagePlatform {
    /// Whether an image for this platform is one for the wanted one.
    pub fn serves(&self, wanted: &ImagePlatform) -> bool {
        let same = self.os == wanted.os && self.architecture == wanted.architecture;
        same && (wanted.variant.is_none() || self.variant.is_none() || self.variant == wanted.variant)
    }
}

/// An image whose documents are stored, and whose layers come.
#[derive(Debug, Clone)]
pub struct ComingImage {
    /// Its manifest.
    pub manifest: Digest,
    /// The index that led to the manifest.
    pub index: Option<Digest>,
    /// The names that it gets.
    pub references: Vec<Reference>,
}

impl RemoteDocument {
    /// Parses a document that was fetched; `what` is for messages.
    pub fn parse(bytes: &[u8], what: &str) -> Result<RemoteDocument> {
        Ok(match Document::parse(bytes, what)? {
            Document::Index(entries) => RemoteDocument::Index(RemoteIndex(entries)),
            Document::Manifest(manifest) => RemoteDocument::Image(RemoteImage {
                config: describe(&manifest.config),
                layers: manifest.layers.iter().map(describe).collect(),
            }),
        })
    }
}

impl RemoteIndex {
    /// The document for a platform, this machine's when none is wanted.
    pub fn choose(&self, wanted: Option<&ImagePlatform>) -> Result<BlobDescriptor> {
        Ok(describe(match wanted {
            None => choose(&self.0)?,
            Some(wanted) => choose_for(&self.0, wanted)?,
        }))
    }

    /// Whether it leads to this document.
    pub fn leads_to(&self, document: &Digest) -> bool {
        self.0.iter().any(|entry| entry.digest == *document)
    }

    /// The platforms that it has documents for.
    pub fn platforms(&self) -> Vec<ImagePlatform> {
        let known = self.0.iter().filter_map(|entry| entry.platform.as_ref());
        let platform = |platform: &crate::manifest::Platform| ImagePlatform {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
        };
        known.map(platform).collect()
    }
}

fn describe(descriptor: &Descriptor) -> BlobDescriptor {
    BlobDescriptor {
        digest: descriptor.digest,
        bytes: descriptor.size,
    }
}

/// The platform that an image's configuration names.
pub fn platform_of_config(bytes: &[u8]) -> Result<ImagePlatform> {
    let (config, _) = parse_config(&Digest::of(bytes), bytes)?;
    Ok(ImagePlatform {
        os: config.os().to_string(),
        architecture: config.architecture().to_string(),
        variant: config.variant().clone(),
    })
}

impl ImageStore {
    /// Names an image that is here, whole, with this manifest; `None` when something of it has to be fetched.
    pub fn name_known(&self, image: &ComingImage) -> Result<Option<ImageId>> {
        let Some(id) = self.whole_image(&image.manifest)? else {
            return Ok(None);
        };
        self.inner.records.change(Persist::Now, |changes| {
            let Some(mut known) = changes.image(&id)? else {
                return Ok(None);
            };
            known.note_index(image.index);
            changes.put_image(&known)?;
            for reference in &image.references {
                changes.put_reference(&reference.to_string(), &known.id)?;
            }
            Ok(Some(known.id))
        })
    }

    /// The image of a manifest, if all that the manifest names is here, and all its layers.
    fn whole_image(&self, manifest: &Digest) -> Result<Option<ImageId>> {
        let images = self.inner.records.view()?.images()?;
        let has = |image: &&ImageRecord| image.manifests.iter().any(|own| own.digest == *manifest);
        let Some(image) = images.iter().find(has) else {
            return Ok(None);
        };
        if !self.has_blob(manifest)? || !self.missing_blobs(manifest)?.is_empty() {
            return Ok(None);
        }
        for chain_id in &image.chain_ids {
            if self.layer_state(chain_id)? != LayerState::Whole {
                return Ok(None);
            }
        }
        Ok(Some(image.id))
    }

    /// The tags of a repository that images here have.
    pub fn tags_of(&self, repository: &Reference) -> Result<Vec<Reference>> {
        let names = self.inner.records.view()?.references()?;
        let names = names.iter().filter_map(|(name, _)| Reference::parse(name).ok());
        Ok(names
            .filter(|name| name.digest().is_none() && name.name() == repository.name())
            .collect())
    }

    /// Paths of other repositories of the same registry that were seen to have the blob: images with it came from
    /// there, or went there.
    pub fn repositories_with(&self, blob: &Digest, beside: &Reference) -> Result<Vec<String>> {
        let view = self.inner.records.view()?;
        let mut paths = Vec::new();
        for (name, id) in view.references()? {
            let Ok(name) = Reference::parse(&name) else {
                continue;
            };
            let other = name.domain() == beside.domain() && name.path() != beside.path();
            let Some(digest) = name.digest().filter(|_| other) else {
                continue;
            };
            let Some(image) = view.image(&id)? else { continue };
            let through_index = image.indexes.contains(&digest);
            let has = image.manifests.iter().any(|manifest| {
                (manifest.digest == digest || through_index) && manifest.layer_blobs.contains(blob)
            });
            if has && !paths.iter().any(|path| path == name.path()) {
                paths.push(name.path().to_owned());
            }
        }
        Ok(paths)
    }

    /// Makes an image while its layers come: unpacks each as the feed gives it, and records the image once all are
    /// unpacked and verified, and stored where its archive cannot be made again. Its documents and configuration are stored, and the caller holds a lease on
    /// everything.
    pub fn import_coming(
        &self,
        image: &ComingImage,
        feed: &dyn LayerFeed,
        limits: &LoadLimits,
    ) -> Result<ImageId> {
        let (bytes, manifest) = self.read_manifest(&image.manifest)?;
        for layer in &manifest.layers {
            // Of those that came before; the others are checked as they come.
            if let Some(actual) = self.blob_size(&layer.digest)? {
                self.check_size(layer, actual)?;
            }
        }
        let config = self.read_document(&manifest.config.digest)?;
        let blobs = manifest.layers.iter().map(|layer| layer.digest).collect();
        let mut planned = PlannedImage::new(
            manifest.config.digest,
            &config,
            bytes,
            blobs,
            image.references.clone(),
        )?;
        planned.index = image.index;
        let mut lease = self.lease(planned.blobs());
        self.register_coming(&planned, feed, limits, &mut lease)?;
        Ok(planned.id)
    }
}
