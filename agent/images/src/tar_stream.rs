//! A tar reader for hostile archives: ustar, GNU long names and PAX records, in bounded memory.
//!
//! The tar crate decodes the fields of a header; walking the entries is done here because extended headers must be
//! bounded before they are read into memory, and because PAX sizes, owners, times and xattrs are needed together.

use std::io::{self, Read};

use crate::error::ArchiveError;
use crate::limits::{EXTENSION_BYTES_MAX, EXTENSIONS_PER_ENTRY_MAX, NAMES_BYTES_MAX};

const BLOCK_BYTES: usize = 512;
const SKIP_BUFFER_BYTES: usize = 64 << 10;
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// A modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ModifiedAt {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// The header of one entry, extended headers applied.
#[derive(Debug, Clone)]
pub(crate) struct TarEntry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) modified_at: ModifiedAt,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries one after the other; between calls of `next_entry` it reads as the current entry's content.
pub(crate) struct TarStream<R> {
    reader: R,
    offset: u64,
    content_left: u64,
    padding: u64,
    entries: u64,
    entries_max: u64,
    /// Bytes that further names may have.
    names_left: u64,
}

/// Values of extended headers that apply to the next entry.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified_at: Option<ModifiedAt>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Read> TarStream<R> {
    pub(crate) fn new(reader: R, entries_max: u64) -> Self {
        TarStream {
            reader,
            offset: 0,
            content_left: 0,
            padding: 0,
            entries: 0,
            entries_max,
            names_left: NAMES_BYTES_MAX,
        }
    }

    /// The next entry, or `None` at the end mark.
    pub(crate) fn next_entry(&mut self) -> Result<Option<TarEntry>, ArchiveError> {
        let mut extensions = Extensions::default();
        for _ in 0..EXTENSIONS_PER_ENTRY_MAX {
            self.skip_content()?;
            let Some(header) = self.read_header()? else {
                return Ok(None);
            };
            match header.as_old().linkflag[0] {
                b'x' => {
                    let records = self.read_extension(&header)?;
                    apply_pax(&records, &mut extensions).map_err(|problem| self.header_error(problem))?;
                }
                // Global records carry comments in practice; Docker ignores them too.
                b'g' => {
                    self.begin_content(header.entry_size().map_err(|_| self.header_error("bad size"))?)?
                }
                b'L' => extensions.path = Some(until_zero(self.read_extension(&header)?)),
                b'K' => extensions.link = Some(until_zero(self.read_extension(&header)?)),
                flag => return self.build_entry(&header, flag, extensions).map(Some),
            }
        }
        Err(self.header_error("too many extended headers before one entry"))
    }

    /// Reads to the end of the stream, so that digests cover what follows the end mark.
    pub(crate) fn drain(mut self) -> Result<R, ArchiveError> {
        self.skip_content()?;
        let mut buffer = vec![0; SKIP_BUFFER_BYTES];
        while self.reader.read(&mut buffer).map_err(ArchiveError::from_read)? > 0 {}
        Ok(self.reader)
    }

    fn header_error(&self, problem: &'static str) -> ArchiveError {
        ArchiveError::TarHeader {
            offset: self.offset.saturating_sub(BLOCK_BYTES as u64),
            problem,
        }
    }

    /// Skips what is left of the content and its padding. The last padding may be missing: umoci writes none, and Go's
    /// reader takes that as the end.
    fn skip_content(&mut self) -> Result<(), ArchiveError> {
        self.skip(self.content_left)?;
        let mut padding = [0; BLOCK_BYTES];
        let wanted = self.padding.min(BLOCK_BYTES as u64) as usize;
        let mut filled = 0;
        while filled < wanted {
            match self.reader.read(&mut padding[filled..wanted]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::from_read(error)),
            }
        }
        self.offset += filled as u64;
        (self.content_left, self.padding) = (0, 0);
        Ok(())
    }

    fn skip(&mut self, mut left: u64) -> Result<(), ArchiveError> {
        let mut buffer = vec![0; left.min(SKIP_BUFFER_BYTES as u64) as usize];
        while left > 0 {
            let wanted = left.min(buffer.len() as u64) as usize;
            self.reader
                .read_exact(&mut buffer[..wanted])
                .map_err(ArchiveError::from_read)?;
            self.offset += wanted as u64;
            left -= wanted as u64;
        }
        Ok(())
    }

    /// The next header block; `None` at a zero block or at a clean end of the stream.
    fn read_header(&mut self) -> Result<Option<tar::Header>, ArchiveError> {
        let mut header = tar::Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(ArchiveError::Truncated),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::from_read(error)),
            }
        }
        self.offset += BLOCK_BYTES as u64;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !checksum_matches(&header) {
            return Err(
                self.header_error("the checksum does not match; this is not a tar archive or it is damaged")
            );
        }
        self.entries += 1;
        if self.entries > self.entries_max {
            return Err(ArchiveError::Limit {
                what: "the number of entries",
                limit: self.entries_max,
            });
        }
        Ok(Some(header))
    }

    fn begin_content(&mut self, size: u64) -> Result<(), ArchiveError> {
        if size > i64::MAX as u64 - BLOCK_BYTES as u64 {
            return Err(self.header_error("impossible size"));
        }
        self.content_left = size;
        self.padding = size.next_multiple_of(BLOCK_BYTES as u64) - size;
        Ok(())
    }

    fn read_extension(&mut self, header: &tar::Header) -> Result<Vec<u8>, ArchiveError> {
        let size = header.entry_size().map_err(|_| self.header_error("bad size"))?;
        if size > EXTENSION_BYTES_MAX {
            return Err(ArchiveError::Limit {
                what: "an extended tar header",
                limit: EXTENSION_BYTES_MAX,
            });
        }
        self.begin_content(size)?;
        let mut content = vec![0; size as usize];
        self.read_exact(&mut content).map_err(ArchiveError::from_read)?;
        Ok(content)
    }

    fn build_entry(
        &mut self,
        header: &tar::Header,
        flag: u8,
        extensions: Extensions,
    ) -> Result<TarEntry, ArchiveError> {
        let bad = |problem| move |_| problem;
        let raw = header.as_old();
        let fields = || -> Result<_, &'static str> {
            let size = extensions
                .size
                .map_or_else(|| or_zero(&raw.size, header.entry_size(), "bad size"), Ok)?;
            let uid = extensions
                .uid
                .map_or_else(|| or_zero(&raw.uid, header.uid(), "bad user id"), Ok)?;
            let gid = extensions
                .gid
                .map_or_else(|| or_zero(&raw.gid, header.gid(), "bad group id"), Ok)?;
            let mode = or_zero(&raw.mode, header.mode(), "bad mode")?;
            let header_time = || or_zero(&raw.mtime, header.mtime(), "bad modification time");
            let modified_at = match extensions.modified_at {
                Some(modified_at) => modified_at,
                None => ModifiedAt {
                    seconds: header_time()?.min(i64::MAX as u64) as i64,
                    nanoseconds: 0,
                },
            };
            let path = extensions
                .path
                .unwrap_or_else(|| header.path_bytes().into_owned());
            let kind = entry_kind(flag, &path)?;
            let device = match kind {
                EntryKind::CharDevice | EntryKind::BlockDevice => (
                    header
                        .device_major()
                        .map_err(bad("bad device number"))?
                        .unwrap_or(0),
                    header
                        .device_minor()
                        .map_err(bad("bad device number"))?
                        .unwrap_or(0),
                ),
                _ => (0, 0),
            };
            let link = extensions
                .link
                .or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
            Ok(TarEntry {
                path,
                link: link.unwrap_or_default(),
                kind,
                mode: mode & 0o7777,
                uid: owner_id(uid)?,
                gid: owner_id(gid)?,
                size: if kind == EntryKind::File { size } else { 0 },
                modified_at,
                device,
                xattrs: extensions.xattrs,
            })
        };
        let entry = fields().map_err(|problem| self.header_error(problem))?;
        let names_bytes = (entry.path.len() + entry.link.len()) as u64;
        self.names_left = self
            .names_left
            .checked_sub(names_bytes)
            .ok_or(ArchiveError::Limit {
                what: "the length of all names",
                limit: NAMES_BYTES_MAX,
            })?;
        self.begin_content(entry.size)?;
        Ok(entry)
    }
}

