//! Archives that must be refused, with a clear error and nothing left behind.

mod support;

use muster_images::{Digest, ErrorKind, ImageStore, LoadLimits};
use proptest::prelude::*;
use serde_json::json;
use support::*;
use tar::EntryType;

fn refuse_layer(layer: Layer) -> String {
    let layer = layer.finish();
    Fixture::new().refuse(&plain_archive("bad:1", &[&layer]), &LoadLimits::default())
}

#[test]
fn layer_entries_that_lead_out_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let fifo = Layer::header(EntryType::Fifo, 0o644, 0);
    let table = [
        (Layer::new().file("../escape", "x"), "\"..\" leads out"),
        (Layer::new().file("a/../../escape", "x"), "\"..\" leads out"),
        (Layer::new().file("/etc/passwd", "x"), "absolute path"),
        (Layer::new().directory("..", 0o755), "\"..\" leads out"),
        (
            Layer::new().symlink("out", target).file("out/escape", "x"),
            "not a directory of this layer",
        ),
        (
            Layer::new().symlink("out", "..").file("out/escape", "x"),
            "leads out of the image",
        ),
        (
            Layer::new().symlink("a/out", "../../../etc"),
            "leads out of the image",
        ),
        (
            Layer::new()
                .symlink("out", target)
                .directory("out/deep/dir", 0o755),
            "not a directory of this layer",
        ),
        (
            Layer::new().symlink("out", target).symlink("out/x", "y"),
            "not a directory of this layer",
        ),
        (Layer::new().hard_link("passwd", "/etc/passwd"), "absolute path"),
        (
            Layer::new().hard_link("passwd", "../../etc/passwd"),
            "\"..\" leads out",
        ),
        (
            Layer::new()
                .symlink("out", "/etc")
                .hard_link("passwd", "out/passwd"),
            "not in this layer",
        ),
        (Layer::new().hard_link("a", "missing"), "not in this layer"),
        (
            Layer::new().directory("d", 0o755).hard_link("a", "d"),
            "hard link to a directory",
        ),
        (Layer::new().file(".wh...", ""), "a whiteout of nothing"),
        (Layer::new().file(".wh.", ""), "a whiteout of nothing"),
        (
            Layer::new().symlink("out", target).file("out/.wh.kept", ""),
            "not a directory of this layer",
        ),
        (
            Layer::new().symlink("out", target).file("out/.wh..wh..opq", ""),
            "not a directory of this layer",
        ),
        (
            Layer::new().file("f", "x").file("f/below", "x"),
            "not a directory of this layer",
        ),
        (
            Layer::new().raw(fifo, ".", "", b""),
            "root of the image is not a directory",
        ),
        (
            Layer::new().pax(&[("path", b"../../escape")]).file("x", "x"),
            "\"..\" leads out",
        ),
        (
            Layer::new()
                .pax(&[("linkpath", b"/etc/passwd")])
                .hard_link("x", "x"),
            "absolute path",
        ),
        (
            Layer::new().raw(Layer::header(EntryType::new(b'V'), 0, 0), "v", "", b""),
            "unknown entry type",
        ),
        (
            Layer::new().raw(Layer::header(EntryType::GNUSparse, 0, 0), "s", "", b""),
            "sparse",
        ),
    ];
    std::fs::write(outside.path().join("kept"), "x").unwrap();
    for (index, (layer, expected)) in table.into_iter().enumerate() {
        let message = refuse_layer(layer);
        assert!(
            message.contains(expected),
            "entry {index} wants {expected:?}: {message}"
        );
    }
    let left: Vec<_> = std::fs::read_dir(outside.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "something was written outside");
}

#[test]
fn wrong_digests_are_refused() {
    let fixture = Fixture::new();
    let limits = LoadLimits::default();
    let (layer, other) = (
        Layer::new().file("a", "1").finish(),
        Layer::new().file("a", "2").finish(),
    );
    // The layer is not the one that the configuration names.
    for packed in [other.clone(), gzip(&other), zstd(&other)] {
        let message = fixture.refuse(&docker_archive("bad:1", &[&layer], &[&packed]), &limits);
        assert!(message.contains("has digest"), "{message}");
    }
    // The configuration is not the one that its name says.
    let name = format!("{}.json", Digest::of(b"something else").hex());
    let manifest = json!([{"Config": name, "Layers": ["l.tar"]}]).to_string();
    let config = config(&[&layer]);
    let wrong = archive(&[
        ("manifest.json", manifest.as_bytes()),
        (&name, &config),
        ("l.tar", &layer),
    ]);
    assert!(fixture.refuse(&wrong, &limits).contains("has digest"));
    // An OCI blob whose content is not its name, for each blob.
    for index in 0..3 {
        let mut layout = OciLayout::default();
        let entry = layout.image(&[&layer], &[&layer]);
        let last = layout.files[index].1.len() - 1;
        layout.files[index].1[last] ^= 1;
        let message = fixture.refuse(&layout.finish(vec![entry]), &limits);
        assert!(
            message.contains("has digest") || message.contains("is not valid"),
            "{index}: {message}"
        );
    }
    // A descriptor with the wrong size.
    let mut layout = OciLayout::default();
    let mut entry = layout.image(&[&layer], &[&layer]);
    entry["size"] = json!(1);
    assert!(
        fixture
            .refuse(&layout.finish(vec![entry]), &limits)
            .contains("expected 1")
    );
}

