//! Exchange of images between nodes: manifests and blobs out by digest, and in again after verification.

use std::io::Read;

use crate::blobs::{self, Expected, StagedBlob};
use crate::digest::{Digest, ImageId};
use crate::error::{ArchiveError, Error, Result};
use crate::limits::{DOCUMENT_BYTES_MAX, INDEX_DEPTH_MAX, LoadLimits};
use crate::manifest::{Descriptor, Document, Manifest, choose, parse_config};
use crate::records::{ImageRecord, Lookup};
use crate::reference::Reference;
use crate::register::PlannedImage;
use crate::remote::{ImagePlatform, platform_of_config};
use crate::store::{ImageStore, find};

/// A blob that an image needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobDescriptor {
    /// Its digest.
    pub digest: Digest,
    /// Its size, where the manifest gives it.
    pub bytes: u64,
}

/// An image as another node needs it to have it too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownImage {
    /// Its manifest, of one platform.
    pub manifest: Digest,
    /// The manifest itself.
    pub document: Vec<u8>,
    /// The index that led to the manifest, with its bytes.
    pub index: Option<(Digest, Vec<u8>)>,
    /// The names that it has here, with and without digests, and the one that was asked for.
    pub references: Vec<Reference>,
}

impl ImageStore {
    /// Stores what `reader` gives, if it is the blob announced. Hold a [`crate::Lease`] on the digest until
    /// [`ImageStore::import_image`], or a collection may take it. `bytes`, where known, stops a longer stream early.
    pub fn import_blob(&self, digest: &Digest, bytes: Option<u64>, reader: impl Read) -> Result<()> {
        let bytes_max = bytes.unwrap_or(LoadLimits::default().archive_bytes_max);
        let _lease = self.lease([*digest]);
        let staged = StagedBlob::write(&self.inner.layout, reader, bytes_max)?;
        staged.check(
            &Expected {
                digest: *digest,
                bytes,
            },
            || "the blob".to_string(),
        )?;
        staged.store(&self.inner.layout)
    }

    /// The manifest of an image by name, id or manifest digest, for another node or a registry; the index, where the
    /// name has the digest of one.
    pub fn manifest(&self, reference_or_id: &str) -> Result<(Digest, Vec<u8>)> {
        let digest = match reference_or_id.parse::<Digest>() {
            Ok(digest) if self.names_manifest(&digest)? => digest,
            _ => {
                let image = find(&self.inner.records.view()?, reference_or_id)?;
                let named = Reference::parse(reference_or_id)
                    .ok()
                    .and_then(|name| name.digest())
                    .filter(|digest| image.leads_by(digest));
                named.unwrap_or(image.manifests[0].digest)
            }
        };
        Ok((digest, self.read_document(&digest)?))
    }

