//! One file of a log, plain or compressed.

use crate::log_forward::{HEAD_BYTES, Position};
use flate2::bufread::GzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

/// Most of a first line that is compared; the monitor's are shorter.
const FIRST_LINE_BYTES_MAX: u64 = 1 << 20;

/// An open file of the log.
#[derive(Debug)]
pub(super) struct LogFile {
    file: Arc<File>,
    content: Content,
    /// The number in the file system of the file that the monitor wrote. It may have been given out again where this file
    /// is a compressed one.
    inode: u64,
    /// Bytes of the log that were read.
    at: u64,
    /// Where a plain file ends for us, although more may be written.
    end: Option<u64>,
}

#[derive(Debug)]
enum Content {
    Plain(Place),
    Packed(Box<GzDecoder<BufReader<Place>>>),
}

/// Reads a file from a place of its own on.
#[derive(Debug)]
struct Place {
    file: Arc<File>,
    at: u64,
}

impl Read for Place {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Content {
    fn plain(file: &Arc<File>, at: u64) -> Self {
        let file = Arc::clone(file);
        Self::Plain(Place { file, at })
    }

    fn packed(file: &Arc<File>) -> Self {
        let file = Arc::clone(file);
        Self::Packed(Box::new(GzDecoder::new(BufReader::new(Place { file, at: 0 }))))
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(place) => place.read(buffer),
            Self::Packed(decoder) => match decoder.read(buffer) {
                // The rest of a damaged file is lost; the log goes on in the next one.
                Err(error) if is_damage(&error) => Ok(0),
                read => read,
            },
        }
    }
}

fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

impl LogFile {
    /// Opens a file as the monitor wrote it; `None` where there is none.
    pub fn open_plain(path: &Path) -> io::Result<Option<Self>> {
        let Some(file) = open(path)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            inode: file.metadata()?.ino(),
            content: Content::plain(&file, 0),
            file,
            at: 0,
            end: None,
        }))
    }

    /// Opens a file that was compressed.
    pub fn open_packed(path: &Path) -> io::Result<Option<Self>> {
        let Some(file) = open(path)? else {
            return Ok(None);
        };
        let content = Content::packed(&file);
        let origin = match &content {
            Content::Packed(decoder) => decoder.header().and_then(|header| header.comment()),
            Content::Plain(_) => None,
        };
        Ok(Some(Self {
            inode: origin.and_then(inode_of).unwrap_or_default(),
            content,
            file,
            at: 0,
            end: None,
        }))
    }

    /// Whether it is compressed: then nothing is added to it.
    pub fn is_packed(&self) -> bool {
        matches!(self.content, Content::Packed(_))
    }

    /// The number that the file had when the monitor wrote it.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Bytes of the log that were read.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// What a plain file holds; `None` for a compressed one.
    pub fn plain(&self) -> Option<&File> {
        match self.is_packed() {
            true => None,
            false => Some(&self.file),
        }
    }

    /// Leaves alone what is written from now on.
    pub fn end_here(&mut self) -> io::Result<()> {
        if !self.is_packed() {
            self.end = Some(self.file.metadata()?.len());
        }
        Ok(())
    }

    /// Bytes of a plain file, up to its end for us.
    pub fn length(&self) -> io::Result<u64> {
        match self.end {
            Some(end) => Ok(end),
            None => Ok(self.file.metadata()?.len()),
        }
    }

    /// Reads on.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.map_or(u64::MAX, |end| end.saturating_sub(self.at));
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.content.read(&mut buffer[..most])?;
        self.at += read as u64;
        Ok(read)
    }

    /// The whole file from its beginning, whatever was read.
    pub fn whole(&self) -> impl BufRead + use<> {
        BufReader::new(match self.is_packed() {
            true => Content::packed(&self.file),
            false => Content::plain(&self.file, 0),
        })
    }

    /// Goes to an offset of the log's bytes.
    pub fn go_to(&mut self, offset: u64) -> io::Result<()> {
        self.content = match self.is_packed() {
            true => Content::packed(&self.file),
            false => Content::plain(&self.file, offset),
        };
        if self.is_packed() {
            io::copy(&mut self.content.by_ref().take(offset), &mut io::sink())?;
        }
        self.at = offset;
        Ok(())
    }

    /// How the file begins.
    pub fn head(&self) -> io::Result<Vec<u8>> {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        self.whole().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
        Ok(head)
    }

    /// Whether both are the same file of the log, compressed or not. Both are open, so that two plain ones with one number
    /// are one file; else the first line, which has a time, decides.
    pub fn is_same(&self, other: &Self) -> io::Result<bool> {
        if self.inode != other.inode {
            return Ok(false);
        }
        Ok(!self.is_packed() && !other.is_packed() || self.first_line()? == other.first_line()?)
    }

    fn first_line(&self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        self.whole()
            .take(FIRST_LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)?;
        Ok(line)
    }
}

impl Position {
    /// Whether it is in this file.
    pub(super) fn is_in(&self, file: &LogFile) -> bool {
        self.inode == file.inode && file.head().is_ok_and(|head| head.starts_with(&self.head))
    }
}

fn open(path: &Path) -> io::Result<Option<Arc<File>>> {
    match File::open(path) {
        Ok(file) => Ok(Some(Arc::new(file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a compressed file says of the one that it was made of.
pub(super) fn comment_of(inode: u64) -> String {
    format!("inode {inode}")
}

fn inode_of(comment: &[u8]) -> Option<u64> {
    std::str::from_utf8(comment)
        .ok()?
        .strip_prefix("inode ")?
        .parse()
        .ok()
}
