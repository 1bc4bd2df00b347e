//! Entries of repositories, which of two counts, and what of another node's is believed.

use serde::{Deserialize, Serialize};

use super::digest::ContentDigest;
use crate::digest::Digest;
use crate::limits::{DOCUMENT_BYTES_MAX, LoadLimits};
use crate::reference::Reference;

/// Latest time that a clock is believed, in milliseconds since 1970: the year 2100. A clock gone mad must not use up the
/// numbers that later changes need.
const TIME_MS_MAX: u64 = 4_102_444_800_000;
/// Latest stamp: what is said after a clock went mad counts on from [`TIME_MS_MAX`], more often than anything is ever
/// said.
const STAMP_MS_MAX: u64 = TIME_MS_MAX + (1 << 40);
/// Longest media type: what HTTP's registry allows for both parts.
pub(crate) const MEDIA_TYPE_BYTES_MAX: usize = 255;
/// Most blobs and manifests that one manifest names: layers are at most 500, platforms a few dozen.
pub(crate) const REFERENCES_MAX: usize = 4096;

/// When something was said of a name, and by which store. Later stamps count more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Milliseconds since 1970, but always later than what the store had seen before.
    pub at_ms: u64,
    /// The store, a random number.
    pub store: u64,
}

/// A name within a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKey {
    /// A manifest, by its digest.
    Manifest(ContentDigest),
    /// A tag.
    Tag(String),
    /// A blob, by its digest.
    Blob(ContentDigest),
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entered {
    /// A manifest.
    Manifest(ManifestEntry),
    /// The manifest that a tag leads to.
    Tag(ContentDigest),
    /// A blob.
    Blob(StoredContent),
}

/// Content, as stores know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredContent {
    /// Its sha256.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
}

/// What is known of a manifest without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// As it was pushed.
    pub media_type: String,
    /// The document.
    pub content: StoredContent,
    /// The manifest that it refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<ContentDigest>,
    /// Blobs and manifests that it is made of.
    pub references: Vec<ContentDigest>,
}

/// What is recorded of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) stamp: Stamp,
    /// Its place among the changes of this store.
    pub(crate) sequence: u64,
    /// `None`: it was deleted.
    pub(crate) entered: Option<Entered>,
}

/// One entry on its way to another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The key of the entry.
    pub key: String,
    /// When it was said.
    pub stamp: Stamp,
    /// `None`: it was deleted.
    pub entered: Option<Entered>,
}

/// A change of another node that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {key:?}: {problem}")]
pub struct UnusableChange {
    key: String,
    problem: &'static str,
}

impl EntryKey {
    /// The key in the records. Repositories have no colon in their names.
    pub(crate) fn in_repository(&self, repository: &str) -> String {
        match self {
            EntryKey::Manifest(digest) => format!("{repository}:m:{digest}"),
            EntryKey::Tag(tag) => format!("{repository}:t:{tag}"),
            EntryKey::Blob(digest) => format!("{repository}:b:{digest}"),
        }
    }

    /// The repository and the name in it.
    pub(crate) fn parse(key: &str) -> Option<(&str, EntryKey)> {
        let (repository, rest) = key.split_once(':')?;
        let (kind, name) = rest.split_once(':')?;
        let name = match kind {
            "m" => EntryKey::Manifest(name.parse().ok()?),
            "t" => EntryKey::Tag(Some(name).filter(|name| Reference::is_tag(name))?.to_owned()),
            "b" => EntryKey::Blob(name.parse().ok()?),
            _ => return None,
        };
        Reference::is_path(repository).then_some((repository, name))
    }
}

impl Entered {
    /// The content that must be somewhere for this to be of use.
    pub(crate) fn content(&self) -> Option<StoredContent> {
        match self {
            Entered::Manifest(manifest) => Some(manifest.content),
            Entered::Blob(content) => Some(*content),
            Entered::Tag(_) => None,
        }
    }
}

impl Stamp {
    /// The stamp of something that is said now by a store that has seen stamps up to `seen_ms`.
    pub(crate) fn next(now_ms: u64, seen_ms: u64, store: u64) -> Stamp {
        Stamp {
            at_ms: now_ms.min(TIME_MS_MAX).max(seen_ms + 1).min(STAMP_MS_MAX),
            store,
        }
    }