    /// The image that a name or id means, for another node. Of an index that led to images of several platforms here,
    /// the one that is wanted.
    pub fn known_image(&self, reference_or_id: &str, platform: Option<&ImagePlatform>) -> Result<KnownImage> {
        let view = self.inner.records.view()?;
        let asked = Reference::parse(reference_or_id).ok();
        let digest = asked.as_ref().and_then(Reference::digest);
        let named = match (find(&view, reference_or_id), digest) {
            // An index under the name of another repository; which of its images, the platform says.
            (Err(missing @ Error::NoSuchImage { .. }), Some(digest)) => {
                let images = view.images()?;
                images
                    .into_iter()
                    .find(|image| image.leads_by(&digest))
                    .ok_or(missing)?
            }
            (named, _) => named?,
        };
        let fits = |record: &ImageRecord| -> Result<bool> {
            let Some(wanted) = platform else { return Ok(true) };
            Ok(platform_of_config(&self.config_bytes(&record.id)?)?.serves(wanted))
        };
        let beside = |record: &ImageRecord| record.indexes.iter().any(|index| named.indexes.contains(index));
        let mut candidates = vec![named.clone()];
        candidates.extend(view.images()?.into_iter().filter(beside));
        let mut fitting = None;
        for record in candidates {
            if fits(&record)? {
                fitting = Some(record);
                break;
            }
        }
        let record = fitting.ok_or_else(|| Error::NoSuchImage {
            reference: reference_or_id.to_owned(),
        })?;
        let index = digest
            .filter(|digest| record.indexes.contains(digest))
            .or_else(|| {
                record
                    .indexes
                    .iter()
                    .rev()
                    .find(|index| named.indexes.contains(index))
                    .copied()
            });
        let index = match index {
            Some(index) => Some((index, self.read_document(&index)?)),
            None => None,
        };
        let manifest = record.manifest_behind(digest, index.as_ref().map(|(_, bytes)| bytes.as_slice()));
        let mut references: Vec<Reference> = view
            .references()?
            .into_iter()
            .filter(|(_, id)| *id == record.id)
            .filter_map(|(name, _)| Reference::parse(&name).ok())
            .collect();
        let name = asked.map(|asked| match digest {
            Some(digest) => asked.at_digest(digest),
            None => asked.with_default_tag(),
        });
        // What is asked for may also be an id, which looks like a name.
        let is_name = |name: &Reference| Ok::<_, Error>(view.reference(&name.to_string())? == Some(named.id));
        if let Some(name) = name
            && !references.contains(&name)
            && (digest.is_some() || is_name(&name)?)
        {
            references.push(name);
        }
        Ok(KnownImage {
            manifest,
            document: self.read_document(&manifest)?,
            index,
            references,
        })
    }

    /// The blobs that a stored manifest needs and that are not here yet: the configuration and layers; of an index
    /// first the manifest for this machine.
    pub fn missing_blobs(&self, manifest_digest: &Digest) -> Result<Vec<BlobDescriptor>> {
        let manifest = match self.read_manifest(manifest_digest) {
            Ok((_, manifest)) => manifest,
            Err(Error::NoSuchBlob { digest }) if digest != *manifest_digest => {
                return Ok(vec![BlobDescriptor { digest, bytes: 0 }]);
            }
            Err(error) => return Err(error),
        };
        let contents = match self.has_blob(&manifest.config.digest)? {
            true => self.contents_of(&manifest)?,
            false => Vec::new(),
        };
        let mut missing: Vec<BlobDescriptor> = Vec::new();
        for (position, needed) in std::iter::once(&manifest.config)
            .chain(&manifest.layers)
            .enumerate()
        {
            let known = missing.iter().any(|blob| blob.digest == needed.digest);
            let content = position.checked_sub(1).and_then(|layer| contents.get(layer));
            let is_here = self.layer_here(&needed.digest, needed.size, content)?.is_some();
            if !known && !is_here {
                missing.push(BlobDescriptor {
                    digest: needed.digest,
                    bytes: needed.size,
                });
            }
        }
        Ok(missing)
    }

    /// Makes an image of a manifest whose blobs have all been imported, and names it.
    pub fn import_image(
        &self,
        manifest_digest: &Digest,
        references: &[&str],
        limits: &LoadLimits,
    ) -> Result<ImageId> {
        let mut lease = self.lease([*manifest_digest]);

        let references = references
            .iter()
            .map(|text| name_for(text, manifest_digest))
            .collect::<Result<_>>()?;
        let (bytes, manifest) = self.read_manifest(manifest_digest)?;
        lease.extend(
            manifest
                .layers
                .iter()
                .map(|layer| layer.digest)
                .chain([manifest.config.digest]),
        );
        let contents = self.contents_of(&manifest)?;
        for (layer, content) in manifest.layers.iter().zip(&contents) {
            match self.blob_size(&layer.digest)? {
                Some(actual) => self.check_size(layer, actual)?,
                None if self.has_blob(content)? => {}
                None => return Err(Error::NoSuchBlob { digest: layer.digest }),
            }
        }
        let config = self.read_document(&manifest.config.digest)?;
        let blobs = manifest.layers.iter().map(|layer| layer.digest).collect();
        let image = PlannedImage::new(manifest.config.digest, &config, bytes, blobs, references)?;
        let mut image = image;
        image.index = Some(*manifest_digest).filter(|digest| *digest != image.manifest_digest);
        lease.extend([image.manifest_digest]);
        self.register(std::slice::from_ref(&image), None, limits, &mut lease)?;
        drop(lease);
        self.discard_unpacked(&image.layer_blobs, None);
        Ok(image.id)
    }

