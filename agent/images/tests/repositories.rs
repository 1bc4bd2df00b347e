//! Repositories of the registry in the box: uploads, entries that nodes exchange, and what a collection leaves.

use muster_images::limits::DOCUMENT_BYTES_MAX;
use muster_images::repository::{
    Change, ContentDigest, Cursor, Entered, EntryKey, ManifestEntry, StoredContent, UNUSED_BLOB_KEPT_MS,
};
use muster_images::{Digest, ImageStore, LoadLimits};
use tempfile::TempDir;

fn store() -> (TempDir, ImageStore) {
    let place = tempfile::tempdir().unwrap();
    let store = ImageStore::open(place.path()).unwrap();
    (place, store)
}

/// Uploads a blob into a repository.
fn push_blob(store: &ImageStore, repository: &str, content: &[u8], now_ms: u64) -> StoredContent {
    let mut upload = store.begin_upload().unwrap();
    for piece in content.chunks(3) {
        upload.append(piece).unwrap();
    }
    assert_eq!(upload.written(), content.len() as u64);
    let digest = ContentDigest::from(Digest::of(content));
    let (stored, _lease) = upload.finish(&digest).unwrap();
    let entry = (EntryKey::Blob(digest), Some(Entered::Blob(stored)));
    store
        .enter(repository, vec![entry], &[stored.digest], now_ms)
        .unwrap();
    stored
}

/// Enters a manifest that names blobs, with a tag.
fn push_manifest(store: &ImageStore, repository: &str, tag: &str, blobs: &[&[u8]], now_ms: u64) -> Digest {
    let document = format!("manifest of {blobs:?}");
    let content = push_blob(store, "scratch", document.as_bytes(), now_ms);
    let manifest = ManifestEntry {
        media_type: "application/example".to_owned(),
        content,
        subject: None,
        references: blobs.iter().map(|blob| Digest::of(blob).into()).collect(),
    };
    let digest = ContentDigest::from(content.digest);
    let entries = vec![
        (
            EntryKey::Manifest(digest.clone()),
            Some(Entered::Manifest(manifest)),
        ),
        (EntryKey::Tag(tag.to_owned()), Some(Entered::Tag(digest))),
    ];
    store
        .enter(repository, entries, &[content.digest], now_ms)
        .unwrap();
    content.digest
}

/// Everything that one store has to say to another.
fn exchange(from: &ImageStore, to: &ImageStore, seen: Cursor) -> (Cursor, usize) {
    let (mut cursor, mut news) = (seen, 0);
    loop {
        let changes = from.changes_since(cursor, 1).unwrap();
        let wire = serde_json::to_vec(&changes.changes).unwrap();
        let changes_read: Vec<Change> = serde_json::from_slice(&wire).unwrap();
        news += to.merge_changes(&changes_read).unwrap();
        cursor = changes.cursor;
        if !changes.more {
            return (cursor, news);
        }
    }
}

fn tags(store: &ImageStore, repository: &str) -> Vec<String> {
    let tags = store.repository_tags(repository, "", 100).unwrap();
    tags.into_iter().map(|(tag, _)| tag).collect()
}

