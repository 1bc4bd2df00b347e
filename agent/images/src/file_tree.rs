//! What an archive leaves in an empty directory, told from the archive alone: whoever only wants to know whether it holds
//! anything new need not write its files first.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{BufReader, Read};

use sha2::{Digest as _, Sha256};

use crate::compression::{ByteBudget, decompress};
use crate::digest::Digest;
use crate::error::{ArchiveError, Result};
use crate::limits::{LoadLimits, NAME_BYTES_MAX, PATH_BYTES_MAX};
use crate::tar_stream::{EntryKind, TarEntry, TarStream};

const BUFFER_BYTES: usize = 256 << 10;
/// Mode of directories that entries lie in and that the archive leaves out, as when it is extracted.
const IMPLIED_MODE: u32 = 0o755;
/// Deepest path that is listed; the tree is walked by recursion.
const DEPTH_MAX: usize = 256;

/// One thing of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileNode {
    /// A directory.
    Directory {
        /// Its permissions.
        mode: u32,
        /// What lies in it, by name.
        children: BTreeMap<Vec<u8>, FileNode>,
    },
    /// A regular file.
    File {
        /// Its permissions.
        mode: u32,
        /// The digest of its content.
        content: Digest,
    },
    /// A symbolic link.
    Symlink {
        /// Where it leads.
        target: Vec<u8>,
    },
}

/// The outcome of an archive of plain files, directories and symbolic links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTree {
    root: BTreeMap<Vec<u8>, FileNode>,
    kept: BTreeMap<Vec<u8>, Vec<u8>>,
    entries: usize,
}

/// What lies at a path of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Located<'a> {
    /// The root.
    Root(&'a BTreeMap<Vec<u8>, FileNode>),
    /// Below it.
    Node(&'a FileNode),
    /// Nothing.
    Missing,
    /// The path leads through a symbolic link.
    BehindLink,
}

impl FileTree {
    /// Reads an archive, compressed or not, to its end. `None` where only a file system can tell what becomes of it:
    /// entries that replace others, hard links, special files, attributes, unusual paths. Of the files that `keeps` names,
    /// as many bytes are kept.
    pub fn list(
        reader: impl Read,
        keeps: &dyn Fn(&[u8]) -> Option<u64>,
        limits: &LoadLimits,
    ) -> Result<Option<FileTree>> {
        let budget = ByteBudget::new("the unpacked size of the archive", limits.unpacked_bytes_max);
        let (_, stream) = decompress(reader, &budget, limits)?;
        let stream = BufReader::with_capacity(BUFFER_BYTES, stream);
        let mut stream = TarStream::new(stream, limits.layer_entries_max);
        let mut tree = Some(FileTree {
            root: BTreeMap::new(),
            kept: BTreeMap::new(),
            entries: 0,
        });
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Some(entry) = stream.next_entry()? {
            if let Some(listed) = &mut tree
                && !listed.add(&entry, &mut stream, keeps, &mut buffer)?
            {
                tree = None;
            }
        }
        stream.drain()?;
        Ok(tree)
    }

    /// What lies at a path, without a leading slash and `.` and `..`.
    pub fn at(&self, path: &[u8]) -> Located<'_> {
        let mut children = &self.root;
        let mut located = Located::Root(children);
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            match located {
                Located::Root(_) | Located::Node(FileNode::Directory { .. }) => {}
                Located::Node(FileNode::Symlink { .. }) | Located::BehindLink => return Located::BehindLink,
                Located::Node(FileNode::File { .. }) | Located::Missing => return Located::Missing,
            }
            let Some(node) = children.get(name) else {
                return Located::Missing;
            };
            if let FileNode::Directory { children: below, .. } = node {
                children = below;
            }
            located = Located::Node(node);
        }
        located
    }

    /// How many entries the archive has.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// The beginning of a file that was to be kept.
    pub fn kept(&self, path: &[u8]) -> Option<&[u8]> {
        self.kept.get(path).map(Vec::as_slice)
    }

    /// Takes a file or link out of the tree; directories stay.
    pub fn remove(&mut self, path: &[u8]) {
        let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        let mut children = &mut self.root;
        for part in directory
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty())
        {
            match children.get_mut(part) {
                Some(FileNode::Directory { children: below, .. }) => children = below,
                _ => return,
            }
        }
        if matches!(
            children.get(name),
            Some(FileNode::File { .. } | FileNode::Symlink { .. })
        ) {
            children.remove(name);
        }
    }

    /// Adds an entry; `false` where its outcome is not plain.
    fn add(
        &mut self,
        entry: &TarEntry,
        content: &mut impl Read,
        keeps: &dyn Fn(&[u8]) -> Option<u64>,
        buffer: &mut [u8],
    ) -> Result<bool> {
        self.entries += 1;
        let Some(parts) = plain_parts(&entry.path).filter(|_| entry.xattrs.is_empty()) else {
            return Ok(false);
        };
        let Some((name, directories)) = parts.split_last() else {
            // The root itself keeps what it has.
            return Ok(entry.kind == EntryKind::Directory);
        };
        let node = match entry.kind {
            EntryKind::Directory => FileNode::Directory {
                mode: entry.mode,
                children: BTreeMap::new(),
            },
            EntryKind::Symlink => FileNode::Symlink {
                target: entry.link.clone(),
            },
            EntryKind::File => {
                let path = parts.join(&b'/');
                let mut kept = keeps(&path).map(|bytes_max| (Vec::new(), bytes_max));
                let digest = read_content(content, kept.as_mut(), buffer)?;
                if let Some((bytes, _)) = kept {
                    self.kept.insert(path, bytes);
                }
                FileNode::File {
                    mode: entry.mode,
                    content: digest,
                }
            }
            EntryKind::HardLink | EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                return Ok(false);
            }
        };
        Ok(self.put(directories, name, node))
    }

    fn put(&mut self, directories: &[&[u8]], name: &[u8], node: FileNode) -> bool {
        let mut children = &mut self.root;
        for directory in directories {
            let implied = || FileNode::Directory {
                mode: IMPLIED_MODE,
                children: BTreeMap::new(),
            };
            match children.entry(directory.to_vec()).or_insert_with(implied) {
                FileNode::Directory { children: below, .. } => children = below,
                FileNode::File { .. } | FileNode::Symlink { .. } => return false,
            }
        }
        match children.entry(name.to_vec()) {
            Entry::Vacant(place) => drop(place.insert(node)),
            Entry::Occupied(mut place) => match (place.get_mut(), node) {
                (FileNode::Directory { mode, .. }, FileNode::Directory { mode: new, .. }) => *mode = new,
                _ => return false,
            },
        }
        true
    }
}

