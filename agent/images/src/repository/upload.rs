//! A blob while a client sends it: nothing is known of it until its digest is told at the end.

use std::fs::File;
use std::io::{self, Write};

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::digest::ContentDigest;
use super::entry::StoredContent;
use crate::blobs::StagedBlob;
use crate::digest::Digest;
use crate::error::{ArchiveError, Error, Result};
use crate::lease::Lease;
use crate::store::ImageStore;

/// Takes the pieces of one blob. Dropped before [`Upload::finish`], it leaves nothing; so does a daemon that ends.
pub struct Upload {
    store: ImageStore,
    file: NamedTempFile,
    hasher: Sha256,
    written: u64,
}

impl ImageStore {
    /// Begins a blob whose digest is not known yet.
    pub fn begin_upload(&self) -> Result<Upload> {
        let temporary = self.inner.layout.temporary();
        let file = NamedTempFile::new_in(&temporary)
            .map_err(|error| Error::io("write a blob in", &temporary, error))?;
        Ok(Upload {
            store: self.clone(),
            file,
            hasher: Sha256::new(),
            written: 0,
        })
    }
}

impl Upload {
    /// Bytes that have come.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Appends a piece. An error leaves the upload unusable.
    pub fn append(&mut self, piece: &[u8]) -> Result<()> {
        let root = self.store.inner.layout.root();
        let failed = |error| Error::io("write a blob in", root, error);
        self.file.write_all(piece).map_err(failed)?;
        self.hasher.update(piece);
        self.written += piece.len() as u64;
        Ok(())
    }

    /// Makes the blob part of the store, if it is what it is said to be: *verified before visible*. The lease keeps it
    /// until an entry leads to it.
    pub fn finish(self, digest: &ContentDigest) -> Result<(StoredContent, Lease)> {
        let layout = &self.store.inner.layout;
        let path = self.file.into_temp_path();
        let staged = StagedBlob::from_parts(
            path,
            Digest::from_hash(self.hasher.finalize().into()),
            self.written,
        );
        let actual = match digest {
            ContentDigest::Sha256(_) => ContentDigest::Sha256(staged.digest),
            ContentDigest::Sha512(_) => {
                let failed = |error: io::Error| Error::io("read", staged.path(), error);
                let file = File::open(staged.path()).map_err(failed)?;
                digest.of_same_kind(file).map_err(failed)?
            }
        };
        if actual != *digest {
            return Err(ArchiveError::Inconsistent {
                what: "the blob".to_owned(),
                problem: format!("it has digest {actual}, not {digest}"),
            }
            .into());
        }
        let content = StoredContent {
            digest: staged.digest,
            bytes: staged.bytes,
        };
        let lease = self.store.lease([content.digest]);
        staged.store(layout)?;
        Ok((content, lease))
    }
}
