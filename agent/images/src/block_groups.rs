//! Where a file system of the ext family puts new directories.

use rustix::fs::{IFlags, Mode, OFlags};
use std::path::Path;

/// Has the file system put each directory that is made in this one into another block group, as `chattr +T` does.
///
/// It would otherwise put all of them, and the files in them, into one: every inode is then searched in one bitmap, and
/// where there is no journal, beyond all that were freed in the last minute. Nodes on which many short containers run
/// spend a third of a start there. Only a matter of speed, so that a file system without such groups is none the worse
/// for it. Idempotent.
pub fn scatter_directories(directory: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let _ = rustix::fs::open(directory, flags, Mode::empty()).and_then(|directory| {
        let known = rustix::fs::ioctl_getflags(&directory)?;
        if known.contains(IFlags::TOPDIR) {
            return Ok(());
        }
        rustix::fs::ioctl_setflags(&directory, known | IFlags::TOPDIR)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ext_file_systems_are_told_and_others_do_not_mind() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        scatter_directories(directory.path());
        scatter_directories(directory.path());
        let opened = rustix::fs::open(directory.path(), OFlags::RDONLY, Mode::empty()).expect("it is there");
        let told = rustix::fs::ioctl_getflags(&opened).is_ok_and(|flags| flags.contains(IFlags::TOPDIR));
        let is_ext = rustix::fs::fstatfs(&opened).expect("it is mounted").f_type == libc::EXT4_SUPER_MAGIC;
        assert_eq!(told, is_ext);
        scatter_directories(&directory.path().join("missing"));
    }
}
