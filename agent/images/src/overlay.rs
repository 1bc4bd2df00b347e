//! Overlay mounts that are attached nowhere: a descriptor that the container's mount namespace takes over.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen,
};

/// Longest value that fsconfig takes, with its final zero.
const FSCONFIG_VALUE_BYTES_MAX: usize = 256;
/// Options that keep a container's upper directory plain: no renamed or content-less directories and files in it.
const PLAIN_OPTIONS: [(&str, &str); 3] = [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off")];
/// Messages of the kernel kept in an error.
const LOG_MESSAGES_MAX: usize = 8;
const SOURCE: &str = "muster";

/// What to mount.
pub(crate) struct OverlaySpec<'a> {
    /// The layers, topmost first; at least one.
    pub(crate) lower: &'a [PathBuf],
    pub(crate) upper: &'a Path,
    pub(crate) work: &'a Path,
    /// The SELinux label of everything in it, instead of what the layers say.
    pub(crate) label: Option<&'a str>,
    /// As whose the files are shown, and whose those become that are made in it.
    pub(crate) shown: Option<ShownAs<'a>>,
}

/// Gives a detached mount other owners (an id-mapped mount): what a file's ids on disk stand for outside.
pub type ShownAs<'a> = &'a dyn Fn(BorrowedFd<'_>) -> io::Result<()>;

impl<'a> OverlaySpec<'a> {
    /// Options beside the directories, by name and value.
    fn settings(&self) -> impl Iterator<Item = (&'static str, &'a str)> + use<'a> {
        PLAIN_OPTIONS
            .into_iter()
            .chain(self.label.map(|label| ("context", label)))
    }

    /// The same as text for mount(2), where commas separate options unless they are between quotes.
    fn classic_settings(&self) -> String {
        let quoted = self.settings().map(|(option, value)| {
            if value.contains(',') {
                format!(",{option}=\"{value}\"")
            } else {
                format!(",{option}={value}")
            }
        });
        quoted.collect()
    }
}

/// A step of mounting that failed.
#[derive(Debug)]
pub(crate) struct MountError {
    pub(crate) step: &'static str,
    pub(crate) source: io::Error,
}

fn at(step: &'static str) -> impl Fn(Errno) -> MountError {
    move |error| MountError {
        step,
        source: error.into(),
    }
}

/// Mounts detached, by the new mount API where the kernel's overlayfs has `lowerdir+` (6.8), else by mount(2) at
/// `scratch` (an empty directory of the caller's), from where it is cloned and unmounted.
pub(crate) fn mount_detached(
    spec: &OverlaySpec<'_>,
    scratch: impl Fn() -> io::Result<PathBuf>,
) -> Result<OwnedFd, MountError> {
    match mount_by_layers(spec)? {
        Some(mount) => Ok(mount),
        None if spec.shown.is_some() => Err(MountError {
            step: "show layers as owned by others",
            source: io::ErrorKind::Unsupported.into(),
        }),
        None => {
            let place = scratch().map_err(|source| MountError {
                step: "make a mount point",
                source,
            })?;
            let mounted = mount_by_options(spec, &place);
            // The mount point is in `tmp`, which the next open sweeps if this fails.
            let _ = std::fs::remove_dir(&place);
            mounted
        }
    }
}

/// A path short enough for fsconfig, through the descriptor where it must be.
struct ShortPath {
    text: PathBuf,
    _directory: Option<OwnedFd>,
}

fn short(path: &Path) -> Result<ShortPath, MountError> {
    if path.as_os_str().len() < FSCONFIG_VALUE_BYTES_MAX {
        return Ok(ShortPath {
            text: path.to_path_buf(),
            _directory: None,
        });
    }
    by_descriptor(path)
}

/// A directory through a mount of its own with other owners.
fn mapped(path: &Path, shown: ShownAs<'_>) -> Result<ShortPath, MountError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, path, flags).map_err(at("clone the mount of a layer"))?;
    shown(tree.as_fd()).map_err(|source| MountError {
        step: "show a layer as owned by others",
        source,
    })?;
    Ok(ShortPath {
        text: PathBuf::from(format!("/proc/self/fd/{}", tree.as_raw_fd())),
        _directory: Some(tree),
    })
}

fn by_descriptor(path: &Path) -> Result<ShortPath, MountError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(at("open a layer"))?;
    let text = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    Ok(ShortPath {
        text,
        _directory: Some(directory),
    })
}

/// Mounts layers alone, the topmost first, read-only; at least two. `shown` as for [`OverlaySpec`].
pub(crate) fn mount_layers(lower: &[PathBuf], shown: Option<ShownAs<'_>>) -> Result<OwnedFd, MountError> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("fsopen overlay"))?;
    let context = context.as_fd();
    fsconfig_set_string(context, "source", SOURCE).map_err(at("set the source"))?;
    let opened: Vec<ShortPath> = lower
        .iter()
        .map(|layer| match shown {
            Some(shown) => mapped(layer, shown),
            None => by_descriptor(layer),
        })
        .collect::<Result<_, _>>()?;
    for layer in &opened {
        match fsconfig_set_string(context, "lowerdir+", &layer.text) {
            // Before Linux 6.8 all go in one option.
            Err(Errno::INVAL) => {
                let all = lower_texts(&opened).join(":");
                fsconfig_set_string(context, "lowerdir", all).map_err(at("set the layers"))?;
                break;
            }
            set => set.map_err(at("add a layer"))?,
        }
    }
    fsconfig_create(context).map_err(|error| explained("create the overlay", context, error))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(at("fsmount"))
}

