//! Manifests, indexes and configurations that are almost right: whatever stands in them is read or refused, and an archive
//! with them is loaded as a whole or not at all. Needs root.

mod support;

use muster_images::{Digest, LoadLimits, RemoteDocument, platform_of_config};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};
use support::*;

fn odd() -> impl Strategy<Value = Value> {
    let digest = format!("sha256:{}", "0".repeat(64));
    select(vec![
        Value::Null,
        json!(-1),
        json!(0),
        json!(u64::MAX),
        json!(1e300),
        json!(true),
        json!(""),
        json!("x"),
        json!("../../etc/passwd"),
        json!("sha256:"),
        json!("sha512:00"),
        json!(digest),
        json!("\u{0}\n"),
        json!([]),
        json!({}),
        json!([[[]]]),
        json!({"digest": digest, "size": 1}),
        json!(vec![json!({"digest": digest, "size": 1}); 600]),
        json!("a".repeat(5_000)),
    ])
}

/// Puts a value in the place of one that a document has: of the one that is found by counting down.
fn replace(document: &mut Value, left: &mut usize, value: &Value) {
    if *left == 0 {
        *document = value.clone();
        *left = usize::MAX;
        return;
    }
    *left -= 1;
    let children: Vec<&mut Value> = match document {
        Value::Array(list) => list.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        _ => Vec::new(),
    };
    for child in children {
        if *left == usize::MAX {
            return;
        }
        replace(child, left, value);
    }
}

fn count(document: &Value) -> usize {
    1 + match document {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

fn changed(mut document: Value, changes: &[(Index, Value)]) -> Vec<u8> {
    for (at, value) in changes {
        let mut left = at.index(count(&document));
        replace(&mut document, &mut left, value);
    }
    serde_json::to_vec(&document).unwrap()
}

fn changes() -> impl Strategy<Value = Vec<(Index, Value)>> {
    prop::collection::vec((any::<Index>(), odd()), 1..4)
}

fn layer() -> Vec<u8> {
    Layer::new().directory("d", 0o755).file("d/f", "content").finish()
}

fn configuration() -> Value {
    serde_json::from_slice(&config(&[&layer()])).unwrap()
}

fn manifest(config: &[u8]) -> Value {
    let layer = layer();
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "c", "digest": Digest::of(config), "size": config.len()},
        "layers": [{"mediaType": "l", "digest": Digest::of(&layer), "size": layer.len(), "annotations": {"a": "b"}}],
    })
}

fn index(manifest: &[u8]) -> Value {
    json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "m",
            "digest": Digest::of(manifest),
            "size": manifest.len(),
            "platform": {"architecture": native(), "os": "linux"},
            "annotations": {"io.containerd.image.name": "docker.io/library/a:1"},
        }],
    })
}

proptest! {
    #[test]
    fn documents_are_read_or_refused(changes in changes()) {
        let documents = [configuration(), manifest(b"{}"), index(b"{}")];
        for bytes in documents.map(|document| changed(document, &changes)) {
            let _ = platform_of_config(&bytes);
            match RemoteDocument::parse(&bytes, "a document") {
                Ok(RemoteDocument::Image(image)) => prop_assert!(image.layers.len() <= 500),
                Ok(RemoteDocument::Index(index)) => {
                    let _ = index.choose(None);
                    for platform in index.platforms() {
                        let _ = index.choose(Some(&platform));
                    }
                }
                Err(_) => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(32)))]

    /// Each document names the next by its digest, so that a change is found where it was made.
    #[test]
    fn archives_of_any_documents_are_loaded_whole_or_not_at_all(changes in changes(), which in 0..4_usize) {
        let of = |place: usize, document: Value| match place == which {
            true => changed(document, &changes),
            false => serde_json::to_vec(&document).unwrap(),
        };
        let layer = layer();
        let config = of(0, configuration());
        let manifest = of(1, manifest(&config));
        let index = of(2, index(&manifest));
        let docker = of(3, json!([{"Config": "config.json", "RepoTags": ["a:1"], "Layers": ["layer.tar"]}]));
        let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
        let (config_path, manifest_path, layer_path) = (blob(&config), blob(&manifest), blob(&layer));
        let fixture = Fixture::new();
        for archive in [
            archive(&[
                ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
                ("index.json", &index),
                (&manifest_path, &manifest),
                (&config_path, &config),
                (&layer_path, &layer),
            ]),
            archive(&[("manifest.json", &docker), ("config.json", &config), ("layer.tar", &layer)]),
        ] {
            let loaded = fixture.store.load(archive.as_slice(), &LoadLimits::default());
            prop_assert_eq!(std::fs::read_dir(fixture.place.path().join("tmp")).unwrap().count(), 0);
            for image in fixture.store.list_all().unwrap() {
                fixture.store.prepare("c", &image.id.to_string()).unwrap();
                drop(Rootfs::of(fixture.store.mount("c").unwrap()));
                fixture.store.release("c").unwrap();
            }
            if let Err(error) = loaded {
                prop_assert!(!error.full_message().is_empty());
            }
        }
    }
}
