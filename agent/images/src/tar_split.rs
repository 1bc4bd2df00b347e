//! A layer's archive without the content of its files, which the unpacked layer has: from both it is made again, byte for
//! byte (as `tar-split` does for Docker). So a layer needs its room once.
//!
//! The file is one zstd frame with a checksum. In it stand, after the version, records of either kind in the order of the
//! archive: bytes as they are (`0`, their number in four bytes, the bytes), or the content of a file of the layer (`1`, the
//! length of its path in four bytes, the path, its size in eight bytes). The last record is `2`. Numbers are little-endian.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::doubt::is_loss;

const VERSION: u8 = 1;
const BYTES: u8 = 0;
const FILE: u8 = 1;
const END: u8 = 2;
/// Bytes that make one record: many headers in each, few in memory.
const RECORD_BYTES: usize = 64 << 10;
/// Longest path of a record that is read: no entry of an archive has a longer one.
const PATH_BYTES_MAX: usize = 1 << 20;
/// Headers repeat each other, so that more effort gains little.
const LEVEL: i32 = 3;
const CONFINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Writes down an archive while it is unpacked.
pub(crate) struct SplitWriter {
    output: zstd::stream::write::Encoder<'static, File>,
    pending: Vec<u8>,
    /// Bytes of the file whose content passes.
    content_left: u64,
    archive_bytes: u64,
    /// The layer keeps every content that was left out.
    is_complete: bool,
    failure: Option<io::Error>,
}

/// The writer as whoever reads the archive and whoever unpacks it share it.
pub(crate) type SharedSplit = Rc<RefCell<SplitWriter>>;

/// What was written down of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Split {
    /// The archive, of so many bytes, can be made again.
    Complete { archive_bytes: u64 },
    /// The layer does not have the content of all entries: some were replaced by later ones.
    Incomplete,
}

impl SplitWriter {
    /// Begins the file.
    pub(crate) fn new(file: File) -> io::Result<SplitWriter> {
        let mut output = zstd::stream::write::Encoder::new(file, LEVEL)?;
        output.include_checksum(true)?;
        output.write_all(&[VERSION])?;
        Ok(SplitWriter {
            output,
            pending: Vec::with_capacity(RECORD_BYTES),
            content_left: 0,
            archive_bytes: 0,
            is_complete: true,
            failure: None,
        })
    }

    /// The next bytes of the archive are the content that the layer has at `path`.
    pub(crate) fn content_at(&mut self, path: &[u8], bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.content_left = bytes;
        let length = u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes();
        let record = [&[FILE], &length[..], path, &bytes.to_le_bytes()].concat();
        self.flush();
        self.write(&record);
    }

    /// Something was removed from the layer that an earlier entry put there.
    pub(crate) fn replaced(&mut self) {
        self.is_complete = false;
    }

    fn passed(&mut self, mut bytes: &[u8]) {
        self.archive_bytes += bytes.len() as u64;
        let content = usize::try_from(self.content_left).map_or(bytes.len(), |left| left.min(bytes.len()));
        self.content_left -= content as u64;
        bytes = &bytes[content..];
        while !bytes.is_empty() {
            let fits = bytes.len().min(RECORD_BYTES - self.pending.len());
            self.pending.extend_from_slice(&bytes[..fits]);
            bytes = &bytes[fits..];
            if self.pending.len() == RECORD_BYTES {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        let length = u32::try_from(pending.len()).unwrap_or(u32::MAX).to_le_bytes();
        self.write(&[BYTES]);
        self.write(&length);
        self.write(&pending);
        self.pending = pending;
        self.pending.clear();
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.failure.is_none() && self.is_complete {
            self.failure = self.output.write_all(bytes).err();
        }
    }

    /// Writes the end, after the whole archive passed.
    pub(crate) fn finish(mut self) -> io::Result<Split> {
        self.flush();
        self.write(&[END]);
        if let Some(error) = self.failure {
            return Err(error);
        }
        if !self.is_complete {
            return Ok(Split::Incomplete);
        }
        self.output.finish()?;
        Ok(Split::Complete {
            archive_bytes: self.archive_bytes,
        })
    }
}

/// An archive that is read and written down.
pub(crate) struct SplitReader<R> {
    inner: R,
    split: SharedSplit,
}

impl<R: Read> SplitReader<R> {
    pub(crate) fn new(inner: R, split: SharedSplit) -> SplitReader<R> {
        SplitReader { inner, split }
    }

    pub(crate) fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for SplitReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.split.borrow_mut().passed(&buffer[..read]);
        Ok(read)
    }
}

/// The archive of a layer, made again while it is read.
pub(crate) struct JoinedArchive {
    split: BufReader<zstd::stream::read::Decoder<'static, BufReader<File>>>,
    layer: OwnedFd,
    current: Current,
    /// The layer does not have what the archive put there.
    is_layer_damaged: bool,
}

enum Current {
    /// A record is to be read.
    Nothing,
    Bytes(u32),
    Content(File, u64),
    End,
}

impl JoinedArchive {
    /// Of what was written down, and the root of the unpacked layer.
    pub(crate) fn new(split: File, layer: OwnedFd) -> io::Result<JoinedArchive> {
        let mut split = BufReader::new(zstd::stream::read::Decoder::new(split)?);
        match byte(&mut split)? {
            VERSION => Ok(JoinedArchive {
                split,
                layer,
                current: Current::Nothing,
                is_layer_damaged: false,
            }),
            other => Err(damaged(format!("version {other} is not known"))),
        }
    }

