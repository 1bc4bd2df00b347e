//! A tar writer whose output depends on the entries alone: ustar headers, with PAX records for what these cannot say.

use std::io::{self, Read, Write};

use crate::tar_stream::{EntryKind, TarEntry};

const BLOCK_BYTES: u64 = 512;
/// Zero blocks that end an archive.
const END_BLOCKS: usize = 2;
/// Largest number in an octal field of eight bytes: an owner, a device number.
const SMALL_FIELD_MAX: u64 = 0o7_777_777;
/// Largest number in an octal field of twelve bytes: a size, a time.
const LARGE_FIELD_MAX: u64 = 0o77_777_777_777;
/// Bytes of the name and link fields.
const NAME_FIELD_BYTES: usize = 100;
/// Name of the entries that hold PAX records; readers ignore it.
const RECORDS_NAME: &[u8] = b"PaxHeaders.0";

/// Writes entries one after the other.
pub(crate) struct TarWriter<W> {
    output: W,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(output: W) -> TarWriter<W> {
        TarWriter { output }
    }

    /// Writes an entry without content. Modification times are cut to seconds, as Docker writes them.
    pub(crate) fn entry(&mut self, entry: &TarEntry) -> io::Result<()> {
        let path = archived_path(entry);
        let records = records(entry, &path);
        if !records.is_empty() {
            let mut header = tar::Header::new_ustar();
            fill(&mut header.as_old_mut().name, RECORDS_NAME);
            header.as_old_mut().linkflag = [b'x'];
            header.set_size(records.len() as u64);
            header.set_mode(0);
            header.set_mtime(0);
            header.set_cksum();
            self.output.write_all(header.as_bytes())?;
            self.output.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.output.write_all(header(entry, &path)?.as_bytes())
    }

    /// Writes a file of exactly `entry.size` bytes. A source that ends early is filled up with zeros: a file that
    /// shrinks while it is read must not shift what follows it.
    pub(crate) fn file(&mut self, entry: &TarEntry, content: impl Read, buffer: &mut [u8]) -> io::Result<()> {
        self.entry(entry)?;
        let mut content = content.take(entry.size);
        let mut left = entry.size;
        loop {
            let read = match content.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if read == 0 {
                break;
            }
            self.output.write_all(&buffer[..read])?;
            left -= read as u64;
        }
        io::copy(&mut io::repeat(0).take(left), &mut self.output)?;
        self.pad(entry.size)
    }

    /// Ends the archive and returns what it was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&[0; END_BLOCKS * BLOCK_BYTES as usize])?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn pad(&mut self, content_bytes: u64) -> io::Result<()> {
        let padding = content_bytes.next_multiple_of(BLOCK_BYTES) - content_bytes;
        self.output
            .write_all(&[0; BLOCK_BYTES as usize][..padding as usize])
    }
}

/// Directories end with a slash.
fn archived_path(entry: &TarEntry) -> Vec<u8> {
    let mut path = entry.path.clone();
    if entry.kind == EntryKind::Directory && path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path
}

