//! One layer on its way from its archive into `tmp`: decompressed, compared, unpacked and written down in one pass.

use std::cell::RefCell;
use std::fs::File;
use std::io::BufReader;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::compression::{ByteBudget, Compression, decompress};
use crate::digest::{Digest, HashingReader, digest_of};
use crate::error::{ArchiveError, Error, Result};
use crate::layer_feed::LayerBytes;
use crate::layout::Layout;
use crate::limits::LoadLimits;
use crate::records::LayerRecord;
use crate::tar_split::{Split, SplitReader, SplitWriter};
use crate::tar_stream::TarStream;
use crate::unpack::LayerWriter;

const BUFFER_BYTES: usize = 256 << 10;
const SPLIT_EXTENSION: &str = "split";

/// A layer in `tmp`; deleted unless it is moved into place.
pub(crate) struct UnpackedLayer<'a> {
    layout: &'a Layout,
    pub(crate) path: PathBuf,
    pub(crate) chain_id: Digest,
    pub(crate) record: LayerRecord,
}

impl UnpackedLayer<'_> {
    /// What its archive has beside its files, in `tmp` too.
    pub(crate) fn split(&self) -> PathBuf {
        self.path.with_extension(SPLIT_EXTENSION)
    }
}

impl Drop for UnpackedLayer<'_> {
    fn drop(&mut self) {
        for path in [&self.path, &self.split()] {
            if let Err(error) = self.layout.discard(path) {
                tracing::warn!(path = %path.display(), error = %error.full_message(), "layer left in tmp");
            }
        }
    }
}

/// What bounds an unpacking.
#[derive(Clone, Copy)]
pub(crate) struct UnpackBounds<'a> {
    pub(crate) budget: &'a ByteBudget,
    pub(crate) limits: &'a LoadLimits,
}

/// The content of a layer that is to be unpacked.
pub(crate) struct LayerSource {
    pub(crate) blob: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) bytes: LayerBytes,
}

impl LayerSource {
    /// Whether it is the content itself, which whoever gives it compares with its digest.
    pub(crate) fn is_content(&self) -> bool {
        self.bytes.digest == self.diff_id
    }
}

pub(crate) fn unpack_layer<'a>(
    layout: &'a Layout,
    chain_id: Digest,
    source: LayerSource,
    below: &[OwnedFd],
    bounds: UnpackBounds<'_>,
) -> Result<UnpackedLayer<'a>> {
    let path = layout.temporary().join(format!("layer-{}", chain_id.hex()));
    let diff_id = source.diff_id;
    layout.discard(&path)?;
    std::fs::create_dir(&path).map_err(|error| Error::io("make directory", &path, error))?;
    let mut layer = UnpackedLayer {
        layout,
        path,
        chain_id,
        record: LayerRecord {
            diff_id,
            content_bytes: 0,
            archive_bytes: None,
        },
    };
    let split = layer.split();
    let unpacked = unpack_blob(source, &layer.path, &split, below, bounds).map_err(in_layer(diff_id))?;
    layer.record.content_bytes = unpacked.content_bytes;
    layer.record.archive_bytes = match unpacked.split {
        Split::Complete { archive_bytes } => Some(archive_bytes),
        Split::Incomplete => None,
    };
    Ok(layer)
}

pub(crate) fn in_layer(digest: Digest) -> impl FnOnce(Error) -> Error {
    move |error| match error {
        Error::Archive(source) => ArchiveError::Layer {
            digest,
            source: Box::new(source),
        }
        .into(),
        error => error,
    }
}

/// What came of a blob.
struct UnpackedBlob {
    /// Bytes of its files.
    content_bytes: u64,
    split: Split,
}

/// Decompresses, hashes, unpacks and writes down a blob in one pass.
fn unpack_blob(
    source: LayerSource,
    directory: &Path,
    split_path: &Path,
    below: &[OwnedFd],
    bounds: UnpackBounds<'_>,
) -> Result<UnpackedBlob> {
    let is_content = source.is_content();
    let LayerSource { blob, diff_id, bytes } = source;
    let (compression, stream) = decompress(bytes.reader, bounds.budget, bounds.limits)?;
    let failed = |error| Error::io("write", split_path, error);
    let split = File::create(split_path)
        .and_then(SplitWriter::new)
        .map_err(failed)?;
    let split = Rc::new(RefCell::new(split));
    let mut writer = LayerWriter::new(directory, below)?.with_split(split.clone());
    let entries_max = bounds.limits.layer_entries_max;
    if compression == Compression::None && is_content {
        // It was verified when it was written, or is compared while it is read.
        let buffered = BufReader::with_capacity(BUFFER_BYTES, stream);
        let mut stream = TarStream::new(SplitReader::new(buffered, split.clone()), entries_max);
        writer.unpack(&mut stream)?;
        stream.drain()?;
    } else {
        let hashing = BufReader::with_capacity(BUFFER_BYTES, HashingReader::new(stream));
        let mut stream = TarStream::new(SplitReader::new(hashing, split.clone()), entries_max);
        writer.unpack(&mut stream)?;
        let (actual, _) = stream.drain()?.into_inner().into_inner().finish();
        expect_content(&blob, diff_id, actual)?;
    }
    let content_bytes = writer.finish()?.1;
    let split = Rc::into_inner(split).expect("reader and writer of the archive are gone");
    Ok(UnpackedBlob {
        content_bytes,
        split: split.into_inner().finish().map_err(failed)?,
    })
}

/// Refuses a blob that is not a form of the layer it stands for.
pub(crate) fn check_blob(source: LayerSource, bounds: UnpackBounds<'_>) -> Result<()> {
    let (_, stream) = decompress(source.bytes.reader, bounds.budget, bounds.limits)?;
    let actual = digest_of(stream).map_err(ArchiveError::from_read)?;
    Ok(expect_content(&source.blob, source.diff_id, actual)?)
}

fn expect_content(blob: &Digest, expected: Digest, actual: Digest) -> Result<(), ArchiveError> {
    if actual == expected {
        return Ok(());
    }
    let what = format!("the content of blob {blob}");
    Err(ArchiveError::DigestMismatch {
        what,
        expected,
        actual,
    })
}