#[test]
fn truncated_archives_are_refused() {
    let fixture = Fixture::new();
    let limits = LoadLimits::default();
    let content = Layer::new().file("a", &"content ".repeat(5000)).finish();
    let packed = gzip(&content);
    for length in [packed.len() - 1, packed.len() / 2, 12] {
        let message = fixture.refuse(
            &docker_archive("bad:1", &[&content], &[&packed[..length]]),
            &limits,
        );
        assert!(message.contains("truncated"), "{length}: {message}");
    }
    let packed = zstd(&content);
    let message = fixture.refuse(
        &docker_archive("bad:1", &[&content], &[&packed[..packed.len() / 2]]),
        &limits,
    );
    assert!(message.contains("truncated"), "{message}");
    let whole = plain_archive("bad:1", &[&content]);
    let message = fixture.refuse(&whole[..whole.len() / 2], &limits);
    assert!(message.contains("truncated"), "{message}");
    let outer = gzip(&whole);
    let message = fixture.refuse(&outer[..outer.len() - 4], &limits);
    assert!(message.contains("truncated"), "{message}");
}

#[test]
fn bombs_and_excesses_are_refused() {
    let fixture = Fixture::new();
    let zeros = Layer::new().file("zeros", &"\0".repeat(16 << 20)).finish();
    let strict = LoadLimits {
        expansion_free_bytes: 1 << 20,
        ..LoadLimits::default()
    };
    for packed in [gzip(&zeros), zstd(&zeros)] {
        let message = fixture.refuse(&docker_archive("bomb:1", &[&zeros], &[&packed]), &strict);
        assert!(message.contains("decompression bomb"), "{message}");
    }
    let outer = gzip(&plain_archive("bomb:1", &[&zeros]));
    assert!(fixture.refuse(&outer, &strict).contains("decompression bomb"));
    let small = LoadLimits {
        unpacked_bytes_max: 1 << 20,
        ..LoadLimits::default()
    };
    let packed = gzip(&zeros);
    let message = fixture.refuse(&docker_archive("bomb:1", &[&zeros], &[&packed]), &small);
    assert!(message.contains("unpacked size"), "{message}");
    let small = LoadLimits {
        archive_bytes_max: 1 << 20,
        ..LoadLimits::default()
    };
    assert!(
        fixture
            .refuse(&plain_archive("bomb:1", &[&zeros]), &small)
            .contains("limit of 1048576")
    );
    let many = (0..40)
        .fold(Layer::new(), |layer, n| layer.file(&format!("f{n}"), ""))
        .finish();
    let few = LoadLimits {
        layer_entries_max: 39,
        ..LoadLimits::default()
    };
    assert!(
        fixture
            .refuse(&plain_archive("many:1", &[&many]), &few)
            .contains("number of entries")
    );
    let layers: Vec<&[u8]> = vec![&many; 501];
    let names = vec!["l.tar"; 501];
    let config = config(&layers);
    let manifest = json!([{"Config": "c.json", "Layers": names}]).to_string();
    let deep = archive(&[
        ("manifest.json", manifest.as_bytes()),
        ("c.json", &config),
        ("l.tar", &many),
    ]);
    assert!(
        fixture
            .refuse(&deep, &LoadLimits::default())
            .contains("number of layers")
    );
}

