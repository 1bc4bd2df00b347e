//! What `COPY` and `ADD` take of a context that is not unpacked: the same answers as `source` gives of its files.
//!
//! `None` always means that only the files can tell: a path that leads through a link, or to one.

use super::source::{Kind, inside, literal_directory, push};
use crate::error::{Error, Result};
use muster_build::Pattern;
use muster_images::{Digest, FileNode, FileTree, Located};
use std::collections::BTreeMap;

/// Mode of symbolic links.
const LINK_MODE: u32 = 0o777;

/// The paths that a source means.
pub(super) fn select(tree: &FileTree, source: &str) -> Result<Option<Vec<String>>> {
    let clean = inside(source)?;
    if !Pattern::is_wild(&clean) {
        return Ok(Some(vec![clean]));
    }
    let pattern = Pattern::parse(&clean).map_err(|error| Error::invalid(format!("{error}: {source}")))?;
    let literal = literal_directory(&clean);
    let depth = clean[literal.len()..].matches('/').count();
    let mut found = Vec::new();
    match tree.at(literal.as_bytes()) {
        Located::Root(children) | Located::Node(FileNode::Directory { children, .. }) => {
            matching(children, literal, depth, &pattern, &mut found);
        }
        // What finds nothing is told by the files.
        Located::Node(_) | Located::Missing | Located::BehindLink => return Ok(None),
    }
    found.sort_unstable();
    Ok(Some(found).filter(|found| !found.is_empty()))
}

fn matching(
    children: &BTreeMap<Vec<u8>, FileNode>,
    prefix: &str,
    depth: usize,
    pattern: &Pattern,
    found: &mut Vec<String>,
) {
    for (name, node) in children {
        let Ok(text) = std::str::from_utf8(name) else {
            continue;
        };
        let path = format!("{prefix}{text}");
        match node {
            _ if depth == 0 && pattern.matches(&path) => found.push(path),
            FileNode::Directory { children, .. } if depth > 0 => {
                matching(children, &format!("{path}/"), depth - 1, pattern, found);
            }
            FileNode::Directory { .. } | FileNode::File { .. } | FileNode::Symlink { .. } => {}
        }
    }
}

/// Whether a directory lies at a path, and the digest of everything there.
pub(super) fn digest_at(tree: &FileTree, path: &str) -> Option<(bool, Digest)> {
    let mut listing = Vec::new();
    let is_directory = match tree.at(path.as_bytes()) {
        Located::Root(children) | Located::Node(FileNode::Directory { children, .. }) => {
            digest_tree(children, b"", &mut listing);
            true
        }
        Located::Node(FileNode::File { mode, content }) => {
            push(
                &mut listing,
                b"",
                Kind::File.owned_by_root(*mode),
                &content.to_string(),
            );
            false
        }
        Located::Node(FileNode::Symlink { .. }) | Located::Missing | Located::BehindLink => return None,
    };
    Some((is_directory, Digest::of(&listing)))
}

fn digest_tree(children: &BTreeMap<Vec<u8>, FileNode>, prefix: &[u8], listing: &mut Vec<u8>) {
    for (name, node) in children {
        let path = [prefix, name].concat();
        match node {
            FileNode::Directory { mode, children } => {
                push(listing, &path, Kind::Directory.owned_by_root(*mode), "");
                digest_tree(children, &[path.as_slice(), b"/"].concat(), listing);
            }
            FileNode::File { mode, content } => {
                push(
                    listing,
                    &path,
                    Kind::File.owned_by_root(*mode),
                    &content.to_string(),
                );
            }
            FileNode::Symlink { target } => {
                let target = String::from_utf8_lossy(target);
                push(listing, &path, Kind::Symlink.owned_by_root(LINK_MODE), &target);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::context::Context;
    use super::super::source;
    use super::*;
    use tokio_util::sync::CancellationToken;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind: tar::EntryType, mode: u32, text: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_uid(1000);
            match kind {
                tar::EntryType::Symlink => {
                    header.set_size(0);
                    builder.append_link(&mut header, path, text).unwrap();
                }
                _ => {
                    header.set_size(text.len() as u64);
                    builder.append_data(&mut header, path, text.as_bytes()).unwrap();
                }
            }
        };
        use tar::EntryType::{Directory, Regular, Symlink};
        add("Dockerfile", Regular, 0o644, "FROM scratch");
        // In an order that is not that of the names, and with names that sort before a slash.
        add("d/z", Regular, 0o755, "z");
        add("d", Directory, 0o750, "");
        add("d-other/a", Regular, 0o600, "a");
        add("d/e/f.txt", Regular, 0o4755, "f");
        add("d/e/g.txt", Regular, 0o644, "");
        add("d/link", Symlink, 0o777, "e/f.txt");
        add("top.txt", Regular, 0o644, "top");
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_listed_context_answers_as_its_files_do() {
        let place = tempfile::tempdir().unwrap();
        let context = Context::receive(&place.path().join("c"), archive().as_slice(), "Dockerfile").unwrap();
        let tree = context.listed().expect("a plain context is listed");
        let (root, cancel) = (context.root().unwrap(), CancellationToken::new());
        for path in ["", "d", "d/e", "d/e/f.txt", "d-other", "d/z", "top.txt"] {
            let of_files = source::digest_at(&root, path, &cancel).unwrap();
            let (is_directory, of_list) = digest_at(tree, path).unwrap();
            assert_eq!(of_list, of_files, "{path}");
            assert_eq!(
                is_directory,
                matches!(path, "" | "d" | "d/e" | "d-other"),
                "{path}"
            );
        }
        for path in ["d/link", "missing", "d/link/x", "top.txt/x"] {
            assert_eq!(digest_at(tree, path), None, "{path}");
        }
        for source in ["*.txt", "d*", "d/*/*.txt", "./d/e/../z", "/"] {
            let of_files = source::select(&root, source).unwrap();
            assert_eq!(select(tree, source).unwrap(), Some(of_files), "{source}");
        }
        for source in ["*.none", "missing/*", "d/link/*", "top.txt/*"] {
            assert_eq!(select(tree, source).unwrap(), None, "{source}");
        }
        for source in ["../outside", "["] {
            let of_files = source::select(&root, source).unwrap_err().to_string();
            assert_eq!(select(tree, source).unwrap_err().to_string(), of_files);
        }
    }
}