impl<R: Read> Read for TarStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = self.content_left.min(buffer.len() as u64) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.reader.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content_left -= read as u64;
        self.offset += read as u64;
        Ok(read)
    }
}

fn entry_kind(flag: u8, path: &[u8]) -> Result<EntryKind, &'static str> {
    match flag {
        // Archives from before ustar mark directories by a trailing slash only.
        0 | b'0' if path.ends_with(b"/") => Ok(EntryKind::Directory),
        0 | b'0' | b'7' => Ok(EntryKind::File),
        b'1' => Ok(EntryKind::HardLink),
        b'2' => Ok(EntryKind::Symlink),
        b'3' => Ok(EntryKind::CharDevice),
        b'4' => Ok(EntryKind::BlockDevice),
        b'5' => Ok(EntryKind::Directory),
        b'6' => Ok(EntryKind::Fifo),
        b'S' => Err("sparse files are not supported; archive without --sparse"),
        _ => Err("unknown entry type"),
    }
}

/// A numeric field's value; one without any digit is zero, as Go's archive/tar reads it.
fn or_zero<T: Default>(field: &[u8], value: io::Result<T>, problem: &'static str) -> Result<T, &'static str> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(T::default());
    }
    value.map_err(|_| problem)
}

/// The highest id means "leave unchanged" to chown and is no owner.
fn owner_id(id: u64) -> Result<u32, &'static str> {
    u32::try_from(id)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or("user or group id out of range")
}