    /// Whether what was said at this stamp replaces what was said at another.
    pub(crate) fn replaces(&self, known: Option<&Stamp>) -> bool {
        known.is_none_or(|known| self > known)
    }
}

impl Change {
    /// Whether it can be taken from another node.
    pub(crate) fn check(&self) -> Result<(), UnusableChange> {
        let unusable = |problem| UnusableChange {
            key: self.key.chars().take(400).collect(),
            problem,
        };
        let Some((_, key)) = EntryKey::parse(&self.key) else {
            return Err(unusable("not the key of an entry"));
        };
        if self.stamp.at_ms > STAMP_MS_MAX {
            return Err(unusable("said in a time to come"));
        }
        let fits = match (&key, &self.entered) {
            (_, None) | (EntryKey::Tag(_), Some(Entered::Tag(_))) => true,
            // Its size is what is written at most when the blob comes from another node.
            (EntryKey::Blob(_), Some(Entered::Blob(content))) => {
                content.bytes <= LoadLimits::default().archive_bytes_max
            }
            (EntryKey::Manifest(_), Some(Entered::Manifest(manifest))) => {
                manifest.media_type.len() <= MEDIA_TYPE_BYTES_MAX
                    && manifest.references.len() <= REFERENCES_MAX
                    && manifest.content.bytes <= DOCUMENT_BYTES_MAX
            }
            (_, Some(_)) => false,
        };
        let same = match (&key, self.entered.as_ref().and_then(Entered::content)) {
            (
                EntryKey::Manifest(ContentDigest::Sha256(named))
                | EntryKey::Blob(ContentDigest::Sha256(named)),
                Some(content),
            ) => *named == content.digest,
            _ => true,
        };
        match fits && same {
            true => Ok(()),
            false => Err(unusable("it does not fit its key")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_and_strange_ones_are_refused() {
        let digest = ContentDigest::from(Digest::of(b"x"));
        for key in [
            EntryKey::Manifest(digest.clone()),
            EntryKey::Tag("v1.0".to_owned()),
            EntryKey::Blob(digest),
        ] {
            let text = key.in_repository("a/b-c");
            assert_eq!(EntryKey::parse(&text), Some(("a/b-c", key)));
        }
        for bad in [
            "",
            "a:t",
            "a:x:y",
            "a:t:.",
            "A:t:v",
            "a/../b:t:v",
            "a:m:sha256:0",
            ":t:v",
        ] {
            assert_eq!(EntryKey::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_later_word_counts_and_one_clock_never_stands_still() {
        let first = Stamp::next(1000, 0, 1);
        let second = Stamp::next(900, first.at_ms, 1);
        assert!(second.replaces(Some(&first)) && !first.replaces(Some(&second)));
        assert!(first.replaces(None) && !first.replaces(Some(&first)));
        let other = Stamp { store: 2, ..first };
        assert_ne!(other.replaces(Some(&first)), first.replaces(Some(&other)));
    }

    #[test]
    fn what_does_not_fit_its_key_is_not_taken_from_another_node() {
        let stamp = Stamp { at_ms: 1, store: 1 };
        let content = StoredContent {
            digest: Digest::of(b"x"),
            bytes: 1,
        };
        let change = |key: EntryKey, entered| Change {
            key: key.in_repository("a"),
            stamp,
            entered,
        };
        let key = || EntryKey::Blob(content.digest.into());
        assert!(change(key(), Some(Entered::Blob(content))).check().is_ok());
        assert!(change(key(), None).check().is_ok());
        let tag = Entered::Tag(content.digest.into());
        assert!(change(key(), Some(tag.clone())).check().is_err());
        let other = EntryKey::Blob(Digest::of(b"y").into());
        assert!(change(other, Some(Entered::Blob(content))).check().is_err());
        let late = Change {
            stamp: Stamp {
                at_ms: u64::MAX,
                store: 1,
            },
            ..change(EntryKey::Tag("v".to_owned()), Some(tag))
        };
        assert!(late.check().is_err());
    }
}
