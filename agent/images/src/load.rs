//! `docker load`: an archive becomes images, or an error and nothing.

use std::io::Read;

use crate::blobs::StagedBlob;
use crate::digest::{Digest, ImageId};
use crate::error::{ArchiveError, Result};
use crate::limits::{DOCUMENT_BYTES_MAX, LoadLimits};
use crate::register::PlannedImage;
use crate::staged_layers::StagedLayers;
use crate::staging::StagedArchive;
use crate::store::ImageStore;
use crate::{docker_archive, oci_layout};

/// An image that a load brought, once per name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// Its name as users write it; none for an image without one.
    pub reference: Option<String>,
    /// Its id.
    pub id: ImageId,
}

impl ImageStore {
    /// Loads all images of a docker archive or OCI layout, compressed or not; all or none.
    pub fn load(&self, reader: impl Read, limits: &LoadLimits) -> Result<Vec<LoadedImage>> {
        let loaded = self.load_images(reader, limits);
        if loaded.is_err() {
            // Its lease has ended: what it stored before it failed goes.
            self.collect_quietly();
        }
        loaded
    }

    fn load_images(&self, reader: impl Read, limits: &LoadLimits) -> Result<Vec<LoadedImage>> {
        let layout = &self.inner.layout;
        let archive = StagedArchive::read(layout, reader, limits)?;
        let images = if archive.contains(docker_archive::MANIFEST_NAME) {
            docker_archive::plan(&archive)?
        } else if archive.contains(oci_layout::INDEX_NAME) {
            oci_layout::plan(&archive)?
        } else {
            return Err(ArchiveError::UnknownFormat.into());
        };
        let wanted: std::collections::HashSet<_> = images.iter().flat_map(PlannedImage::blobs).collect();
        let mut lease = self.lease(wanted.iter().copied());
        let layers: Vec<Digest> = images
            .iter()
            .flat_map(|image| image.layer_blobs.clone())
            .collect();
        let (mut staged, mut documents) = (Vec::new(), Vec::new());
        for blob in archive.into_blobs().filter(|blob| wanted.contains(&blob.digest)) {
            match layers.contains(&blob.digest) {
                true => staged.push(blob),
                false => documents.push(blob),
            }
        }
        for document in documents {
            document.store(layout)?;
        }
        let staged = StagedLayers::new(staged, layers.iter().copied());
        for image in &images {
            StagedBlob::write(layout, image.manifest.as_slice(), DOCUMENT_BYTES_MAX)?.store(layout)?;
        }
        self.register(&images, Some(&staged), limits, &mut lease)?;
        drop(lease);
        self.discard_unpacked(&layers, None);
        Ok(images.iter().flat_map(loaded_images).collect())
    }
}

fn loaded_images(image: &PlannedImage) -> Vec<LoadedImage> {
    let named = |reference: &crate::reference::Reference| LoadedImage {
        reference: Some(reference.familiar()),
        id: image.id,
    };
    match image.references.is_empty() {
        true => vec![LoadedImage {
            reference: None,
            id: image.id,
        }],
        false => image.references.iter().map(named).collect(),
    }
}
