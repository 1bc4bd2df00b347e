//! What can be known again when records are lost: a database that cannot be read is set aside, images are found by
//! their manifests among the blobs, and what containers wrote stays for those who know the containers.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::archived::Archived;
use crate::blobs;
use crate::check::unix_now;
use crate::digest::{Digest, ImageId};
use crate::error::{Error, Result};
use crate::layout::{Layout, names, sync_directory};
use crate::limits::DOCUMENT_BYTES_MAX;
use crate::manifest::{Document, parse_config};
use crate::records::{ImageRecord, LayerRecord, Lookup, ManifestRecord, Persist, Records, SnapshotRecord};
use crate::session::Earlier;
use crate::store::ImageStore;
use crate::unpack::open_directory;

/// Name of the file that is there from before records are set aside until what is left of them was recorded again:
/// whoever is killed meanwhile leaves the rest to the next process.
const MARK: &str = "records-lost";

/// What became of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Readable,
    /// The database is a new one, and the store holds content.
    Lost,
}

/// Opens the database; one that cannot be read is kept beside a new one.
pub(crate) fn open_records(root: &Path, earlier: Earlier) -> Result<(Records, Found)> {
    let path = Layout::database(root);
    let bytes = match fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(Error::io("look at", &path, error)),
    };
    if bytes == 0 && holds_content(root)? {
        tracing::error!(path = %path.display(), "the database of the image store is lost");
        note_lost(root)?;
    }
    let records = match open_whole(&path, earlier)? {
        Some(records) => records,
        None => {
            note_lost(root)?;
            set_aside(root, &path)?;
            Records::open(&path)?
        }
    };
    let found = match root.join(MARK).exists() {
        true => Found::Lost,
        false => Found::Readable,
    };
    Ok((records, found))
}

fn holds_content(root: &Path) -> Result<bool> {
    let holds = |directory: &str| Ok::<_, Error>(!names(&root.join(directory))?.is_empty());
    Ok(holds("blobs/sha256")? || holds("containers")?)
}

/// The database; `None` for one that is damaged. Its library meets much of what can be damaged with a panic.
fn open_whole(path: &Path, earlier: Earlier) -> Result<Option<Records>> {
    let open = || {
        let mut records = Records::open(path)?;
        if earlier.lost_power {
            records.check()?;
        }
        Ok(records)
    };
    // Nothing of it is used after a panic.
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(records)) => Ok(Some(records)),
        Ok(Err(Error::Database { source, .. })) if is_damage(&source) => {
            tracing::error!(error = %source, "the database of the image store is damaged");
            Ok(None)
        }
        Ok(Err(error)) => Err(error),
        Err(_) => {
            tracing::error!("the database of the image store is damaged: reading it ended in a panic");
            Ok(None)
        }
    }
}

fn set_aside(root: &Path, path: &Path) -> Result<()> {
    let aside = path.with_extension("redb.damaged");
    fs::rename(path, &aside).map_err(|error| Error::io("set aside", path, error))?;
    tracing::error!(kept = %aside.display(), "a new database is made of what the blobs tell");
    sync_directory(root)
}

/// Notes, durably, that records are lost.
fn note_lost(root: &Path) -> Result<()> {
    let mark = root.join(MARK);
    File::create(&mark)
        .and_then(|file| file.sync_all())
        .map_err(|error| Error::io("write", &mark, error))?;
    sync_directory(root)
}

fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_) => true,
        redb::Error::Io(error) => {
            matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            )
        }
        _ => false,
    }
}

impl ImageStore {
    /// Trusts nothing that is on the disk.
    pub(crate) fn doubt_all(&self) -> Result<()> {
        let layout = &self.inner.layout;
        layout.blob_doubt().begin(self.stored_blobs()?);
        let layers = names(&layout.layers())?.into_iter();
        let chain_id = |name: Vec<u8>| Digest::from_hex(std::str::from_utf8(&name).ok()?).ok();
        layout.layer_doubt().begin(layers.filter_map(chain_id));
        Ok(())
    }

    /// Removes records that cannot be read, and names of images without one. Returns whether there were any.
    pub(crate) fn remove_unreadable(&self) -> Result<bool> {
        self.inner.records.change(Persist::Now, |changes| {
            let removed = changes.remove_unreadable()?;
            for (name, id) in changes.references()? {
                if changes.image_or_rest(&id)?.is_none() {
                    tracing::error!(name, image = %id, "the image of a name is lost; pull or load it again");
                    changes.remove_reference(&name)?;
                }
            }
            Ok(removed)
        })
    }

