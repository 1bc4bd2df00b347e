//! Differences, commits, imports and saved archives, on real overlay mounts. Needs root.

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use muster_images::{ChangeKind, Digest, LoadLimits, NewImage, SourceContainer};
use serde_json::{Value, json};
use support::*;

const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Two layers; the upper one deletes a file of the lower one.
fn two_layers() -> Vec<u8> {
    let lower = Layer::new()
        .directory("etc/", 0o755)
        .file("etc/name", "lower")
        .file("etc/gone-before", "x")
        .directory("keep/", 0o755)
        .file("keep/a", "a")
        .file("keep/b", "b")
        .directory("replaced/", 0o755)
        .file("replaced/old", "old")
        .directory("untouched/", 0o755)
        .finish();
    let upper = Layer::new()
        .file("etc/.wh.gone-before", "")
        .file("etc/other", "x")
        .finish();
    plain_archive("base:1", &[&lower, &upper])
}

fn change_files(rootfs: &Rootfs) {
    fs::write(rootfs.path("etc/name"), "changed").unwrap();
    fs::remove_file(rootfs.path("keep/a")).unwrap();
    fs::remove_dir_all(rootfs.path("replaced")).unwrap();
    fs::create_dir(rootfs.path("replaced")).unwrap();
    fs::write(rootfs.path("replaced/new"), "new").unwrap();
    fs::create_dir(rootfs.path("fresh")).unwrap();
    fs::write(rootfs.path("fresh/tool"), "tool").unwrap();
    fs::set_permissions(rootfs.path("fresh/tool"), PermissionsExt::from_mode(0o4755)).unwrap();
    std::os::unix::fs::chown(rootfs.path("fresh/tool"), Some(5), Some(6)).unwrap();
    fs::set_permissions(rootfs.path("fresh/tool"), PermissionsExt::from_mode(0o4755)).unwrap();
    rustix::fs::setxattr(
        rootfs.path("fresh/tool"),
        "security.capability",
        CAPABILITY,
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    fs::hard_link(rootfs.path("fresh/tool"), rootfs.path("fresh/second")).unwrap();
    std::os::unix::fs::symlink("/fresh/tool", rootfs.path("fresh/link")).unwrap();
    // What a start makes to mount over it.
    for directory in ["proc", "sys", "dev"] {
        fs::create_dir(rootfs.path(directory)).unwrap();
    }
    fs::write(rootfs.path("etc/hosts"), "").unwrap();
}

fn changes(fixture: &Fixture, container: &str) -> Vec<(String, ChangeKind)> {
    let found = fixture.store.changes(container).unwrap();
    found
        .into_iter()
        .map(|change| (String::from_utf8(change.path).unwrap(), change.kind))
        .collect()
}

fn new_image(name: &str) -> NewImage {
    NewImage {
        reference: Some(name.to_owned()),
        config: json!({"Cmd": ["new"], "OnBuild": ["RUN x"]}),
        created: "2024-05-05T00:00:00Z".to_owned(),
        author: "me".to_owned(),
        created_by: "sh".to_owned(),
        comment: "a comment".to_owned(),
        architecture: native().to_owned(),
        container: Some(SourceContainer {
            id: "c1".to_owned(),
            image_id: "sha256:base".to_owned(),
            config: json!({"Image": "base:1"}),
        }),
        ..NewImage::default()
    }
}

#[test]
fn changes_are_listed_as_docker_lists_them() {
    let fixture = Fixture::new();
    fixture.load(&two_layers());
    let rootfs = fixture.rootfs("c1", "base:1");
    assert_eq!(changes(&fixture, "c1"), []);
    change_files(&rootfs);
    use ChangeKind::{Added, Deleted, Modified};
    let expected = [
        ("/etc", Modified),
        ("/etc/name", Modified),
        ("/fresh", Added),
        ("/fresh/link", Added),
        ("/fresh/second", Added),
        ("/fresh/tool", Added),
        ("/keep", Modified),
        ("/keep/a", Deleted),
        ("/replaced", Modified),
        ("/replaced/new", Added),
        ("/replaced/old", Deleted),
    ];
    let expected: Vec<_> = expected.map(|(path, kind)| (path.to_owned(), kind)).into();
    assert_eq!(changes(&fixture, "c1"), expected);
    fs::remove_dir_all(rootfs.path("keep")).unwrap();
    fs::write(rootfs.path("keep"), "a file now").unwrap();
    let keep: Vec<_> = changes(&fixture, "c1")
        .into_iter()
        .filter(|(path, _)| path.starts_with("/keep"))
        .collect();
    assert_eq!(keep, [("/keep".to_owned(), Modified)]);
}

#[test]
fn a_commit_holds_what_the_container_had() {
    let fixture = Fixture::new();
    fixture.load(&two_layers());
    let rootfs = fixture.rootfs("c1", "base:1");
    change_files(&rootfs);
    let id = fixture.store.commit("c1", &new_image("made:1")).unwrap().0;
    let made = fixture.rootfs("c2", "made:1");
    assert_eq!(made.read("etc/name"), "changed");
    assert!(!made.has("keep/a") && made.has("keep/b") && !made.has("etc/gone-before"));
    assert_eq!(made.names("replaced"), ["new"]);
    assert_eq!(made.names(""), ["etc", "fresh", "keep", "replaced", "untouched"]);
    assert_eq!(made.names("etc"), ["name", "other"]);
    let tool = fs::metadata(made.path("fresh/tool")).unwrap();
    assert_eq!((tool.mode() & 0o7777, tool.uid(), tool.gid()), (0o4755, 5, 6));
    assert_eq!(tool.ino(), fs::metadata(made.path("fresh/second")).unwrap().ino());
    assert_eq!(
        tool.mtime(),
        fs::metadata(rootfs.path("fresh/tool")).unwrap().mtime()
    );
    let mut value = [0; 64];
    let bytes = rustix::fs::getxattr(made.path("fresh/tool"), "security.capability", &mut value[..]).unwrap();
    assert_eq!(&value[..bytes], CAPABILITY);
    assert_eq!(changes(&fixture, "c2"), []);
    let image = fixture.store.resolve("made:1").unwrap();
    assert_eq!((image.id, image.diff_ids.len()), (id, 3));
    let document: Value = serde_json::from_slice(&fixture.store.config_bytes(&id).unwrap()).unwrap();
    assert_eq!(document["config"], json!({"Cmd": ["new"], "OnBuild": ["RUN x"]}));
    assert_eq!(
        (&document["author"], &document["os"]),
        (&json!("me"), &json!("linux"))
    );
    let history = fixture.store.history("made:1").unwrap();
    assert_eq!(
        (
            history.len(),
            history[0].comment.as_str(),
            history[0].created_by.as_str()
        ),
        (3, "a comment", "sh")
    );
    // The same files and words give the same image.
    assert_eq!(fixture.store.commit("c1", &new_image("made:2")).unwrap().0, id);
}

#[test]
fn a_commit_without_changes_adds_no_layer() {
    let fixture = Fixture::new();
    fixture.load(&two_layers());
    let rootfs = fixture.rootfs("c1", "base:1");
    fs::write(rootfs.path("etc/hosts"), "").unwrap();
    fixture.store.commit("c1", &new_image("made:1")).unwrap();
    let image = fixture.store.resolve("made:1").unwrap();
    assert_eq!(image.diff_ids, fixture.store.resolve("base:1").unwrap().diff_ids);
    assert_eq!(fixture.store.history("made:1").unwrap()[0].size_bytes, 0);
}

#[test]
fn a_refused_commit_leaves_nothing() {
    let fixture = Fixture::new();
    fixture.load(&two_layers());
    let rootfs = fixture.rootfs("c1", "base:1");
    fs::write(rootfs.path("new"), "x").unwrap();
    let before = fixture.listing();
    assert!(fixture.store.commit("c1", &new_image("Bad Name")).is_err());
    assert!(fixture.store.commit("nosuch", &new_image("made:1")).is_err());
    assert_eq!(fixture.listing(), before);
}

fn save(fixture: &Fixture, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let images = fixture.store.find_saved(&names).unwrap();
    let mut archive = Vec::new();
    fixture.store.save(&images, &mut archive).unwrap();
    archive
}

fn document(archive: &[u8], name: &str) -> Value {
    let mut archive = tar::Archive::new(archive);
    let entry = archive
        .entries()
        .unwrap()
        .map(Result::unwrap)
        .find(|entry| entry.path_bytes().as_ref() == name.as_bytes());
    let mut text = String::new();
    entry.unwrap().read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_saved_archive_loads_elsewhere_with_the_same_ids_and_names() {
    let fixture = Fixture::new();
    fixture.load(&two_layers());
    let rootfs = fixture.rootfs("c1", "base:1");
    change_files(&rootfs);
    let made = fixture.store.commit("c1", &new_image("made:1")).unwrap().0;
    fixture.store.tag("made:1", "registry.example/made:2").unwrap();
    fixture.store.tag("base:1", "base:2").unwrap();
    let archive = save(&fixture, &["base", "made:1"]);
    assert_eq!(
        archive,
        save(&fixture, &["base", "made:1"]),
        "the same every time"
    );
    let tags: Vec<Value> = document(&archive, "manifest.json")
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["RepoTags"].clone())
        .collect();
    assert_eq!(tags, [json!(["base:1", "base:2"]), json!(["made:1"])]);
    let index = document(&archive, "index.json");
    let names: Vec<&Value> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["annotations"]["io.containerd.image.name"])
        .collect();
    assert_eq!(names[2], "docker.io/library/made:1");
    assert_eq!(document(&archive, "oci-layout")["imageLayoutVersion"], "1.0.0");
    let elsewhere = Fixture::new();
    elsewhere.load(&archive);
    assert_eq!(elsewhere.store.resolve("made:1").unwrap().id, made);
    assert_eq!(elsewhere.rootfs("c1", "made:1").read("etc/name"), "changed");
    assert!(elsewhere.store.resolve("registry.example/made:2").is_err());
    // An id brings no names.
    let unnamed = document(&save(&fixture, &[&made.to_string()]), "manifest.json");
    assert_eq!(unnamed[0]["RepoTags"], json!([]));
    assert!(fixture.store.find_saved(&["nosuch".to_owned()]).is_err());
}

#[test]
fn a_root_file_system_is_imported() {
    let fixture = Fixture::new();
    let layer = Layer::new()
        .directory("etc/", 0o755)
        .file("etc/name", "imported")
        .finish();
    let image = new_image("imported:1");
    let limits = LoadLimits::default();
    let id = fixture
        .store
        .import_rootfs(layer.as_slice(), &image, &limits)
        .unwrap();
    assert_eq!(
        fixture
            .store
            .import_rootfs(gzip(&layer).as_slice(), &image, &limits)
            .unwrap(),
        id
    );
    assert_eq!(fixture.rootfs("c1", "imported:1").read("etc/name"), "imported");
    assert_eq!(
        fixture.store.resolve("imported:1").unwrap().diff_ids,
        [Digest::of(&layer)]
    );
    let before = fixture.listing();
    let hostile = Layer::new().file("../x", "x").finish();
    for bad in [
        hostile.as_slice(),
        b"no archive at all, but long enough to be taken for a header of one?",
    ] {
        assert!(fixture.store.import_rootfs(bad, &image, &limits).is_err());
        assert_eq!(fixture.listing(), before);
    }
}
