use super::*;
use proptest::prelude::*;

fn entries(archive: &[u8]) -> Result<Vec<(TarEntry, Vec<u8>)>, ArchiveError> {
    let mut stream = TarStream::new(archive, 1000);
    let mut found = Vec::new();
    while let Some(entry) = stream.next_entry()? {
        let mut content = Vec::new();
        stream
            .read_to_end(&mut content)
            .map_err(ArchiveError::from_read)?;
        found.push((entry, content));
    }
    Ok(found)
}

fn builder() -> tar::Builder<Vec<u8>> {
    tar::Builder::new(Vec::new())
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o4755);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(1234);
    header
}

/// Appends a PAX header holding `records` in front of the next entry.
fn append_pax(builder: &mut tar::Builder<Vec<u8>>, records: &[u8]) {
    let mut pax = tar::Header::new_ustar();
    pax.set_entry_type(tar::EntryType::XHeader);
    pax.set_size(records.len() as u64);
    pax.set_path("pax").unwrap();
    pax.set_cksum();
    builder.append(&pax, records).unwrap();
}

fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let length = (1..)
        .find(|n: &usize| n.to_string().len() + rest.len() == *n)
        .unwrap();
    format!("{length}{rest}").into_bytes()
}

#[test]
fn empty_numeric_fields_are_zero_and_bad_ones_are_refused() {
    let with_owner = |owner: &[u8]| {
        let mut header = header(1);
        header.set_path("a").unwrap();
        let raw = header.as_old_mut();
        for field in [&mut raw.uid, &mut raw.gid, &mut raw.mode] {
            field.fill(b' ');
            field[..owner.len()].copy_from_slice(owner);
        }
        header.set_cksum();
        let mut archive = builder();
        archive.append(&header, &b"x"[..]).unwrap();
        entries(&archive.into_inner().unwrap())
    };
    for empty in [&b""[..], b"\0\0\0\0\0\0\0\0", b" \0"] {
        let (entry, content) = with_owner(empty).unwrap().remove(0);
        assert_eq!((entry.uid, entry.gid, entry.mode), (0, 0, 0), "{empty:?}");
        assert_eq!(content, b"x");
    }
    assert_eq!(with_owner(b"17\0").unwrap()[0].0.uid, 0o17);
    assert!(with_owner(b"9x").is_err());
}

#[test]
fn entries_come_with_their_metadata_and_content() {
    let mut archive = builder();
    let long = "d/".repeat(120) + "file";
    archive
        .append_data(&mut header(5), "a.txt", &b"hello"[..])
        .unwrap();
    archive.append_data(&mut header(0), &long, &b""[..]).unwrap();
    let mut link = header(0);
    link.set_entry_type(tar::EntryType::Symlink);
    archive.append_link(&mut link, "link", "/bin/busybox").unwrap();
    let found = entries(&archive.into_inner().unwrap()).unwrap();
    let (file, content) = &found[0];
    assert_eq!(
        (file.path.as_slice(), content.as_slice()),
        (&b"a.txt"[..], &b"hello"[..])
    );
    assert_eq!(
        (file.mode, file.uid, file.gid, file.kind),
        (0o4755, 7, 8, EntryKind::File)
    );
    assert_eq!(
        file.modified_at,
        ModifiedAt {
            seconds: 1234,
            nanoseconds: 0
        }
    );
    assert_eq!(found[1].0.path, long.as_bytes());
    assert_eq!(
        (found[2].0.kind, found[2].0.link.as_slice()),
        (EntryKind::Symlink, &b"/bin/busybox"[..])
    );
}

#[test]
fn pax_records_override_the_header() {
    let mut archive = builder();
    let records = [
        record("path", "from/pax"),
        record("size", "3"),
        record("uid", "100000"),
        record("mtime", "-1.25"),
        record("SCHILY.xattr.user.note", "a=b"),
        record("gid", ""),
    ]
    .concat();
    append_pax(&mut archive, &records);
    archive.append_data(&mut header(3), "short", &b"abc"[..]).unwrap();
    let found = entries(&archive.into_inner().unwrap()).unwrap();
    let entry = &found[0].0;
    assert_eq!(entry.path, b"from/pax");
    assert_eq!((entry.uid, entry.gid, entry.size), (100_000, 8, 3));
    assert_eq!(
        entry.modified_at,
        ModifiedAt {
            seconds: -2,
            nanoseconds: 750_000_000
        }
    );
    assert_eq!(entry.xattrs, [(b"user.note".to_vec(), b"a=b".to_vec())]);
}

