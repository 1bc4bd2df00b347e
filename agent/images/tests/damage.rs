//! A store that a lost power supply damaged: what is missing, short or wrong is found, what cannot be used is hidden, and
//! the next load or transfer makes it whole. Needs root.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use muster_images::{Digest, Error, ImageStore, LoadLimits};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use support::*;

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

/// A store that an image was loaded into, and that is closed.
struct Closed {
    place: tempfile::TempDir,
    layers: Vec<Vec<u8>>,
    packed: Vec<Vec<u8>>,
    archive: Vec<u8>,
    id: Digest,
    manifest: Digest,
}

/// An image whose blobs stay beside its layers: files in both have two entries, of which a layer keeps the last.
fn loaded() -> Closed {
    let fixture = Fixture::new();
    let big = "content ".repeat(20_000);
    let layers = vec![
        Layer::new()
            .directory("d", 0o755)
            .file("d/low", "replaced")
            .file("d/low", &big)
            .finish(),
        Layer::new()
            .file("d/high", "replaced")
            .file("d/high", "high")
            .file(".wh.gone", "")
            .finish(),
    ];
    let packed = vec![gzip(&layers[0]), layers[1].clone()];
    let borrowed: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let packed_borrowed: Vec<&[u8]> = packed.iter().map(Vec::as_slice).collect();
    let archive = docker_archive("app:1", &borrowed, &packed_borrowed);
    let id = fixture.load(&archive)[0].id;
    let manifest = fixture.store.resolve("app:1").unwrap().manifest_digest;
    fixture.store.prepare("c", "app:1").unwrap();
    let upper = fixture.store.upper_dir("c").unwrap();
    fs::write(upper.join("written"), "by the container").unwrap();
    let Fixture { store, place } = fixture;
    drop(store);
    Closed {
        place,
        layers,
        packed,
        archive,
        id,
        manifest,
    }
}

impl Closed {
    fn path(&self, path: &str) -> PathBuf {
        self.place.path().join(path)
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.path("blobs/sha256").join(digest.hex())
    }

    fn layer_blob(&self, layer: usize) -> PathBuf {
        self.blob(&Digest::of(&self.packed[layer]))
    }

    fn layer(&self, layer: usize) -> PathBuf {
        let diff_ids: Vec<Digest> = self.layers.iter().map(|layer| Digest::of(layer)).collect();
        self.path("layers")
            .join(Digest::chain_ids(&diff_ids)[layer].hex())
    }

    /// As though the machine had stopped while the store was open.
    fn lose_power(&self) {
        fs::write(self.path("session"), "an-earlier-boot open\n").unwrap();
    }

    fn open(&self) -> ImageStore {
        ImageStore::open(self.place.path()).unwrap_or_else(|error| panic!("{}", error.full_message()))
    }

