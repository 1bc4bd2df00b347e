//! Layers that stand unpacked need no blobs: what is in them is given, saved and pushed all the same, damage is found, and
//! nothing is lost with the power or with the records. Needs root.

mod support;

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use muster_images::{
    ComingImage, Digest, Error, ImageStore, LayerBytes, LayerFeed, LoadLimits, Reference, RemoveOptions,
};
use support::*;

struct Loaded {
    place: tempfile::TempDir,
    layers: [Vec<u8>; 2],
    packed: [Vec<u8>; 2],
    archive: Vec<u8>,
    id: Digest,
    manifest: Digest,
}

fn loaded() -> (Loaded, ImageStore) {
    let fixture = Fixture::new();
    let big = "content ".repeat(20_000);
    let layers = [
        Layer::new()
            .directory("d", 0o755)
            .file("d/low", &big)
            .hard_link("d/same", "d/low")
            .file("d/empty", "")
            .finish(),
        Layer::new().file("d/high", "high").file(".wh.gone", "").finish(),
    ];
    let packed = [gzip(&layers[0]), layers[1].clone()];
    let archive = docker_archive("app:1", &[&layers[0], &layers[1]], &[&packed[0], &packed[1]]);
    let id = fixture.load(&archive)[0].id;
    let manifest = fixture.store.resolve("app:1").unwrap().manifest_digest;
    let Fixture { store, place } = fixture;
    let loaded = Loaded {
        place,
        layers,
        packed,
        archive,
        id,
        manifest,
    };
    (loaded, store)
}

impl Loaded {
    fn path(&self, path: &str) -> PathBuf {
        self.place.path().join(path)
    }

    fn chain_id(&self, layer: usize) -> Digest {
        Digest::chain_ids(&self.layers.each_ref().map(|layer| Digest::of(layer)))[layer]
    }

    fn layer(&self, layer: usize) -> PathBuf {
        self.path("layers").join(self.chain_id(layer).hex())
    }

    fn split(&self, layer: usize) -> PathBuf {
        self.path("splits").join(self.chain_id(layer).hex())
    }

