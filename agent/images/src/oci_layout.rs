//! Archives of an OCI image layout: `index.json` leads to manifests, all content lies under `blobs/sha256/`.

use crate::digest::Digest;
use crate::error::{ArchiveError, Result};
use crate::limits::{ARCHIVE_IMAGES_MAX, INDEX_DEPTH_MAX};
use crate::manifest::{Descriptor, Document, choose};
use crate::reference::Reference;
use crate::register::PlannedImage;
use crate::staging::StagedArchive;

pub(crate) const INDEX_NAME: &str = "index.json";
const LAYOUT_NAME: &str = "oci-layout";
const LAYOUT_VERSION: &str = "1.0.0";
/// Annotations that carry an image's name, the more precise first.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
/// Marks an index entry that describes another entry (provenance, SBOM) and is no image.
const ATTESTATION_ANNOTATION: &str = "vnd.docker.reference.type";

/// The images of the archive.
pub(crate) fn plan(archive: &StagedArchive) -> Result<Vec<PlannedImage>> {
    check_layout_version(archive)?;
    let Document::Index(entries) = Document::parse(&archive.document(INDEX_NAME)?, INDEX_NAME)? else {
        let problem = "an index of manifests is needed".to_string();
        return Err(ArchiveError::Inconsistent {
            what: INDEX_NAME.to_string(),
            problem,
        }
        .into());
    };
    let entries: Vec<Descriptor> = entries.into_iter().filter(is_image).collect();
    if entries.len() > ARCHIVE_IMAGES_MAX {
        return Err(ArchiveError::Limit {
            what: "the number of images",
            limit: ARCHIVE_IMAGES_MAX as u64,
        }
        .into());
    }
    // Entries of one name that differ in platform are one image for several platforms.
    let mut groups: Vec<(Option<Reference>, Vec<Descriptor>)> = Vec::new();
    for entry in entries {
        let name = name_of(&entry)?;
        let same_image = |group: &&mut (Option<Reference>, Vec<Descriptor>)| {
            group.0 == name
                && entry.platform.is_some()
                && group.1.iter().all(|other| other.platform.is_some())
        };
        match groups.iter_mut().find(same_image) {
            Some(group) => group.1.push(entry),
            None => groups.push((name, vec![entry])),
        }
    }
    let plan_group = |(name, entries): &(Option<Reference>, Vec<Descriptor>)| {
        let entry = if entries.len() > 1 {
            choose(entries)?
        } else {
            &entries[0]
        };
        plan_entry(archive, entry, name.clone(), INDEX_DEPTH_MAX)
    };
    let planned: Vec<PlannedImage> = groups.iter().map(plan_group).collect::<Result<_>>()?;
    if planned.is_empty() {
        return Err(ArchiveError::Missing {
            name: "an image in index.json".to_string(),
        }
        .into());
    }
    Ok(planned)
}

fn check_layout_version(archive: &StagedArchive) -> Result<()> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    let what = || LAYOUT_NAME.to_string();
    let layout: Layout = serde_json::from_slice(&archive.document(LAYOUT_NAME)?)
        .map_err(|source| ArchiveError::Document { what: what(), source })?;
    if layout.image_layout_version != LAYOUT_VERSION {
        let problem = format!(
            "version {:?} is not {LAYOUT_VERSION}",
            layout.image_layout_version
        );
        return Err(ArchiveError::Inconsistent {
            what: what(),
            problem,
        }
        .into());
    }
    Ok(())
}

fn is_image(entry: &Descriptor) -> bool {
    let attestation = entry
        .annotations
        .as_ref()
        .is_some_and(|all| all.contains_key(ATTESTATION_ANNOTATION));
    !attestation
        && entry
            .platform
            .as_ref()
            .is_none_or(|platform| platform.os != "unknown")
}

/// The name of an entry. A bare word in `ref.name` is a tag of a repository that the archive does not name.
fn name_of(entry: &Descriptor) -> Result<Option<Reference>, ArchiveError> {
    let annotation = |key: &&str| entry.annotations.as_ref().and_then(|all| all.get(*key));
    let named = NAME_ANNOTATIONS
        .iter()
        .filter_map(annotation)
        .find(|name| name.contains(['/', ':']));
    let parse = |text: &String| {
        let named = Reference::parse(text).map(Reference::with_default_tag);
        named.map_err(|source| ArchiveError::Reference {
            text: text.clone(),
            source,
        })
    };
    // A name with a digest is no tag; the manifest itself says the digest.
    Ok(named
        .map(parse)
        .transpose()?
        .filter(|reference| reference.digest().is_none()))
}

fn plan_entry(
    archive: &StagedArchive,
    entry: &Descriptor,
    reference: Option<Reference>,
    depth: usize,
) -> Result<PlannedImage> {
    let bytes = document(archive, entry)?;
    match Document::parse(&bytes, &format!("manifest {}", entry.digest))? {
        Document::Index(_) if depth == 0 => Err(ArchiveError::Limit {
            what: "the nesting of indexes",
            limit: INDEX_DEPTH_MAX as u64,
        }
        .into()),
        Document::Index(entries) => {
            let images: Vec<Descriptor> = entries.into_iter().filter(is_image).collect();
            plan_entry(archive, choose(&images)?, reference, depth - 1)
        }
        Document::Manifest(manifest) => {
            let config = document(archive, &manifest.config)?;
            for layer in &manifest.layers {
                check_blob(archive, layer)?;
            }
            let blobs: Vec<Digest> = manifest.layers.iter().map(|layer| layer.digest).collect();
            let references = reference.into_iter().collect();
            Ok(PlannedImage::new(
                manifest.config.digest,
                &config,
                bytes,
                blobs,
                references,
            )?)
        }
    }
}

fn document(archive: &StagedArchive, descriptor: &Descriptor) -> Result<Vec<u8>> {
    check_blob(archive, descriptor)?;
    archive.document(&blob_name(&descriptor.digest))
}

/// A blob must have the digest that it is named by and the size that its descriptor gives.
fn check_blob(archive: &StagedArchive, descriptor: &Descriptor) -> Result<()> {
    let name = blob_name(&descriptor.digest);
    let expected = crate::blobs::Expected {
        digest: descriptor.digest,
        bytes: Some(descriptor.size),
    };
    archive.file(&name)?.check(&expected, || name.clone())
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
