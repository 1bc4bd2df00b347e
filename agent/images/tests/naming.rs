//! Finding, tagging and removing images by name and id. Needs root.

mod support;

use muster_images::{Error, ErrorKind, ImageUser, RemoveOptions, RemovedEvent, UserState};
use support::*;

#[test]
fn images_are_found_by_name_id_and_prefix() {
    let fixture = Fixture::new();
    let id = fixture.load(&one_layer("me/app:1", Layer::new().file("a", "1")))[0].id;
    let other = fixture.load(&one_layer("other", Layer::new().file("a", "2")))[0].id;
    let store = &fixture.store;
    let by_digest = format!("me/app@{}", store.resolve("me/app:1").unwrap().manifest_digest);
    let names = [
        "me/app:1",
        "docker.io/me/app:1",
        &id.to_string(),
        &id.hex(),
        &id.short(),
        &by_digest,
    ];
    for name in names {
        assert_eq!(store.resolve(name).unwrap().id, id, "{name}");
    }
    assert_eq!(store.resolve(&format!("sha256:{}", id.short())).unwrap().id, id);
    assert_eq!(store.resolve("other").unwrap().id, other);
    assert_eq!(store.resolve("me/app:1").unwrap().repo_digests, [by_digest]);
    let missing = store.resolve("me/app").unwrap_err();
    assert_eq!(
        (missing.to_string(), missing.kind()),
        ("No such image: me/app:latest".into(), ErrorKind::NotFound)
    );
    assert_eq!(store.resolve("Me/App").unwrap_err().kind(), ErrorKind::Invalid);
    assert!(matches!(store.resolve(""), Err(Error::Reference(_))));

    store.tag("other", "me/app:1").unwrap();
    assert_eq!(store.resolve("me/app:1").unwrap().id, other, "a tag moves");
    assert!(store.resolve(&id.to_string()).unwrap().repo_tags.is_empty());
    let digest = format!("a@{id}");
    for bad in ["sha256", digest.as_str(), "A", ""] {
        assert_eq!(
            store.tag("other", bad).unwrap_err().kind(),
            ErrorKind::Invalid,
            "{bad}"
        );
    }
    let history = store.history("other").unwrap();
    assert_eq!(
        (history[0].id.clone(), history[0].size_bytes),
        (other.to_string(), 1)
    );
    assert_eq!(history[0].tags, ["me/app:1", "other:latest"]);
    assert_eq!(store.list().unwrap().len(), 2);
}

fn untagged(name: &str) -> RemovedEvent {
    RemovedEvent::Untagged(name.to_string())
}

#[test]
fn removal_follows_dockers_rules() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let id = fixture.load(&one_layer("app:1", Layer::new().file("a", "1")))[0].id;
    let deleted = RemovedEvent::Deleted(id.to_string());
    let chain_id = store.resolve("app:1").unwrap().diff_ids[0];
    let (gentle, force) = (RemoveOptions::default(), RemoveOptions { force: true });
    let user = |state| {
        [ImageUser {
            container_id: "0123456789abcdef".to_string(),
            image_id: id,
            state,
        }]
    };
    let running = user(UserState::Running);
    let stopped = user(UserState::Stopped);
    let refused = |name: &str, options, users: &[ImageUser]| {
        let error = store.remove(name, options, users).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        error.to_string()
    };
    let short = id.short();
    assert_eq!(
        refused("app:1", gentle, &running),
        format!(
            "conflict: unable to remove repository reference \"app:1\" (must force) - container 0123456789ab is \
             using its referenced image {short}"
        )
    );
    assert_eq!(
        refused(&short, force, &running),
        format!(
            "conflict: unable to delete {short} (cannot be forced) - image is being used by running container 0123456789ab"
        )
    );
    assert_eq!(
        refused(&short, gentle, &stopped),
        format!(
            "conflict: unable to delete {short} (must be forced) - image is being used by stopped container 0123456789ab"
        )
    );
    store.tag("app:1", "app:2").unwrap();
    assert_eq!(
        refused(&short, gentle, &[]),
        format!(
            "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
        )
    );
    // With another name left, a name goes although a container runs; the last one only by force.
    assert_eq!(
        store.remove("app:2", gentle, &running).unwrap(),
        [untagged("app:2")]
    );
    assert_eq!(
        store.remove("app:1", force, &running).unwrap(),
        [untagged("app:1")]
    );
    assert!(store.resolve(&short).unwrap().repo_tags.is_empty());
    store.tag(&short, "app").unwrap();
    let layer_deleted = RemovedEvent::Deleted(chain_id.to_string());
    assert_eq!(
        store.remove("app", gentle, &[]).unwrap(),
        [untagged("app:latest"), deleted, layer_deleted]
    );
    assert!(store.list().unwrap().is_empty());
    assert_eq!(store.disk_usage().unwrap(), muster_images::DiskUsage::default());
    assert_eq!(
        store.remove("app", gentle, &[]).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn a_name_by_digest_removes_the_repositorys_names() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let id = fixture.load(&one_layer("app:1", Layer::new().file("a", "1")))[0].id;
    store.tag("app:1", "other:1").unwrap();
    let digest = store.resolve("app:1").unwrap().manifest_digest;
    let events = store
        .remove(&format!("app@{digest}"), RemoveOptions::default(), &[])
        .unwrap();
    assert_eq!(events, [untagged("app:1")]);
    assert_eq!(store.resolve("other:1").unwrap().id, id);
    let unnamed = store
        .remove(&format!("app@{digest}"), RemoveOptions::default(), &[])
        .unwrap_err();
    assert_eq!(unnamed.kind(), ErrorKind::NotFound);
}
