//! `docker save`: images as one archive, at once a docker archive and an OCI image layout.
//!
//! The same images give the same bytes: entries come in a fixed order, with a fixed time. Blobs are those of the store, so
//! that manifest digests survive the way through a file; layers of which only the content is here go uncompressed, under a
//! manifest that says so.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde_json::{Value, json};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{Document, Manifest, synthesise};
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
    document: Vec<u8>,
    manifest: Manifest,
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
                    None => {
                        let (document, manifest) = self.saved_manifest(&record)?;
                        images.push(SavedImage {
                            record,
                            references,
                            document,
                            manifest,
                        });
                    }
                }
            }
        }
        for image in &mut images {
            image.references.sort_by_key(Reference::to_string);
            image.references.dedup_by_key(|reference| reference.to_string());
            // Before the first byte is sent, while an error can still be told.
            for digest in image.blobs() {
                if !self.has_blob(&digest)? {
                    return Err(Error::NoSuchBlob { digest });
                }
            }
        }
        Ok(images)
    }

    /// Writes the archive. The images may not be removed meanwhile: hold a lease on [`SavedImage::digests`].
    pub fn save(&self, images: &[SavedImage], output: impl Write) -> Result<()> {
        let failed = |error: io::Error| Error::io("save", self.inner.layout.root(), error);
        let mut archive = TarWriter::new(output);
        for directory in ["blobs/", "blobs/sha256/"] {
            archive
                .entry(&entry(directory, EntryKind::Directory, 0))
                .map_err(failed)?;
        }
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut contents: BTreeMap<Digest, Option<&[u8]>> = BTreeMap::new();
        for image in images {
            contents.extend(image.blobs().map(|digest| (digest, None)));
            contents.insert(image.manifest_digest(), Some(&image.document));
        }
        for (digest, document) in contents {
            let (bytes, content): (u64, Box<dyn Read>) = match document {
                Some(document) => (document.len() as u64, Box::new(document)),
                None => {
                    let blob = self.open_blob(&digest)?;
                    (blob.size(), Box::new(blob))
                }
            };
            let header = entry(&blob_path(&digest), EntryKind::File, bytes);
            archive.file(&header, content, &mut buffer).map_err(failed)?;
        }
        let documents = [
            ("index.json", index(images)),
            ("manifest.json", docker_manifest(images)),
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

    /// The manifest under which an image is saved: its own, unless of some layer only the content is here.
    fn saved_manifest(&self, record: &ImageRecord) -> Result<(Vec<u8>, Manifest)> {
        let (own, layers) = self.layers_here(record)?;
        let is_whole = own
            .layers
            .iter()
            .zip(&layers)
            .all(|(own, here)| own.digest == here.digest);
        if is_whole {
            return Ok((self.read_document(&record.manifests[0].digest)?, own));
        }
        let bytes = synthesise(record.id, own.config.size, &layers);
        match Document::parse(&bytes, "the saved manifest")? {
            Document::Manifest(manifest) => Ok((bytes, manifest)),
            Document::Index(_) => unreachable!("a manifest was written"),
        }
    }
}

/// The OCI index: every image once per name.
fn index(images: &[SavedImage]) -> Value {
    let mut entries = Vec::new();
    for image in images {
        let (digest, bytes) = (image.manifest_digest().to_string(), image.document.len());
        let entry = json!({"mediaType": MANIFEST_TYPE, "digest": digest, "size": bytes});
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
    json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries})
}

impl SavedImage {
    /// Every blob that the archive holds of it.
    pub fn digests(&self) -> Vec<Digest> {
        self.blobs().chain([self.manifest_digest()]).collect()
    }

    /// Those that are read of the store.
    fn blobs(&self) -> impl Iterator<Item = Digest> + '_ {
        let layers = self.manifest.layers.iter().map(|layer| layer.digest);
        layers.chain([self.record.id])
    }

    fn manifest_digest(&self) -> Digest {
        Digest::of(&self.document)
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

fn docker_manifest(images: &[SavedImage]) -> Value {
    let entries = images.iter().map(|image| {
        let layers = image.manifest.layers.iter().map(|layer| blob_path(&layer.digest));
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
        let top = image.manifest.layers.last();
        let top = top.map_or_else(|| image.record.id.hex(), |layer| layer.digest.hex());
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
