//! What repositories no longer need: blobs that no manifest came for, and the memory of deletions.

use std::collections::HashSet;

use super::digest::ContentDigest;
use super::entry::{Entered, Entry, EntryKey};

/// How long a blob waits for a manifest that names it: longer than any push takes.
pub const UNUSED_BLOB_KEPT_MS: u64 = 24 * 3600 * 1000;
/// How long a deletion is remembered: a node that was away for longer may bring back what was deleted meanwhile.
const DELETION_KEPT_MS: u64 = 90 * 24 * 3600 * 1000;

/// What is to be done with entries.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expired {
    /// Blobs to delete.
    pub(super) unused: Vec<String>,
    /// Deletions to forget.
    pub(super) forgotten: Vec<String>,
}

/// Looks through all entries.
pub(super) fn expired(entries: &[(String, Entry)], now_ms: u64) -> Expired {
    let used: HashSet<(&str, &ContentDigest)> = entries.iter().flat_map(references).collect();
    let mut expired = Expired::default();
    for (key, entry) in entries {
        let age = now_ms.saturating_sub(entry.stamp.at_ms);
        match (&entry.entered, EntryKey::parse(key)) {
            (None, _) if age > DELETION_KEPT_MS => expired.forgotten.push(key.clone()),
            (Some(_), Some((repository, EntryKey::Blob(digest))))
                if age > UNUSED_BLOB_KEPT_MS && !used.contains(&(repository, &digest)) =>
            {
                expired.unused.push(key.clone());
            }
            _ => {}
        }
    }
    expired
}

/// What a manifest needs, with its repository.
fn references((key, entry): &(String, Entry)) -> impl Iterator<Item = (&str, &ContentDigest)> {
    let repository = key.split(':').next().unwrap_or_default();
    let references = match &entry.entered {
        Some(Entered::Manifest(manifest)) => manifest.references.as_slice(),
        Some(Entered::Tag(_) | Entered::Blob(_)) | None => &[],
    };
    references.iter().map(move |digest| (repository, digest))
}

#[cfg(test)]
mod tests {
    use super::super::entry::{ManifestEntry, Stamp, StoredContent};
    use super::*;
    use crate::digest::Digest;

    fn entry(key: &EntryKey, repository: &str, entered: Option<Entered>) -> (String, Entry) {
        let stamp = Stamp { at_ms: 0, store: 1 };
        let entry = Entry {
            stamp,
            sequence: 1,
            entered,
        };
        (key.in_repository(repository), entry)
    }

    #[test]
    fn blobs_without_a_manifest_and_old_deletions_go() {
        let content = |text: &[u8]| StoredContent {
            digest: Digest::of(text),
            bytes: 1,
        };
        let blob = |text: &[u8], repository: &str| {
            let key = EntryKey::Blob(Digest::of(text).into());
            entry(&key, repository, Some(Entered::Blob(content(text))))
        };
        let manifest = ManifestEntry {
            media_type: "m".to_owned(),
            content: content(b"m"),
            subject: None,
            references: vec![Digest::of(b"used").into()],
        };
        let deleted = entry(&EntryKey::Tag("old".to_owned()), "a", None);
        let entries = [
            blob(b"used", "a"),
            blob(b"used", "b"),
            blob(b"unused", "a"),
            entry(
                &EntryKey::Manifest(Digest::of(b"m").into()),
                "a",
                Some(Entered::Manifest(manifest)),
            ),
            deleted.clone(),
        ];
        assert_eq!(expired(&entries, UNUSED_BLOB_KEPT_MS), Expired::default());
        let late = expired(&entries, UNUSED_BLOB_KEPT_MS + 1);
        assert_eq!(late.unused, [entries[1].0.clone(), entries[2].0.clone()]);
        assert!(late.forgotten.is_empty());
        assert_eq!(expired(&entries, DELETION_KEPT_MS + 1).forgotten, [deleted.0]);
    }
}