fn records(entry: &TarEntry, path: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    let text = |number: u64| number.to_string().into_bytes();
    if !fits(path) {
        push_record(&mut records, b"path", path);
    }
    if !fits(&entry.link) {
        push_record(&mut records, b"linkpath", &entry.link);
    }
    if entry.size > LARGE_FIELD_MAX {
        push_record(&mut records, b"size", &text(entry.size));
    }
    for (key, id) in [(&b"uid"[..], entry.uid), (b"gid", entry.gid)] {
        if u64::from(id) > SMALL_FIELD_MAX {
            push_record(&mut records, key, &text(id.into()));
        }
    }
    let seconds = entry.modified_at.seconds;
    if u64::try_from(seconds).is_ok_and(|seconds| seconds <= LARGE_FIELD_MAX) {
        // It fits into the header.
    } else {
        push_record(&mut records, b"mtime", seconds.to_string().as_bytes());
    }
    for (name, value) in &entry.xattrs {
        push_record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    records
}

/// Whether a header can say it: short, and without bytes that readers might take for another encoding.
fn fits(path: &[u8]) -> bool {
    path.len() <= NAME_FIELD_BYTES && path.is_ascii()
}

/// Appends `length key=value\n`, where the length counts its own digits.
fn push_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn header(entry: &TarEntry, path: &[u8]) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    let old = header.as_old_mut();
    fill(&mut old.name, path);
    fill(&mut old.linkname, &entry.link);
    old.linkflag = [match entry.kind {
        EntryKind::File => b'0',
        EntryKind::HardLink => b'1',
        EntryKind::Symlink => b'2',
        EntryKind::CharDevice => b'3',
        EntryKind::BlockDevice => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    }];
    let small = |id: u32| {
        Some(u64::from(id))
            .filter(|id| *id <= SMALL_FIELD_MAX)
            .unwrap_or(0)
    };
    header.set_mode(entry.mode);
    header.set_uid(small(entry.uid));
    header.set_gid(small(entry.gid));
    header.set_size(entry.size.min(LARGE_FIELD_MAX));
    let seconds = u64::try_from(entry.modified_at.seconds).unwrap_or(0);
    header.set_mtime(
        Some(seconds)
            .filter(|seconds| *seconds <= LARGE_FIELD_MAX)
            .unwrap_or(0),
    );
    if matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
        header.set_device_major(entry.device.0)?;
        header.set_device_minor(entry.device.1)?;
    }
    header.set_cksum();
    Ok(header)
}

fn fill(field: &mut [u8], text: &[u8]) {
    let bytes = text.len().min(field.len());
    field[..bytes].copy_from_slice(&text[..bytes]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar_stream::{ModifiedAt, TarStream};

    fn entry(path: &[u8], kind: EntryKind) -> TarEntry {
        TarEntry {
            path: path.to_vec(),
            link: Vec::new(),
            kind,
            mode: 0o4755,
            uid: 7,
            gid: 8,
            size: 0,
            modified_at: ModifiedAt {
                seconds: 1_700_000_000,
                nanoseconds: 0,
            },
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }

    fn long(byte: u8) -> Vec<u8> {
        vec![byte; 180]
    }

    #[test]
    fn what_is_written_reads_back() {
        let entries = [
            entry(b"dir/", EntryKind::Directory),
            entry(&long(b'p'), EntryKind::File),
            TarEntry {
                link: long(b'l'),
                ..entry(b"link", EntryKind::Symlink)
            },
            TarEntry {
                link: b"dir/file".to_vec(),
                ..entry("\u{fc}".as_bytes(), EntryKind::HardLink)
            },
            TarEntry {
                device: (5, 1),
                uid: 3_000_000_000,
                gid: u32::MAX - 1,
                ..entry(b"device", EntryKind::CharDevice)
            },
            TarEntry {
                modified_at: ModifiedAt {
                    seconds: -5,
                    nanoseconds: 0,
                },
                xattrs: vec![(b"security.capability".to_vec(), vec![0, 1, 10, 255])],
                size: 700,
                ..entry(b"file", EntryKind::File)
            },
            entry(b"pipe", EntryKind::Fifo),
        ];
        let mut writer = TarWriter::new(Vec::new());
        for entry in &entries {
            match entry.size {
                0 => writer.entry(entry).unwrap(),
                // The source is shorter than announced.
                _ => writer.file(entry, &b"content"[..], &mut [0; 64]).unwrap(),
            }
        }
        let archive = writer.finish().unwrap();
        assert_eq!(archive.len() % 512, 0);
        let mut stream = TarStream::new(archive.as_slice(), 100);
        for entry in &entries {
            let read = stream.next_entry().unwrap().unwrap();
            assert_eq!(format!("{read:?}"), format!("{entry:?}"));
            if entry.size > 0 {
                let mut content = Vec::new();
                stream.read_to_end(&mut content).unwrap();
                assert!(content.starts_with(b"content\0") && content.len() == 700);
            }
        }
        assert!(stream.next_entry().unwrap().is_none());
    }

    #[test]
    fn the_length_of_a_record_counts_itself() {
        for value_bytes in 0..1200 {
            let mut records = Vec::new();
            push_record(&mut records, b"path", &vec![b'x'; value_bytes]);
            let text = String::from_utf8(records).unwrap();
            let length: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(length, text.len());
        }
    }
}
