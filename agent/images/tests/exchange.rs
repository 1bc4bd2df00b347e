//! An image travels from one node's store to another's by digests alone. Needs root.

mod support;

use std::io::Read;

use muster_images::{
    ComingImage, Digest, Error, ErrorKind, ImagePlatform, ImageStore, LoadLimits, Reference,
};
use serde_json::json;
use support::*;

/// Fetches as a node does: the manifest, then what it says is missing, then the image.
fn fetch(from: &ImageStore, to: &ImageStore, manifest: &Digest, name: &str) -> Result<Digest, Error> {
    let mut lease = vec![to.lease([*manifest])];
    to.import_blob(manifest, None, from.open_blob(manifest)?)?;
    loop {
        let missing = to.missing_blobs(manifest)?;
        if missing.is_empty() {
            break;
        }
        for blob in missing {
            lease.push(to.lease([blob.digest]));
            // Of a layer that was compressed elsewhere there may be its content only.
            let content = content_of(from, manifest, &blob.digest);
            let here = from.layer_here(&blob.digest, blob.bytes, content.as_ref())?;
            let digest = here.map_or(blob.digest, |here| here.digest);
            let bytes = (blob.bytes > 0 && digest == blob.digest).then_some(blob.bytes);
            to.import_blob(&digest, bytes, from.open_blob(&digest)?)?;
        }
    }
    to.import_image(manifest, &[name], &LoadLimits::default())
}

/// The content of the layer that a manifest gives as this blob.
fn content_of(store: &ImageStore, manifest: &Digest, blob: &Digest) -> Option<Digest> {
    let mut document = String::new();
    store
        .open_blob(manifest)
        .ok()?
        .read_to_string(&mut document)
        .ok()?;
    let document: serde_json::Value = serde_json::from_str(&document).ok()?;
    let mut layers = document["layers"].as_array()?.iter();
    let position = layers.position(|layer| layer["digest"] == blob.to_string())?;
    store.layer_contents(manifest).ok()?.get(position).copied()
}

#[test]
fn an_image_loaded_on_one_node_runs_on_another() {
    let (one, two) = (Fixture::new(), Fixture::new());
    let (archive, id) = busybox("busybox:test");
    one.load(&archive);
    let (manifest, bytes) = one.store.manifest("busybox:test").unwrap();
    assert_eq!(Digest::of(&bytes), manifest);
    assert_eq!(one.store.manifest(&manifest.to_string()).unwrap().1, bytes);
    let pinned = format!("busybox:test@{manifest}");
    assert_eq!(fetch(&one.store, &two.store, &manifest, &pinned).unwrap(), id);
    let image = two.store.resolve(&pinned).unwrap();
    assert_eq!((image.id, image.manifest_digest), (id, manifest));
    assert_eq!(image.repo_digests, [format!("busybox@{manifest}")]);
    assert_eq!(two.rootfs("c", &pinned).read("etc/motd"), "hello\n");
    // A third node can have it from the second.
    let three = Fixture::new();
    assert_eq!(
        fetch(&two.store, &three.store, &manifest, "busybox:test").unwrap(),
        id
    );
    assert_eq!(
        three.store.resolve("busybox:test").unwrap().repo_tags,
        ["busybox:test"]
    );
}

#[test]
fn an_image_that_an_index_led_to_travels_with_the_index() {
    let (one, two) = (Fixture::new(), Fixture::new());
    let (archive, id) = busybox("busybox:test");
    one.load(&archive);
    let (manifest, bytes) = one.store.manifest("busybox:test").unwrap();
    let entry = json!({"mediaType": "m", "digest": manifest, "size": bytes.len()});
    let index = json!({"schemaVersion": 2, "manifests": [entry]})
        .to_string()
        .into_bytes();
    let top = Digest::of(&index);
    let pinned = format!("other@{top}");
    one.store.import_blob(&top, None, index.as_slice()).unwrap();
    one.store
        .import_image(&top, &[&pinned], &LoadLimits::default())
        .unwrap();
    one.store.collect_garbage().unwrap();
    assert_eq!(one.store.manifest(&pinned).unwrap(), (top, index));
    assert_eq!(one.store.manifest("busybox:test").unwrap().0, manifest);
    assert_eq!(fetch(&one.store, &two.store, &top, &pinned).unwrap(), id);
    let image = two.store.resolve(&pinned).unwrap();
    assert_eq!(
        (image.manifest_digest, image.repo_digests),
        (manifest, vec![pinned])
    );
}

