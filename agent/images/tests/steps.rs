//! The build cache: steps are found again, hidden from lists, and pruned without harm to images.

mod support;

use muster_images::{Digest, ImageId, ImageStore, NewImage, StepPruning};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use support::Fixture;

fn step(created_by: &str) -> NewImage {
    NewImage {
        config: json!({"Labels": {"step": created_by}}),
        created: "2024-01-01T00:00:00Z".to_owned(),
        created_by: created_by.to_owned(),
        architecture: "amd64".to_owned(),
        is_step: true,
        ..NewImage::default()
    }
}

fn key(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// A step that writes a file over a parent, remembered under its own name.
fn written(fixture: &Fixture, parent: &ImageId, name: &str, at_s: i64) -> ImageId {
    let rootfs = fixture.rootfs(name, &parent.to_string());
    fs::write(rootfs.path(name), "12345").unwrap();
    let id = fixture.store.commit(name, &step(name)).unwrap().0;
    drop(rootfs);
    fixture.store.release(name).unwrap();
    fixture.store.remember_step(&key(name), id, name, at_s).unwrap();
    id
}

fn images(store: &ImageStore) -> BTreeSet<ImageId> {
    store.list().unwrap().into_iter().map(|image| image.id).collect()
}

#[test]
fn steps_are_hidden_found_again_and_pruned() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let nothing = NewImage {
        created_by: String::new(),
        ..step("")
    };
    let nothing = store.empty_image(&nothing).unwrap().0;
    let first = written(&fixture, &nothing, "first", 10);
    let second = written(&fixture, &first, "second", 20);
    let labelled = store.derive(&second, &step("label")).unwrap().0;
    store.remember_step(&key("label"), labelled, "label", 30).unwrap();
    let other = written(&fixture, &first, "other", 40);
    assert_eq!(images(store), BTreeSet::new());
    assert_eq!(store.layer_bytes().unwrap(), 0);
    assert_eq!(
        store.cached_step(&key("second")).unwrap().map(|(id, _)| id),
        Some(second)
    );
    store.note_used(&[key("second"), key("none")], 50).unwrap();
    assert_eq!(store.cached_step(&key("none")).unwrap().map(|(id, _)| id), None);

    store.finish_build(&labelled, &["built".to_owned()]).unwrap();
    assert_eq!(images(store), BTreeSet::from([labelled]));
    let usage = store.disk_usage().unwrap();
    // With what is kept beside the files of those layers.
    let seen = store.layer_bytes().unwrap();
    assert!(10 < seen && seen < 10 + usage.split_bytes, "{seen} {usage:?}");
    let steps = store.steps().unwrap();
    let of = |name: &str| steps.iter().find(|step| step.description == name).unwrap();
    assert_eq!((of("second").uses, of("second").used_unix_s), (1, 50));
    assert!(of("label").is_used && of("second").is_shared && !of("second").is_used);
    assert!(!of("other").is_shared && of("other").bytes == 5);

    let none = BTreeSet::new();
    let old = StepPruning {
        unused_since_unix_s: Some(30),
        ..StepPruning::default()
    };
    let (forgotten, _) = store.prune_steps(old, &none).unwrap();
    assert_eq!(forgotten, [key("first").to_string()]);
    assert_eq!(store.cached_step(&key("first")).unwrap().map(|(id, _)| id), None);
    let before = store.disk_usage().unwrap();
    let (forgotten, bytes) = store.prune_steps(StepPruning::default(), &none).unwrap();
    let after = store.disk_usage().unwrap();
    let splits = before.split_bytes - after.split_bytes;
    assert_eq!(
        (forgotten.len(), bytes),
        (3, 5 + splits),
        "only what no image has is freed"
    );
    assert!(splits > 0 && before.layer_bytes - after.layer_bytes == 5);
    assert!(store.resolve(&other.to_string()).is_err());
    assert_eq!(images(store), BTreeSet::from([labelled]));
    let rootfs = fixture.rootfs("c", "built");
    assert_eq!(
        (rootfs.read("first"), rootfs.read("second")),
        ("12345".into(), "12345".into())
    );
}

#[test]
fn a_step_whose_image_is_in_use_or_was_removed() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let nothing = store.empty_image(&step("")).unwrap().0;
    let used = written(&fixture, &nothing, "used", 1);
    let held = written(&fixture, &nothing, "held", 1);
    let lease = store.lease([held]);
    store
        .prune_steps(StepPruning::default(), &BTreeSet::from([used]))
        .unwrap();
    assert_eq!(
        store.cached_step(&key("used")).unwrap().map(|(id, _)| id),
        Some(used)
    );
    assert!(
        store.resolve(&held.to_string()).is_ok(),
        "a build under way needs it"
    );
    drop(lease);
    store.remove(&used.to_string(), Default::default(), &[]).unwrap();
    assert_eq!(store.cached_step(&key("used")).unwrap().map(|(id, _)| id), None);
    assert!(store.steps().unwrap().is_empty());
}

#[test]
fn a_step_that_was_made_or_found_stays_while_its_lease_is_held() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let prune = || {
        store
            .prune_steps(StepPruning::default(), &BTreeSet::new())
            .unwrap()
    };
    let (nothing, nothing_lease) = store.empty_image(&step("")).unwrap();
    let (made, made_lease) = store.derive(&nothing, &step("made")).unwrap();
    store.remember_step(&key("made"), made, "made", 1).unwrap();
    let (found, found_lease) = store.cached_step(&key("made")).unwrap().unwrap();
    assert_eq!(found, made);
    for lease in [made_lease, found_lease] {
        prune();
        assert!(store.resolve(&made.to_string()).is_ok());
        drop(lease);
    }
    prune();
    assert!(store.resolve(&made.to_string()).is_err());
    assert!(store.resolve(&nothing.to_string()).is_ok());
    drop(nothing_lease);
}

#[test]
fn a_loaded_image_is_no_step_any_more() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let nothing = store.empty_image(&step("")).unwrap().0;
    let id = written(&fixture, &nothing, "step", 1);
    let mut archive = Vec::new();
    let saved = store.find_saved(&[id.to_string()]).unwrap();
    store.save(&saved, &mut archive).unwrap();
    fixture.load(&archive);
    assert_eq!(images(store), BTreeSet::from([id]));
}

#[test]
fn times_of_files_are_bounded_and_places_that_were_mounted_over_left_out() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let nothing = store.empty_image(&step("")).unwrap().0;
    let commit = |name: &str| {
        let rootfs = fixture.rootfs(name, &nothing.to_string());
        fs::write(rootfs.path("file"), "x").unwrap();
        fs::create_dir(rootfs.path("mounted")).unwrap();
        fs::create_dir(rootfs.path("kept")).unwrap();
        fs::write(rootfs.path("kept/file"), "x").unwrap();
        let image = NewImage {
            modified_max: Some(1_000),
            mount_places: vec!["mounted".to_owned(), "kept".to_owned()],
            ..step("same")
        };
        store.commit(name, &image).unwrap().0
    };
    let first = commit("a");
    assert_eq!(commit("b"), first);
    let rootfs = fixture.rootfs("c", &first.to_string());
    assert_eq!(rootfs.names(""), ["file", "kept"]);
    let modified = fs::metadata(rootfs.path("file")).unwrap().modified().unwrap();
    assert_eq!(
        modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(),
        1_000
    );
}
