//! Decompression of layers and archives, found by their first bytes, with a guard against decompression bombs.

use std::cell::Cell;
use std::io::{self, BufReader, Chain, Cursor, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;

use crate::error::ArchiveError;
use crate::limits::LoadLimits;

/// Reads are done in pieces of this size: large enough that system calls do not show beside inflating.
const BUFFER_BYTES: usize = 256 << 10;
/// Longest magic number looked for (xz's).
const MAGIC_BYTES: usize = 6;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Bytes that a load may still decompress, shared by its streams.
#[derive(Debug)]
pub(crate) struct ByteBudget {
    what: &'static str,
    limit: u64,
    left: Cell<u64>,
}

impl ByteBudget {
    pub(crate) fn new(what: &'static str, limit: u64) -> ByteBudget {
        ByteBudget {
            what,
            limit,
            left: Cell::new(limit),
        }
    }

    fn take(&self, bytes: u64) -> Result<(), ArchiveError> {
        let left = self.left.get().checked_sub(bytes);
        self.left.set(left.ok_or(ArchiveError::Limit {
            what: self.what,
            limit: self.limit,
        })?);
        Ok(())
    }
}

/// Recognises the compression of a stream by its first bytes.
pub(crate) fn recognise(head: &[u8]) -> Result<Compression, ArchiveError> {
    let unsupported = |format| Err(ArchiveError::UnsupportedCompression { format });
    match head {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
        [b'B', b'Z', b'h', ..] => unsupported("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => unsupported("xz"),
        _ => Ok(Compression::None),
    }
}

/// The decompressed stream of `reader`, bounded by `budget` and the expansion ratio of `limits`.
pub(crate) fn decompress<'a, R: Read + 'a>(
    mut reader: R,
    budget: &'a ByteBudget,
    limits: &LoadLimits,
) -> Result<(Compression, Box<dyn Read + 'a>), ArchiveError> {
    let mut head = Vec::with_capacity(MAGIC_BYTES);
    reader
        .by_ref()
        .take(MAGIC_BYTES as u64)
        .read_to_end(&mut head)
        .map_err(ArchiveError::from_read)?;
    let compression = recognise(&head)?;
    let packed = Rc::new(Cell::new(0));
    let counted = CountingReader {
        inner: Cursor::new(head).chain(reader),
        bytes: packed.clone(),
    };
    let decoder: Box<dyn Read + 'a> = match compression {
        Compression::None => Box::new(counted),
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(
            BUFFER_BYTES,
            counted,
        ))),
        Compression::Zstd => {
            let buffered = BufReader::with_capacity(BUFFER_BYTES, counted);
            Box::new(zstd::stream::read::Decoder::with_buffer(buffered).map_err(ArchiveError::from_read)?)
        }
    };
    let guard = ExpansionGuard {
        inner: decoder,
        packed,
        unpacked: 0,
        ratio_max: limits.expansion_ratio_max,
        free_bytes: limits.expansion_free_bytes,
        budget,
    };
    Ok((compression, Box::new(guard)))
}

/// Counts the bytes that enter a decoder.
struct CountingReader<R> {
    inner: Chain<Cursor<Vec<u8>>, R>,
    bytes: Rc<Cell<u64>>,
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes.set(self.bytes.get() + read as u64);
        Ok(read)
    }
}

/// Stops a stream that grows beyond reason or beyond the load's budget.
struct ExpansionGuard<'a> {
    inner: Box<dyn Read + 'a>,
    packed: Rc<Cell<u64>>,
    unpacked: u64,
    ratio_max: u64,
    free_bytes: u64,
    budget: &'a ByteBudget,
}

impl Read for ExpansionGuard<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.unpacked += read as u64;
        self.budget.take(read as u64).map_err(ArchiveError::into_io)?;
        let (unpacked, packed) = (self.unpacked, self.packed.get());
        if unpacked > self.free_bytes && unpacked / packed.max(1) > self.ratio_max {
            let bomb = ArchiveError::Bomb {
                unpacked,
                packed,
                ratio_max: self.ratio_max,
            };
            return Err(bomb.into_io());
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn read_all(packed: &[u8], limits: &LoadLimits) -> Result<(Compression, Vec<u8>), ArchiveError> {
        let budget = ByteBudget::new("unpacked bytes", limits.unpacked_bytes_max);
        let (compression, mut reader) = decompress(packed, &budget, limits)?;
        let mut content = Vec::new();
        reader
            .read_to_end(&mut content)
            .map_err(ArchiveError::from_read)?;
        Ok((compression, content))
    }

    #[test]
    fn each_compression_is_recognised_and_undone() {
        let content = b"some content that is worth packing".repeat(100);
        let zstd = zstd::encode_all(&content[..], 3).unwrap();
        let limits = LoadLimits::default();
        for (packed, expected) in [
            (content.clone(), Compression::None),
            (gzip(&content), Compression::Gzip),
            (zstd, Compression::Zstd),
        ] {
            assert_eq!(read_all(&packed, &limits).unwrap(), (expected, content.clone()));
        }
        let two_members = [gzip(b"one"), gzip(b"two")].concat();
        assert_eq!(read_all(&two_members, &limits).unwrap().1, b"onetwo");
        assert_eq!(read_all(b"", &limits).unwrap(), (Compression::None, vec![]));
    }

    #[test]
    fn truncated_and_foreign_streams_are_refused() {
        let limits = LoadLimits::default();
        let whole = gzip(&b"0123456789".repeat(1000));
        for length in [3, 9, whole.len() / 2, whole.len() - 1] {
            assert!(
                matches!(read_all(&whole[..length], &limits), Err(ArchiveError::Truncated)),
                "{length}"
            );
        }
        let trailing = [whole.as_slice(), b"garbage"].concat();
        assert!(read_all(&trailing, &limits).is_err());
        let xz = read_all(b"\xfd7zXZ\0...", &limits);
        assert!(matches!(
            xz,
            Err(ArchiveError::UnsupportedCompression { format: "xz" })
        ));
    }

    #[test]
    fn a_bomb_is_stopped_by_ratio_and_by_budget() {
        let bomb = gzip(&vec![0; 8 << 20]);
        let ratio = LoadLimits {
            expansion_free_bytes: 1 << 20,
            ..LoadLimits::default()
        };
        assert!(matches!(read_all(&bomb, &ratio), Err(ArchiveError::Bomb { .. })));
        let budget = LoadLimits {
            unpacked_bytes_max: 1 << 20,
            ..LoadLimits::default()
        };
        assert!(matches!(
            read_all(&bomb, &budget),
            Err(ArchiveError::Limit { .. })
        ));
        assert_eq!(read_all(&bomb, &LoadLimits::default()).unwrap().1.len(), 8 << 20);
    }
}