#[test]
fn the_image_of_another_platform_is_known_through_its_index() {
    let one = Fixture::new();
    let (archive, id) = busybox("busybox:test");
    one.load(&archive);
    let (manifest, bytes) = one.store.manifest("busybox:test").unwrap();
    let entry = json!({"mediaType": "m", "digest": manifest, "size": bytes.len()});
    let index = json!({"schemaVersion": 2, "manifests": [entry]})
        .to_string()
        .into_bytes();
    let top = Digest::of(&index);
    one.store.import_blob(&top, None, index.as_slice()).unwrap();
    let named = Reference::parse("other:1").unwrap();
    let coming = ComingImage {
        manifest,
        index: Some(top),
        references: vec![named.clone(), named.at_digest(top)],
    };
    assert_eq!(one.store.name_known(&coming).unwrap(), Some(id));
    let platform = |architecture: &str| ImagePlatform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
        variant: None,
    };
    let pinned = format!("other@{top}");
    let mirrored = format!("mirror.example/other@{top}");
    for (asked, wanted) in [
        (&pinned, None),
        (&mirrored, None),
        (&pinned, Some(platform(native()))),
        (&"other:1".to_owned(), None),
    ] {
        let known = one.store.known_image(asked, wanted.as_ref()).unwrap();
        assert_eq!((known.manifest, &known.document), (manifest, &bytes), "{asked}");
        assert_eq!(known.index, Some((top, index.clone())), "{asked}");
        let names: Vec<String> = known.references.iter().map(Reference::familiar).collect();
        assert!(names.contains(asked), "{names:?}");
    }
    let foreign = one.store.known_image(&pinned, Some(&platform("s390x")));
    assert!(matches!(foreign, Err(Error::NoSuchImage { .. })), "{foreign:?}");
    let by_id = one.store.known_image(&id.hex()[..12], None).unwrap();
    let mut names: Vec<String> = by_id.references.iter().map(Reference::familiar).collect();
    names.sort();
    assert_eq!(names, ["busybox:test", "other:1", &pinned]);
}

#[test]
fn the_manifest_of_a_docker_archive_depends_on_its_content_only() {
    let layer = Layer::new().file("a", "1").finish();
    let packed = gzip(&layer);
    let manifest = |archive: &[u8]| {
        let fixture = Fixture::new();
        let id = fixture.load(archive)[0].id;
        fixture.store.manifest(&id.to_string()).unwrap().0
    };
    let plain = manifest(&plain_archive("a:1", &[&layer]));
    assert_eq!(plain, manifest(&gzip(&plain_archive("b:2", &[&layer]))));
    assert_ne!(plain, manifest(&docker_archive("a:1", &[&layer], &[&packed])));
}

#[test]
fn one_image_answers_to_all_its_manifests() {
    let fixture = Fixture::new();
    let layer = Layer::new().file("a", "1").finish();
    let id = fixture.load(&plain_archive("a:1", &[&layer]))[0].id;
    let first = fixture.store.manifest("a:1").unwrap().0;
    let other = Fixture::new();
    other.load(&docker_archive("a:1", &[&layer], &[&gzip(&layer)]));
    let second = other.store.manifest("a:1").unwrap().0;
    assert_eq!(
        fetch(&other.store, &fixture.store, &second, &format!("b@{second}")).unwrap(),
        id
    );
    for manifest in [first, second] {
        assert_eq!(fixture.store.resolve(&format!("a@{manifest}")).unwrap().id, id);
        assert!(fixture.store.missing_blobs(&manifest).unwrap().is_empty());
    }
    fixture.store.collect_garbage().unwrap();
    let third = Fixture::new();
    fetch(&fixture.store, &third.store, &second, "c:1").unwrap();
}