    fn names_manifest(&self, digest: &Digest) -> Result<bool> {
        let images = self.inner.records.view()?.images()?;
        Ok(images
            .iter()
            .flat_map(|image| &image.manifests)
            .any(|manifest| manifest.digest == *digest))
    }

    /// The digests of the uncompressed layers of a stored manifest whose configuration is stored, one for each layer.
    pub fn layer_contents(&self, manifest: &Digest) -> Result<Vec<Digest>> {
        self.contents_of(&self.read_manifest(manifest)?.1)
    }

    /// The digests of the uncompressed layers, which the configuration names, one for each layer.
    pub(crate) fn contents_of(&self, manifest: &Manifest) -> Result<Vec<Digest>> {
        let config = self.read_document(&manifest.config.digest)?;
        let (_, diff_ids) = parse_config(&manifest.config.digest, &config)?;
        if diff_ids.len() != manifest.layers.len() {
            let problem = format!("{} diff ids for {} layers", diff_ids.len(), manifest.layers.len());
            return Err(ArchiveError::Inconsistent {
                what: format!("configuration {}", manifest.config.digest),
                problem,
            }
            .into());
        }
        Ok(diff_ids)
    }

    /// Refuses a blob of another size than it is announced with.
    pub(crate) fn check_size(&self, announced: &Descriptor, actual: u64) -> Result<()> {
        if actual == announced.size {
            return Ok(());
        }
        Err(ArchiveError::SizeMismatch {
            what: format!("blob {}", announced.digest),
            expected: announced.size,
            actual,
        }
        .into())
    }

    pub(crate) fn read_document(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.inner.layout.blob(digest);
        blobs::read_document(
            self.open_blob_file(digest)?,
            &path,
            "the size of a manifest or configuration",
            DOCUMENT_BYTES_MAX,
        )
    }

    /// The image manifest at a digest, through indexes by platform.
    pub(crate) fn read_manifest(&self, digest: &Digest) -> Result<(Vec<u8>, Manifest)> {
        let mut digest = *digest;
        for _ in 0..=INDEX_DEPTH_MAX {
            let bytes = self.read_document(&digest)?;
            match Document::parse(&bytes, &format!("manifest {digest}"))? {
                Document::Manifest(manifest) => return Ok((bytes, manifest)),
                Document::Index(entries) => digest = choose(&entries)?.digest,
            }
        }
        Err(ArchiveError::Limit {
            what: "the nesting of indexes",
            limit: INDEX_DEPTH_MAX as u64,
        }
        .into())
    }
}

impl ImageRecord {
    /// Of its manifests the one that was asked for or that the index names, else the preferred one.
    fn manifest_behind(&self, asked: Option<Digest>, index: Option<&[u8]>) -> Digest {
        let own = |digest: &Digest| self.manifests.iter().any(|manifest| manifest.digest == *digest);
        if let Some(asked) = asked.filter(own) {
            return asked;
        }
        let entries = match index.map(|bytes| Document::parse(bytes, "index")) {
            Some(Ok(Document::Index(entries))) => entries,
            _ => Vec::new(),
        };
        let led = entries.iter().map(|entry| entry.digest).find(own);
        led.unwrap_or(self.manifests[0].digest)
    }
}

/// The name that an imported image takes: a tag, or the repository at this very manifest.
fn name_for(text: &str, manifest_digest: &Digest) -> Result<Reference> {
    let reference = Reference::parse(text)?.with_default_tag();
    match reference.digest() {
        None => Ok(reference),
        Some(digest) if digest == *manifest_digest => Ok(reference.at_digest(digest)),
        Some(actual) => {
            let expected = *manifest_digest;
            Err(ArchiveError::DigestMismatch {
                what: format!("reference {text}"),
                expected,
                actual,
            }
            .into())
        }
    }
}
