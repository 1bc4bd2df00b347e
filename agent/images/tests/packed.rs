//! What registries are given: compressed layers, the same each time. Needs root.

mod support;

use std::io::Read;

use muster_images::{Digest, LoadLimits, RemoveOptions};
use serde_json::Value;
use support::*;

fn layers() -> [Vec<u8>; 2] {
    [
        Layer::new().file("low", &"low ".repeat(10_000)).finish(),
        Layer::new().file("high", &"high ".repeat(10_000)).finish(),
    ]
}

fn layer_blobs(manifest: &[u8]) -> Vec<Digest> {
    let manifest: Value = serde_json::from_slice(manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    layers
        .iter()
        .map(|layer| layer["digest"].as_str().unwrap().parse().unwrap())
        .collect()
}

fn content(fixture: &Fixture, blob: &Digest) -> Vec<u8> {
    let mut content = Vec::new();
    fixture
        .store
        .open_blob(blob)
        .unwrap()
        .read_to_end(&mut content)
        .unwrap();
    content
}

#[test]
fn layers_of_loaded_images_are_compressed_once_and_alike_everywhere() {
    let [low, high] = layers();
    let (one, two) = (Fixture::new(), Fixture::new());
    one.load(&plain_archive("a:1", &[&low, &high]));
    two.load(&docker_archive("a:1", &[&low, &high], &[&low, &gzip(&high)]));
    let packed = one.store.packed_manifest("a:1").unwrap();
    let blobs = layer_blobs(&packed.bytes);
    for (blob, layer) in blobs.iter().zip([&low, &high]) {
        let packed = content(&one, blob);
        assert_eq!(packed[..2], [0x1f, 0x8b]);
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice())
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(unpacked, *layer);
    }
    // What came compressed stays as it is, and the same content is compressed alike.
    let other = two.store.packed_manifest("a:1").unwrap();
    assert_eq!(layer_blobs(&other.bytes), [blobs[0], Digest::of(&gzip(&high))]);
    let again = one.store.packed_manifest("a:1").unwrap();
    assert_eq!((again.digest, &again.bytes), (packed.digest, &packed.bytes));

    // Another image with the layer has it already.
    one.load(&plain_archive("b:1", &[&low]));
    let before = one.store.disk_usage().unwrap().blob_bytes;
    let shared = one.store.packed_manifest("b:1").unwrap();
    assert_eq!(layer_blobs(&shared.bytes), blobs[..1]);
    let grown = one.store.disk_usage().unwrap().blob_bytes - before;
    assert_eq!(grown, shared.bytes.len() as u64);

    // It is kept while its image is, and makes the image again elsewhere.
    let digest = packed.digest;
    drop((packed, again, shared));
    one.store.collect_garbage().unwrap();
    assert!(one.store.has_blob(&blobs[1]).unwrap());
    let three = Fixture::new();
    let _lease = three.store.lease(blobs.iter().copied().chain([digest]));
    three
        .store
        .import_blob(&digest, None, one.store.open_blob(&digest).unwrap())
        .unwrap();
    for blob in three.store.missing_blobs(&digest).unwrap() {
        let reader = one.store.open_blob(&blob.digest).unwrap();
        three
            .store
            .import_blob(&blob.digest, Some(blob.bytes), reader)
            .unwrap();
    }
    let id = three
        .store
        .import_image(&digest, &["a:1"], &LoadLimits::default())
        .unwrap();
    assert_eq!(id, one.store.resolve("a:1").unwrap().id);
    one.store.remove("a:1", Default::default(), &[]).unwrap();
    one.store.remove("b:1", Default::default(), &[]).unwrap();
    assert_eq!(one.store.disk_usage().unwrap().blob_bytes, 0);
}

#[test]
fn manifests_of_others_are_given_as_they_came() {
    let [low, high] = layers();
    let fixture = Fixture::new();
    let mut layout = OciLayout::default();
    let mut entry = layout.image(&[&low, &high], &[&low, &gzip(&high)]);
    entry["annotations"] = serde_json::json!({"io.containerd.image.name": "docker.io/library/a:1"});
    let digest = entry["digest"].as_str().unwrap().to_owned();
    fixture.load(&layout.finish(vec![entry]));
    assert_eq!(
        fixture.store.packed_manifest("a:1").unwrap().digest.to_string(),
        digest
    );
}

/// A layer that is here is not unpacked again; what comes for it is compared all the same.
#[test]
fn no_image_brings_a_false_form_of_a_layer_that_is_here() {
    let [low, high] = layers();
    let fixture = Fixture::new();
    fixture.load(&plain_archive("a:1", &[&low, &high]));
    let other = Layer::new().file("high", "other").finish();
    let evil = docker_archive("evil:1", &[&low, &high], &[&low, &gzip(&other)]);
    let problem = fixture.refuse(&evil, &LoadLimits::default());
    assert!(problem.contains("digest"), "{problem}");
    let packed = fixture.store.packed_manifest("a:1").unwrap();
    let mut unpacked = Vec::new();
    let top = content(&fixture, &layer_blobs(&packed.bytes)[1]);
    flate2::read::GzDecoder::new(top.as_slice())
        .read_to_end(&mut unpacked)
        .unwrap();
    assert_eq!(unpacked, high);
}

