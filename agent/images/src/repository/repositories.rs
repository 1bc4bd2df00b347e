//! The entries in the records: changed here, merged from other nodes, and looked up.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::digest::ContentDigest;
use super::entry::{Change, Entered, Entry, EntryKey, ManifestEntry, Stamp, StoredContent, UnusableChange};
use super::expiry::expired;
use crate::digest::Digest;
use crate::error::Result;
use crate::records::{self, Lookup, Persist, REPOSITORY_CHANGES, REPOSITORY_ENTRIES, REPOSITORY_HELD, STORE};
use crate::store::ImageStore;

const CLOCK_KEY: &str = "repository-clock";
/// Most rows of one read of changes; more come with the next.
const CHANGES_MAX: usize = 1000;
/// Entries that are read at once, each of a third of a megabyte at most: many clients may ask for lists at once, of
/// repositories of any size.
const ROWS_MAX: usize = 64;
/// Behind all keys: names of repositories begin with digits and lower-case letters.
const KEYS_END: &str = "{";

/// How far another node has followed this store's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cursor {
    /// The store; another one begins anew.
    pub store: u64,
    /// The last change that was seen.
    pub sequence: u64,
}

/// Changes after a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// In the order in which they were made here.
    pub changes: Vec<Change>,
    /// Where to go on.
    pub cursor: Cursor,
    /// There may be more.
    pub more: bool,
}

/// Who this store is among those of the cluster, and what it has seen.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Clock {
    store: u64,
    /// The latest stamp.
    seen_ms: u64,
    /// The last change here.
    sequence: u64,
}

impl Clock {
    fn new() -> Clock {
        // The standard library's only source of randomness; it keeps stores apart and protects nothing.
        let store = RandomState::new().build_hasher().finish();
        Clock {
            store,
            seen_ms: 0,
            sequence: 0,
        }
    }
}

fn sequence_key(sequence: u64) -> String {
    format!("{sequence:020}")
}

/// The keys of one kind in a repository: the character after the colon ends them.
fn keys_of(repository: &str, kind: &str) -> (String, String) {
    (format!("{repository}:{kind}:"), format!("{repository}:{kind};"))
}

/// Behind all keys of a repository: the character after the colon ends them.
fn behind(repository: &str) -> String {
    format!("{repository};")
}

/// Shows the entries of this range that are not deleted, in order, until one is enough; returns whether one was.
fn walk(
    view: &impl Lookup,
    from: String,
    to: &str,
    mut visit: impl FnMut(&str, Entered) -> ControlFlow<()>,
) -> Result<bool> {
    let mut from = from;
    while *from < *to {
        let rows = view.rows(REPOSITORY_ENTRIES, from.as_str()..to, ROWS_MAX)?;
        for (key, bytes) in &rows {
            if let Some(entered) = records::parse::<Entry>(key, bytes)?.entered
                && visit(key, entered).is_break()
            {
                return Ok(true);
            }
        }
        match rows.last() {
            Some((last, _)) if rows.len() == ROWS_MAX => from = format!("{last}\0"),
            _ => break,
        }
    }
    Ok(false)
}

fn holds_anything(view: &impl Lookup, repository: &str) -> Result<bool> {
    walk(view, format!("{repository}:"), &behind(repository), |_, _| {
        ControlFlow::Break(())
    })
}

fn write(
    records: &records::Changes,
    clock: &mut Clock,
    key: &str,
    stamp: Stamp,
    entered: Option<Entered>,
) -> Result<()> {
    if let Some(known) = records.get::<Entry>(REPOSITORY_ENTRIES, key)? {
        records.remove(REPOSITORY_CHANGES, &sequence_key(known.sequence))?;
    }
    clock.sequence += 1;
    clock.seen_ms = clock.seen_ms.max(stamp.at_ms);
    let entry = Entry {
        stamp,
        sequence: clock.sequence,
        entered,
    };
    records.put(REPOSITORY_ENTRIES, key, &entry)?;
    records.put(REPOSITORY_CHANGES, &sequence_key(clock.sequence), &key)
}

