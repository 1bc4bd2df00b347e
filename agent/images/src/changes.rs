//! What a container changed in its image's files: its upper directory compared with the layers below it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::store::ImageStore;
use crate::unpack::open_directory;
use crate::whiteout::{self, Standing};

/// Deepest directory that is compared; each level holds descriptors and a frame.
const DEPTH_MAX: usize = 512;
const DIRECTORY_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// Paths that a start makes in the root file system to mount over them, deepest first. Where the image lacks them and
/// they are empty they are no change of the container's, as the files of Docker's init layer are none.
const MOUNT_PLACES: [&str; 7] = [
    "etc/hostname",
    "etc/hosts",
    "etc/resolv.conf",
    "etc",
    "dev",
    "proc",
    "sys",
];

/// How a path changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// Something in it or of it.
    Modified,
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
}

/// One changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// Absolute, as the container sees it.
    pub path: Vec<u8>,
    /// How.
    pub kind: ChangeKind,
}

impl ImageStore {
    /// What the container changed, by path. A directory is listed as modified when anything in it changed, what a
    /// deleted directory held is not listed.
    pub fn changes(&self, container_id: &str) -> Result<Vec<FileChange>> {
        let upper = self.upper_dir(container_id)?;
        let failed = |error: Errno| Error::io("compare with its image", &upper, error);
        let (top, below) = (open_directory(&upper)?, self.layers_below(container_id)?);
        let stubs = mount_stubs(&top, &below, &[]).map_err(failed)?;
        let mut found = Vec::new();
        compare(&top, &below, b"", &stubs, &mut found, 0).map_err(failed)?;
        Ok(found)
    }

    /// Roots of the layers of a container's image, topmost first.
    pub(crate) fn layers_below(&self, container_id: &str) -> Result<Vec<OwnedFd>> {
        let snapshot = self.snapshot(container_id)?;
        let layers = snapshot.chain_ids.iter().rev();
        layers
            .map(|id| open_directory(&self.inner.layout.layer(id)))
            .collect()
    }
}

/// The paths of [`MOUNT_PLACES`], and of other places that were mounted over, that say nothing of the container.
pub(crate) fn mount_stubs(
    upper: &OwnedFd,
    below: &[OwnedFd],
    others: &[String],
) -> rustix::io::Result<BTreeSet<Vec<u8>>> {
    let mut stubs = BTreeSet::new();
    for place in others.iter().map(String::as_str).chain(MOUNT_PLACES) {
        let (directory, name) = place.rsplit_once('/').unwrap_or((".", place));
        let parent = match rustix::fs::openat(upper, directory, DIRECTORY_FLAGS, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            opened => opened?,
        };
        let Some(stat) = look(&parent, name.as_bytes())? else {
            continue;
        };
        let lower_parents = match directory {
            "." => below
                .iter()
                .map(rustix::io::dup)
                .collect::<rustix::io::Result<Vec<_>>>()?,
            name => match lower(below, name.as_bytes())? {
                Some(Lower { directories, .. }) => directories,
                None => Vec::new(),
            },
        };
        let known = lower(&lower_parents, name.as_bytes())?;
        let is_stub = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inside = rustix::fs::openat(&parent, name, DIRECTORY_FLAGS, Mode::empty())?;
                let prefix = format!("{place}/").into_bytes();
                let empty = names(&inside)?
                    .iter()
                    .all(|name| stubs.contains(&[prefix.as_slice(), name].concat()));
                empty && known.is_none_or(|known| !differs(&known.stat, &stat))
            }
            FileType::RegularFile => stat.st_size == 0 && known.is_none(),
            _ => false,
        };
        if is_stub {
            stubs.insert(place.as_bytes().to_vec());
        }
    }
    Ok(stubs)
}

/// What lower layers have at a name.
struct Lower {
    stat: Stat,
    /// The directories that are merged there, topmost first; none for something else.
    directories: Vec<OwnedFd>,
}