#[test]
fn damaged_and_unbounded_archives_are_refused() {
    let mut archive = builder();
    archive
        .append_data(&mut header(2000), "a", &[1u8; 2000][..])
        .unwrap();
    let whole = archive.into_inner().unwrap();
    for length in [1, 511, 513, 1000, 2511] {
        assert!(
            matches!(entries(&whole[..length]), Err(ArchiveError::Truncated)),
            "{length}"
        );
    }
    let mut damaged = whole.clone();
    damaged[0] ^= 1;
    assert!(matches!(
        entries(&damaged),
        Err(ArchiveError::TarHeader { offset: 0, .. })
    ));

    let mut huge = tar::Header::new_gnu();
    huge.set_entry_type(tar::EntryType::GNULongName);
    huge.set_size(EXTENSION_BYTES_MAX + 1);
    huge.set_cksum();
    assert!(matches!(
        entries(huge.as_bytes()),
        Err(ArchiveError::Limit { .. })
    ));

    let mut extensions = builder();
    (0..EXTENSIONS_PER_ENTRY_MAX).for_each(|_| append_pax(&mut extensions, &record("comment", "x")));
    extensions.append_data(&mut header(0), "a", &b""[..]).unwrap();
    assert!(entries(&extensions.into_inner().unwrap()).is_err());

    let mut many = builder();
    (0..1001).for_each(|n| {
        many.append_data(&mut header(0), format!("f{n}"), &b""[..])
            .unwrap()
    });
    assert!(matches!(
        entries(&many.into_inner().unwrap()),
        Err(ArchiveError::Limit { .. })
    ));
}

#[test]
fn malformed_pax_records_are_refused() {
    let sparse = record("GNU.sparse.major", "1");
    let bad: [&[u8]; 9] = [
        b"0 a=b\n",
        b"6 a=b",
        b"99 a=b\n",
        b"x a=b\n",
        b"5 ab\n",
        b"-6 a=b\n",
        b"18446744073709551616 a=b\n",
        b"11 size=-1\n",
        &sparse,
    ];
    for records in bad {
        let mut archive = builder();
        append_pax(&mut archive, records);
        archive.append_data(&mut header(0), "a", &b""[..]).unwrap();
        let text = String::from_utf8_lossy(records).into_owned();
        assert!(entries(&archive.into_inner().unwrap()).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = entries(&bytes);
    }

    #[test]
    fn a_header_with_arbitrary_fields_never_panics(
        mut block in proptest::collection::vec(any::<u8>(), 512..=512),
        flag in proptest::sample::select(b"\x0001234567xgLKS".to_vec()),
        content in proptest::collection::vec(any::<u8>(), 0..1024),
    ) {
        block[156] = flag;
        let mut header = tar::Header::from_byte_slice(&block).clone();
        header.set_size(content.len() as u64);
        header.set_cksum();
        let archive = [header.as_bytes().as_slice(), &content].concat();
        let _ = entries(&archive);
    }
}

#[test]
fn the_padding_of_the_last_file_may_be_missing_but_none_of_its_content() {
    let mut archive = builder();
    let mut last = header(5);
    last.set_path("last").unwrap();
    last.set_cksum();
    archive.append(&last, &b"hello"[..]).unwrap();
    let whole = archive.into_inner().unwrap();
    // As umoci writes it: neither padding nor end.
    let found = entries(&whole[..BLOCK_BYTES + 5]).unwrap();
    assert_eq!((found.len(), found[0].1.as_slice()), (1, &b"hello"[..]));
    assert_eq!(entries(&whole[..BLOCK_BYTES + 200]).unwrap().len(), 1);
    assert!(matches!(
        entries(&whole[..BLOCK_BYTES + 4]),
        Err(ArchiveError::Truncated)
    ));
}

#[test]
fn names_without_end_are_refused() {
    let mut archive = builder();
    for _ in 0..3 {
        archive
            .append_data(&mut header(0), "n".repeat(4000), io::empty())
            .unwrap();
    }
    let archive = archive.into_inner().unwrap();
    let mut stream = TarStream::new(archive.as_slice(), 1000);
    stream.names_left = 2 * 4000;
    for _ in 0..2 {
        assert!(stream.next_entry().unwrap().is_some());
    }
    assert!(matches!(stream.next_entry(), Err(ArchiveError::Limit { .. })));
}