fn checksum_matches(header: &tar::Header) -> bool {
    let bytes = header.as_bytes();
    let field = 148..156;
    let value = |(index, byte): (usize, &u8)| if field.contains(&index) { b' ' } else { *byte };
    let unsigned: i64 = bytes.iter().enumerate().map(|pair| i64::from(value(pair))).sum();
    // Some old writers summed signed bytes.
    let signed: i64 = bytes
        .iter()
        .enumerate()
        .map(|pair| i64::from(value(pair) as i8))
        .sum();
    header
        .cksum()
        .is_ok_and(|sum| i64::from(sum) == unsigned || i64::from(sum) == signed)
}

fn until_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// Applies records of the form `length key=value\n`.
fn apply_pax(mut records: &[u8], extensions: &mut Extensions) -> Result<(), &'static str> {
    const MALFORMED: &str = "malformed PAX record";
    while !records.is_empty() {
        let space = records
            .iter()
            .take(20)
            .position(|byte| *byte == b' ')
            .ok_or(MALFORMED)?;
        let length: usize = parse_number(&records[..space]).ok_or(MALFORMED)? as usize;
        if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
            return Err(MALFORMED);
        }
        let record = &records[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(MALFORMED)?;
        apply_pax_record(&record[..equals], &record[equals + 1..], extensions)?;
        records = &records[length..];
    }
    Ok(())
}

fn apply_pax_record(key: &[u8], value: &[u8], extensions: &mut Extensions) -> Result<(), &'static str> {
    if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
        extensions.xattrs.push((name.to_vec(), value.to_vec()));
        return Ok(());
    }
    // An empty value takes the record back.
    let set = !value.is_empty();
    let number = || parse_number(value).ok_or("malformed number in a PAX record");
    match key {
        b"path" => extensions.path = set.then(|| value.to_vec()),
        b"linkpath" => extensions.link = set.then(|| value.to_vec()),
        b"size" => extensions.size = if set { Some(number()?) } else { None },
        b"uid" => extensions.uid = if set { Some(number()?) } else { None },
        b"gid" => extensions.gid = if set { Some(number()?) } else { None },
        b"mtime" => extensions.modified_at = if set { Some(parse_time(value)?) } else { None },
        _ if key.starts_with(b"GNU.sparse.") => {
            return Err("sparse files are not supported; archive without --sparse");
        }
        _ => {}
    }
    Ok(())
}

fn parse_number(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
}

/// Decimal seconds, possibly negative, with a fraction cut to nanoseconds.
fn parse_time(value: &[u8]) -> Result<ModifiedAt, &'static str> {
    const MALFORMED: &str = "malformed time in a PAX record";
    let text = std::str::from_utf8(value).map_err(|_| MALFORMED)?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = parse_number(whole.as_bytes())
        .and_then(|s| i64::try_from(s).ok())
        .ok_or(MALFORMED)?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(MALFORMED);
    }
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: u32 = digits.parse().map_err(|_| MALFORMED)?;
    Ok(match (negative, nanoseconds) {
        (false, _) => ModifiedAt { seconds, nanoseconds },
        (true, 0) => ModifiedAt {
            seconds: -seconds,
            nanoseconds: 0,
        },
        (true, _) => ModifiedAt {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

#[cfg(test)]
#[path = "tar_stream_tests.rs"]
mod tests;