#[test]
fn an_upload_is_verified_before_it_is_visible() {
    let (place, store) = store();
    let mut upload = store.begin_upload().unwrap();
    upload.append(b"content").unwrap();
    let wrong = ContentDigest::from(Digest::of(b"other"));
    let refused = upload.finish(&wrong).err().unwrap();
    assert!(refused.full_message().contains("it has digest"), "{refused}");
    assert!(!store.has_blob(&Digest::of(b"content")).unwrap());
    drop(store.begin_upload().unwrap());
    let left = std::fs::read_dir(place.path().join("tmp")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn content_of_repositories_survives_collections_and_reopening_until_it_is_deleted() {
    let (place, store) = store();
    push_blob(&store, "a/b", b"layer", 1000);
    let manifest = push_manifest(&store, "a/b", "v1", &[b"layer"], 1000);
    store
        .import_blob(&Digest::of(b"stray"), None, &b"stray"[..])
        .unwrap();
    let collected = store.collect_garbage().unwrap();
    assert_eq!(collected.blobs, [Digest::of(b"stray")]);
    drop(store);
    let store = ImageStore::open(place.path()).unwrap();
    assert!(store.has_blob(&Digest::of(b"layer")).unwrap() && store.has_blob(&manifest).unwrap());
    let key = EntryKey::Manifest(manifest.into());
    store.enter("a/b", vec![(key, None)], &[], 2000).unwrap();
    store
        .enter(
            "scratch",
            vec![(EntryKey::Blob(manifest.into()), None)],
            &[],
            2000,
        )
        .unwrap();
    // The blob waits for another manifest for a day.
    store.expire_repositories(1000 + UNUSED_BLOB_KEPT_MS).unwrap();
    store.collect_garbage().unwrap();
    assert!(!store.has_blob(&manifest).unwrap() && store.has_blob(&Digest::of(b"layer")).unwrap());
    store.expire_repositories(1001 + UNUSED_BLOB_KEPT_MS).unwrap();
    store.collect_garbage().unwrap();
    assert!(!store.has_blob(&Digest::of(b"layer")).unwrap());
}

#[test]
fn nodes_agree_whatever_the_order_of_their_exchange() {
    let ((_a, first), (_b, second)) = (store(), store());
    push_manifest(&first, "app", "latest", &[], 1000);
    let (seen, news) = exchange(&first, &second, Cursor::default());
    assert_eq!(news, 3);
    assert_eq!(tags(&second, "app"), ["latest"]);
    assert_eq!(second.repositories().unwrap(), ["app", "scratch"]);
    // The clock of the second is behind; what it says after it has seen the first still counts.
    let newer = push_manifest(&second, "app", "latest", &[b"x"], 10);
    assert_eq!(exchange(&second, &first, Cursor::default()).1, 3);
    let tag = EntryKey::Tag("latest".to_owned());
    for store in [&first, &second] {
        let entered = store.entry("app", &tag).unwrap();
        assert_eq!(entered, Some(Entered::Tag(newer.into())));
    }
    // What it had from the second is no news to it.
    assert_eq!(exchange(&first, &second, seen).1, 0);
    first.enter("app", vec![(tag.clone(), None)], &[], 2000).unwrap();
    exchange(&first, &second, seen);
    assert_eq!(second.entry("app", &tag).unwrap(), None);
    assert!(tags(&second, "app").is_empty() && second.has_repository("app").unwrap());
    // Another store begins anew with whatever cursor it is asked with.
    let (_c, third) = store();
    assert!(
        exchange(
            &second,
            &third,
            Cursor {
                store: 7,
                sequence: 1000
            }
        )
        .1 > 0
    );
}

#[test]
fn a_clock_gone_mad_does_not_keep_later_changes_from_the_other_nodes() {
    let ((_a, mad), (_b, other)) = (store(), store());
    let (mut to_other, mut to_mad) = (Cursor::default(), Cursor::default());
    for round in 0..3 {
        let first = push_manifest(&mad, "app", "latest", &[b"mad", &[round]], u64::MAX);
        to_other = exchange(&mad, &other, to_other).0;
        let tag = other.entry("app", &EntryKey::Tag("latest".to_owned())).unwrap();
        assert_eq!(tag, Some(Entered::Tag(first.into())), "round {round}");
        let second = push_manifest(&other, "app", "latest", &[b"other", &[round]], 1000);
        to_mad = exchange(&other, &mad, to_mad).0;
        let tag = mad.entry("app", &EntryKey::Tag("latest".to_owned())).unwrap();
        assert_eq!(tag, Some(Entered::Tag(second.into())), "round {round}");
    }
}

#[test]
fn content_that_no_client_could_have_pushed_is_not_taken_from_another_node() {
    let (_place, store) = store();
    let blob_max = LoadLimits::default().archive_bytes_max;
    let document_max = DOCUMENT_BYTES_MAX;
    let digest = Digest::of(b"content");
    let change = |kind: &str, entered: Entered| -> Change {
        serde_json::from_value(serde_json::json!({
            "key": format!("app:{kind}:{digest}"),
            "stamp": { "at_ms": 1, "store": 1 },
            "entered": serde_json::to_value(entered).unwrap(),
        }))
        .unwrap()
    };
    for (bytes, is_taken) in [(blob_max, true), (blob_max + 1, false), (u64::MAX, false)] {
        let blob = change("b", Entered::Blob(StoredContent { digest, bytes }));
        assert_eq!(store.merge_changes(&[blob]).is_ok(), is_taken, "{bytes}");
    }
    for (bytes, is_taken) in [(document_max, true), (document_max + 1, false)] {
        let manifest = Entered::Manifest(ManifestEntry {
            media_type: "application/example".to_owned(),
            content: StoredContent { digest, bytes },
            subject: None,
            references: Vec::new(),
        });
        let manifest = change("m", manifest);
        assert_eq!(store.merge_changes(&[manifest]).is_ok(), is_taken, "{bytes}");
    }
}

#[test]
fn tags_come_in_order_and_in_pages() {
    let (_place, store) = store();
    for tag in ["b", "a", "a.1", "C", "a-1", "z"] {
        push_manifest(&store, "app", tag, &[], 1);
    }
    push_manifest(&store, "app-2", "other", &[], 1);
    push_manifest(&store, "app/2", "other", &[], 1);
    assert_eq!(tags(&store, "app"), ["C", "a", "a-1", "a.1", "b", "z"]);
    let page = |after: &str, tags_max| {
        let tags = store.repository_tags("app", after, tags_max).unwrap();
        tags.into_iter().map(|(tag, _)| tag).collect::<Vec<_>>()
    };
    assert_eq!(page("a", 2), ["a-1", "a.1"]);
    assert_eq!(page("aa", 1), ["b"]);
    assert!(page("z", 5).is_empty() && page("~", 5).is_empty());
}

#[test]
fn lists_are_whole_however_much_there_is_and_was() {
    let (_place, store) = store();
    let names = ["a", "a-b", "a.b", "a/b", "a_b", "ab", "b", "z9"];
    let tag = |number: usize| EntryKey::Tag(format!("{number:04}"));
    let led_to = || Some(Entered::Tag(Digest::of(b"manifest").into()));
    for name in names {
        let entries = (0..300).map(|number| (tag(number), led_to())).collect();
        store.enter(name, entries, &[], 1).unwrap();
    }
    assert_eq!(store.repositories().unwrap(), names);
    assert_eq!(tags(&store, "a").len(), 100);
    let all = store.repository_tags("a", "", usize::MAX).unwrap();
    assert!(all.len() == 300 && all.is_sorted());
    // All but the last are deleted.
    let deleted = (0..299).map(|number| (tag(number), None)).collect();
    store.enter("a/b", deleted, &[], 2).unwrap();
    assert_eq!(tags(&store, "a/b"), ["0299"]);
    assert_eq!(store.repositories().unwrap(), names);
    store.enter("a/b", vec![(tag(299), None)], &[], 3).unwrap();
    assert!(!store.has_repository("a/b").unwrap() && store.has_repository("a").unwrap());
    let left: Vec<&str> = names.into_iter().filter(|name| *name != "a/b").collect();
    assert_eq!(store.repositories().unwrap(), left);
}

#[test]
fn referrers_come_in_pages_and_only_those_of_the_subject() {
    let (_place, store) = store();
    let (subject, other) = (Digest::of(b"subject"), Digest::of(b"other"));
    let mut referring = Vec::new();
    for number in 0..200u32 {
        let digest = Digest::of(&number.to_be_bytes());
        let of = if number % 2 == 0 { subject } else { other };
        let manifest = ManifestEntry {
            media_type: "application/example".to_owned(),
            content: StoredContent { digest, bytes: 4 },
            subject: Some(of.into()),
            references: Vec::new(),
        };
        let key = EntryKey::Manifest(digest.into());
        store
            .enter("app", vec![(key, Some(Entered::Manifest(manifest)))], &[], 1)
            .unwrap();
        if of == subject {
            referring.push(ContentDigest::from(digest));
        }
    }
    referring.sort();
    let mut listed: Vec<ContentDigest> = Vec::new();
    loop {
        let page = store
            .repository_referrers("app", &subject.into(), listed.last(), 30)
            .unwrap();
        assert!(page.len() <= 30);
        if page.is_empty() {
            break;
        }
        listed.extend(page.into_iter().map(|(digest, _)| digest));
    }
    assert_eq!(listed, referring);
}
