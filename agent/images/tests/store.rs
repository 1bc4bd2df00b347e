//! Loading, mounting, naming and removing images, on a real file system with real overlay mounts. Needs root.

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use muster_images::{
    Digest, Error, ErrorKind, ImageStore, ImageUser, LoadLimits, RemoveOptions, RemovedEvent, UserState,
};
use serde_json::json;
use support::*;
use tar::EntryType;

#[test]
fn a_busybox_image_loads_mounts_and_runs() {
    let fixture = Fixture::new();
    let (archive, id) = busybox("busybox:test");
    let loaded = fixture.load(&archive);
    assert_eq!(
        (loaded[0].reference.as_deref(), loaded[0].id),
        (Some("busybox:test"), id)
    );
    let image = fixture.store.resolve("busybox:test").unwrap();
    assert_eq!(image.id, id);
    assert_eq!(image.repo_tags, ["busybox:test"]);
    assert_eq!(
        image.config.config().as_ref().unwrap().cmd().as_ref().unwrap(),
        &["sh"]
    );
    assert_eq!(image.size_bytes, fs::metadata(BUSYBOX).unwrap().len() + 6);

    let rootfs = fixture.rootfs("c1", "busybox:test");
    let run = Command::new("chroot")
        .arg(rootfs.path(""))
        .args([
            "/bin/sh",
            "-c",
            "cat /etc/motd && echo written > /etc/motd && echo new > /new",
        ])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&run.stdout),
        "hello\n",
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    assert_eq!(rootfs.read("etc/motd"), "written\n");
    let other = fixture.rootfs("c2", "busybox:test");
    assert_eq!(
        (other.read("etc/motd"), other.has("new")),
        ("hello\n".to_string(), false)
    );

    let size = fixture.store.rootfs_size("c1").unwrap();
    assert_eq!(
        (size.written_bytes, size.total_bytes),
        (12, 12 + image.size_bytes)
    );
    drop((rootfs, other));
    fixture.store.release("c1").unwrap();
    fixture.store.release("c1").unwrap();
    assert_eq!(fixture.store.prepared().unwrap(), ["c2"]);
    assert_eq!(
        fs::read_dir(fixture.place.path().join("containers"))
            .unwrap()
            .count(),
        1
    );
    assert!(matches!(fixture.store.mount("c1"), Err(Error::NoSnapshot { .. })));
}

fn opaque_attribute(path: &Path) -> Option<Vec<u8>> {
    let mut value = vec![0; 16];
    let bytes = rustix::fs::getxattr(path, "trusted.overlay.opaque", &mut value).ok()?;
    value.truncate(bytes);
    Some(value)
}

#[test]
fn whiteouts_and_opaque_directories_hide_lower_layers() {
    let fixture = Fixture::new();
    let base = Layer::new()
        .file("gone", "base")
        .file("kept", "base")
        .directory("dir/", 0o750)
        .file("dir/a", "base")
        .file("dir/b", "base")
        .file("cleared/old", "base")
        .file("replaced/old", "base")
        .file("late/old", "base")
        .finish();
    let top = Layer::new()
        .file(".wh.gone", "")
        .file("dir/.wh.a", "")
        .file("cleared/.wh..wh..opq", "")
        .file("cleared/new", "top")
        // Deleted and made anew: nothing of the old content shows, in either order of the entries.
        .file(".wh.replaced", "")
        .file("replaced/new", "top")
        .file("late/new", "top")
        .file(".wh.late", "")
        // What the same layer has is not deleted by its own whiteout.
        .file("both", "top")
        .file(".wh.both", "")
        .file(".wh..wh.plnk", "")
        .finish();
    fixture.load(&plain_archive("layers:1", &[&base, &top]));
    let rootfs = fixture.rootfs("c", "layers:1");
    assert_eq!(
        rootfs.names(""),
        ["both", "cleared", "dir", "kept", "late", "replaced"]
    );
    assert_eq!(rootfs.names("dir"), ["b"]);
    for directory in ["cleared", "replaced", "late"] {
        assert_eq!(rootfs.names(directory), ["new"], "{directory}");
    }
    // The top layer does not mention dir itself, so the owner and mode from below stand.
    assert_eq!(rootfs.path("dir").metadata().unwrap().mode() & 0o7777, 0o750);
    let chain_ids = Digest::chain_ids(&fixture.store.resolve("layers:1").unwrap().diff_ids);
    let layer = fixture.place.path().join("layers").join(chain_ids[1].hex());
    let whiteout = layer.join("gone").symlink_metadata().unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(
        opaque_attribute(&layer.join("cleared")).as_deref(),
        Some(&b"y"[..])
    );
}