/// `None` when the kernel has no `lowerdir+`.
fn mount_by_layers(spec: &OverlaySpec<'_>) -> Result<Option<OwnedFd>, MountError> {
    let context = match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::NOSYS) => return Ok(None),
        opened => opened.map_err(at("fsopen overlay (does the kernel have overlayfs?)"))?,
    };
    let context = context.as_fd();
    fsconfig_set_string(context, "source", SOURCE).map_err(at("set the source"))?;
    // A mount goes with its descriptor, also from under the layer that it is.
    let mut kept = Vec::new();
    for (index, layer) in spec.lower.iter().enumerate() {
        let layer = match spec.shown {
            Some(shown) => mapped(layer, shown)?,
            None => short(layer)?,
        };
        match fsconfig_set_string(context, "lowerdir+", &layer.text) {
            Err(Errno::INVAL) if index == 0 => return Ok(None),
            set => set.map_err(at("add a layer"))?,
        }
        kept.extend(spec.shown.map(|_| layer));
    }
    kept.extend(set_writable(spec, context)?);
    for (option, value) in spec.settings() {
        fsconfig_set_string(context, option, value)
            .map_err(at("set redirect_dir, metacopy, index and context"))?;
    }
    fsconfig_create(context).map_err(|error| explained("create the overlay", context, error))?;
    let mount =
        fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(at("fsmount"))?;
    Ok(Some(mount))
}

/// Returns what has to be kept until the overlay is made.
fn set_writable(spec: &OverlaySpec<'_>, context: BorrowedFd<'_>) -> Result<Option<ShortPath>, MountError> {
    let directories = [("upperdir", spec.upper), ("workdir", spec.work)];
    // Overlayfs wants both in one mount.
    let above = spec.shown.zip(spec.upper.parent());
    let above = above.map(|(shown, above)| Ok((mapped(above, shown)?, above)));
    let above: Option<(ShortPath, &Path)> = above.transpose()?;
    for (option, path) in directories {
        let path = match &above {
            Some((mount, above)) => ShortPath {
                text: mount.text.join(path.strip_prefix(above).unwrap_or(path)),
                _directory: None,
            },
            None => short(path)?,
        };
        fsconfig_set_string(context, option, &path.text).map_err(at("set upperdir and workdir"))?;
    }
    Ok(above.map(|(mount, _)| mount))
}

/// Adds what the kernel wrote into the context's log, one message per read, each with a level in front.
fn explained(step: &'static str, context: BorrowedFd<'_>, error: Errno) -> MountError {
    let mut log = Vec::new();
    let mut message = [0; 512];
    while let (Ok(bytes), true) = (
        rustix::io::read(context, &mut message),
        log.len() < LOG_MESSAGES_MAX,
    ) {
        log.push(String::from_utf8_lossy(&message[..bytes]).trim().to_string());
    }
    let error = io::Error::from(error);
    let source = match log.is_empty() {
        true => error,
        false => io::Error::new(error.kind(), format!("{error} ({})", log.join("; "))),
    };
    MountError { step, source }
}

/// The classic way: every layer goes by a descriptor's short path, so that the options fit into their page.
fn mount_by_options(spec: &OverlaySpec<'_>, place: &Path) -> Result<OwnedFd, MountError> {
    let lower: Vec<ShortPath> = spec
        .lower
        .iter()
        .map(|layer| by_descriptor(layer))
        .collect::<Result<_, _>>()?;
    let (upper, work) = (by_descriptor(spec.upper)?, by_descriptor(spec.work)?);
    let lower: Vec<String> = lower_texts(&lower);
    let options = format!(
        "lowerdir={},upperdir={},workdir={}{}",
        lower.join(":"),
        upper.text.display(),
        work.text.display(),
        spec.classic_settings()
    );
    let invalid = |_| MountError {
        step: "write the options",
        source: io::ErrorKind::InvalidInput.into(),
    };
    let options = CString::new(options).map_err(invalid)?;
    rustix::mount::mount(SOURCE, place, "overlay", MountFlags::empty(), options.as_c_str())
        .map_err(at("mount the overlay"))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, place, flags).map_err(at("clone the mount"));
    rustix::mount::unmount(place, UnmountFlags::DETACH).map_err(at("unmount the mount point"))?;
    tree
}

fn lower_texts(lower: &[ShortPath]) -> Vec<String> {
    lower
        .iter()
        .map(|layer| layer.text.display().to_string())
        .collect()
}

#[cfg(test)]
#[path = "overlay_tests.rs"]
mod tests;
