use super::*;
use crate::tar_stream::TarStream;
use crate::unpack::{LayerWriter, open_directory};
use std::fs;
use std::path::Path;

/// An archive whose content is partly larger than a record.
fn archive(files: &[(&str, usize)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let content: Vec<u8> = (0..*bytes).map(|at| (at % 251) as u8).collect();
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, &content[..]).unwrap();
    }
    let mut bytes = archive.into_inner().unwrap();
    // Some writers fill the last record of a tape.
    bytes.resize(bytes.len().next_multiple_of(10_240), 0);
    bytes
}

fn unpack(archive: &[u8], place: &Path) -> Split {
    fs::create_dir(place.join("layer")).unwrap();
    let file = File::create(place.join("split")).unwrap();
    let split = Rc::new(RefCell::new(SplitWriter::new(file).unwrap()));
    let mut writer = LayerWriter::new(&place.join("layer"), &[])
        .unwrap()
        .with_split(split.clone());
    let mut stream = TarStream::new(SplitReader::new(archive, split.clone()), 100);
    writer.unpack(&mut stream).unwrap();
    stream.drain().unwrap();
    writer.finish().unwrap();
    Rc::into_inner(split).unwrap().into_inner().finish().unwrap()
}

fn joined(place: &Path) -> io::Result<JoinedArchive> {
    let layer = open_directory(&place.join("layer")).unwrap();
    JoinedArchive::new(File::open(place.join("split"))?, layer)
}

fn files() -> Vec<u8> {
    let long = "long/".repeat(40) + "name";
    archive(&[
        ("empty", 0),
        ("small", 7),
        ("d/.wh.gone", 3),
        (&long, 1000),
        ("large", 200_000),
        (".wh..wh.plnk", 90_000),
        ("last", 512),
    ])
}

#[test]
fn an_archive_is_made_again_from_every_byte_on() {
    let place = tempfile::tempdir().unwrap();
    let archive = files();
    let archive_bytes = archive.len() as u64;
    assert_eq!(unpack(&archive, place.path()), Split::Complete { archive_bytes });
    for from in [0, 1, 512, 5000, 50_000, 250_000, archive.len() - 1, archive.len()] {
        let mut joined = joined(place.path()).unwrap();
        joined.skip(from as u64).unwrap();
        let mut read = Vec::new();
        joined.read_to_end(&mut read).unwrap();
        assert!(read == archive[from..], "from {from}");
    }
    let beyond = joined(place.path()).unwrap().skip(archive_bytes + 1);
    assert_eq!(beyond.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    let kept = fs::metadata(place.path().join("split")).unwrap().len();
    assert!(kept < 3000, "{kept} bytes");
}

#[test]
fn an_archive_with_files_that_later_ones_replace_is_not_taken_for_complete() {
    for again in ["small", "d"] {
        let place = tempfile::tempdir().unwrap();
        let archive = archive(&[("small", 7), ("d/file", 7), (again, 8)]);
        assert_eq!(unpack(&archive, place.path()), Split::Incomplete, "{again}");
    }
}

#[test]
fn who_is_damaged_is_told() {
    let read = |place: &Path| {
        let mut joined = joined(place)?;
        let outcome = joined.read_to_end(&mut Vec::new());
        assert_eq!(outcome.is_err(), joined.is_layer_damaged(), "{outcome:?}");
        outcome
    };
    for damage in ["gone", "short", "long", "link"] {
        let place = tempfile::tempdir().unwrap();
        unpack(&files(), place.path());
        let file = place.path().join("layer/large");
        match damage {
            "gone" => fs::remove_file(&file).unwrap(),
            "short" => fs::write(&file, "short").unwrap(),
            "long" => fs::write(&file, vec![0; 200_001]).unwrap(),
            _ => {
                fs::rename(&file, place.path().join("layer/other")).unwrap();
                std::os::unix::fs::symlink("other", &file).unwrap();
            }
        }
        assert!(read(place.path()).is_err(), "{damage}");
    }
    let place = tempfile::tempdir().unwrap();
    unpack(&files(), place.path());
    let whole = fs::read(place.path().join("split")).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        fs::write(place.path().join("split"), &bytes).unwrap();
        let mut found = Vec::new();
        let Ok(mut joined) = joined(place.path()) else {
            continue;
        };
        // Its checksum tells, unless the byte says nothing.
        let read = joined.read_to_end(&mut found);
        assert!(read.is_err() || found == files(), "byte {at}");
    }
}
