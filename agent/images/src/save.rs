//! `docker save`: images as one archive, at once a docker archive and an OCI image layout.
//!
//! The same images give the same bytes: entries come in a fixed order, with a fixed time, and blobs are those of the
//! store, so that manifest digests survive the way through a file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::blobs;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{Document, Manifest};
use crate::records::{ImageRecord, Lookup};
use crate::reference::Reference;
use crate::store::{ImageStore, find};
use crate::tar_stream::{EntryKind, ModifiedAt, TarEntry};
use crate::tar_writer::TarWriter;

const BUFFER_BYTES: usize = 256 << 10;
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// One image of an archive, with the names that it has there.
#[derive(Debug, Clone)]
pub struct SavedImage {
    record: ImageRecord,
    references: Vec<Reference>,
}

impl ImageStore {
    /// Finds the images that are to be saved: a name without a tag means every tag of it, an id the image without names.
    pub fn find_saved(&self, names: &[String]) -> Result<Vec<SavedImage>> {
        let view = self.inner.records.view()?;
        let all = view.references()?;
        let mut images: Vec<SavedImage> = Vec::new();
        for name in names {
            for (record, references) in matching(&view, &all, name)? {
                match images.iter_mut().find(|known| known.record.id == record.id) {
                    Some(known) => known.references.extend(references),
                    None => images.push(SavedImage { record, references }),
                }
            }
        }
        for image in &mut images {
            image.references.sort_by_key(Reference::to_string);
            image.references.dedup_by_key(|reference| reference.to_string());
            // Before the first byte is sent, while an error can still be told.
            for digest in image.digests() {
                if !self.has_blob(&digest)? {
                    return Err(Error::NoSuchBlob { digest });
                }
            }
        }
        Ok(images)
    }

    /// Writes the archive. The images may not be removed meanwhile: hold a lease on [`SavedImage::digests`].
    pub fn save(&self, images: &[SavedImage], output: impl Write) -> Result<()> {
        let manifests: Vec<Manifest> = images
            .iter()
            .map(|image| self.saved_manifest(image))
            .collect::<Result<_>>()?;
        let failed = |error: io::Error| Error::io("save", self.inner.layout.root(), error);
        let mut archive = TarWriter::new(output);
        for directory in ["blobs/", "blobs/sha256/"] {
            archive
                .entry(&entry(directory, EntryKind::Directory, 0))
                .map_err(failed)?;
        }
        let mut buffer = vec![0; BUFFER_BYTES];
        let digests: BTreeSet<Digest> = images.iter().flat_map(SavedImage::digests).collect();
        for digest in digests {
            let file = blobs::open(&self.inner.layout, &digest)?;
            let bytes = file.metadata().map_err(failed)?.len();
            archive
                .file(
                    &entry(&blob_path(&digest), EntryKind::File, bytes),
                    file,
                    &mut buffer,
                )
                .map_err(failed)?;
        }
        let documents = [
            ("index.json", self.index(images)?),
            ("manifest.json", docker_manifest(images, &manifests)),
            ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
            ("repositories", repositories(images)),
        ];
        for (name, document) in documents {
            let bytes = document.to_string().into_bytes();
            archive
                .file(
                    &entry(name, EntryKind::File, bytes.len() as u64),
                    bytes.as_slice(),
                    &mut buffer,
                )
                .map_err(failed)?;
        }
        archive.finish().map(drop).map_err(failed)
    }

    fn saved_manifest(&self, image: &SavedImage) -> Result<Manifest> {
        let digest = image.record.manifests[0].digest;
        let (_, bytes) = self.manifest(&image.record.id.to_string())?;
        match Document::parse(&bytes, "a stored manifest")? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => Err(Error::NoSuchBlob { digest }),
        }
    }

    /// The OCI index: every image once per name.
    fn index(&self, images: &[SavedImage]) -> Result<Value> {
        let mut entries = Vec::new();
        for image in images {
            let digest = image.record.manifests[0].digest;
            let bytes = blobs::size(&self.inner.layout, &digest)?.ok_or(Error::NoSuchBlob { digest })?;
            let entry = json!({"mediaType": MANIFEST_TYPE, "digest": digest.to_string(), "size": bytes});
            if image.references.is_empty() {
                entries.push(entry.clone());
            }
            for reference in &image.references {
                let mut named = entry.clone();
                named["annotations"] = json!({
                    "io.containerd.image.name": reference.to_string(),
                    "org.opencontainers.image.ref.name": tag_of(reference),
                });
                entries.push(named);
            }
        }
        Ok(json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}))
    }
}