#[test]
fn malformed_outer_archives_are_refused() {
    let fixture = Fixture::new();
    let limits = LoadLimits::default();
    let layer = Layer::new().file("a", "1").finish();
    let config = config(&[&layer]);
    let manifest = json!([{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l.tar"]}]).to_string();
    let files: [(&str, &[u8]); 3] = [
        ("manifest.json", manifest.as_bytes()),
        ("c.json", &config),
        ("l.tar", &layer),
    ];
    fixture.load(&archive(&files));

    let duplicate = archive(&[files[0], files[1], files[2], files[1]]);
    assert!(fixture.refuse(&duplicate, &limits).contains("appears twice"));
    assert!(fixture.refuse(&archive(&files[..2]), &limits).contains("missing"));
    assert!(
        fixture
            .refuse(&archive(&[("other", b"x")]), &limits)
            .contains("neither manifest.json nor index.json")
    );
    assert!(
        fixture
            .refuse(b"", &limits)
            .contains("neither manifest.json nor index.json")
    );
    assert!(
        fixture
            .refuse(&[b'x'; 600], &limits)
            .contains("not a tar archive")
    );
    assert!(
        fixture
            .refuse(b"\xfd7zXZ\0 and more", &limits)
            .contains("xz compression is not supported")
    );
    let hostile = [
        ("[]]", "is not valid"),
        (r#"[{"Config":"../../etc/passwd","Layers":[]}]"#, "leads out"),
        (r#"[{"Config":"/etc/passwd","Layers":[]}]"#, "absolute path"),
        (
            r#"[{"Config":"c.json","Layers":["../../../etc/shadow"]}]"#,
            "leads out",
        ),
        (r#"[{"Config":"c.json","Layers":[]}]"#, "1 diff ids for 0 layers"),
        (
            r#"[{"Config":"c.json","Layers":["l.tar"],"RepoTags":["UPPER"]}]"#,
            "must be lowercase",
        ),
        (r#"[{"Config":"l.tar","Layers":["l.tar"]}]"#, "is not valid"),
    ];
    for (manifest, expected) in hostile {
        let message = fixture.refuse(
            &archive(&[("manifest.json", manifest.as_bytes()), files[1], files[2]]),
            &limits,
        );
        assert!(message.contains(expected), "{manifest}: {message}");
    }
    let links = [
        Layer::new().symlink("manifest.json", "/etc/passwd"),
        Layer::new().symlink("manifest.json", "../../etc/passwd"),
        Layer::new()
            .symlink("manifest.json", "loop")
            .symlink("loop", "manifest.json"),
        Layer::new().file("../manifest.json", "[]"),
        Layer::new().device(EntryType::Char, "manifest.json", (1, 5)),
    ];
    for links in links {
        fixture.refuse(&links.finish(), &limits);
    }
    let windows = String::from_utf8(config.clone())
        .unwrap()
        .replace("\"linux\"", "\"windows\"");
    let foreign = archive(&[files[0], ("c.json", windows.as_bytes()), files[2]]);
    assert!(fixture.refuse(&foreign, &limits).contains("made for windows"));
}

#[test]
fn one_bad_image_keeps_the_whole_archive_out() {
    let fixture = Fixture::new();
    let (good, bad) = (
        Layer::new().file("a", "1").finish(),
        Layer::new().file("../a", "1").finish(),
    );
    let (good_config, bad_config) = (config(&[&good]), config(&[&good, &bad]));
    let manifest = json!([
        {"Config": "good.json", "RepoTags": ["good:1"], "Layers": ["good.tar"]},
        {"Config": "bad.json", "RepoTags": ["bad:1"], "Layers": ["good.tar", "bad.tar"]},
    ]);
    let manifest = manifest.to_string();
    let files: [(&str, &[u8]); 5] = [
        ("manifest.json", manifest.as_bytes()),
        ("good.json", &good_config),
        ("bad.json", &bad_config),
        ("good.tar", &good),
        ("bad.tar", &bad),
    ];
    fixture.refuse(&archive(&files), &LoadLimits::default());
    assert!(fixture.store.list().unwrap().is_empty());
    assert_eq!(fixture.store.disk_usage().unwrap().layers, 0);
}

/// A small file system of its own, unmounted at the end also after a failure.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(megabytes: u64) -> SmallDisk {
        let place = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={megabytes}m,mode=0700")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("small", place.path(), "tmpfs", flags, options.as_c_str()).unwrap();
        SmallDisk(place)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_is_reported_and_corrupts_nothing() {
    let disk = SmallDisk::new(14);
    let root = disk.0.path().join("images");
    let store = ImageStore::open(&root).unwrap();
    let small = Layer::new().file("small", "1").finish();
    store
        .load(
            plain_archive("small:1", &[&small]).as_slice(),
            &LoadLimits::default(),
        )
        .unwrap();
    // Of the first not even the blob fits, of the second its unpacked form does not.
    let large = Layer::new()
        .file("large", &"0123456789abcdef".repeat(1 << 20))
        .finish();
    let packed = gzip(&large);
    for archive in [
        plain_archive("large:1", &[&large]),
        docker_archive("large:1", &[&large], &[&packed]),
    ] {
        let error = store
            .load(archive.as_slice(), &LoadLimits::default())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{}", error.full_message());
    }
    assert_eq!(store.disk_usage().unwrap().layers, 1);
    assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    drop(store);
    let store = ImageStore::open(&root).unwrap();
    store.prepare("c", "small:1").unwrap();
    assert_eq!(Rootfs::of(store.mount("c").unwrap()).read("small"), "1");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(48)))]

    /// Damage anywhere is refused or harmless, and never leaves anything unfinished.
    #[test]
    fn damaged_archives_never_panic_and_leave_nothing_unfinished(
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        packing in 0..3usize,
    ) {
        let layer = Layer::new().directory("d", 0o755).file("d/f", "content").symlink("l", "d/f").finish();
        let packed = match packing { 0 => layer.clone(), 1 => gzip(&layer), _ => zstd(&layer) };
        let mut archive = docker_archive("a:1", &[&layer], &[&packed]);
        for (place, value) in damage {
            let place = place.index(archive.len());
            archive[place] = value;
        }
        let fixture = Fixture::new();
        let loaded = fixture.store.load(archive.as_slice(), &LoadLimits::default());
        prop_assert_eq!(std::fs::read_dir(fixture.place.path().join("tmp")).unwrap().count(), 0);
        let usage = fixture.store.disk_usage().unwrap();
        prop_assert_eq!((usage.images, usage.layers), if loaded.is_ok() { (1, 1) } else { (0, 0) });
    }
}