impl ImageStore {
    /// Says what names in a repository stand for from now on, and that this node holds blobs. The caller has pinned
    /// their content.
    pub fn enter(
        &self,
        repository: &str,
        entries: Vec<(EntryKey, Option<Entered>)>,
        held: &[Digest],
        now_ms: u64,
    ) -> Result<()> {
        self.inner.records.change(Persist::Now, |records| {
            let mut clock = records.get(STORE, CLOCK_KEY)?.unwrap_or_else(Clock::new);
            let stamp = Stamp::next(now_ms, clock.seen_ms, clock.store);
            for (key, entered) in entries {
                write(
                    records,
                    &mut clock,
                    &key.in_repository(repository),
                    stamp,
                    entered,
                )?;
            }
            for digest in held {
                records.put(REPOSITORY_HELD, &digest.to_string(), &())?;
            }
            records.put(STORE, CLOCK_KEY, &clock)
        })
    }

    /// This node keeps a blob that an entry leads to. The caller has pinned it.
    pub fn hold(&self, digest: &Digest) -> Result<()> {
        self.inner.records.change(Persist::Now, |records| {
            records.put(REPOSITORY_HELD, &digest.to_string(), &())
        })
    }

    /// Takes over changes of another node, all or none; returns how many were news.
    pub fn merge_changes(&self, changes: &[Change]) -> Result<usize, MergeError> {
        changes.iter().try_for_each(Change::check)?;
        let merged = self.inner.records.change(Persist::Now, |records| {
            let mut clock = records.get(STORE, CLOCK_KEY)?.unwrap_or_else(Clock::new);
            let mut news = 0;
            for change in changes {
                let known = records.get::<Entry>(REPOSITORY_ENTRIES, &change.key)?;
                if change.stamp.replaces(known.as_ref().map(|known| &known.stamp)) {
                    write(
                        records,
                        &mut clock,
                        &change.key,
                        change.stamp,
                        change.entered.clone(),
                    )?;
                    news += 1;
                }
            }
            records.put(STORE, CLOCK_KEY, &clock)?;
            Ok(news)
        });
        Ok(merged?)
    }

    /// What changed here since another node last asked: at most about so many bytes, at least one change.
    pub fn changes_since(&self, seen: Cursor, bytes_max: usize) -> Result<Changes> {
        let view = self.inner.records.view()?;
        let clock: Option<Clock> = view.get(STORE, CLOCK_KEY)?;
        let store = clock.map_or(0, |clock| clock.store);
        let mut sequence = if seen.store == store { seen.sequence } else { 0 };
        let (from, to) = (sequence_key(sequence + 1), sequence_key(u64::MAX));
        let rows = view.rows(REPOSITORY_CHANGES, &from..&to, CHANGES_MAX)?;
        let mut more = rows.len() == CHANGES_MAX;
        let (mut changes, mut bytes) = (Vec::new(), 0);
        for (_, key) in &rows {
            if bytes >= bytes_max {
                more = true;
                break;
            }
            let key: String = records::parse("a change", key)?;
            let Some(entry) = view.get::<Entry>(REPOSITORY_ENTRIES, &key)? else {
                continue;
            };
            let references = match &entry.entered {
                Some(Entered::Manifest(manifest)) => manifest.references.len(),
                _ => 0,
            };
            // A digest of the longest kind takes as much.
            bytes += key.len() + 600 + references * 140;
            sequence = entry.sequence;
            changes.push(Change {
                key,
                stamp: entry.stamp,
                entered: entry.entered,
            });
        }
        let cursor = Cursor { store, sequence };
        Ok(Changes {
            changes,
            cursor,
            more,
        })
    }

    /// What a name in a repository stands for.
    pub fn entry(&self, repository: &str, key: &EntryKey) -> Result<Option<Entered>> {
        let view = self.inner.records.view()?;
        let entry: Option<Entry> = view.get(REPOSITORY_ENTRIES, &key.in_repository(repository))?;
        Ok(entry.and_then(|entry| entry.entered))
    }

    /// A blob that any repository has.
    pub fn blob_of_any_repository(&self, digest: &ContentDigest) -> Result<Option<StoredContent>> {
        let key = EntryKey::Blob(digest.clone());
        for repository in self.repositories()? {
            if let Some(Entered::Blob(content)) = self.entry(&repository, &key)? {
                return Ok(Some(content));
            }
        }
        Ok(None)
    }

