//! Images as registries are given them: layers that this node made or loaded are compressed with gzip, as Docker's are.
//!
//! The same content gives the same bytes on every node of a version, and what was compressed once is kept and used for
//! every image with the layer, so that a registry that has it is sent nothing again. The id of the image and the digests of
//! its layers' content are those that Docker has; the digests of compressed layers, and with them that of the manifest,
//! are not: they are of blobs, which depend on the very compressor (`DiffID` and layer digest in the image specification).

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::{Compression as Level, GzBuilder};

use crate::blobs::StagedBlob;
use crate::compression::{ByteBudget, Compression, recognise};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer_feed::LayerBytes;
use crate::lease::Lease;
use crate::limits::{DOCUMENT_BYTES_MAX, LoadLimits, MANIFESTS_PER_IMAGE_MAX};
use crate::manifest::{Document, LayerBlob, Manifest, layer_descriptor, synthesise};
use crate::records::{ImageRecord, Lookup, ManifestRecord, Persist};
use crate::store::{ImageStore, find};
use crate::unpacked_layer::{LayerSource, UnpackBounds, check_blob};

/// Longest magic number of a compression.
const HEAD_BYTES: u64 = 6;

/// The manifest of an image for a registry.
#[derive(Debug)]
pub struct PackedManifest {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Layers that were never compared with the image's content. What is here under such a digest may be another image's,
    /// and must not be sent on this manifest's word.
    pub unseen: Vec<Digest>,
    /// Keeps all that it names.
    pub lease: Lease,
}

/// A layer that has to be compressed.
struct Unpacked {
    position: usize,
    blob: Digest,
}

impl ImageStore {
    /// The manifest under which an image goes to a registry. One that came from elsewhere stays what it is; of one that
    /// this store made, the layers are compressed, which takes its time and is remembered.
    pub fn packed_manifest(&self, reference: &str) -> Result<PackedManifest> {
        let (digest, bytes) = self.manifest(reference)?;
        let mut lease = self.lease([digest]);
        let Document::Manifest(manifest) = Document::parse(&bytes, "a stored manifest")? else {
            return Ok(PackedManifest {
                digest,
                bytes,
                unseen: Vec::new(),
                lease,
            });
        };
        lease.extend(
            manifest
                .layers
                .iter()
                .map(|layer| layer.digest)
                .chain([manifest.config.digest]),
        );
        let unpacked = match manifest.is_own(&bytes) {
            true => self.unpacked_layers(&manifest)?,
            false => Vec::new(),
        };
        // Not by the name, which may be another image's by now.
        let image = find(&self.inner.records.view()?, &manifest.config.digest.to_string())?;
        if unpacked.is_empty() {
            let layers: Vec<Digest> = manifest.layers.iter().map(|layer| layer.digest).collect();
            let unseen = self.unseen_layers(&image, &layers, |_| true)?;
            let unseen = unseen.into_iter().map(|place| layers[place]).collect();
            return Ok(PackedManifest {
                digest,
                bytes,
                unseen,
                lease,
            });
        }
        let packed = self.pack_layers(&image, &unpacked, &mut lease)?;
        self.remember_packed(&image, manifest.with_layers(&packed), &packed, lease)
    }

    /// A manifest for a registry that lacks layers of which only the content is here: those are compressed here.
    pub fn repacked_manifest(&self, reference: &str) -> Result<PackedManifest> {
        let image = find(&self.inner.records.view()?, reference)?;
        let mut lease = self.lease(image.diff_ids.iter().copied().chain([image.id]));
        let mut unpacked = Vec::new();
        let mut layers = Vec::new();
        for (position, layer) in self.layers_here(&image)?.1.into_iter().enumerate() {
            lease.extend([layer.digest]);
            if layer.digest == image.diff_ids[position] {
                let blob = layer.digest;
                unpacked.push(Unpacked { position, blob });
            }
            layers.push(layer);
        }
        let packed = self.pack_layers(&image, &unpacked, &mut lease)?;
        for (position, packed) in &packed {
            layers[*position] = *packed;
        }
        let config_bytes = self.config_bytes(&image.id)?.len() as u64;
        let bytes = synthesise(image.id, config_bytes, &layers);
        self.remember_packed(&image, bytes, &packed, lease)
    }