    /// Whether reading failed because of what the layer has, rather than of what was written down.
    pub(crate) fn is_layer_damaged(&self) -> bool {
        self.is_layer_damaged
    }

    /// Goes on so many bytes without giving them.
    pub(crate) fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        let mut buffer = vec![0; RECORD_BYTES];
        while bytes > 0 {
            let wanted = match &mut self.current {
                Current::Nothing => {
                    self.next_record()?;
                    continue;
                }
                Current::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                Current::Content(file, left) => {
                    let skipped = bytes.min(*left);
                    file.seek(SeekFrom::Current(i64::try_from(skipped).unwrap_or(i64::MAX)))?;
                    *left -= skipped;
                    bytes -= skipped;
                    if *left == 0 {
                        self.current = Current::Nothing;
                    }
                    continue;
                }
                Current::Bytes(left) => u64::from(*left).min(bytes),
            };
            let wanted = usize::try_from(wanted).map_or(RECORD_BYTES, |wanted| wanted.min(RECORD_BYTES));
            bytes -= self.read(&mut buffer[..wanted])? as u64;
        }
        Ok(())
    }

    fn next_record(&mut self) -> io::Result<()> {
        self.current = match byte(&mut self.split)? {
            BYTES => Current::Bytes(self.length()?),
            FILE => {
                let path_bytes = self.length()? as usize;
                if path_bytes > PATH_BYTES_MAX {
                    return Err(damaged(format!("a path of {path_bytes} bytes")));
                }
                let mut path = vec![0; path_bytes];
                self.split.read_exact(&mut path)?;
                let mut bytes = [0; 8];
                self.split.read_exact(&mut bytes)?;
                let bytes = u64::from_le_bytes(bytes);
                let file = self.file(&path, bytes);
                self.is_layer_damaged |= file.as_ref().is_err_and(is_of_layer);
                Current::Content(file?, bytes)
            }
            // The checksum stands behind the last record.
            END => match self.split.read(&mut [0])? {
                0 => Current::End,
                _ => return Err(damaged("something follows its end".to_owned())),
            },
            other => return Err(damaged(format!("a record of kind {other}"))),
        };
        Ok(())
    }

    fn length(&mut self) -> io::Result<u32> {
        let mut length = [0; 4];
        self.split.read_exact(&mut length)?;
        Ok(u32::from_le_bytes(length))
    }

    fn file(&self, path: &[u8], bytes: u64) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(&self.layer, path, flags, Mode::empty(), CONFINED)?;
        let stat = rustix::fs::fstat(&file)?;
        let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
        if !is_file || u64::try_from(stat.st_size) != Ok(bytes) {
            return Err(damaged(format!(
                "{} is not what was unpacked",
                String::from_utf8_lossy(path)
            )));
        }
        Ok(File::from(file))
    }
}

impl Read for JoinedArchive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let limit = |left: u64| usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let (read, is_over) = match &mut self.current {
                Current::Nothing => {
                    self.next_record()?;
                    continue;
                }
                Current::End => return Ok(0),
                Current::Bytes(left) => {
                    let wanted = limit(u64::from(*left));
                    let read = self.split.read(&mut buffer[..wanted])?;
                    *left -= u32::try_from(read).unwrap_or(*left);
                    (read, *left == 0)
                }
                Current::Content(file, left) => {
                    let wanted = limit(*left);
                    let read = file.read(&mut buffer[..wanted]);
                    let is_lost = match &read {
                        Ok(read) => *read == 0,
                        Err(error) => is_loss(error),
                    };
                    self.is_layer_damaged |= is_lost;
                    let read = read?;
                    *left -= read as u64;
                    (read, *left == 0)
                }
            };
            if read == 0 && !is_over {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if is_over {
                self.current = Current::Nothing;
            }
            if read > 0 {
                return Ok(read);
            }
        }
    }
}

/// Whether opening a file failed because it is not what was unpacked.
fn is_of_layer(error: &io::Error) -> bool {
    let is_other = matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV)
    );
    is_other || error.kind() == io::ErrorKind::InvalidData || is_loss(error)
}

fn byte(reader: &mut impl Read) -> io::Result<u8> {
    let mut one = [0];
    reader.read_exact(&mut one)?;
    Ok(one[0])
}

fn damaged(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
#[path = "tar_split_tests.rs"]
mod tests;