    /// Records every image whose documents are among the blobs. Their names are lost.
    pub(crate) fn rebuild_images(&self) -> Result<()> {
        let mut images: Vec<ImageRecord> = Vec::new();
        for digest in self.stored_blobs()? {
            let Some((id, manifest, diff_ids)) = self.image_behind(&digest)? else {
                continue;
            };
            match images.iter_mut().find(|image| image.id == id) {
                Some(image) => image.manifests.push(manifest),
                None => images.push(ImageRecord {
                    id,
                    manifests: vec![manifest],
                    indexes: Vec::new(),
                    chain_ids: Digest::chain_ids(&diff_ids),
                    diff_ids,
                    content_bytes: 0,
                    is_step: false,
                    damaged_since_unix_s: Some(unix_now()),
                }),
            }
        }
        self.inner.records.change(Persist::Now, |changes| {
            changes.lose_containers()?;
            for image in &images {
                if changes.image_or_rest(&image.id)?.is_none() {
                    changes.put_image(image)?;
                }
            }
            Ok(())
        })?;
        let mark = self.inner.layout.root().join(MARK);
        fs::remove_file(&mark).map_err(|error| Error::io("remove", &mark, error))?;
        sync_directory(self.inner.layout.root())
    }

    /// Records layers of images again whose directories hold what their archives put there.
    pub(crate) fn readopt_layers(&self) -> Result<()> {
        let layout = &self.inner.layout;
        let view = self.inner.records.view()?;
        for image in view.images_and_rests()? {
            for (chain_id, diff_id) in image.chain_ids.iter().zip(&image.diff_ids) {
                // Also by the image before this one.
                let is_recorded = self.inner.records.view()?.layer(chain_id)?.is_some();
                if is_recorded || !layout.layer(chain_id).is_dir() || !layout.split(chain_id).is_file() {
                    continue;
                }
                let Archived::As(outcome, archive_bytes) = self.archived_in_place(chain_id, diff_id)? else {
                    continue;
                };
                let place = layout.layer(chain_id);
                let difference = outcome.first_difference(&open_directory(&place)?);
                if difference
                    .map_err(|error| Error::io("read", &place, error))?
                    .is_some()
                {
                    continue;
                }
                let layer = LayerRecord {
                    diff_id: *diff_id,
                    content_bytes: outcome.content_bytes(),
                    archive_bytes: Some(archive_bytes),
                };
                tracing::warn!(layer = %chain_id, "a layer has its record again");
                self.inner
                    .records
                    .change(Persist::Now, |changes| changes.put_layer(chain_id, &layer))?;
                layout.layer_doubt().settle(chain_id);
            }
        }
        Ok(())
    }

    /// The image whose manifest a blob is.
    fn image_behind(&self, digest: &Digest) -> Result<Option<(ImageId, ManifestRecord, Vec<Digest>)>> {
        let layout = &self.inner.layout;
        let Some(bytes) = self.small_blob(digest)? else {
            return Ok(None);
        };
        let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, "a blob") else {
            return Ok(None);
        };
        let id = manifest.config.digest;
        let Some(config) = self.small_blob(&id)? else {
            return Ok(None);
        };
        let is_whole =
            blobs::discard_unless_whole(layout, digest)? && blobs::discard_unless_whole(layout, &id)?;
        let record = ManifestRecord {
            digest: *digest,
            layer_blobs: manifest.layers.iter().map(|layer| layer.digest).collect(),
            is_packed: false,
            // Whoever compared them is forgotten.
            unseen: (0..manifest.layers.len()).collect(),
        };
        match parse_config(&id, &config) {
            Ok((_, diff_ids)) if is_whole && diff_ids.len() == record.layer_blobs.len() => {
                Ok(Some((id, record, diff_ids)))
            }
            _ => Ok(None),
        }
    }

    fn small_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let layout = &self.inner.layout;
        match blobs::size_on_disk(layout, digest)? {
            Some(bytes) if bytes <= DOCUMENT_BYTES_MAX => {
                let path = layout.blob(digest);
                Ok(fs::read(path).ok())
            }
            _ => Ok(None),
        }
    }

    /// Gives containers back what they wrote, where the records of it were lost. These are all containers that are known:
    /// once each of them has its record, what others wrote is removed at the next open.
    pub fn readopt<'a>(&self, containers: impl IntoIterator<Item = (&'a str, ImageId)>) -> Result<()> {
        if !self.inner.records.view()?.lost_containers()? {
            return Ok(());
        }
        let mut have_all = true;
        for (container_id, image_id) in containers {
            have_all &= self.readopt_one(container_id, &image_id)?;
        }
        match have_all {
            true => self
                .inner
                .records
                .change(Persist::Now, |changes| changes.have_containers()),
            false => Ok(()),
        }
    }

    /// Returns false for a container whose image is lost.
    fn readopt_one(&self, container_id: &str, image_id: &ImageId) -> Result<bool> {
        let container = self.inner.layout.container(container_id)?;
        let view = self.inner.records.view()?;
        if view.snapshot(container_id)?.is_some() || !container.is_dir() {
            return Ok(true);
        }
        let Some(image) = view.image_or_rest(image_id)? else {
            tracing::error!(
                container = container_id,
                image = %image_id,
                files = %container.display(),
                "what a container wrote is kept, but its image is lost; pull or load it again, then restart the daemon"
            );
            return Ok(false);
        };
        drop(view);
        tracing::warn!(container = container_id, "a container has its files again");
        let snapshot = SnapshotRecord {
            image_id: image.id,
            chain_ids: image.chain_ids,
        };
        self.inner.records.change(Persist::Now, |changes| {
            changes.put_snapshot(container_id, &snapshot)
        })?;
        Ok(true)
    }
}
