//! What the archive of a layer should have left in its directory: told by its blob, or by the archive that is made again of
//! the directory itself.

use std::io::{self, BufReader};

use crate::blobs;
use crate::compression::{ByteBudget, decompress};
use crate::digest::{Digest, HashingReader};
use crate::doubt::is_loss;
use crate::error::{ArchiveError, Error, ErrorKind, Result};
use crate::layer_check::Outcome;
use crate::limits::LoadLimits;
use crate::records::{LayerRecord, Lookup, Persist};
use crate::store::ImageStore;
use crate::tar_stream::TarStream;

/// What is known of what a layer's directory should hold.
#[derive(Debug)]
pub(crate) enum Archived {
    /// What an archive of so many bytes leaves.
    As(Outcome, u64),
    /// Something else than it holds.
    Differs,
    /// Nothing.
    Nowhere,
}

impl ImageStore {
    /// The archive of a layer cannot be made again.
    pub(crate) fn note_without_archive(&self, chain_id: &Digest) -> Result<()> {
        self.inner.records.change(Persist::Now, |changes| {
            let Some(layer) = changes.layer(chain_id)? else {
                return Ok(());
            };
            changes.put_layer(
                chain_id,
                &LayerRecord {
                    archive_bytes: None,
                    ..layer
                },
            )
        })
    }

    /// What a layer's archive leaves in its directory.
    pub(crate) fn archived(&self, chain_id: &Digest) -> Result<Archived> {
        for image in self.inner.records.view()?.images_and_rests()? {
            let Some(index) = image.chain_ids.iter().position(|own| own == chain_id) else {
                continue;
            };
            let blobs = image
                .manifests
                .iter()
                .filter_map(|manifest| manifest.layer_blobs.get(index));
            // In whose place the content may have come.
            for blob in blobs.chain([&image.diff_ids[index]]) {
                if blobs::size(&self.inner.layout, blob)?.is_none() {
                    continue;
                }
                match self.outcome_of(blob, &image.diff_ids[index]) {
                    Ok(Some((outcome, bytes))) => return Ok(Archived::As(outcome, bytes)),
                    Err(error) if error.kind() != ErrorKind::Invalid => return Err(error),
                    // Another manifest may have the layer.
                    Ok(None) | Err(_) => tracing::error!(%blob, "a blob is not the layer that it stands for"),
                }
            }
        }
        match self.inner.records.view()?.layer(chain_id)? {
            Some(layer) => self.archived_in_place(chain_id, &layer.diff_id),
            None => Ok(Archived::Nowhere),
        }
    }

    /// As [`ImageStore::archived`], of the archive that is made again of the directory itself.
    pub(crate) fn archived_in_place(&self, chain_id: &Digest, diff_id: &Digest) -> Result<Archived> {
        let place = self.inner.layout.split(chain_id);
        let passing = |error: &io::Error| {
            let is_missing = error.kind() == io::ErrorKind::NotFound;
            error.raw_os_error().is_some() && !is_missing && !is_loss(error)
        };
        let mut archive = match self.joined_archive(chain_id) {
            Err(Error::Io { source, .. }) if !passing(&source) => return Ok(Archived::Nowhere),
            archive => archive?,
        };
        let limits = LoadLimits::default();
        let hashing = BufReader::new(HashingReader::new(&mut archive));
        let mut stream = TarStream::new(hashing, limits.layer_entries_max);
        let outcome = Outcome::of(&mut stream);
        let outcome = outcome.and_then(|outcome| Ok((outcome, stream.drain()?.into_inner().finish())));
        match outcome {
            Ok((outcome, (actual, bytes))) if actual == *diff_id => Ok(Archived::As(outcome, bytes)),
            Ok(_) => Ok(Archived::Differs),
            Err(_) if archive.is_layer_damaged() => Ok(Archived::Differs),
            // Not of the layer, but of this moment: memory or file descriptors may be short.
            Err(ArchiveError::Stream(error)) if passing(&error) => Err(Error::io("read", &place, error)),
            Err(error) => {
                tracing::error!(layer = %chain_id, %error, "what is kept of a layer's archive is damaged");
                Ok(Archived::Nowhere)
            }
        }
    }

    /// What a blob leaves, if it is a form of this layer.
    fn outcome_of(&self, blob: &Digest, diff_id: &Digest) -> Result<Option<(Outcome, u64)>> {
        let limits = LoadLimits::default();
        let budget = ByteBudget::new("the unpacked size of the layer", limits.unpacked_bytes_max);
        let reader = blobs::open(&self.inner.layout, blob)?;
        let (_, stream) = decompress(reader, &budget, &limits)?;
        let hashing = BufReader::new(HashingReader::new(stream));
        let mut stream = TarStream::new(hashing, limits.layer_entries_max);
        let outcome = Outcome::of(&mut stream)?;
        let (actual, bytes) = stream.drain()?.into_inner().finish();
        Ok((actual == *diff_id).then_some((outcome, bytes)))
    }
}