#[test]
fn owners_modes_times_devices_and_attributes_are_kept() {
    let fixture = Fixture::new();
    let mut special = Layer::header(EntryType::Regular, 0o6755, 2);
    special.set_uid(1000);
    special.set_gid(2000);
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = Layer::new()
        .directory("./", 0o711)
        .pax(&[
            ("mtime", b"1234567.5"),
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.note", b"kept"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ])
        .raw(special, "./special", "", b"ok")
        .hard_link("./same", "special")
        .symlink("./link", "/absolute/target")
        .pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")])
        .directory("sticky", 0o1777)
        .device(EntryType::Char, "null", (1, 3))
        .device(EntryType::Char, "deletes", (0, 0))
        .device(EntryType::Block, "disk", (8, 1))
        .raw(Layer::header(EntryType::Fifo, 0o620, 0), "fifo", "", b"");
    fixture.load(&one_layer("meta:1", layer));
    let rootfs = fixture.rootfs("c", "meta:1");
    assert_eq!(
        rootfs.names(""),
        ["disk", "fifo", "link", "null", "same", "special", "sticky"]
    );
    let stat = |path: &str| rootfs.path(path).symlink_metadata().unwrap();
    assert_eq!(stat("").mode() & 0o7777, 0o711);
    let special = stat("special");
    assert_eq!(
        (special.uid(), special.gid(), special.mode() & 0o7777),
        (1000, 2000, 0o6755)
    );
    assert_eq!(
        (special.mtime(), special.mtime_nsec(), special.nlink()),
        (1_234_567, 500_000_000, 2)
    );
    assert_eq!(special.ino(), stat("same").ino());
    assert_eq!(stat("sticky").mode() & 0o7777, 0o1777);
    assert_eq!(stat("sticky").mtime(), 1_000_000);
    assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
    assert!(stat("disk").file_type().is_block_device() && stat("disk").rdev() == rustix::fs::makedev(8, 1));
    assert!(stat("fifo").file_type().is_fifo() && stat("fifo").mode() & 0o7777 == 0o620);
    assert_eq!(
        fs::read_link(rootfs.path("link")).unwrap(),
        Path::new("/absolute/target")
    );

    let chain_ids = Digest::chain_ids(&fixture.store.resolve("meta:1").unwrap().diff_ids);
    let layer = fixture.place.path().join("layers").join(chain_ids[0].hex());
    let mut names = vec![0; 1024];
    let bytes = rustix::fs::listxattr(layer.join("special"), &mut names[..]).unwrap();
    let mut names: Vec<&[u8]> = names[..bytes]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .collect();
    names.sort();
    assert_eq!(names, [b"security.capability".as_slice(), b"user.note"]);
    assert_eq!(opaque_attribute(&layer.join("sticky")), None);
}

#[test]
fn a_repeated_entry_takes_the_place_of_the_earlier_one() {
    let fixture = Fixture::new();
    let layer = Layer::new()
        .file("f", "first")
        .file("f", "second")
        .symlink("l", "/etc/hostname")
        .file("l", "a file")
        .file("d/below", "x")
        .file("d", "a file")
        .file("e", "x")
        .directory("e", 0o700)
        .file("e/below", "y");
    fixture.load(&one_layer("twice:1", layer));
    let rootfs = fixture.rootfs("c", "twice:1");
    assert_eq!(
        [rootfs.read("f"), rootfs.read("l"), rootfs.read("d")],
        ["second", "a file", "a file"]
    );
    assert_eq!(rootfs.read("e/below"), "y");
}

#[test]
fn every_packing_of_the_same_layers_is_the_same_image() {
    let layer = Layer::new().file("a", "content").finish();
    let packings = [layer.clone(), gzip(&layer), zstd(&layer)];
    let fixture = Fixture::new();
    let mut ids = Vec::new();
    for packed in &packings {
        let archive = docker_archive("same:1", &[&layer], &[packed]);
        for archive in [archive.clone(), gzip(&archive), zstd(&archive)] {
            ids.push(fixture.load(&archive)[0].id);
        }
        let mut layout = OciLayout::default();
        let entry = layout.image(&[&layer], &[packed]);
        ids.push(fixture.load(&layout.finish(vec![entry]))[0].id);
    }
    ids.dedup();
    assert_eq!(ids, [Digest::of(&config(&[&layer]))]);
    assert_eq!(fixture.store.list().unwrap().len(), 1);
    assert_eq!(fixture.store.disk_usage().unwrap().layers, 1);
}

#[test]
fn docker_archives_with_links_between_layers_load() {
    let fixture = Fixture::new();
    let layer = Layer::new().file("a", "x").finish();
    let config = config(&[&layer, &layer, &layer]);
    let manifest = json!([{
        "Config": "c.json", "RepoTags": null,
        "Layers": ["one/layer.tar", "two/layer.tar", "three/layer.tar"],
    }]);
    let manifest = manifest.to_string();
    let archive = Layer::new()
        .directory("one/", 0o755)
        .file("one/VERSION", "1.0")
        .file("one/layer.tar", std::str::from_utf8(&layer).unwrap())
        .symlink("two/layer.tar", "../one/layer.tar")
        .hard_link("three/layer.tar", "one/layer.tar")
        .file("c.json", std::str::from_utf8(&config).unwrap())
        .file("manifest.json", &manifest);
    let loaded = fixture.load(&archive.finish());
    assert_eq!((loaded.len(), loaded[0].reference.as_deref()), (1, None));
    let image = fixture.store.resolve(&loaded[0].id.to_string()).unwrap();
    assert!(image.repo_tags.is_empty() && image.repo_digests.is_empty());
    // Equal layers on top of each other are different chains.
    assert_eq!(fixture.store.disk_usage().unwrap().layers, 3);
    assert_eq!(fixture.rootfs("c", &image.id.short()).read("a"), "x");
}

#[test]
fn oci_layouts_are_read_by_name_and_platform() {
    let fixture = Fixture::new();
    let (layer, foreign) = (
        Layer::new().file("a", "native").finish(),
        Layer::new().file("a", "foreign").finish(),
    );
    let mut layout = OciLayout::default();
    let platform = |mut entry: serde_json::Value, os: &str, architecture: &str| {
        entry["platform"] = json!({"os": os, "architecture": architecture});
        entry
    };
    let entries = [
        platform(layout.image(&[&foreign], &[&foreign]), "linux", "s390x"),
        platform(layout.image(&[&layer], &[&gzip(&layer)]), "linux", native()),
    ];
    // A manifest for another platform whose blobs are not in the archive does no harm.
    let mut absent = platform(json!({"size": 3}), "linux", "riscv64");
    absent["digest"] = json!(Digest::of(b"absent").to_string());
    let attestation = platform(absent.clone(), "unknown", "unknown");
    let index = json!({"schemaVersion": 2, "manifests": [attestation, absent, entries[0], entries[1]]});
    let mut nested = layout.blob(index.to_string().as_bytes());
    nested["annotations"] = json!({"io.containerd.image.name": "docker.io/library/multi:2"});
    let mut flat = entries.clone();
    for entry in &mut flat {
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": "example.com/flat"});
    }
    let [first, second] = flat;
    let loaded = fixture.load(&layout.finish(vec![nested, first, second]));
    let names: Vec<_> = loaded
        .iter()
        .map(|image| image.reference.clone().unwrap())
        .collect();
    assert_eq!(names, ["multi:2", "example.com/flat:latest"]);
    assert_eq!(fixture.rootfs("c1", "multi:2").read("a"), "native");
    assert_eq!(fixture.rootfs("c2", "example.com/flat").read("a"), "native");

    let mut layout = OciLayout::default();
    let entry = platform(layout.image(&[&foreign], &[&foreign]), "linux", "s390x");
    let index = layout.blob(
        json!({"schemaVersion": 2, "manifests": [entry]})
            .to_string()
            .as_bytes(),
    );
    let message = fixture.refuse(&layout.finish(vec![index]), &LoadLimits::default());
    assert!(
        message.contains("no image for platform") && message.contains("linux/s390x"),
        "{message}"
    );
}

#[test]
fn a_container_keeps_its_layers_when_its_image_is_removed() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let id = fixture.load(&one_layer("app:1", Layer::new().file("a", "1")))[0].id;
    store.prepare("c", "app:1").unwrap();
    let user = ImageUser {
        container_id: "c".to_string(),
        image_id: id,
        state: UserState::Stopped,
    };
    let events = store
        .remove("app:1", RemoveOptions { force: true }, &[user])
        .unwrap();
    assert_eq!(
        events,
        [
            RemovedEvent::Untagged("app:1".to_string()),
            RemovedEvent::Deleted(id.to_string())
        ]
    );
    assert_eq!(Rootfs::of(store.mount("c").unwrap()).read("a"), "1");
    assert!(store.collect_garbage().unwrap().layers.is_empty());
    store.release("c").unwrap();
    assert_eq!(store.collect_garbage().unwrap().layers.len(), 1);
    assert_eq!(store.disk_usage().unwrap(), muster_images::DiskUsage::default());
}

#[test]
fn an_interrupted_process_leaves_nothing_after_the_next_open() {
    let Fixture { store, place } = Fixture::new();
    let layer = Layer::new().file("a", "1").finish();
    store
        .load(
            plain_archive("app:1", &[&layer]).as_slice(),
            &LoadLimits::default(),
        )
        .unwrap();
    store.prepare("kept", "app:1").unwrap();
    store.prepare("lost", "app:1").unwrap();
    fs::write(store.upper_dir("kept").unwrap().join("written"), "w").unwrap();
    assert!(matches!(
        ImageStore::open(place.path()),
        Err(Error::StoreInUse { .. })
    ));
    drop(store);
    let stray = Digest::of(b"stray").hex();
    for directory in [
        "tmp/layer-half/etc",
        "layers/stray/etc",
        "containers/stray/upper",
        "trash/7/x",
    ] {
        fs::create_dir_all(place.path().join(directory)).unwrap();
    }
    fs::create_dir_all(place.path().join("layers").join(&stray)).unwrap();
    fs::write(place.path().join("blobs/sha256").join(&stray), "stray").unwrap();
    fs::remove_dir_all(place.path().join("containers/lost")).unwrap();

    let store = ImageStore::open(place.path()).unwrap();
    assert_eq!(store.prepared().unwrap(), ["kept"]);
    let fixture = Fixture { store, place };
    let has_stray = |path: &std::path::PathBuf| {
        let path = path.to_string_lossy();
        path.contains("stray") || path.contains(&stray) || path.contains("half") || path.contains("trash/")
    };
    assert!(
        !fixture.listing().iter().any(has_stray),
        "{:?}",
        fixture.listing()
    );
    let rootfs = Rootfs::of(fixture.store.mount("kept").unwrap());
    assert_eq!([rootfs.read("written"), rootfs.read("a")], ["w", "1"]);
}

#[test]
fn concurrent_loads_of_shared_layers_unpack_each_once() {
    let fixture = Fixture::new();
    let base = Layer::new().file("base", &"b".repeat(1 << 20)).finish();
    let threads: Vec<_> = (0..6)
        .map(|n| {
            let store = fixture.store.clone();
            let base = base.clone();
            std::thread::spawn(move || {
                let top = Layer::new().file("top", &(n % 3).to_string()).finish();
                let archive = plain_archive(&format!("app:{n}"), &[&base, &top]);
                store.load(archive.as_slice(), &LoadLimits::default()).unwrap();
                store.prepare(&format!("c{n}"), &format!("app:{n}")).unwrap();
                store.collect_garbage().unwrap();
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let usage = fixture.store.disk_usage().unwrap();
    assert_eq!((usage.images, usage.layers, usage.containers), (3, 4, 6));
    for n in 0..6 {
        let rootfs = Rootfs::of(fixture.store.mount(&format!("c{n}")).unwrap());
        assert_eq!(rootfs.read("top"), (n % 3).to_string());
        assert!(rootfs.has("base"));
    }
}

#[test]
fn a_tall_image_and_one_without_layers_mount() {
    let fixture = Fixture::new();
    let layers: Vec<Vec<u8>> = (0..150)
        .map(|n| Layer::new().file(&format!("f{n}"), "x").finish())
        .collect();
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    fixture.load(&plain_archive("tall:1", &layers));
    assert_eq!(fixture.rootfs("tall", "tall:1").names("").len(), 150);
    fixture.load(&plain_archive("empty:1", &[]));
    let rootfs = fixture.rootfs("empty", "empty:1");
    assert!(rootfs.names("").is_empty());
    fs::write(rootfs.path("written"), "x").unwrap();
    assert_eq!(rootfs.names(""), ["written"]);
}

#[test]
fn container_ids_and_double_preparation_are_refused() {
    let fixture = Fixture::new();
    fixture.load(&one_layer("app:1", Layer::new().file("a", "1")));
    fixture.store.prepare("c", "app:1").unwrap();
    assert_eq!(
        fixture.store.prepare("c", "app:1").unwrap_err().kind(),
        ErrorKind::Conflict
    );
    assert_eq!(
        fixture.store.prepare("d", "missing").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    for bad in ["../c", "a/b", "", ".."] {
        assert_eq!(
            fixture.store.prepare(bad, "app:1").unwrap_err().kind(),
            ErrorKind::Invalid,
            "{bad}"
        );
        assert_eq!(
            fixture.store.release(bad).unwrap_err().kind(),
            ErrorKind::Invalid,
            "{bad}"
        );
    }
}

#[test]
fn a_directory_that_cannot_carry_overlays_is_refused_with_the_remedy() {
    // /proc cannot hold files at all; an overlay over an overlay's file system cannot be an upper directory.
    let fixture = Fixture::new();
    fixture.load(&one_layer("app:1", Layer::new().file("a", "1")));
    let rootfs = fixture.rootfs("c", "app:1");
    let error = ImageStore::open(&rootfs.path("store"))
        .err()
        .expect("no overlay on an overlay");
    assert!(
        matches!(error, Error::UnfitFilesystem { .. }),
        "{}",
        error.full_message()
    );
    let message = error.full_message();
    assert!(
        message.contains("overlayfs") && message.contains("put the data directory on ext4"),
        "{message}"
    );
}