#[test]
fn false_blobs_are_refused_and_leave_nothing() {
    let fixture = Fixture::new();
    let before = fixture.listing();
    let digest = Digest::of(b"content");
    for (bytes, content) in [
        (Some(7), &b"CONTENT"[..]),
        (Some(7), b"conten"),
        (Some(7), b"content!"),
        (None, b"other"),
    ] {
        let error = fixture.store.import_blob(&digest, bytes, content).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.full_message());
    }
    // A peer that never stops is cut off at the announced size.
    let endless = fixture
        .store
        .import_blob(&digest, Some(7), std::io::repeat(b'x'))
        .unwrap_err();
    assert!(
        endless.full_message().contains("limit of 7"),
        "{}",
        endless.full_message()
    );
    assert!(!fixture.store.has_blob(&digest).unwrap());
    assert_eq!(fixture.listing(), before);
    fixture
        .store
        .import_blob(&digest, Some(7), &b"content"[..])
        .unwrap();
    let mut content = String::new();
    fixture
        .store
        .open_blob(&digest)
        .unwrap()
        .read_to_string(&mut content)
        .unwrap();
    assert_eq!(
        (content.as_str(), fixture.store.blob_size(&digest).unwrap()),
        ("content", Some(7))
    );
}

#[test]
fn leased_blobs_survive_a_collection_and_others_do_not() {
    let fixture = Fixture::new();
    let (leased, other) = (Digest::of(b"leased"), Digest::of(b"other"));
    let lease = fixture.store.lease([leased]);
    fixture.store.import_blob(&leased, None, &b"leased"[..]).unwrap();
    fixture.store.import_blob(&other, None, &b"other"[..]).unwrap();
    assert_eq!(fixture.store.collect_garbage().unwrap().blobs, [other]);
    assert!(fixture.store.has_blob(&leased).unwrap() && !fixture.store.has_blob(&other).unwrap());
    drop(lease);
    assert_eq!(fixture.store.collect_garbage().unwrap().blobs, [leased]);
}

#[test]
fn incomplete_and_false_images_are_refused() {
    let (one, two) = (Fixture::new(), Fixture::new());
    let layer = Layer::new().file("a", "1").finish();
    one.load(&plain_archive("a:1", &[&layer]));
    let (manifest, bytes) = one.store.manifest("a:1").unwrap();
    let import =
        |digest: &Digest, name: &str| two.store.import_image(digest, &[name], &LoadLimits::default());
    assert!(matches!(import(&manifest, "a:1"), Err(Error::NoSuchBlob { .. })));
    let _lease = two.store.lease([manifest]);
    two.store.import_blob(&manifest, None, bytes.as_slice()).unwrap();
    assert!(matches!(import(&manifest, "a:1"), Err(Error::NoSuchBlob { .. })));
    assert_eq!(two.store.missing_blobs(&manifest).unwrap().len(), 2);

    // A layer that is a stored blob, but not the one the configuration means.
    let false_layer = Layer::new().file("a", "2").finish();
    let descriptor =
        |content: &[u8]| json!({"digest": Digest::of(content).to_string(), "size": content.len()});
    let config = config(&[&layer]);
    let false_manifest =
        json!({"schemaVersion": 2, "config": descriptor(&config), "layers": [descriptor(&false_layer)]})
            .to_string();
    for content in [&config, &false_layer, &false_manifest.clone().into_bytes()] {
        two.store
            .import_blob(&Digest::of(content), None, content.as_slice())
            .unwrap();
    }
    let error = import(&Digest::of(false_manifest.as_bytes()), "a:1").unwrap_err();
    assert!(
        error.full_message().contains("has digest"),
        "{}",
        error.full_message()
    );
    let elsewhere = format!("a@{}", Digest::of(b"elsewhere"));
    assert_eq!(
        import(&manifest, &elsewhere).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert!(two.store.list().unwrap().is_empty());
    assert_eq!(two.store.disk_usage().unwrap().layers, 0);
}