impl SavedImage {
    /// Every blob that the archive holds of it.
    pub fn digests(&self) -> Vec<Digest> {
        let manifest = &self.record.manifests[0];
        let layers = manifest.layer_blobs.iter().copied();
        layers.chain([self.record.id, manifest.digest]).collect()
    }

    /// Its id.
    pub fn id(&self) -> Digest {
        self.record.id
    }
}

fn matching(
    view: &impl Lookup,
    all: &[(String, Digest)],
    name: &str,
) -> Result<Vec<(ImageRecord, Vec<Reference>)>> {
    let parsed = Reference::parse(name).ok();
    let named: Vec<(Reference, Digest)> = all
        .iter()
        .filter_map(|(text, id)| Some((Reference::parse(text).ok()?, *id)))
        .filter(|(reference, _)| reference.digest().is_none())
        .collect();
    let bare = parsed
        .clone()
        .filter(|reference| reference.digest().is_none() && reference.tag().is_none());
    if let Some(bare) = bare {
        let same = |reference: &Reference| reference.familiar_name() == bare.familiar_name();
        let mut found: BTreeMap<Digest, Vec<Reference>> = BTreeMap::new();
        for (reference, id) in named.iter().filter(|(reference, _)| same(reference)) {
            found.entry(*id).or_default().push(reference.clone());
        }
        if !found.is_empty() {
            let images = found.into_iter().map(|(id, references)| {
                let record = view.image(&id)?.ok_or_else(|| Error::NoSuchImage {
                    reference: name.to_string(),
                })?;
                Ok((record, references))
            });
            return images.collect();
        }
    }
    let record = find(view, name)?;
    let asked = parsed.map(|reference| reference.with_default_tag());
    let references = named
        .into_iter()
        .filter(|(reference, id)| *id == record.id && asked.as_ref() == Some(reference))
        .map(|(reference, _)| reference)
        .collect();
    Ok(vec![(record, references)])
}

fn tag_of(reference: &Reference) -> &str {
    reference.tag().unwrap_or_default()
}

fn docker_manifest(images: &[SavedImage], manifests: &[Manifest]) -> Value {
    let entries = images.iter().zip(manifests).map(|(image, manifest)| {
        let layers = manifest.layers.iter().map(|layer| blob_path(&layer.digest));
        let tags = image.references.iter().map(Reference::familiar);
        json!({
            "Config": blob_path(&image.record.id),
            "RepoTags": tags.collect::<Vec<_>>(),
            "Layers": layers.collect::<Vec<_>>(),
        })
    });
    entries.collect()
}

/// The index of the oldest format: the topmost layer by name and tag.
fn repositories(images: &[SavedImage]) -> Value {
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for image in images {
        let top = image.record.manifests[0]
            .layer_blobs
            .last()
            .map_or_else(|| image.record.id.hex(), Digest::hex);
        for reference in &image.references {
            let tags = repositories.entry(reference.familiar_name()).or_default();
            tags.insert(tag_of(reference).to_owned(), top.clone());
        }
    }
    json!(repositories)
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn entry(path: &str, kind: EntryKind, size: u64) -> TarEntry {
    TarEntry {
        path: path.as_bytes().to_vec(),
        link: Vec::new(),
        kind,
        mode: if kind == EntryKind::Directory {
            0o755
        } else {
            0o644
        },
        uid: 0,
        gid: 0,
        size,
        modified_at: ModifiedAt::default(),
        device: (0, 0),
        xattrs: Vec::new(),
    }
}