    fn blobs(&self) -> Vec<String> {
        let listed = fs::read_dir(self.path("blobs/sha256")).unwrap();
        let mut names: Vec<String> = listed
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn documents(&self) -> Vec<String> {
        let mut names = vec![self.id.hex(), self.manifest.hex()];
        names.sort();
        names
    }

    /// Opens the store as though the machine had stopped while it was open.
    fn open_after_power_loss(&self) -> ImageStore {
        fs::write(self.path("session"), "an-earlier-boot open\n").unwrap();
        self.open()
    }

    fn open(&self) -> ImageStore {
        ImageStore::open(self.place.path()).unwrap_or_else(|error| panic!("{}", error.full_message()))
    }
}

fn content(store: &ImageStore, blob: &Digest) -> Vec<u8> {
    let mut content = Vec::new();
    store.open_blob(blob).unwrap().read_to_end(&mut content).unwrap();
    content
}

#[track_caller]
fn assert_whole(loaded: &Loaded, store: &ImageStore) {
    assert_eq!(store.resolve("app:1").unwrap().id, loaded.id);
    assert_eq!(store.damaged().unwrap(), []);
    for (layer, packed) in loaded.layers.iter().zip(&loaded.packed) {
        let here = store.layer_here(&Digest::of(packed), packed.len() as u64, Some(&Digest::of(layer)));
        let given = content(store, &here.unwrap().unwrap().digest);
        assert!(given == *layer || given == *packed);
    }
    let saved = store.find_saved(&["app:1".to_owned()]).unwrap();
    let mut archive = Vec::new();
    store.save(&saved, &mut archive).unwrap();
    let other = Fixture::new();
    assert_eq!(other.load(&archive)[0].id, loaded.id);
    assert_eq!(other.rootfs("c", "app:1").read("d/same").len(), 160_000);
}

#[test]
fn a_loaded_image_is_there_once_and_all_of_it_is_given() {
    let (loaded, store) = loaded();
    store.wait_until_deleted();
    assert_eq!(loaded.blobs(), loaded.documents());
    assert_whole(&loaded, &store);
    let (low, compressed) = (Digest::of(&loaded.layers[0]), Digest::of(&loaded.packed[0]));
    assert!(!store.has_blob(&compressed).unwrap());
    let bytes = loaded.packed[0].len() as u64;
    let here = store.layer_here(&compressed, bytes, None);
    assert_eq!(here.unwrap().unwrap().digest, low);
    let mut reader = store.open_blob(&low).unwrap();
    assert_eq!(reader.size(), loaded.layers[0].len() as u64);
    reader.skip(100_000).unwrap();
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert!(rest == loaded.layers[0][100_000..]);
    drop(store);
    assert_whole(&loaded, &loaded.open());
    assert_whole(&loaded, &loaded.open_after_power_loss());
}

#[test]
fn a_reader_keeps_the_layer_that_it_reads() {
    let (loaded, store) = loaded();
    let mut reader = store.open_blob(&Digest::of(&loaded.layers[0])).unwrap();
    store.remove("app:1", RemoveOptions::default(), &[]).unwrap();
    store.collect_garbage().unwrap();
    store.wait_until_deleted();
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert!(read == loaded.layers[0]);
    drop(reader);
    store.collect_garbage().unwrap();
    store.wait_until_deleted();
    for place in ["layers", "splits", "blobs/sha256", "tmp"] {
        assert_eq!(fs::read_dir(loaded.path(place)).unwrap().count(), 0, "{place}");
    }
}

#[test]
fn blobs_that_a_killed_process_left_go_and_those_that_are_leased_stay() {
    let (loaded, store) = loaded();
    drop(store);
    let place = |blob: &[u8]| loaded.path("blobs/sha256").join(Digest::of(blob).hex());
    for blob in &loaded.packed {
        fs::write(place(blob), blob).unwrap();
    }
    // As of a layer that was moved into place and has no record yet.
    fs::write(loaded.path("splits").join(Digest::of(b"other").hex()), "").unwrap();
    let store = loaded.open();
    store.wait_until_deleted();
    assert_eq!(loaded.blobs(), loaded.documents());
    assert_eq!(fs::read_dir(loaded.path("splits")).unwrap().count(), 2);
    let lease = store.lease([Digest::of(&loaded.packed[0])]);
    fs::write(place(&loaded.packed[0]), &loaded.packed[0]).unwrap();
    store.collect_garbage().unwrap();
    assert!(store.has_blob(&Digest::of(&loaded.packed[0])).unwrap());
    drop(lease);
    store.collect_garbage().unwrap();
    assert!(!store.has_blob(&Digest::of(&loaded.packed[0])).unwrap());
    assert_whole(&loaded, &store);
}

#[test]
fn damage_is_found_after_the_power_was_lost_and_the_image_hidden_until_it_comes_again() {
    type Harm = fn(&Loaded);
    let harms: [(&str, Harm); 6] = [
        ("a file is zeroed", |loaded| {
            fs::write(loaded.layer(0).join("d/low"), vec![0; 160_000]).unwrap();
        }),
        ("a file is short", |loaded| {
            fs::write(loaded.layer(0).join("d/low"), "short").unwrap();
        }),
        ("a file is gone", |loaded| {
            fs::remove_file(loaded.layer(1).join("d/high")).unwrap()
        }),
        ("a whiteout is gone", |loaded| {
            fs::remove_file(loaded.layer(1).join("gone")).unwrap()
        }),
        ("a layer is gone", |loaded| {
            fs::remove_dir_all(loaded.layer(0)).unwrap()
        }),
        ("what is beside the files is damaged", |loaded| {
            let mut split = fs::read(loaded.split(0)).unwrap();
            let middle = split.len() / 2;
            split[middle] ^= 1;
            fs::write(loaded.split(0), split).unwrap();
        }),
    ];
    for (how, harm) in harms {
        let (loaded, store) = loaded();
        drop(store);
        harm(&loaded);
        let store = loaded.open_after_power_loss();
        store.await_checked();
        assert!(
            matches!(store.resolve("app:1"), Err(Error::NoSuchImage { .. })),
            "{how}"
        );
        assert_eq!(store.damaged().unwrap().len(), 1, "{how}");
        store
            .load(loaded.archive.as_slice(), &LoadLimits::default())
            .unwrap();
        assert_whole(&loaded, &store);
    }
}

#[test]
fn layers_are_known_again_when_the_records_are_lost() {
    let (loaded, store) = loaded();
    drop(store);
    fs::remove_file(loaded.path("store.redb")).unwrap();
    let store = loaded.open_after_power_loss();
    store.await_checked();
    let image = store.resolve(&loaded.id.to_string()).unwrap();
    assert_eq!((image.id, image.size_bytes), (loaded.id, 160_004));
    store.tag(&loaded.id.to_string(), "app:1").unwrap();
    assert_whole(&loaded, &store);
}

#[test]
fn what_came_compressed_is_compressed_here_for_a_registry_that_lacks_it() {
    let (loaded, store) = loaded();
    let own = store.packed_manifest("app:1").unwrap();
    let packed = store.repacked_manifest("app:1").unwrap();
    assert_ne!(own.digest, packed.digest);
    let again = store.repacked_manifest("app:1").unwrap();
    assert_eq!((packed.digest, &packed.bytes), (again.digest, &again.bytes));
    let manifest: serde_json::Value = serde_json::from_slice(&packed.bytes).unwrap();
    let blobs: Vec<Digest> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["digest"].as_str().unwrap().parse().unwrap())
        .collect();
    drop((own, packed, again));
    // It is kept for the next push.
    store.collect_garbage().unwrap();
    for (blob, layer) in blobs.iter().zip(&loaded.layers) {
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(content(&store, blob).as_slice())
            .read_to_end(&mut unpacked)
            .unwrap();
        assert!(unpacked == *layer);
    }
    assert_eq!(store.resolve("app:1").unwrap().manifest_digest, loaded.manifest);
}

