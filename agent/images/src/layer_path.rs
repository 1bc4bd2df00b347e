//! Paths inside archives: made relative to the layer's root, or refused.

use crate::error::ArchiveError;
use crate::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};

/// An entry error for a path that may be any bytes.
pub(crate) fn entry_error(path: &[u8], problem: &'static str) -> ArchiveError {
    ArchiveError::Entry {
        path: String::from_utf8_lossy(path).chars().take(200).collect(),
        problem,
    }
}

/// The path without `.`, doubled and trailing slashes; empty for the root. Absolute paths and `..` are refused.
pub(crate) fn relative(path: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    let refuse = |problem| Err(entry_error(path, problem));
    if path.len() > PATH_BYTES_MAX {
        return refuse("the path is too long");
    }
    if path.first() == Some(&b'/') {
        return refuse("an absolute path leads out of the image");
    }
    let mut clean = Vec::with_capacity(path.len());
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return refuse("\"..\" leads out of the image"),
            _ if component.len() > NAME_BYTES_MAX => return refuse("a name in the path is too long"),
            _ if component.contains(&0) => return refuse("the path contains a zero byte"),
            _ => {}
        }
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(component);
    }
    Ok(clean)
}

/// Splits a clean path into its directory (empty for the root) and its last name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Checks the target of the symbolic link at the clean `path`: it may be absolute, which a container resolves in its
/// own root, but a relative one may not climb above the root.
pub(crate) fn check_symlink_target(path: &[u8], target: &[u8]) -> Result<(), ArchiveError> {
    let refuse = |problem| Err(entry_error(path, problem));
    if target.is_empty() || target.len() > PATH_BYTES_MAX || target.contains(&0) {
        return refuse("the target of the symbolic link is empty, too long or contains a zero byte");
    }
    if target[0] == b'/' {
        return Ok(());
    }
    let mut depth = path.iter().filter(|byte| **byte == b'/').count();
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if depth == 0 => return refuse("the symbolic link leads out of the image"),
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    Ok(())
}

/// The path in the archive that the symbolic link at `path` points to, for links between files of an outer archive.
pub(crate) fn resolve_link(path: &[u8], target: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    if target.first() == Some(&b'/') {
        return Err(entry_error(
            path,
            "an absolute symbolic link leads out of the archive",
        ));
    }
    check_symlink_target(path, target)?;
    let mut components: Vec<&[u8]> = split(path)
        .0
        .split(|byte| *byte == b'/')
        .filter(|c| !c.is_empty())
        .collect();
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop()),
            _ => components.push(component),
        }
    }
    Ok(components.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_cleaned_or_refused() {
        for (path, clean) in [
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            (".", ""),
            ("./", ""),
            ("", ""),
            ("..a/b..", "..a/b.."),
        ] {
            assert_eq!(relative(path.as_bytes()).unwrap(), clean.as_bytes(), "{path}");
        }
        let long_name = "n".repeat(256);
        let long_path = "p/".repeat(2048);
        for bad in [
            "/etc/passwd",
            "..",
            "a/../b",
            "../x",
            "a/..",
            "a/b\0c",
            &long_name,
            &long_path,
        ] {
            assert!(relative(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn symlinks_may_not_climb_above_the_root() {
        for (path, target) in [
            ("bin/sh", "/bin/busybox"),
            ("usr/bin/x", "../lib/x"),
            ("a", "b"),
            ("a/b", "../c"),
        ] {
            assert!(
                check_symlink_target(path.as_bytes(), target.as_bytes()).is_ok(),
                "{path} -> {target}"
            );
        }
        for (path, target) in [
            ("a", ".."),
            ("a/b", "../../c"),
            ("a", "x/../../y"),
            ("a", ""),
            ("a", "\0"),
        ] {
            assert!(
                check_symlink_target(path.as_bytes(), target.as_bytes()).is_err(),
                "{path} -> {target}"
            );
        }
    }

    #[test]
    fn links_of_an_archive_resolve_to_its_paths() {
        assert_eq!(
            resolve_link(b"one/layer.tar", b"../two/layer.tar").unwrap(),
            b"two/layer.tar"
        );
        assert_eq!(
            resolve_link(b"one/layer.tar", b"other.tar").unwrap(),
            b"one/other.tar"
        );
        assert!(resolve_link(b"one/layer.tar", b"/etc/shadow").is_err());
        assert!(resolve_link(b"one/layer.tar", b"../../etc/shadow").is_err());
    }

    proptest! {
        #[test]
        fn clean_paths_stay_inside(path in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(clean) = relative(&path) {
                let inside = clean.split(|b| *b == b'/').all(|c| c != b".." && c != b".");
                prop_assert!(inside && clean.first() != Some(&b'/') && clean.last() != Some(&b'/'));
                prop_assert_eq!(relative(&clean).unwrap(), clean);
            }
        }
    }
}
