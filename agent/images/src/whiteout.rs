//! Deletions in a layer: the marker files of the image format and their form in overlayfs.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Mode, XattrFlags};

/// A device number of 0:0 marks an overlayfs whiteout.
const WHITEOUT_DEVICE: u64 = 0;
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
const MARKER_PREFIX: &[u8] = b".wh.";
/// Name of the file that marks an opaque directory in an archive.
pub(crate) const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// What the name of an entry says about deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marker<'a> {
    /// An ordinary name.
    None,
    /// The directory hides everything below it in lower layers.
    Opaque,
    /// This name is deleted.
    Whiteout(&'a [u8]),
    /// Bookkeeping of aufs, without meaning.
    Ignored,
    /// A marker for a name that cannot be.
    Malformed,
}

impl Marker<'_> {
    /// Reads the last name of an entry's path.
    pub(crate) fn of(name: &[u8]) -> Marker<'_> {
        if name == OPAQUE_MARKER {
            return Marker::Opaque;
        }
        if name.starts_with(AUFS_PREFIX) {
            return Marker::Ignored;
        }
        match name.strip_prefix(MARKER_PREFIX) {
            None => Marker::None,
            Some(b"" | b"." | b"..") => Marker::Malformed,
            Some(deleted) => Marker::Whiteout(deleted),
        }
    }
}

/// Extended attributes that would speak to overlayfs itself; an image may not bring them.
pub(crate) fn is_overlay_xattr(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// Makes `name` a whiteout.
pub(crate) fn create(directory: impl AsFd, name: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::mknodat(
        directory,
        name,
        FileType::CharacterDevice,
        Mode::empty(),
        WHITEOUT_DEVICE,
    )
}

/// Makes the directory hide what lower layers have below it.
pub(crate) fn set_opaque(directory: impl AsFd) -> rustix::io::Result<()> {
    rustix::fs::fsetxattr(directory, OPAQUE_XATTR, b"y", XattrFlags::empty())
}

/// Whether the directory hides what lower layers have below it.
pub(crate) fn is_opaque(directory: impl AsFd) -> rustix::io::Result<bool> {
    let mut value = [0; 1];
    match rustix::fs::fgetxattr(directory, OPAQUE_XATTR, &mut value[..]) {
        Ok(bytes) => Ok(value[..bytes] == *b"y"),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP | rustix::io::Errno::RANGE) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The path of the marker that deletes `path`.
pub(crate) fn marked(path: &[u8]) -> Vec<u8> {
    let name = path
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |slash| slash + 1);
    [&path[..name], MARKER_PREFIX, &path[name..]].concat()
}

/// What stands at a name of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Nothing,
    Whiteout,
    Directory,
    Other,
}

/// Looks at `name` without following it.
pub(crate) fn standing(directory: impl AsFd, name: &[u8]) -> rustix::io::Result<Standing> {
    let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::NOENT) => return Ok(Standing::Nothing),
        Err(error) => return Err(error),
    };
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice if stat.st_rdev == WHITEOUT_DEVICE => Standing::Whiteout,
        FileType::Directory => Standing::Directory,
        _ => Standing::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_read_from_names() {
        let table: [(&[u8], Marker); 8] = [
            (b"file", Marker::None),
            (b".wh", Marker::None),
            (b".wh.file", Marker::Whiteout(b"file")),
            (b".wh..hidden", Marker::Whiteout(b".hidden")),
            (b".wh..wh..opq", Marker::Opaque),
            (b".wh..wh.plnk", Marker::Ignored),
            (b".wh..", Marker::Malformed),
            (b".wh...", Marker::Malformed),
        ];
        for (name, marker) in table {
            assert_eq!(Marker::of(name), marker, "{}", String::from_utf8_lossy(name));
        }
        assert_eq!(Marker::of(b".wh."), Marker::Malformed);
    }

    #[test]
    fn overlay_attributes_are_recognised() {
        assert!(is_overlay_xattr(b"trusted.overlay.opaque") && is_overlay_xattr(b"user.overlay.whiteout"));
        assert!(!is_overlay_xattr(b"security.capability") && !is_overlay_xattr(b"user.overlayish"));
    }
}