fn compare(
    upper: &OwnedFd,
    below: &[OwnedFd],
    path: &[u8],
    stubs: &BTreeSet<Vec<u8>>,
    found: &mut Vec<FileChange>,
    depth: usize,
) -> rustix::io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let opaque = whiteout::is_opaque(upper)?;
    let mut names: BTreeMap<Vec<u8>, bool> = names(upper)?.into_iter().map(|name| (name, true)).collect();
    if opaque {
        for name in merged_names(below)? {
            names.entry(name).or_insert(false);
        }
    }
    for (name, is_above) in names {
        let here = if path.is_empty() {
            name.clone()
        } else {
            [path, b"/", &name].concat()
        };
        if stubs.contains(&here) {
            continue;
        }
        let old = lower(below, &name)?;
        if !is_above {
            push(found, &here, ChangeKind::Deleted);
            continue;
        }
        let Some(stat) = look(upper, &name)? else { continue };
        if FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0 {
            if old.is_some() {
                push(found, &here, ChangeKind::Deleted);
            }
            continue;
        }
        let at = found.len();
        match &old {
            None => push(found, &here, ChangeKind::Added),
            Some(old) if differs(&old.stat, &stat) => push(found, &here, ChangeKind::Modified),
            Some(_) => {}
        }
        if !FileType::from_raw_mode(stat.st_mode).is_dir() {
            continue;
        }
        let listed = found.len() > at;
        let directory = rustix::fs::openat(upper, name.as_slice(), DIRECTORY_FLAGS, Mode::empty())?;
        let directories = old.map(|old| old.directories).unwrap_or_default();
        compare(&directory, &directories, &here, stubs, found, depth + 1)?;
        if !listed && found.len() > at {
            let kind = ChangeKind::Modified;
            found.insert(
                at,
                FileChange {
                    path: [b"/", here.as_slice()].concat(),
                    kind,
                },
            );
        }
    }
    Ok(())
}

fn push(found: &mut Vec<FileChange>, path: &[u8], kind: ChangeKind) {
    found.push(FileChange {
        path: [b"/", path].concat(),
        kind,
    });
}

/// Owner, mode and device, and for anything but directories size and time: as Docker compares.
fn differs(old: &Stat, new: &Stat) -> bool {
    let of = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
    let content = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    let directory = FileType::from_raw_mode(new.st_mode).is_dir();
    of(old) != of(new) || !directory && content(old) != content(new)
}

fn look(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the merged lower directories have at a name.
fn lower(below: &[OwnedFd], name: &[u8]) -> rustix::io::Result<Option<Lower>> {
    let mut found: Option<Lower> = None;
    for layer in below {
        match whiteout::standing(layer, name)? {
            Standing::Nothing => continue,
            Standing::Whiteout => break,
            Standing::Other => {
                // A directory above hides it.
                if found.is_none() {
                    let stat = look(layer, name)?;
                    found = stat.map(|stat| Lower {
                        stat,
                        directories: Vec::new(),
                    });
                }
                break;
            }
            Standing::Directory => {
                let directory = rustix::fs::openat(layer, name, DIRECTORY_FLAGS, Mode::empty())?;
                let hides = whiteout::is_opaque(&directory)?;
                let stat = rustix::fs::fstat(&directory)?;
                let merged = found.get_or_insert(Lower {
                    stat,
                    directories: Vec::new(),
                });
                merged.directories.push(directory);
                if hides {
                    break;
                }
            }
        }
    }
    Ok(found)
}

/// The names that merged lower directories show.
fn merged_names(below: &[OwnedFd]) -> rustix::io::Result<BTreeSet<Vec<u8>>> {
    let mut all = BTreeSet::new();
    for layer in below {
        all.extend(names(layer)?);
    }
    let mut shown = BTreeSet::new();
    for name in all {
        if lower(below, &name)?.is_some() {
            shown.insert(name);
        }
    }
    Ok(shown)
}

fn names(directory: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut entries = Dir::read_from(directory)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
