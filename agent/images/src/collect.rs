//! Collection of what nothing needs: blobs and layers that no record reaches and no lease pins.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use crate::digest::Digest;
use crate::error::Result;
use crate::layout::{Layout, names};
use crate::records::{Changes, Lookup, Persist};
use crate::repository::held_by_repositories;
use crate::store::ImageStore;
use crate::usage::split_bytes;

/// What a collection removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collected {
    /// Chain ids of removed layers.
    pub layers: Vec<Digest>,
    /// Digests of removed blobs.
    pub blobs: Vec<Digest>,
    /// Bytes of the removed layers.
    pub layer_bytes: u64,
}

/// What happens to layers that no record names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unrecorded {
    /// They are what an interrupted operation left.
    Discard,
    /// Records were lost: running containers may have them mounted.
    Retire,
}

impl ImageStore {
    /// Removes every blob and layer that no image, container or lease needs.
    pub fn collect_garbage(&self) -> Result<Collected> {
        let layout = &self.inner.layout;
        self.inner.unfinished.expire(Instant::now());
        let collected = {
            // Under the pins nothing unrecorded can become needed; under the change nothing recorded can.
            let pins = self.inner.pins.hold();
            let unneeded = |digest: &Digest| !pins.is_pinned(digest);
            let collected = self.inner.records.change(Persist::Now, |changes| {
                let mut collected = unneeded_layers(layout, changes, &unneeded)?;
                let mut needed = held_by_repositories(changes)?;
                for image in changes.images_and_rests()? {
                    needed.extend(self.blob_files_needed(changes, &image)?);
                }
                let stored = self.stored_blobs()?.into_iter();
                collected.blobs = stored
                    .filter(|digest| !needed.contains(digest) && unneeded(digest))
                    .collect();
                Ok(collected)
            })?;
            // The records are gone; directories without one are removed at the next open at the latest.
            let layers = collected.layers.iter().map(|chain_id| layout.layer(chain_id));
            let splits = collected.layers.iter().map(|chain_id| layout.split(chain_id));
            let blobs = collected.blobs.iter().map(|digest| layout.blob(digest));
            layers
                .chain(splits)
                .chain(blobs)
                .try_for_each(|path| layout.discard(&path))?;
            collected
        };
        Ok(collected)
    }

    /// As [`ImageStore::collect_garbage`], after a failure whose own error is what the caller needs to see.
    pub fn collect_after_failure(&self) {
        self.collect_quietly();
    }

    /// Collects after a failure, whose own error is what the caller needs to see.
    pub(crate) fn collect_quietly(&self) {
        if let Err(error) = self.collect_garbage() {
            tracing::warn!(error = %error.full_message(), "could not collect unneeded image content");
        }
    }

    /// Removes directories that no record names, and records whose directory is gone: what a crash can leave. What
    /// containers wrote stays while their records are lost: whoever knows them gives it back by [`ImageStore::readopt`].
    pub(crate) fn remove_unrecorded(&self, layers: Unrecorded) -> Result<()> {
        let layout = &self.inner.layout;
        self.inner.records.change(Persist::Now, |changes| {
            for (key, _) in changes.layers()? {
                if key
                    .parse::<Digest>()
                    .is_ok_and(|chain_id| !layout.layer(&chain_id).is_dir())
                {
                    tracing::error!(layer = %key, "a layer's directory is missing; load its image again");
                    changes.remove_layer(&key)?;
                }
            }
            for (container_id, _) in changes.snapshots()? {
                if !layout.container(&container_id)?.is_dir() {
                    changes.remove_snapshot(&container_id)?;
                }
            }
            let recorded = |name: &[u8]| {
                let hex = std::str::from_utf8(name).ok();
                let chain_id = hex.and_then(|hex| Digest::from_hex(hex).ok());
                chain_id.map_or(Ok(None), |chain_id| changes.layer(&chain_id))
            };
            for name in names(&layout.splits())? {
                if recorded(&name)?.is_none_or(|layer| layer.archive_bytes.is_none()) {
                    layout.discard(&layout.splits().join(OsStr::from_bytes(&name)))?;
                }
            }
            for name in names(&layout.layers())? {
                let recorded = recorded(&name)?;
                let place = layout.layers().join(OsStr::from_bytes(&name));
                match (recorded, layers) {
                    (Some(_), _) => {}
                    (None, Unrecorded::Discard) => layout.discard(&place)?,
                    (None, Unrecorded::Retire) => layout.retire(&place)?,
                }
            }
            if changes.lost_containers()? {
                return Ok(());
            }
            for name in names(&layout.containers())? {
                let recorded = std::str::from_utf8(&name).map_or(Ok(None), |id| changes.snapshot(id))?;
                if recorded.is_none() {
                    layout.discard(&layout.containers().join(OsStr::from_bytes(&name)))?;
                }
            }
            Ok(())
        })
    }

    pub(crate) fn stored_blobs(&self) -> Result<Vec<Digest>> {
        let digest = |name: Vec<u8>| Digest::from_hex(std::str::from_utf8(&name).ok()?).ok();
        Ok(names(&self.inner.layout.blobs())?
            .into_iter()
            .filter_map(digest)
            .collect())
    }
}

/// Takes the records of layers that no image, container or lease needs.
fn unneeded_layers(
    layout: &Layout,
    changes: &Changes,
    unneeded: &dyn Fn(&Digest) -> bool,
) -> Result<Collected> {
    let (images, snapshots) = (changes.images_and_rests()?, changes.snapshots()?);
    let of_images = images.iter().flat_map(|image| image.chain_ids.iter());
    let of_snapshots = snapshots
        .iter()
        .flat_map(|(_, snapshot)| snapshot.chain_ids.iter());
    let needed: HashSet<&Digest> = of_images.chain(of_snapshots).collect();
    let mut collected = Collected::default();
    for (key, layer) in changes.layers()? {
        let Ok(chain_id) = key.parse::<Digest>() else {
            continue;
        };
        // Who reads the content as a blob has a lease on its digest.
        if !needed.contains(&chain_id) && unneeded(&chain_id) && unneeded(&layer.diff_id) {
            changes.remove_layer(&key)?;
            collected.layer_bytes += layer.content_bytes + split_bytes(layout, &chain_id)?;
            collected.layers.push(chain_id);
        }
    }
    Ok(collected)
}
