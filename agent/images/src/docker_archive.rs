//! Archives of `docker save`: `manifest.json` lists images; layers lie under any name, often behind links.

use std::fs::File;
use std::io::Read;

use serde::Deserialize;

use crate::compression::recognise;
use crate::digest::Digest;
use crate::error::{ArchiveError, Error, Result};
use crate::limits::ARCHIVE_IMAGES_MAX;
use crate::manifest::{LayerBlob, synthesise};
use crate::reference::{Reference, ReferenceError};
use crate::register::PlannedImage;
use crate::staging::StagedArchive;

pub(crate) const MANIFEST_NAME: &str = "manifest.json";
/// Enough bytes to recognise a compression.
const HEAD_BYTES: u64 = 16;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The images of the archive.
pub(crate) fn plan(archive: &StagedArchive) -> Result<Vec<PlannedImage>> {
    let bytes = archive.document(MANIFEST_NAME)?;
    let images: Vec<SavedImage> =
        serde_json::from_slice(&bytes).map_err(|source| ArchiveError::Document {
            what: MANIFEST_NAME.to_string(),
            source,
        })?;
    if images.len() > ARCHIVE_IMAGES_MAX {
        return Err(ArchiveError::Limit {
            what: "the number of images",
            limit: ARCHIVE_IMAGES_MAX as u64,
        }
        .into());
    }
    images.iter().map(|image| plan_image(archive, image)).collect()
}

fn plan_image(archive: &StagedArchive, image: &SavedImage) -> Result<PlannedImage> {
    let config = archive.file(&image.config)?;
    check_name(&image.config, config.digest)?;
    let config_bytes = archive.document(&image.config)?;
    let layers: Vec<LayerBlob> = image
        .layers
        .iter()
        .flatten()
        .map(|name| layer_blob(archive, name))
        .collect::<Result<_>>()?;
    let manifest = synthesise(config.digest, config.bytes, &layers);
    let parse = |text: &String| match Reference::parse(text).map(Reference::with_default_tag) {
        Ok(reference) if reference.digest().is_none() => Ok(reference),
        Ok(_) => Err(ArchiveError::Reference {
            text: text.clone(),
            source: ReferenceError::Format,
        }),
        Err(source) => Err(ArchiveError::Reference {
            text: text.clone(),
            source,
        }),
    };
    let references = image
        .repo_tags
        .iter()
        .flatten()
        .map(parse)
        .collect::<Result<_, _>>()?;
    let blobs = layers.iter().map(|layer| layer.digest).collect();
    Ok(PlannedImage::new(
        config.digest,
        &config_bytes,
        manifest,
        blobs,
        references,
    )?)
}

fn layer_blob(archive: &StagedArchive, name: &str) -> Result<LayerBlob> {
    let staged = archive.file(name)?;
    check_name(name, staged.digest)?;
    let mut head = Vec::new();
    File::open(staged.path())
        .and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head))
        .map_err(|error| Error::io("read", staged.path(), error))?;
    Ok(LayerBlob {
        digest: staged.digest,
        bytes: staged.bytes,
        compression: recognise(&head)?,
    })
}

/// A file that is named by a digest must have it. `<hex>/layer.tar` is named by an old layer id, which is none.
fn check_name(name: &str, actual: Digest) -> Result<(), ArchiveError> {
    let last = name.rsplit('/').next().unwrap_or(name);
    let stem = last.strip_suffix(".json").unwrap_or(last);
    match Digest::from_hex(stem) {
        Ok(expected) if expected != actual => Err(ArchiveError::DigestMismatch {
            what: name.to_string(),
            expected,
            actual,
        }),
        _ => Ok(()),
    }
}
