//! An outer archive taken apart into `tmp`: every file hashed, links between files remembered, nothing interpreted.

use std::collections::HashMap;
use std::io::{BufReader, Read};

use crate::blobs::{StagedBlob, read_document};
use crate::compression::{ByteBudget, decompress};
use crate::error::{ArchiveError, Result};
use crate::layer_path::{entry_error, relative, resolve_link};
use crate::layout::Layout;
use crate::limits::{ARCHIVE_ENTRIES_MAX, DOCUMENT_BYTES_MAX, LoadLimits};
use crate::tar_stream::{EntryKind, TarStream};

const BUFFER_BYTES: usize = 256 << 10;
/// Longest chain of links from one name to a file: old archives link each repeated layer once.
const LINKS_MAX: usize = 8;

/// The files of an archive; those that are not taken are deleted with it.
#[derive(Debug)]
pub(crate) struct StagedArchive {
    files: HashMap<Vec<u8>, StagedBlob>,
    links: HashMap<Vec<u8>, Vec<u8>>,
}

impl StagedArchive {
    /// Reads the whole archive, compressed or not.
    pub(crate) fn read(layout: &Layout, reader: impl Read, limits: &LoadLimits) -> Result<StagedArchive> {
        let budget = ByteBudget::new("the size of the archive", limits.archive_bytes_max);
        let (_, stream) = decompress(reader, &budget, limits)?;
        let mut stream = TarStream::new(
            BufReader::with_capacity(BUFFER_BYTES, stream),
            ARCHIVE_ENTRIES_MAX,
        );
        let mut archive = StagedArchive {
            files: HashMap::new(),
            links: HashMap::new(),
        };
        while let Some(entry) = stream.next_entry()? {
            let path = relative(&entry.path)?;
            if entry.kind == EntryKind::Directory {
                continue;
            }
            if archive.files.contains_key(&path) || archive.links.contains_key(&path) {
                return Err(ArchiveError::Duplicate { path: text(&path) }.into());
            }
            match entry.kind {
                EntryKind::File => {
                    let blob = StagedBlob::write(layout, &mut stream, limits.archive_bytes_max)?;
                    archive.files.insert(path, blob);
                }
                EntryKind::Symlink => {
                    let target = resolve_link(&path, &entry.link)?;
                    archive.links.insert(path, target);
                }
                EntryKind::HardLink => {
                    let target = relative(&entry.link)?;
                    archive.links.insert(path, target);
                }
                _ => return Err(entry_error(&path, "an image archive holds only files and links").into()),
            }
        }
        stream.drain()?;
        Ok(archive)
    }

    /// Whether there is a file (or a link) of this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        relative(name.as_bytes())
            .is_ok_and(|path| self.files.contains_key(&path) || self.links.contains_key(&path))
    }

    /// The file of this name, through links.
    pub(crate) fn file(&self, name: &str) -> Result<&StagedBlob, ArchiveError> {
        let mut path = relative(name.as_bytes())?;
        for _ in 0..LINKS_MAX {
            if let Some(file) = self.files.get(&path) {
                return Ok(file);
            }
            let missing = || ArchiveError::Missing {
                name: name.to_string(),
            };
            path = self.links.get(&path).ok_or_else(missing)?.clone();
        }
        Err(entry_error(name.as_bytes(), "too many links"))
    }

    /// The content of a small file.
    pub(crate) fn document(&self, name: &str) -> Result<Vec<u8>> {
        let staged = self.file(name)?;
        let failed = |error| crate::error::Error::io("open", staged.path(), error);
        let file = std::fs::File::open(staged.path()).map_err(failed)?;
        read_document(
            file,
            staged.path(),
            "the size of a manifest or configuration",
            DOCUMENT_BYTES_MAX,
        )
    }

    /// Takes the files out.
    pub(crate) fn into_blobs(self) -> impl Iterator<Item = StagedBlob> {
        self.files.into_values()
    }
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(200).collect()
}