    fn change_row(
        &self,
        table: &'static str,
        change: impl Fn(&mut redb::Table<'_, &'static str, &'static [u8]>, &str),
    ) {
        let database = Database::open(self.path("store.redb")).unwrap();
        let definition: Table = TableDefinition::new(table);
        let keys: Vec<String> = {
            let reading = database.begin_read().unwrap();
            let table = reading.open_table(definition).unwrap();
            table
                .iter()
                .unwrap()
                .map(|row| row.unwrap().0.value().to_owned())
                .collect()
        };
        assert!(!keys.is_empty(), "{table}");
        let writing = database.begin_write().unwrap();
        let mut open = writing.open_table(definition).unwrap();
        for key in keys {
            change(&mut open, &key);
        }
        drop(open);
        writing.commit().unwrap();
    }
}

/// The image is there with all that it should have.
#[track_caller]
fn assert_whole(closed: &Closed, store: &ImageStore) {
    assert_eq!(store.resolve("app:1").unwrap().id, closed.id);
    assert_eq!(store.damaged().unwrap(), []);
    store.release("new").unwrap();
    store.prepare("new", "app:1").unwrap();
    for container in ["new", "c"] {
        let rootfs = Rootfs::of(
            store
                .mount(container)
                .unwrap_or_else(|e| panic!("{}", e.full_message())),
        );
        assert_eq!(rootfs.read("d/high"), "high");
        assert_eq!(rootfs.read("d/low").len(), 160_000);
        assert!(rootfs.read("d/low").starts_with("content content"));
        assert_eq!(rootfs.has("written"), container == "c");
    }
    assert_eq!(Digest::of(&store.manifest("app:1").unwrap().1), closed.manifest);
    let saved = store.find_saved(&["app:1".to_owned()]).unwrap();
    let mut archive = Vec::new();
    store.save(&saved, &mut archive).unwrap();
    Fixture::new().load(&archive);
    for place in ["tmp", "retired"] {
        store.wait_until_deleted();
        let left = fs::read_dir(closed.path(place)).unwrap().count();
        assert!(left == 0 || place == "retired", "{place}");
    }
}

fn truncate(path: &Path) {
    let bytes = fs::metadata(path).unwrap().len();
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(bytes / 2)
        .unwrap();
}

fn zero(path: &Path) {
    let bytes = fs::metadata(path).unwrap().len();
    fs::write(path, vec![0; usize::try_from(bytes).unwrap()]).unwrap();
}

fn delete(path: &Path) {
    fs::remove_file(path).unwrap();
}

type Harm = fn(&Path);
const HARMS: [(&str, Harm); 3] = [("truncated", truncate), ("zeroed", zero), ("deleted", delete)];

#[test]
fn damaged_blobs_are_found_at_the_next_open_and_loaded_again() {
    for (how, harm) in HARMS {
        for which in ["config", "manifest", "low layer", "high layer"] {
            let closed = loaded();
            let path = match which {
                "config" => closed.blob(&closed.id),
                "manifest" => closed.blob(&closed.manifest),
                "low layer" => closed.layer_blob(0),
                _ => closed.layer_blob(1),
            };
            harm(&path);
            closed.lose_power();
            let store = closed.open();
            store.await_checked();
            let digest = Digest::from_hex(path.file_name().unwrap().to_str().unwrap()).unwrap();
            assert!(!store.has_blob(&digest).unwrap(), "{which} {how}");
            if which != "manifest" {
                // Nobody knows how to run it, or whether its layer is whole.
                assert!(
                    matches!(store.resolve("app:1"), Err(Error::NoSuchImage { .. })),
                    "{how}"
                );
                let damaged = store.damaged().unwrap();
                assert_eq!(
                    (damaged[0].id, &damaged[0].names[..]),
                    (closed.id, &["app:1".to_owned()][..])
                );
                assert_eq!(store.list_all().unwrap().len(), 0);
            } else {
                assert_eq!(store.resolve("app:1").unwrap().id, closed.id, "{which} {how}");
            }
            // A collection leaves what the repair can use.
            let kept = store.disk_usage().unwrap().blob_bytes;
            store.collect_garbage().unwrap();
            assert_eq!(store.disk_usage().unwrap().blob_bytes, kept);
            store
                .load(closed.archive.as_slice(), &LoadLimits::default())
                .unwrap();
            assert_whole(&closed, &store);
        }
    }
}

#[test]
fn damaged_layers_are_unpacked_anew_from_their_blobs() {
    type Harm = fn(&Closed);
    let harms: [(&str, Harm); 5] = [
        ("a file is zeroed", |closed| zero(&closed.layer(0).join("d/low"))),
        ("a file is short", |closed| {
            truncate(&closed.layer(0).join("d/low"))
        }),
        ("a file is gone", |closed| delete(&closed.layer(1).join("d/high"))),
        ("a whiteout is gone", |closed| {
            delete(&closed.layer(1).join("gone"))
        }),
        ("a directory is gone", |closed| {
            fs::remove_dir_all(closed.layer(0)).unwrap()
        }),
    ];
    for (how, harm) in harms {
        let closed = loaded();
        harm(&closed);
        closed.lose_power();
        let store = closed.open();
        // Also before the thread has come to it.
        assert_whole(&closed, &store);
        store.await_checked();
        assert_whole(&closed, &store);
        drop(store);
        let session = fs::read_to_string(closed.path("session")).unwrap();
        assert!(session.ends_with(" closed\n"), "{how}: {session}");
    }
}

#[test]
fn an_image_whose_layer_and_blob_are_lost_is_hidden_until_it_comes_again() {
    for from_peer in [false, true] {
        let closed = loaded();
        zero(&closed.layer(0).join("d/low"));
        fs::remove_dir_all(closed.layer(1)).unwrap();
        truncate(&closed.layer_blob(1));
        closed.lose_power();
        let store = closed.open();
        store.await_checked();
        assert!(matches!(store.resolve("app:1"), Err(Error::NoSuchImage { .. })));
        assert_eq!(
            (store.list_all().unwrap().len(), store.damaged().unwrap().len()),
            (0, 1)
        );
        let error = store.mount("c").unwrap_err().to_string();
        assert!(
            error.contains("missing or damaged; pull or load image"),
            "{error}"
        );
        if from_peer {
            let peer = Fixture::new();
            peer.load(&closed.archive);
            let _lease = store.lease([closed.manifest]);
            let manifest = peer.store.open_blob(&closed.manifest).unwrap();
            store.import_blob(&closed.manifest, None, manifest).unwrap();
            let missing = store.missing_blobs(&closed.manifest).unwrap();
            let wanted: Vec<Digest> = missing.iter().map(|blob| blob.digest).collect();
            assert_eq!(
                wanted,
                [Digest::of(&closed.packed[1])],
                "only what is lost comes again"
            );
            store
                .import_blob(&wanted[0], None, peer.store.open_blob(&wanted[0]).unwrap())
                .unwrap();
            store
                .import_image(&closed.manifest, &["app:1"], &LoadLimits::default())
                .unwrap();
        } else {
            store
                .load(closed.archive.as_slice(), &LoadLimits::default())
                .unwrap();
        }
        assert_whole(&closed, &store);
    }
}

#[test]
fn a_check_that_was_cut_short_is_done_by_the_next_process() {
    let closed = loaded();
    closed.lose_power();
    let kept = closed.place.path().join("kept");
    {
        let store = closed.open();
        // As a process that is killed at once leaves it.
        fs::copy(closed.path("session"), &kept).unwrap();
        store.await_checked();
    }
    assert!(fs::read_to_string(&kept).unwrap().ends_with(" in-doubt\n"));
    fs::rename(&kept, closed.path("session")).unwrap();
    zero(&closed.layer_blob(0));
    let store = closed.open();
    assert!(!store.has_blob(&Digest::of(&closed.packed[0])).unwrap());
}

#[test]
fn what_is_missing_or_short_is_found_without_a_loss_of_power_too() {
    let closed = loaded();
    truncate(&closed.layer_blob(0));
    zero(&closed.blob(&closed.manifest));
    fs::remove_dir_all(closed.layer(1)).unwrap();
    let store = closed.open();
    assert!(!store.has_blob(&Digest::of(&closed.packed[0])).unwrap());
    assert!(!store.has_blob(&closed.manifest).unwrap());
    store
        .load(closed.archive.as_slice(), &LoadLimits::default())
        .unwrap();
    assert_whole(&closed, &store);
}

#[test]
fn records_that_are_damaged_or_lost_take_nothing_with_them() {
    for table in ["images", "references", "layers", "snapshots"] {
        for garbage in [None, Some(&b"\0\0\0\0"[..]), Some(b"{\"id\":7}")] {
            let closed = loaded();
            if (table, garbage) == ("snapshots", None) {
                // Without a row a container's files are what an interrupted removal left.
                continue;
            }
            closed.change_row(table, |rows, key| match garbage {
                None => drop(rows.remove(key).unwrap()),
                Some(garbage) => drop(rows.insert(key, garbage).unwrap()),
            });
            let store = closed.open();
            store.readopt([("c", closed.id)]).unwrap();
            let shown = store.list_all().unwrap().len();
            assert_eq!(shown, usize::from(table != "images"), "{table} {garbage:?}");
            store
                .load(closed.archive.as_slice(), &LoadLimits::default())
                .unwrap();
            store.readopt([("c", closed.id)]).unwrap();
            assert_whole(&closed, &store);
        }
    }
}

#[test]
fn a_database_that_is_lost_is_made_anew_and_containers_keep_their_files() {
    let harms: [(&str, Harm); 4] = [
        ("deleted", delete),
        ("empty", |path| fs::write(path, "").unwrap()),
        ("zeroed", zero),
        ("truncated", |path| {
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(4096)
                .unwrap();
        }),
    ];
    for (how, harm) in harms {
        let closed = loaded();
        harm(&closed.path("store.redb"));
        closed.lose_power();
        let store = closed.open();
        // The name is lost, the image is not.
        assert!(store.resolve("app:1").is_err(), "{how}");
        assert_eq!(
            store.resolve(&closed.id.to_string()).unwrap().id,
            closed.id,
            "{how}"
        );
        store.readopt([("c", closed.id)]).unwrap();
        store
            .load(closed.archive.as_slice(), &LoadLimits::default())
            .unwrap();
        store.await_checked();
        assert_whole(&closed, &store);
        drop(store);
        assert_whole(&closed, &closed.open());
    }
}

#[test]
fn what_is_left_of_lost_records_is_known_again_however_often_the_process_is_killed() {
    let closed = loaded();
    delete(&closed.path("store.redb"));
    drop(closed.open());
    // Killed while it made the records anew: the new database holds nothing yet.
    let empty = tempfile::tempdir().unwrap();
    drop(ImageStore::open(empty.path()).unwrap());
    fs::copy(empty.path().join("store.redb"), closed.path("store.redb")).unwrap();
    fs::write(closed.path("records-lost"), "").unwrap();
    drop(closed.open());
    // Killed before the containers were told.
    let store = closed.open();
    store.readopt([("c", closed.id)]).unwrap();
    store
        .load(closed.archive.as_slice(), &LoadLimits::default())
        .unwrap();
    assert_whole(&closed, &store);
    fs::create_dir(closed.path("containers/nobodys")).unwrap();
    drop(store);
    assert_whole(&closed, &closed.open());
    assert!(!closed.path("containers/nobodys").exists());
}

#[test]
fn what_a_container_wrote_outlives_the_loss_of_all_records_and_blobs() {
    let closed = loaded();
    delete(&closed.path("store.redb"));
    fs::remove_dir_all(closed.path("blobs")).unwrap();
    for _ in 0..2 {
        closed.open().readopt([("c", closed.id)]).unwrap();
    }
    closed
        .open()
        .load(closed.archive.as_slice(), &LoadLimits::default())
        .unwrap();
    let store = closed.open();
    store.readopt([("c", closed.id)]).unwrap();
    assert_whole(&closed, &store);
}

#[test]
fn running_containers_keep_their_layers_when_records_are_lost() {
    for lost in ["all", "layers"] {
        let closed = loaded();
        let store = closed.open();
        let running = Rootfs::of(store.mount("c").unwrap());
        drop(store);
        match lost {
            "all" => delete(&closed.path("store.redb")),
            table => closed.change_row(table, |rows, key| drop(rows.insert(key, &b"\0"[..]).unwrap())),
        }
        let store = closed.open();
        store.wait_until_deleted();
        assert_eq!(running.read("d/low").len(), 160_000, "{lost}");
        assert!(running.has("written"));
    }
}

/// Damage of any kind anywhere in the database; its library panics at much of it.
#[test]
fn no_damage_to_the_database_keeps_the_store_from_opening() {
    let closed = loaded();
    let path = closed.path("store.redb");
    let good = fs::read(&path).unwrap();
    let harms: [fn(&mut [u8]); 3] = [|page| page.fill(0), |page| page.fill(0xff), |page| page.reverse()];
    let used = |page: &&usize| good[**page..][..4096].iter().any(|byte| *byte != 0);
    let pages: Vec<usize> = (0..good.len() / 4096).map(|page| page * 4096).collect();
    for page in pages.iter().filter(used) {
        for harm in harms {
            let mut damaged = good.clone();
            harm(&mut damaged[*page..][..4096]);
            fs::write(&path, damaged).unwrap();
            closed.lose_power();
            let store = closed.open();
            store.readopt([("c", closed.id)]).unwrap();
            store.mount("c").unwrap();
            store.list_all().unwrap();
            store.await_checked();
        }
    }
}
