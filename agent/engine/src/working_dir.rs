//! The working directory that an image lacks.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Makes the working directory where the image has none, as Docker does. Links are resolved inside of the root. What
/// cannot be made (a file is in the way) is not told here: entering the directory fails with a better message.
pub(crate) fn make(root: BorrowedFd<'_>, path: &str) {
    if let Err(error) = make_below(root, path.trim_start_matches('/')) {
        tracing::debug!(path, %error, "the working directory cannot be made");
    }
}

fn make_below(root: BorrowedFd<'_>, path: &str) -> Result<(), Errno> {
    if path.is_empty() || open(root, path).is_ok() {
        return Ok(());
    }
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    for end in ends {
        let (parent, name) = path[..end].rsplit_once('/').unwrap_or((".", &path[..end]));
        if name.is_empty() || name == "." || name == ".." {
            continue;
        }
        let parent = open(root, parent)?;
        match rustix::fs::mkdirat(parent.as_fd(), name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn open(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::symlink;

    #[test]
    fn it_is_made_inside_of_the_root_only() {
        let directory = tempfile::tempdir().unwrap();
        let below = |path: &str| directory.path().join(path);
        std::fs::create_dir(below("root")).unwrap();
        std::fs::create_dir(below("root/data")).unwrap();
        symlink("/data", below("root/link")).unwrap();
        symlink("../../outside", below("root/out")).unwrap();
        std::fs::write(below("root/file"), "").unwrap();
        let root = File::open(below("root")).unwrap();
        for path in ["/", "/a/b/c", "/link/deep", "/out/x", "/file/x", "/a/b/c"] {
            make(root.as_fd(), path);
        }
        assert!(below("root/a/b/c").is_dir() && below("root/data/deep").is_dir());
        assert!(!below("outside").exists() && below("root/file").is_file());
    }
}