#[test]
fn a_layer_that_was_damaged_is_not_compressed_for_a_registry() {
    let (loaded, store) = loaded();
    fs::write(loaded.layer(0).join("d/low"), vec![0; 160_000]).unwrap();
    let error = store.repacked_manifest("app:1").unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("damaged on the disk"), "{why}");
}

#[test]
fn an_archive_that_is_not_the_layers_any_more_is_refused_by_who_reads_it_to_its_end() {
    let (loaded, store) = loaded();
    let layer = Digest::of(&loaded.layers[0]);
    let read = |skipped: u64| {
        let mut reader = store.open_blob(&layer).unwrap();
        reader.skip(skipped).unwrap();
        reader.read_to_end(&mut Vec::new())
    };
    assert_eq!(read(0).unwrap(), loaded.layers[0].len());
    fs::write(loaded.layer(0).join("d/low"), vec![0; 160_000]).unwrap();
    assert_eq!(read(0).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    assert_eq!(
        read(512).unwrap(),
        loaded.layers[0].len() - 512,
        "who asks for a part compares the whole"
    );
    let saved = store.find_saved(&["app:1".to_owned()]).unwrap();
    let error = store.save(&saved, &mut std::io::sink()).unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("damaged on the disk"), "{why}");
}

#[test]
fn an_image_of_layers_that_are_kept_and_layers_that_are_not_is_saved_and_compressed() {
    let fixture = Fixture::new();
    // What an archive has twice is lost when it is unpacked, so that its blob has to stay.
    let kept = Layer::new().file("low", "replaced").file("low", "low").finish();
    let plain = Layer::new().file("high", "high").finish();
    let packed = [gzip(&kept), gzip(&plain)];
    let archive = docker_archive("app:1", &[&kept, &plain], &[&packed[0], &packed[1]]);
    let id = fixture.load(&archive)[0].id;
    let store = &fixture.store;
    let files = fs::read_dir(fixture.place.path().join("blobs/sha256")).unwrap();
    let files: Vec<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    let is_file = |blob: &[u8]| files.contains(&Digest::of(blob).hex());
    assert!(is_file(&packed[0]) && !is_file(&packed[1]));

    let saved = store.find_saved(&["app:1".to_owned()]).unwrap();
    let mut archive = Vec::new();
    store.save(&saved, &mut archive).unwrap();
    let other = Fixture::new();
    assert_eq!(other.load(&archive)[0].id, id);
    assert_eq!(other.rootfs("c", "app:1").read("high"), "high");

    let pushed = store.repacked_manifest("app:1").unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&pushed.bytes).unwrap();
    assert_eq!(
        manifest["layers"][0]["digest"],
        Digest::of(&packed[0]).to_string()
    );
    let blob: Digest = manifest["layers"][1]["digest"].as_str().unwrap().parse().unwrap();
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(content(store, &blob).as_slice())
        .read_to_end(&mut unpacked)
        .unwrap();
    assert!(unpacked == plain);
}

/// Layers that come as their uncompressed content.
struct Contents<'a> {
    store: &'a ImageStore,
    layers: &'a [&'a [u8]],
    /// So many of them come.
    coming: usize,
}

