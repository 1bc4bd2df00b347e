//! Which blobs this node keeps for repositories.

use std::collections::HashSet;

use super::entry::{Entered, Entry};
use crate::blobs;
use crate::digest::Digest;
use crate::error::Result;
use crate::records::{Changes, Lookup, REPOSITORY_ENTRIES, REPOSITORY_HELD};
use crate::store::ImageStore;

impl ImageStore {
    /// Bytes on the disk of what this node keeps for repositories; images may need the same.
    pub fn repository_bytes(&self) -> Result<u64> {
        let held = self.inner.records.view()?.values(REPOSITORY_HELD)?;
        let mut bytes = 0;
        for digest in held.iter().filter_map(|(key, _)| key.parse::<Digest>().ok()) {
            bytes += blobs::size_on_disk(&self.inner.layout, &digest)?.unwrap_or(0);
        }
        Ok(bytes)
    }
}

/// The blobs that stay for repositories: held here, and led to by an entry. Forgets the others.
pub(crate) fn held_by_repositories(changes: &Changes) -> Result<HashSet<Digest>> {
    let held = changes.values(REPOSITORY_HELD)?;
    if held.is_empty() {
        return Ok(HashSet::new());
    }
    let entries = changes.all::<Entry>(REPOSITORY_ENTRIES)?;
    let named: HashSet<Digest> = entries
        .iter()
        .filter_map(|(_, entry)| entry.entered.as_ref().and_then(Entered::content))
        .map(|content| content.digest)
        .collect();
    let mut kept = HashSet::new();
    for (key, _) in held {
        match key.parse::<Digest>() {
            Ok(digest) if named.contains(&digest) => {
                kept.insert(digest);
            }
            _ => changes.remove(REPOSITORY_HELD, &key)?,
        }
    }
    Ok(kept)
}