/// The names of a path that is one without `..` and anything that a file system could refuse.
fn plain_parts(path: &[u8]) -> Option<Vec<&[u8]>> {
    if path.len() > PATH_BYTES_MAX {
        return None;
    }
    let names = path.split(|byte| *byte == b'/');
    let parts: Vec<&[u8]> = names.filter(|name| !matches!(**name, [] | [b'.'])).collect();
    let is_plain = |name: &&[u8]| *name != b".." && name.len() <= NAME_BYTES_MAX && !name.contains(&0);
    (parts.len() <= DEPTH_MAX && parts.iter().all(is_plain)).then_some(parts)
}

/// Hashes a file's content, and keeps its beginning where it is wanted.
fn read_content(
    content: &mut impl Read,
    mut kept: Option<&mut (Vec<u8>, u64)>,
    buffer: &mut [u8],
) -> Result<Digest> {
    let mut hasher = Sha256::new();
    loop {
        let read = content.read(buffer).map_err(ArchiveError::from_read)?;
        if read == 0 {
            return Ok(Digest::from_hash(hasher.finalize().into()));
        }
        hasher.update(&buffer[..read]);
        if let Some((bytes, left)) = &mut kept {
            let wanted = usize::try_from(*left).map_or(read, |left| left.min(read));
            bytes.extend_from_slice(&buffer[..wanted]);
            *left -= wanted as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(path: &str, kind: tar::EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_path(path).unwrap();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o640);
        header.set_cksum();
        header
    }

    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, text) in entries {
            let size = if *kind == tar::EntryType::Regular {
                text.len()
            } else {
                0
            };
            let mut header = header(path, *kind, size as u64);
            if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
                header.set_link_name(text).unwrap();
                header.set_cksum();
            }
            builder.append(&header, &text.as_bytes()[..size]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn listed(entries: &[(&str, tar::EntryType, &str)]) -> Option<FileTree> {
        let keeps = |path: &[u8]| (path == b"d/kept").then_some(3);
        FileTree::list(archive(entries).as_slice(), &keeps, &LoadLimits::default()).unwrap()
    }

    #[test]
    fn plain_entries_are_found_where_they_would_lie() {
        use tar::EntryType::{Directory, Regular, Symlink};
        let tree = listed(&[
            ("./", Directory, ""),
            ("d/kept", Regular, "content"),
            ("d", Directory, ""),
            ("link", Symlink, "d"),
        ]);
        let mut tree = tree.unwrap();
        let file = FileNode::File {
            mode: 0o640,
            content: Digest::of(b"content"),
        };
        assert_eq!(tree.at(b"d/kept"), Located::Node(&file));
        assert!(matches!(
            tree.at(b"d"),
            Located::Node(FileNode::Directory { mode: 0o640, .. })
        ));
        assert_eq!(tree.at(b"link/kept"), Located::BehindLink);
        assert_eq!(tree.at(b"d/kept/below"), Located::Missing);
        assert_eq!(tree.at(b"other"), Located::Missing);
        assert!(matches!(tree.at(b""), Located::Root(root) if root.len() == 2));
        assert_eq!(tree.kept(b"d/kept"), Some(&b"con"[..]));
        for path in [&b"d"[..], b"d/kept", b"missing/x", b"link"] {
            tree.remove(path);
        }
        assert!(matches!(tree.at(b""), Located::Root(root) if root.len() == 1));
        assert_eq!(tree.at(b"d/kept"), Located::Missing);
    }

    #[test]
    fn what_only_a_file_system_can_tell_is_not_listed() {
        use tar::EntryType::{Directory, Fifo, Link, Regular, Symlink};
        for entries in [
            &[("a", Regular, "1"), ("a", Regular, "2")][..],
            &[("a", Directory, ""), ("a", Regular, "2")],
            &[("a", Symlink, "/"), ("a/b", Regular, "2")],
            &[("a", Regular, "1"), ("b", Link, "a")],
            &[("a", Fifo, "")],
            &[(".", Regular, "1")],
        ] {
            assert_eq!(listed(entries), None, "{entries:?}");
        }
        let mut up = header("placeholder", tar::EntryType::Regular, 0);
        up.as_old_mut().name[..5].copy_from_slice(b"../a\0");
        up.set_cksum();
        let bytes = [up.as_bytes().as_slice(), &[0; 1024]].concat();
        let limits = LoadLimits::default();
        assert_eq!(
            FileTree::list(bytes.as_slice(), &|_| None, &limits).unwrap(),
            None
        );
        // An archive that is none is an error, also behind what is not plain.
        let mut cut = archive(&[("a", Fifo, ""), ("b", Regular, "content")]);
        cut.truncate(1026);
        FileTree::list(cut.as_slice(), &|_| None, &limits).unwrap_err();
    }
}
