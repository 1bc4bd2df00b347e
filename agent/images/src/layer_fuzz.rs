//! Layers and contexts of any entries: nothing outside is touched, what is unpacked is what the check of layers expects,
//! and archives are made again as they were.

use std::cell::RefCell;
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;

use proptest::prelude::*;
use proptest::sample::select;

use crate::extract::{ExtractOptions, extract};
use crate::layer_check::Outcome;
use crate::limits::LoadLimits;
use crate::tar_split::{JoinedArchive, Split, SplitReader, SplitWriter};
use crate::tar_stream::{EntryKind, ModifiedAt, TarEntry, TarStream};
use crate::tar_writer::TarWriter;
use crate::unpack::{LayerWriter, open_directory};

/// Names that meet often, and those that mean something.
const NAMES: [&str; 12] = [
    "a",
    "b",
    "c",
    "a",
    "b",
    ".wh.a",
    ".wh.b",
    ".wh..wh..opq",
    ".wh..wh.plnk",
    ".wh.",
    "..",
    ".",
];

fn path() -> impl Strategy<Value = Vec<u8>> {
    let names = prop::collection::vec(select(&NAMES[..]), 1..4);
    (
        select(vec!["", "", "", "", "/", "./"]),
        names,
        select(vec!["", "", "/"]),
    )
        .prop_map(|(before, names, after)| format!("{before}{}{after}", names.join("/")).into_bytes())
}

fn entry() -> impl Strategy<Value = (TarEntry, Vec<u8>)> {
    let kinds = vec![
        EntryKind::File,
        EntryKind::File,
        EntryKind::Directory,
        EntryKind::HardLink,
        EntryKind::Symlink,
        EntryKind::CharDevice,
        EntryKind::Fifo,
    ];
    let link = prop_oneof![
        path(),
        select(vec![b"../outside".to_vec(), b"/".to_vec(), Vec::new()])
    ];
    let content = prop::collection::vec(any::<u8>(), 0..20);
    (path(), link, select(kinds), 0..4_u32, 0..3_u32, content).prop_map(
        |(path, link, kind, owner, minor, content)| {
            let content = if kind == EntryKind::File {
                content
            } else {
                Vec::new()
            };
            let entry = TarEntry {
                path,
                link,
                kind,
                mode: 0o700 + owner,
                uid: owner,
                gid: owner,
                size: content.len() as u64,
                modified_at: ModifiedAt::default(),
                device: (minor, minor),
                xattrs: Vec::new(),
            };
            (entry, content)
        },
    )
}

fn archive(entries: &[(TarEntry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (entry, content) in entries {
        match entry.kind {
            EntryKind::File => writer.file(entry, content.as_slice(), &mut [0; 64]).unwrap(),
            _ => writer.entry(entry).unwrap(),
        }
    }
    writer.finish().unwrap()
}

/// A directory, and beside it one that nothing may reach.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("inside")).unwrap();
    fs::create_dir(place.path().join("outside")).unwrap();
    fs::write(place.path().join("outside/kept"), "kept").unwrap();
    place
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn is_untouched(place: &Path) -> bool {
    names(place) == ["inside", "outside"]
        && names(&place.join("outside")) == ["kept"]
        && fs::read_to_string(place.join("outside/kept")).unwrap() == "kept"
}

proptest! {
    #[test]
    fn layers_of_any_entries_stay_inside_and_are_checked_as_unpacked(
        entries in prop::collection::vec(entry(), 1..12),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut archive = archive(&entries);
        if let Some((at, value)) = damage {
            let at = at.index(archive.len());
            archive[at] = value;
        }
        let place = place();
        let inside = place.path().join("inside");
        let written = tempfile::NamedTempFile::new().unwrap();
        let split = Rc::new(RefCell::new(SplitWriter::new(written.reopen().unwrap()).unwrap()));
        let mut writer = LayerWriter::new(&inside, &[]).unwrap().with_split(split.clone());
        let mut stream = TarStream::new(SplitReader::new(archive.as_slice(), split.clone()), 100);
        let unpacked = writer
            .unpack(&mut stream)
            .and_then(|()| stream.drain().map(drop).map_err(Into::into))
            .and_then(|()| writer.finish().map(drop));
        prop_assert!(is_untouched(place.path()));
        if unpacked.is_ok() {
            let split = Rc::into_inner(split).unwrap().into_inner().finish().unwrap();
            if let Split::Complete { archive_bytes } = split {
                let layer = open_directory(&inside).unwrap();
                let mut again = Vec::new();
                let mut joined = JoinedArchive::new(written.reopen().unwrap(), layer).unwrap();
                joined.read_to_end(&mut again).unwrap();
                prop_assert_eq!(archive_bytes, archive.len() as u64);
                prop_assert!(again == archive);
            }
            let outcome = Outcome::of(&mut TarStream::new(archive.as_slice(), 100)).unwrap();
            let difference = outcome.first_difference(&open_directory(&inside).unwrap()).unwrap();
            prop_assert_eq!(difference.map(|path| String::from_utf8_lossy(&path).into_owned()), None);
        }
    }

    #[test]
    fn contexts_of_any_entries_stay_inside(
        entries in prop::collection::vec(entry(), 1..12),
        keep_kinds in any::<bool>(),
    ) {
        let place = place();
        let inside = open_directory(&place.path().join("inside")).unwrap();
        let options = ExtractOptions { keep_kinds, owner: None };
        let archive = archive(&entries);
        let _ = extract(inside.as_fd(), "/", archive.as_slice(), &options, &Some, &LoadLimits::default());
        prop_assert!(is_untouched(place.path()));
    }
}