/// A manifest says what it will; where the content came otherwise, nobody compared its blob with it.
#[test]
fn a_form_that_was_never_here_is_not_believed() {
    let [low, high] = layers();
    let other = Layer::new().file("high", "other").finish();
    let (fixture, false_form) = (Fixture::new(), gzip(&other));
    let store = &fixture.store;
    fixture.load(&plain_archive("a:1", &[&low, &high]));
    // An image of the content that is here, which calls another blob its top layer.
    let mut layout = OciLayout::default();
    let entry = layout.image(&[&low, &high], &[&low, &false_form]);
    let manifest: Digest = entry["digest"].as_str().unwrap().parse().unwrap();
    let named = |digest: &Digest| {
        let path = format!("blobs/sha256/{}", digest.hex());
        let mut files = layout.files.iter();
        files.find(|(name, _)| *name == path).unwrap().1.as_slice()
    };
    let _lease = store.lease([manifest]);
    store.import_blob(&manifest, None, named(&manifest)).unwrap();
    store
        .import_image(&manifest, &["evil:1"], &LoadLimits::default())
        .unwrap();

    let false_blob = Digest::of(&false_form);
    let here = store
        .layer_here(&false_blob, false_form.len() as u64, None)
        .unwrap();
    assert!(here.is_none(), "another image is told that it has the layer");
    let _kept = store.lease([false_blob]);
    store
        .import_blob(&false_blob, None, false_form.as_slice())
        .unwrap();
    let packed = store.packed_manifest("a:1").unwrap();
    let mut unpacked = Vec::new();
    let top = content(&fixture, &layer_blobs(&packed.bytes)[1]);
    flate2::read::GzDecoder::new(top.as_slice())
        .read_to_end(&mut unpacked)
        .unwrap();
    assert!(unpacked == high, "a registry is given another layer");
    let repacked = store.repacked_manifest("evil:1").unwrap();
    assert_eq!(repacked.unseen, []);
    assert!(!layer_blobs(&repacked.bytes).contains(&false_blob));

    // Nor is it once the blob is here: it is compared then.
    let error = store.import_image(&manifest, &["evil:2"], &LoadLimits::default());
    assert!(error.unwrap_err().full_message().contains("digest"));
    // What is compared, and right, is believed from then on.
    store.remove("evil:1", RemoveOptions::default(), &[]).unwrap();
    let right = gzip(&high);
    fixture.load(&docker_archive("b:1", &[&low, &high], &[&low, &right]));
    let here = store.layer_here(&Digest::of(&right), right.len() as u64, None);
    assert_eq!(here.unwrap().unwrap().digest, Digest::of(&high));
}

#[test]
fn a_form_is_sent_only_once_it_was_compared() {
    let [low, high] = layers();
    for (form, is_right) in [(gzip(b"another image's layer"), false), (gzip(&high), true)] {
        let fixture = Fixture::new();
        let store = &fixture.store;
        // The contents are there, as another image's.
        let top = Layer::new().file("top", "top").finish();
        fixture.load(&plain_archive("b:1", &[&low, &high, &top]));
        let mut layout = OciLayout::default();
        let entry = layout.image(&[&low, &high], &[&low, &form]);
        let manifest: Digest = entry["digest"].as_str().unwrap().parse().unwrap();
        let documents = [manifest, Digest::of(&config(&[&low, &high]))];
        let blob = Digest::of(&form);
        let _lease = (store.lease(documents), store.lease([blob]));
        for digest in documents {
            let path = format!("blobs/sha256/{}", digest.hex());
            let (_, bytes) = layout.files.iter().find(|(name, _)| *name == path).unwrap();
            store.import_blob(&digest, None, bytes.as_slice()).unwrap();
        }
        let limits = LoadLimits::default();
        store.import_image(&manifest, &["c:1"], &limits).unwrap();
        let own = store.packed_manifest("c:1").unwrap();
        assert_eq!((own.digest, own.unseen), (manifest, vec![blob]));
        // It comes as something else.
        store.import_blob(&blob, None, form.as_slice()).unwrap();
        let own = store.packed_manifest("c:1").unwrap();
        assert_eq!((own.digest, own.unseen.is_empty()), (manifest, is_right));
    }
}

/// What this store packs anew of a manifest is in the form of its own, which others can write, too.
#[test]
fn a_form_that_was_never_here_is_not_believed_when_the_rest_is_packed() {
    let [low, high] = layers();
    let (one, two) = (Fixture::new(), Fixture::new());
    let false_blob = Digest::of(b"another layer");
    one.load(&plain_archive("a:1", &[&low, &high]));
    let (_, own) = one.store.manifest("a:1").unwrap();
    let own = String::from_utf8(own).unwrap();
    let crafted = own.replace(&Digest::of(&high).to_string(), &false_blob.to_string());
    assert_ne!(crafted, own);
    // The contents are there, as another image's.
    let top = Layer::new().file("top", "top").finish();
    two.load(&plain_archive("b:1", &[&low, &high, &top]));
    let (manifest, config) = (Digest::of(crafted.as_bytes()), config(&[&low, &high]));
    let store = &two.store;
    let _lease = store.lease([manifest, Digest::of(&config)]);
    for (digest, document) in [
        (Digest::of(&config), config.as_slice()),
        (manifest, crafted.as_bytes()),
    ] {
        store.import_blob(&digest, None, document).unwrap();
    }
    store
        .import_image(&manifest, &["evil:1"], &LoadLimits::default())
        .unwrap();
    let packed = store.packed_manifest("evil:1").unwrap();
    assert_ne!(packed.digest, manifest, "the low layer is packed");
    assert_eq!(packed.unseen, [false_blob]);
    assert!(store.layer_here(&false_blob, 1, None).unwrap().is_none());
}
