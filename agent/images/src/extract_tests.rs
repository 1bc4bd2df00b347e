use super::*;
use crate::pack::{pack_directory, pack_file};
use crate::tar_writer::TarWriter;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// A destination `in` beside a directory `out` that must never change.
    fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        for name in ["in", "out"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join("out/kept"), "kept").unwrap();
        Place { directory }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn extract(&self, archive: &[u8], options: ExtractOptions) -> Result<()> {
        let destination = open(&self.at("in"));
        extract(
            destination.as_fd(),
            "/in",
            archive,
            &options,
            &Some,
            &LoadLimits::default(),
        )
    }

    fn untouched(&self) -> bool {
        fs::read_dir(self.at("out")).unwrap().count() == 1
            && fs::read_to_string(self.at("out/kept")).unwrap() == "kept"
    }
}

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, DIRECTORY_FLAGS, Mode::empty()).unwrap()
}

fn entry(kind: EntryKind, path: &str, link: &str) -> TarEntry {
    TarEntry {
        path: path.into(),
        link: link.into(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: 0,
        modified_at: ModifiedAt {
            seconds: 1_000_000,
            nanoseconds: 0,
        },
        device: (0, 0),
        xattrs: Vec::new(),
    }
}

/// An archive of entries; files hold their path.
fn archive(entries: &[TarEntry]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for entry in entries {
        if entry.kind == EntryKind::File {
            let content = entry.path.clone();
            let entry = TarEntry {
                size: content.len() as u64,
                ..entry.clone()
            };
            writer.file(&entry, content.as_slice(), &mut [0; 64]).unwrap();
        } else {
            writer.entry(entry).unwrap();
        }
    }
    writer.finish().unwrap()
}

fn file(path: &str) -> TarEntry {
    entry(EntryKind::File, path, "")
}

#[test]
fn a_packed_tree_comes_out_as_it_was() {
    let place = Place::new();
    let tree = place.at("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/file"), "content").unwrap();
    fs::set_permissions(tree.join("a/file"), PermissionsExt::from_mode(0o4711)).unwrap();
    std::os::unix::fs::chown(tree.join("a/file"), Some(7), Some(8)).unwrap();
    fs::set_permissions(tree.join("a/file"), PermissionsExt::from_mode(0o4711)).unwrap();
    fs::hard_link(tree.join("a/file"), tree.join("second")).unwrap();
    symlink("/etc/passwd", tree.join("a/b/link")).unwrap();
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    fs::write(tree.join("tool"), "").unwrap();
    rustix::fs::setxattr(
        tree.join("tool"),
        "security.capability",
        capability,
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let directory = open(&tree);
    rustix::fs::mknodat(&directory, "pipe", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    rustix::fs::mknodat(
        &directory,
        "null",
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    let mut packed = Vec::new();
    pack_directory(directory.as_fd(), Some(b"copy"), &|owner| owner, &mut packed).unwrap();
    place.extract(&packed, ExtractOptions::default()).unwrap();
    let copy = place.at("in/copy");
    let made = fs::metadata(copy.join("a/file")).unwrap();
    let given = fs::metadata(tree.join("a/file")).unwrap();
    assert_eq!(
        (made.mode(), made.uid(), made.gid(), made.mtime()),
        (given.mode(), 7, 8, given.mtime())
    );
    assert_eq!(made.ino(), fs::metadata(copy.join("second")).unwrap().ino());
    assert_eq!(
        fs::read_link(copy.join("a/b/link")).unwrap(),
        Path::new("/etc/passwd")
    );
    let mut value = [0; 64];
    let bytes = rustix::fs::getxattr(copy.join("tool"), "security.capability", &mut value[..]).unwrap();
    assert_eq!(&value[..bytes], capability);
    assert!(fs::metadata(copy.join("pipe")).unwrap().file_type().is_fifo());
    let null = fs::metadata(copy.join("null")).unwrap();
    let given = fs::metadata(tree.join("null")).unwrap();
    assert_eq!(
        (null.rdev(), null.mode()),
        (rustix::fs::makedev(1, 3), given.mode())
    );
    // The same tree packed again gives the same bytes.
    let mut again = Vec::new();
    pack_directory(open(&copy).as_fd(), Some(b"copy"), &|owner| owner, &mut again).unwrap();
    let names = |archive: &[u8]| {
        let mut stream = TarStream::new(archive, 100);
        let mut names = BTreeMap::new();
        while let Some(entry) = stream.next_entry().unwrap() {
            names.insert(entry.path.clone(), entry.kind);
        }
        format!("{names:?}")
    };
    assert_eq!(names(&again), names(&packed));
}

#[test]
fn names_follow_what_is_asked_for() {
    let place = Place::new();
    fs::write(place.at("in/file"), "x").unwrap();
    let names = |name: Option<&[u8]>| {
        let mut packed = Vec::new();
        pack_directory(open(&place.at("in")).as_fd(), name, &|owner| owner, &mut packed).unwrap();
        let mut stream = TarStream::new(packed.as_slice(), 10);
        let mut names = Vec::new();
        while let Some(entry) = stream.next_entry().unwrap() {
            names.push(String::from_utf8(entry.path).unwrap());
        }
        names
    };
    assert_eq!(names(None), ["file"]);
    assert_eq!(names(Some(b".")), ["./", "./file"]);
    assert_eq!(names(Some(b"/")), ["/", "/file"]);
    assert_eq!(names(Some(b"dir")), ["dir/", "dir/file"]);
    let mut packed = Vec::new();
    pack_file(
        open(&place.at("in")).as_fd(),
        b"file",
        b"other",
        &|owner| owner,
        &mut packed,
    )
    .unwrap();
    assert_eq!(
        TarStream::new(packed.as_slice(), 10)
            .next_entry()
            .unwrap()
            .unwrap()
            .path,
        b"other"
    );
}

#[test]
fn nothing_leads_out_of_the_destination() {
    let place = Place::new();
    symlink("../out", place.at("in/up")).unwrap();
    symlink(place.at("out"), place.at("in/absolute")).unwrap();
    let symlink_entry = |path: &str, to: &str| entry(EntryKind::Symlink, path, to);
    let refused: [&[TarEntry]; 8] = [
        &[file("../out/x")],
        &[file("a/../../out/x")],
        &[file("up/x")],
        &[file("absolute/x")],
        &[symlink_entry("new", "../out"), file("new/x")],
        &[symlink_entry("new", "/"), file("new/tmp/x")],
        &[entry(EntryKind::HardLink, "x", "../out/kept")],
        &[entry(EntryKind::HardLink, "x", "up/kept")],
    ];
    for entries in refused {
        assert!(
            place
                .extract(&archive(entries), ExtractOptions::default())
                .is_err(),
            "{entries:?}"
        );
        assert!(place.untouched(), "{entries:?}");
    }
    // What stands at a name is replaced, never followed; absolute names are below the destination.
    place
        .extract(
            &archive(&[file("up"), file("/absolute"), file("b/../c/d")]),
            ExtractOptions::default(),
        )
        .unwrap();
    assert!(place.untouched());
    assert_eq!(fs::read_to_string(place.at("in/up")).unwrap(), "up");
    assert_eq!(fs::read_to_string(place.at("in/absolute")).unwrap(), "/absolute");
    assert!(place.at("in/c/d").is_file());
}

#[test]
fn links_inside_of_the_destination_are_followed() {
    let place = Place::new();
    fs::create_dir(place.at("in/real")).unwrap();
    symlink("real", place.at("in/alias")).unwrap();
    place
        .extract(&archive(&[file("alias/file")]), ExtractOptions::default())
        .unwrap();
    assert!(place.at("in/real/file").is_file());
}

#[test]
fn kinds_are_kept_where_asked_for() {
    let place = Place::new();
    fs::create_dir(place.at("in/directory")).unwrap();
    fs::write(place.at("in/file"), "").unwrap();
    let keep = ExtractOptions {
        keep_kinds: true,
        ..ExtractOptions::default()
    };
    let error = place.extract(&archive(&[file("directory")]), keep).unwrap_err();
    assert_eq!(
        error.full_message(),
        "invalid image: cannot overwrite directory \"directory\" with non-directory \"/in\""
    );
    assert!(
        place
            .extract(&archive(&[entry(EntryKind::Directory, "file/", "")]), keep)
            .is_err()
    );
    place
        .extract(
            &archive(&[file("directory"), file("file")]),
            ExtractOptions::default(),
        )
        .unwrap();
    assert!(place.at("in/directory").is_file());
}

#[test]
fn an_owner_can_be_given_and_a_cut_archive_leaves_no_half_file() {
    let place = Place::new();
    let whole = archive(&[file("a/first"), file("second")]);
    let owner = Some(Owner { uid: 33, gid: 44 });
    place
        .extract(
            &whole,
            ExtractOptions {
                owner,
                ..ExtractOptions::default()
            },
        )
        .unwrap();
    let first = fs::metadata(place.at("in/a/first")).unwrap();
    assert_eq!((first.uid(), first.gid()), (33, 44));
    for bytes in (0..whole.len()).step_by(17) {
        let fresh = Place::new();
        let cut = fresh.extract(&whole[..bytes], ExtractOptions::default());
        for name in ["a/first", "second"] {
            let content = fs::read_to_string(fresh.at("in").join(name)).unwrap_or_else(|_| name.to_owned());
            assert_eq!(content, name, "{bytes} bytes: {cut:?}");
        }
    }
}

/// A process in the container swaps a directory for a link to the outside while an archive is extracted and packed.
#[test]
fn a_race_with_symbolic_links_reaches_nothing_outside() {
    let place = Place::new();
    fs::create_dir(place.at("in/dir")).unwrap();
    symlink("../out", place.at("link")).unwrap();
    let stop = AtomicBool::new(false);
    let mut entries = Vec::new();
    for number in 0..50 {
        entries.push(file(&format!("dir/sub/file-{number}")));
        entries.push(entry(
            EntryKind::HardLink,
            &format!("dir/sub/link-{number}"),
            "dir/kept",
        ));
        entries.push(entry(EntryKind::Directory, &format!("dir/new-{number}/"), ""));
    }
    let archive = archive(&entries);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let _ = rustix::fs::renameat_with(CWD, place.at("link"), CWD, place.at("in/dir"), flags);
            }
        });
        let end = Instant::now() + Duration::from_millis(1500);
        let mut read = Vec::new();
        while Instant::now() < end {
            // Whether it succeeds depends on the moment.
            let _ = place.extract(&archive, ExtractOptions::default());
            read.clear();
            let _ = pack_directory(
                open(&place.at("in")).as_fd(),
                Some(b"x"),
                &|owner| owner,
                &mut read,
            );
            assert!(!contains_file(&read, b"kept"), "a file of the outside was read");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(place.untouched());
}

fn contains_file(archive: &[u8], name: &[u8]) -> bool {
    let mut stream = TarStream::new(archive, 100_000);
    while let Ok(Some(entry)) = stream.next_entry() {
        if entry.kind == EntryKind::File && entry.path.ends_with(name) {
            return true;
        }
    }
    false
}
