//! Stores of earlier versions are opened and go on; those of later ones are refused. Needs root.

mod support;

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use muster_images::{Digest, Error, ImageStore, RemoveOptions};
use redb::{Database, ReadableTable, TableDefinition};
use support::*;

/// What the version before layers were kept once left when it was closed: `app:1` of two layers, the lower one compressed,
/// which was made ready for a registry; `twice:1`, whose layer has a file twice; and the container `c1` of `app:1`.
const FORMAT_1: &[u8] = include_bytes!("stores/format-1.tar.zst");

fn unpacked(place: &Path) {
    let mut tar = Command::new("tar")
        .args(["-x", "--numeric-owner", "-C"])
        .arg(place)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let archive = zstd::decode_all(FORMAT_1).unwrap();
    tar.stdin.take().unwrap().write_all(&archive).unwrap();
    assert!(tar.wait().unwrap().success());
}

fn open(place: &Path) -> ImageStore {
    ImageStore::open(place).unwrap_or_else(|error| panic!("{}", error.full_message()))
}

#[track_caller]
fn assert_works(store: &ImageStore) {
    store.await_checked();
    assert_eq!(store.damaged().unwrap(), []);
    for (name, file, content) in [
        ("app:1", "d/same", "low ".repeat(100)),
        ("twice:1", "low", "low".into()),
    ] {
        let image = store.resolve(name).unwrap();
        let saved = store.find_saved(&[name.to_owned()]).unwrap();
        let mut archive = Vec::new();
        store.save(&saved, &mut archive).unwrap();
        let other = Fixture::new();
        assert_eq!(other.load(&archive)[0].id, image.id);
        assert_eq!(other.rootfs("c", name).read(file), content);
        for layer in store.layer_contents(&image.manifest_digest).unwrap() {
            // Not of each is the content given, but of each the blob or the content.
            if let Ok(mut blob) = store.open_blob(&layer) {
                let mut bytes = Vec::new();
                blob.read_to_end(&mut bytes).unwrap();
                assert_eq!(Digest::of(&bytes), layer);
            }
        }
        let packed = store.packed_manifest(name).unwrap();
        assert_eq!(Digest::of(&packed.bytes), packed.digest);
    }
    let rootfs = Rootfs::of(store.mount("c1").unwrap());
    assert_eq!(rootfs.read("d/high"), "high");
    assert!(!rootfs.has("d/low"));
}

#[test]
fn a_store_of_blobs_beside_layers_is_opened_and_goes_on() {
    let place = tempfile::tempdir().unwrap();
    unpacked(place.path());
    let store = open(place.path());
    assert_works(&store);
    store.collect_garbage().unwrap();
    assert_works(&store);
    // What is fetched or loaded beside it is kept once, and the other stays what it was.
    let layer = Layer::new().file("new", "new").finish();
    store
        .load(plain_archive("new:1", &[&layer]).as_slice(), &Default::default())
        .unwrap();
    store.close();
    drop(store);
    let store = open(place.path());
    assert_works(&store);
    drop(store);
    // Also when all of it has to be looked at.
    std::fs::write(place.path().join("session"), "an-earlier-boot open\n").unwrap();
    let store = open(place.path());
    assert_works(&store);
    store.release("c1").unwrap();
    for name in ["app:1", "twice:1", "new:1"] {
        store.remove(name, RemoveOptions::default(), &[]).unwrap();
    }
    store.wait_until_deleted();
    assert_eq!(store.disk_usage().unwrap(), muster_images::DiskUsage::default());
}

#[test]
fn a_store_is_not_given_back_to_an_earlier_version_nor_taken_from_a_later_one() {
    let place = tempfile::tempdir().unwrap();
    unpacked(place.path());
    drop(open(place.path()));
    const STORE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("store");
    let database = Database::open(place.path().join("store.redb")).unwrap();
    let change = database.begin_write().unwrap();
    {
        let mut table = change.open_table(STORE).unwrap();
        let known = table.get("format").unwrap().unwrap().value().to_vec();
        assert_eq!(known, b"2", "earlier versions would touch it");
        table.insert("format", b"3".as_slice()).unwrap();
    }
    change.commit().unwrap();
    drop(database);
    let error = ImageStore::open(place.path()).map(drop).unwrap_err();
    assert!(matches!(error, Error::NewerFormat { found: 3, known: 2 }));
    let message = error.full_message();
    assert!(message.contains('3') && message.contains('2'), "{message}");
}