    /// Whether anything is in a repository.
    pub fn has_repository(&self, repository: &str) -> Result<bool> {
        holds_anything(&self.inner.records.view()?, repository)
    }

    /// The tags of a repository after one, in order, with the manifests that they lead to.
    pub fn repository_tags(
        &self,
        repository: &str,
        after: &str,
        tags_max: usize,
    ) -> Result<Vec<(String, ContentDigest)>> {
        let (prefix, to) = keys_of(repository, "t");
        // The least key after that one.
        let from = match after {
            "" => prefix.clone(),
            after => format!("{prefix}{after}\0"),
        };
        let mut tags = Vec::new();
        walk(&self.inner.records.view()?, from, &to, |key, entered| {
            if tags.len() == tags_max {
                return ControlFlow::Break(());
            }
            if let Entered::Tag(digest) = entered {
                tags.push((key[prefix.len()..].to_owned(), digest));
            }
            ControlFlow::Continue(())
        })?;
        Ok(tags)
    }

    /// The manifests of a repository that refer to one, after one of them, in order of their digests.
    pub fn repository_referrers(
        &self,
        repository: &str,
        subject: &ContentDigest,
        after: Option<&ContentDigest>,
        manifests_max: usize,
    ) -> Result<Vec<(ContentDigest, ManifestEntry)>> {
        let (prefix, to) = keys_of(repository, "m");
        let from = match after {
            None => prefix.clone(),
            Some(after) => format!("{prefix}{after}\0"),
        };
        let mut manifests = Vec::new();
        walk(&self.inner.records.view()?, from, &to, |key, entered| {
            if manifests.len() == manifests_max {
                return ControlFlow::Break(());
            }
            if let Entered::Manifest(manifest) = entered
                && manifest.subject.as_ref() == Some(subject)
                && let Ok(digest) = key[prefix.len()..].parse()
            {
                manifests.push((digest, manifest));
            }
            ControlFlow::Continue(())
        })?;
        Ok(manifests)
    }

    /// The names of all repositories that hold anything, in order.
    pub fn repositories(&self) -> Result<Vec<String>> {
        let view = self.inner.records.view()?;
        let mut names = BTreeSet::new();
        let mut from = String::new();
        while let Some((key, _)) = view.rows(REPOSITORY_ENTRIES, from.as_str()..KEYS_END, 1)?.pop() {
            let name = key.split(':').next().unwrap_or(&key);
            if holds_anything(&view, name)? {
                names.insert(name.to_owned());
            }
            from = behind(name);
        }
        Ok(names.into_iter().collect())
    }

    /// Deletes blobs that no manifest came for within a day, and forgets deletions of long ago.
    pub fn expire_repositories(&self, now_ms: u64) -> Result<()> {
        let view = self.inner.records.view()?;
        let found = expired(&view.all(REPOSITORY_ENTRIES)?, now_ms);
        if found.unused.is_empty() && found.forgotten.is_empty() {
            return Ok(());
        }
        self.inner.records.change(Persist::Now, |records| {
            // Decided again: what was pushed meanwhile is in use.
            let found = expired(&records.all(REPOSITORY_ENTRIES)?, now_ms);
            let mut clock = records.get(STORE, CLOCK_KEY)?.unwrap_or_else(Clock::new);
            for key in found.unused {
                let Some(known) = records.get::<Entry>(REPOSITORY_ENTRIES, &key)? else {
                    continue;
                };
                // Just later than what it replaces: whatever else was said of it since, counts more.
                let stamp = Stamp::next(0, known.stamp.at_ms, clock.store);
                write(records, &mut clock, &key, stamp, None)?;
            }
            for key in found.forgotten {
                if let Some(known) = records.get::<Entry>(REPOSITORY_ENTRIES, &key)? {
                    records.remove(REPOSITORY_CHANGES, &sequence_key(known.sequence))?;
                    records.remove(REPOSITORY_ENTRIES, &key)?;
                }
            }
            records.put(STORE, CLOCK_KEY, &clock)
        })
    }
}

/// Changes of another node could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// One makes no sense.
    #[error(transparent)]
    Unusable(#[from] UnusableChange),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::error::Error),
}