    /// The image's own manifest, and each of its layers in the form in which it is here: the blob that the manifest names, if
    /// that was compared with the content, or else the content.
    pub(crate) fn layers_here(&self, image: &ImageRecord) -> Result<(Manifest, Vec<LayerBlob>)> {
        let digest = image.manifests[0].digest;
        let own = match Document::parse(&self.read_document(&digest)?, "a stored manifest")? {
            Document::Manifest(own) => own,
            Document::Index(_) => return Err(Error::NoSuchBlob { digest }),
        };
        let mut layers = Vec::new();
        for (position, (layer, content)) in own.layers.iter().zip(&image.diff_ids).enumerate() {
            let content_bytes = self.blob_size(content)?;
            let is_believed = image.has_form(position, &layer.digest) || content_bytes.is_none();
            layers.push(match is_believed && self.has_blob(&layer.digest)? {
                true => LayerBlob {
                    digest: layer.digest,
                    bytes: layer.size,
                    compression: self.compression_of(&layer.digest)?,
                },
                false => LayerBlob {
                    digest: *content,
                    bytes: content_bytes.unwrap_or_default(),
                    compression: Compression::None,
                },
            });
        }
        Ok((own, layers))
    }

    /// Stores a manifest with compressed layers as one more of the image. What was not compressed here of it, nor compared
    /// before, is believed no more than it was.
    fn remember_packed(
        &self,
        image: &ImageRecord,
        bytes: Vec<u8>,
        packed: &HashMap<usize, LayerBlob>,
        mut lease: Lease,
    ) -> Result<PackedManifest> {
        let digest = Digest::of(&bytes);
        lease.extend([digest]);
        StagedBlob::write(&self.inner.layout, bytes.as_slice(), DOCUMENT_BYTES_MAX)?
            .store(&self.inner.layout)?;
        let layers = Document::parse(&bytes, "the packed manifest")?;
        let mut unseen_blobs = Vec::new();
        if let Document::Manifest(layers) = layers {
            let layer_blobs: Vec<Digest> = layers.layers.iter().map(|layer| layer.digest).collect();
            let unseen = self.unseen_layers(image, &layer_blobs, |place| !packed.contains_key(place))?;
            unseen_blobs.extend(unseen.iter().map(|place| layer_blobs[*place]));
            let manifest = ManifestRecord {
                digest,
                layer_blobs,
                is_packed: true,
                unseen,
            };
            self.remember_manifest(image, manifest)?;
        }
        Ok(PackedManifest {
            digest,
            bytes,
            unseen: unseen_blobs,
            lease,
        })
    }

    /// Which of these blobs, one a layer, are not known to be the image's layers: those that were never compared with its
    /// content, and are not here now or are something else. Comparing takes its time.
    fn unseen_layers(
        &self,
        image: &ImageRecord,
        blobs: &[Digest],
        asked: impl Fn(&usize) -> bool,
    ) -> Result<BTreeSet<usize>> {
        let mut unseen = BTreeSet::new();
        for place in image.unseen(blobs).filter(asked) {
            let is_form = match image.diff_ids.get(place) {
                Some(content) => self.is_form_now(&blobs[place], content)?,
                None => false,
            };
            if !is_form {
                unseen.insert(place);
            }
        }
        Ok(unseen)
    }

