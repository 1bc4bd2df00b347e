//! Content-addressed files: written aside, hashed on the way, synced, then renamed into place.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use tempfile::{NamedTempFile, TempPath};

use crate::digest::{Digest, HashingReader, HashingWriter, digest_of};
use crate::doubt::is_loss;
use crate::error::{ArchiveError, Error, Result};
use crate::layout::{Layout, sync_directory};

const COPY_BUFFER_BYTES: usize = 256 << 10;
/// How many stray bytes beyond an announced size are read before refusing: one is enough to know.
const EXCESS_BYTES: u64 = 1;

/// A file in `tmp` whose digest is known; deleted unless it is stored.
#[derive(Debug)]
pub(crate) struct StagedBlob {
    path: TempPath,
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
}

/// What a blob is announced to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) digest: Digest,
    pub(crate) bytes: Option<u64>,
}

impl Expected {
    /// Refuses what is not this.
    pub(crate) fn check(&self, digest: &Digest, bytes: u64, what: impl Fn() -> String) -> Result<()> {
        if let Some(expected) = self.bytes.filter(|expected| *expected != bytes) {
            let mismatch = ArchiveError::SizeMismatch {
                what: what(),
                expected,
                actual: bytes,
            };
            return Err(mismatch.into());
        }
        if self.digest != *digest {
            let (expected, actual) = (self.digest, *digest);
            return Err(ArchiveError::DigestMismatch {
                what: what(),
                expected,
                actual,
            }
            .into());
        }
        Ok(())
    }
}

impl StagedBlob {
    /// A file in `tmp` whose content was hashed while it was written.
    pub(crate) fn from_parts(path: TempPath, digest: Digest, bytes: u64) -> StagedBlob {
        StagedBlob { path, digest, bytes }
    }

    /// Writes everything that `reader` gives, at most `bytes_max`.
    pub(crate) fn write(layout: &Layout, reader: impl Read, bytes_max: u64) -> Result<StagedBlob> {
        let temporary = layout.temporary();
        let failed = |error: io::Error| Error::io("write a blob in", &temporary, error);
        let mut file = NamedTempFile::new_in(&temporary).map_err(failed)?;
        let mut reader = HashingReader::new(reader.take(bytes_max.saturating_add(EXCESS_BYTES)));
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => file.write_all(&buffer[..read]).map_err(failed)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::from_read(error).into()),
            }
        }
        let (digest, bytes) = reader.finish();
        if bytes > bytes_max {
            return Err(ArchiveError::Limit {
                what: "the size of a blob",
                limit: bytes_max,
            }
            .into());
        }
        Ok(StagedBlob {
            path: file.into_temp_path(),
            digest,
            bytes,
        })
    }

    /// Writes what `write` gives.
    pub(crate) fn written(
        layout: &Layout,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<StagedBlob> {
        let temporary = layout.temporary();
        let failed = |error: io::Error| Error::io("write a blob in", &temporary, error);
        let file = NamedTempFile::new_in(&temporary).map_err(failed)?;
        let mut output = HashingWriter::new(BufWriter::with_capacity(COPY_BUFFER_BYTES, file));
        write(&mut output).map_err(failed)?;
        let (buffered, digest, bytes) = output.finish();
        let file = buffered
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        Ok(StagedBlob {
            path: file.into_temp_path(),
            digest,
            bytes,
        })
    }

    /// Refuses a blob that is not what was announced.
    pub(crate) fn check(&self, expected: &Expected, what: impl Fn() -> String) -> Result<()> {
        expected.check(&self.digest, self.bytes, what)
    }

    /// The staged file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the blob part of the store. The caller pins its digest first.
    pub(crate) fn store(self, layout: &Layout) -> Result<()> {
        let place = layout.blob(&self.digest);
        let failed = |error: io::Error| Error::io("store blob", &place, error);
        let _turn = layout.blob_doubt().turns.take(self.digest);
        // What stands there may have been damaged since it was verified.
        if is_same(&place, &self.path).map_err(failed)? {
            layout.blob_doubt().settle(&self.digest);
            return Ok(());
        }
        File::open(&self.path)
            .and_then(|file| file.sync_all())
            .map_err(failed)?;
        self.path.persist(&place).map_err(|error| failed(error.error))?;
        layout.blob_doubt().settle(&self.digest);
        sync_directory(&layout.blobs())
    }
}

/// Whether both files are there and have the same content.
fn is_same(stored: &Path, staged: &Path) -> io::Result<bool> {
    let mut stored = match File::open(stored) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        stored => stored?,
    };
    let mut staged = File::open(staged)?;
    let mut left = staged.metadata()?.len();
    if stored.metadata()?.len() != left {
        return Ok(false);
    }
    let mut buffers = [vec![0; COPY_BUFFER_BYTES], vec![0; COPY_BUFFER_BYTES]];
    while left > 0 {
        let wanted = usize::try_from(left).map_or(COPY_BUFFER_BYTES, |left| left.min(COPY_BUFFER_BYTES));
        let [ours, theirs] = &mut buffers;
        staged.read_exact(&mut theirs[..wanted])?;
        // A disk that cannot read it has lost it.
        if stored.read_exact(&mut ours[..wanted]).is_err() || ours[..wanted] != theirs[..wanted] {
            return Ok(false);
        }
        left -= wanted as u64;
    }
    Ok(true)
}