impl LayerFeed for Contents<'_> {
    fn open(&self, layer: usize) -> std::io::Result<LayerBytes> {
        if layer >= self.coming {
            return Err(std::io::Error::other("the others fell silent"));
        }
        Ok(LayerBytes {
            digest: Digest::of(self.layers[layer]),
            reader: Box::new(std::io::Cursor::new(self.layers[layer].to_vec())),
        })
    }

    fn await_verified(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn keep(&self, layer: usize) -> std::io::Result<()> {
        let content = self.layers[layer];
        self.store
            .import_blob(&Digest::of(content), None, content)
            .map_err(std::io::Error::other)
    }

    fn unpacked(&self, _: usize) {}
}

fn begin(store: &ImageStore, layers: &[&[u8]], packed: &[&[u8]]) -> (ComingImage, muster_images::Lease) {
    let mut layout = OciLayout::default();
    let entry = layout.image(layers, packed);
    let manifest: Digest = entry["digest"].as_str().unwrap().parse().unwrap();
    let documents = [manifest, Digest::of(&config(layers))];
    let lease = store.lease(
        documents
            .into_iter()
            .chain(layers.iter().map(|layer| Digest::of(layer))),
    );
    for document in documents {
        let path = format!("blobs/sha256/{}", document.hex());
        let (_, bytes) = layout.files.iter().find(|(name, _)| *name == path).unwrap();
        store.import_blob(&document, None, bytes.as_slice()).unwrap();
    }
    let coming = ComingImage {
        manifest,
        index: None,
        references: vec![Reference::parse("app:1").unwrap().with_default_tag()],
    };
    (coming, lease)
}

#[test]
fn content_that_came_in_place_of_a_blob_stays_where_it_cannot_be_made_again() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let kept = Layer::new().file("low", "replaced").file("low", "low").finish();
    let packed = gzip(&kept);
    let layers: &[&[u8]] = &[&kept];
    let (coming, lease) = begin(store, layers, &[&packed]);
    let feed = Contents {
        store,
        layers,
        coming: 1,
    };
    let id = store
        .import_coming(&coming, &feed, &LoadLimits::default())
        .unwrap();
    drop(lease);
    store.discard_unpacked(&[Digest::of(&packed), Digest::of(&kept)], None);
    store.collect_garbage().unwrap();
    let is_whole = |store: &ImageStore| {
        let saved = store.find_saved(&["app:1".to_owned()]).unwrap();
        let mut archive = Vec::new();
        store.save(&saved, &mut archive).unwrap();
        assert_eq!(Fixture::new().load(&archive)[0].id, id);
        assert_eq!(store.missing_blobs(&coming.manifest).unwrap(), []);
    };
    is_whole(store);
    let Fixture { store, place } = fixture;
    drop(store);
    fs::write(place.path().join("session"), "an-earlier-boot open\n").unwrap();
    let store = ImageStore::open(place.path()).unwrap();
    store.await_checked();
    assert_eq!(store.damaged().unwrap(), []);
    is_whole(&store);
    store.remove("app:1", RemoveOptions::default(), &[]).unwrap();
    store.wait_until_deleted();
    assert_eq!(store.disk_usage().unwrap(), muster_images::DiskUsage::default());
}

#[test]
fn the_layers_of_an_image_that_broke_off_stand_for_whoever_goes_on_with_it() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let [low, high] = [
        Layer::new().file("low", "low").finish(),
        Layer::new().file("high", "high").finish(),
    ];
    let layers: &[&[u8]] = &[&low, &high];
    let (coming, lease) = begin(store, layers, layers);
    let mut feed = Contents {
        store,
        layers,
        coming: 1,
    };
    let import = |feed: &Contents<'_>| store.import_coming(&coming, feed, &LoadLimits::default());
    import(&feed).unwrap_err();
    assert!(store.list().unwrap().is_empty());
    assert!(store.has_blob(&Digest::of(&low)).unwrap() && !store.has_blob(&Digest::of(&high)).unwrap());
    store.collect_garbage().unwrap();
    assert!(store.has_blob(&Digest::of(&low)).unwrap());
    drop(lease);
    store.collect_garbage().unwrap();
    store.wait_until_deleted();
    assert_eq!(store.disk_usage().unwrap(), muster_images::DiskUsage::default());
    let (_, _lease) = begin(store, layers, layers);
    import(&feed).unwrap_err();
    feed.coming = 2;
    import(&feed).unwrap();
}