    /// Whether a blob that is here has this content.
    fn is_form_now(&self, blob: &Digest, content: &Digest) -> Result<bool> {
        let reader = match self.open_blob(blob) {
            Err(Error::NoSuchBlob { .. }) => return Ok(false),
            opened => Box::new(opened?),
        };
        let limits = LoadLimits::default();
        let budget = ByteBudget::new("the unpacked size of the layer", limits.unpacked_bytes_max);
        let source = LayerSource {
            blob: *blob,
            diff_id: *content,
            bytes: LayerBytes {
                digest: *blob,
                reader,
            },
        };
        let bounds = UnpackBounds {
            budget: &budget,
            limits: &limits,
        };
        match check_blob(source, bounds) {
            Ok(()) => Ok(true),
            Err(Error::Archive(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn unpacked_layers(&self, manifest: &Manifest) -> Result<Vec<Unpacked>> {
        let mut unpacked = Vec::new();
        for (position, layer) in manifest.layers.iter().enumerate() {
            // One that was compressed elsewhere may be here no more.
            if self.has_blob(&layer.digest)? && self.compression_of(&layer.digest)? == Compression::None {
                unpacked.push(Unpacked {
                    position,
                    blob: layer.digest,
                });
            }
        }
        Ok(unpacked)
    }

    pub(crate) fn compression_of(&self, blob: &Digest) -> Result<Compression> {
        use std::io::Read;
        let mut head = Vec::new();
        self.open_blob(blob)?
            .take(HEAD_BYTES)
            .read_to_end(&mut head)
            .map_err(|error| Error::io("read blob", &self.inner.layout.blob(blob), error))?;
        Ok(recognise(&head)?)
    }

    /// The compressed form of each of these layers, made where no image has it.
    fn pack_layers(
        &self,
        image: &ImageRecord,
        unpacked: &[Unpacked],
        lease: &mut Lease,
    ) -> Result<HashMap<usize, LayerBlob>> {
        let mut packed = HashMap::new();
        let mut missing = Vec::new();
        for layer in unpacked {
            match self.known_packed(&image.diff_ids[layer.position], lease)? {
                Some(known) => drop(packed.insert(layer.position, known)),
                None => missing.push(layer),
            }
        }
        for (position, made) in self.compress_all(&missing)? {
            lease.extend([made.digest]);
            packed.insert(
                position,
                LayerBlob {
                    digest: made.digest,
                    bytes: made.bytes,
                    compression: Compression::Gzip,
                },
            );
            made.store(&self.inner.layout)?;
        }
        Ok(packed)
    }

    /// A blob with gzip's form of this content that some image has.
    fn known_packed(&self, diff_id: &Digest, lease: &mut Lease) -> Result<Option<LayerBlob>> {
        for image in self.inner.records.view()?.images()? {
            let positions = image
                .diff_ids
                .iter()
                .enumerate()
                .filter(|(_, own)| *own == diff_id);
            for (position, _) in positions {
                for blob in image.forms(position).filter(|blob| *blob != diff_id) {
                    // Before it is looked for: what is found then stays.
                    lease.extend([*blob]);
                    let Some(bytes) = self.blob_size(blob)? else {
                        continue;
                    };
                    if self.compression_of(blob)? == Compression::Gzip {
                        return Ok(Some(LayerBlob {
                            digest: *blob,
                            bytes,
                            compression: Compression::Gzip,
                        }));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Compresses layers side by side.
    fn compress_all(&self, layers: &[&Unpacked]) -> Result<Vec<(usize, StagedBlob)>> {
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(layers.len());
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<(usize, StagedBlob)>> {
            let mut made = Vec::new();
            while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                made.push((layer.position, self.compress(&layer.blob)?));
            }
            Ok(made)
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let mut all = Vec::new();
            for thread in threads {
                match thread.join() {
                    Ok(made) => all.extend(made?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(all)
        })
    }

    fn compress(&self, content: &Digest) -> Result<StagedBlob> {
        let mut reader = self.open_blob(content)?;
        StagedBlob::written(&self.inner.layout, |output| {
            // No name and no time: the same content gives the same bytes.
            let mut encoder = GzBuilder::new().write(output, Level::default());
            io::copy(&mut reader, &mut encoder)?;
            encoder.finish()?.flush()
        })
    }

    /// One more manifest of the image; the preferred one stays first.
    fn remember_manifest(&self, image: &ImageRecord, manifest: ManifestRecord) -> Result<()> {
        self.inner.records.change(Persist::Now, |changes| {
            let Some(mut image) = changes.image(&image.id)? else {
                return Ok(());
            };
            if image
                .manifests
                .iter()
                .all(|known| known.digest != manifest.digest)
            {
                image.manifests.push(manifest);
                if image.manifests.len() > MANIFESTS_PER_IMAGE_MAX {
                    image.manifests.remove(1);
                }
                changes.put_image(&image)?;
            }
            Ok(())
        })
    }
}

impl Manifest {
    /// Whether these bytes are what this store itself writes for a manifest.
    fn is_own(&self, bytes: &[u8]) -> bool {
        serde_json::to_vec(self).is_ok_and(|own| own == bytes)
    }

    /// The manifest with other blobs in the place of some layers.
    fn with_layers(&self, packed: &HashMap<usize, LayerBlob>) -> Vec<u8> {
        let mut manifest = self.clone();
        for (position, layer) in packed {
            manifest.layers[*position] = layer_descriptor(layer);
        }
        serde_json::to_vec(&manifest).expect("strings, numbers and lists serialise to JSON")
    }
}