/// Looks at a blob that is in doubt; one that is not what its name says is no longer there afterwards.
pub(crate) fn settle(layout: &Layout, digest: &Digest) -> Result<()> {
    let doubt = layout.blob_doubt();
    if !doubt.is_in_doubt(digest) {
        return Ok(());
    }
    let _turn = doubt.turns.take(*digest);
    if doubt.is_in_doubt(digest) {
        compare(layout, digest)?;
    }
    Ok(())
}

/// Compares a blob with its digest and takes it away where it differs. Returns whether it is there and whole.
pub(crate) fn discard_unless_whole(layout: &Layout, digest: &Digest) -> Result<bool> {
    // A whole one that is put in its place meanwhile is not taken away.
    let _turn = layout.blob_doubt().turns.take(*digest);
    compare(layout, digest)
}

/// As [`discard_unless_whole`], of one whose turn the caller has.
fn compare(layout: &Layout, digest: &Digest) -> Result<bool> {
    let path = layout.blob(digest);
    let content = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            layout.blob_doubt().settle(digest);
            return Ok(false);
        }
        file => file.and_then(digest_of),
    };
    let problem = match content {
        Ok(content) if content == *digest => None,
        Ok(content) => Some(format!("its content is {content}")),
        Err(error) if is_loss(&error) => Some(error.to_string()),
        // Not of the blob, but of this moment: memory or file descriptors may be short.
        Err(error) => return Err(Error::io("read blob", &path, error)),
    };
    if let Some(problem) = &problem {
        tracing::error!(blob = %digest, problem, "a blob is damaged");
        layout.discard(&path)?;
    }
    layout.blob_doubt().settle(digest);
    Ok(problem.is_none())
}

/// Opens a stored blob for reading.
pub(crate) fn open(layout: &Layout, digest: &Digest) -> Result<File> {
    settle(layout, digest)?;
    let path = layout.blob(digest);
    File::open(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoSuchBlob { digest: *digest },
        _ => Error::io("open blob", &path, error),
    })
}

/// The size of a stored blob, `None` where there is none.
pub(crate) fn size(layout: &Layout, digest: &Digest) -> Result<Option<u64>> {
    settle(layout, digest)?;
    size_on_disk(layout, digest)
}

/// As [`size`], of one that may be damaged.
pub(crate) fn size_on_disk(layout: &Layout, digest: &Digest) -> Result<Option<u64>> {
    let path = layout.blob(digest);
    match fs::metadata(&path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("look at blob", &path, error)),
    }
}

/// Reads a small file, refusing one over `bytes_max`.
pub(crate) fn read_document(file: File, path: &Path, what: &'static str, bytes_max: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max + EXCESS_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io("read", path, e))?;
    if bytes.len() as u64 > bytes_max {
        return Err(ArchiveError::Limit {
            what,
            limit: bytes_max,
        }
        .into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ImageStore;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use std::sync::mpsc;
    use std::time::Duration;

    fn store_with_blob(place: &Path) -> (ImageStore, Digest) {
        let store = ImageStore::open(place).unwrap();
        let layout = &store.inner.layout;
        let staged = StagedBlob::write(layout, &b"content"[..], 100).unwrap();
        let digest = staged.digest;
        staged.store(layout).unwrap();
        (store, digest)
    }

    #[test]
    fn a_blob_that_is_put_in_place_while_another_is_looked_at_stays() {
        let place = tempfile::tempdir().unwrap();
        let (store, digest) = store_with_blob(place.path());
        let path = store.inner.layout.blob(&digest);
        fs::write(&path, "damaged").unwrap();
        let turn = store.inner.layout.blob_doubt().turns.take(digest);
        let (found, finding) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| found.send(discard_unless_whole(&store.inner.layout, &digest).unwrap()));
            finding
                .recv_timeout(Duration::from_millis(200))
                .expect_err("it waits for its turn");
            fs::write(&path, "content").unwrap();
            drop(turn);
            assert!(finding.recv().unwrap());
        });
        assert!(path.exists());
    }

    #[test]
    fn a_blob_that_cannot_be_opened_just_now_is_not_taken_for_damaged() {
        let place = tempfile::tempdir().unwrap();
        let (store, digest) = store_with_blob(place.path());
        store.inner.layout.blob_doubt().begin([digest]);
        let before = getrlimit(Resource::Nofile);
        let none = Rlimit {
            current: Some(0),
            ..before
        };
        setrlimit(Resource::Nofile, none).unwrap();
        let refused = size(&store.inner.layout, &digest);
        setrlimit(Resource::Nofile, before).unwrap();
        assert!(refused.is_err());
        assert_eq!(size(&store.inner.layout, &digest).unwrap(), Some(7));
    }
}
