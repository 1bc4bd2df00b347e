//! Gives files of the host the label of a container (`:z` and `:Z` of a bind mount).

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use super::ATTRIBUTE;

/// Deepest directory that is relabelled: each level holds a descriptor.
const DEPTH_MAX: usize = 256;

/// Directories that the host needs with their own labels; moby's list, and that of go-selinux.
const HOSTS_OWN: [&str; 29] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/run",
    "/var/tmp",
];

/// Who may use relabelled files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Every container (`:z`).
    Containers,
    /// Those with this container's level (`:Z`).
    Own,
}

/// Labels a file or directory with all below it as a container's files. Links are labelled, not followed; what vanishes
/// meanwhile, and file systems without labels, are left out. Refuses what the host needs. Blocks.
pub fn relabel(path: &Path, mount_label: &str, audience: Audience) -> io::Result<()> {
    let path = std::fs::canonicalize(path)?;
    let home = std::env::var_os("HOME").is_some_and(|home| Path::new(&home) == path);
    if home || HOSTS_OWN.iter().any(|own| Path::new(own) == path) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("SELinux relabeling of {} is not allowed", path.display()),
        ));
    }
    let label = match audience {
        Audience::Own => mount_label.to_owned(),
        Audience::Containers => for_containers(mount_label),
    };
    let value = [label.as_bytes(), b"\0"].concat();
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // A container that may write above it could put a link on the way to what was refused above.
    let file = rustix::fs::openat2(CWD, &path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    label_below(&file, &value, 0)
}

/// The label without the level that keeps containers apart.
fn for_containers(label: &str) -> String {
    let mut fields: Vec<&str> = label.splitn(4, ':').collect();
    if let Some(level) = fields.get_mut(3) {
        *level = "s0";
    }
    fields.join(":")
}

fn label_below(file: &OwnedFd, value: &[u8], depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other("directories are nested too deeply"));
    }
    // By the descriptor: a name may lead elsewhere by now.
    let place = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::setxattr(&place, ATTRIBUTE, value, XattrFlags::empty()) {
        Ok(()) | Err(Errno::NOTSUP) => {}
        Err(error) => return Err(error.into()),
    }
    if !FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode).is_dir() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(file, ".", flags, Mode::empty())?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&directory, name, flags, Mode::empty()) {
            Ok(below) => label_below(&below, value, depth + 1)?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";

    /// The label of a file itself.
    fn label_of(path: &Path) -> Option<String> {
        let mut value = Vec::with_capacity(256);
        rustix::fs::lgetxattr(path, ATTRIBUTE, rustix::buffer::spare_capacity(&mut value)).ok()?;
        let text = String::from_utf8(value).unwrap();
        Some(text.trim_end_matches('\0').to_owned())
    }

    #[test]
    fn everything_below_gets_the_label_and_nothing_outside() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        std::fs::create_dir_all(at("data/a/b")).unwrap();
        for file in ["data/a/b/file", "outside"] {
            std::fs::write(at(file), "x").unwrap();
        }
        symlink(at("outside"), at("data/link")).unwrap();
        symlink("../..", at("data/a/up")).unwrap();
        let before = label_of(&at("outside"));
        relabel(&at("data"), LABEL, Audience::Own).unwrap();
        for path in [
            "data",
            "data/a",
            "data/a/b",
            "data/a/b/file",
            "data/link",
            "data/a/up",
        ] {
            assert_eq!(label_of(&at(path)).as_deref(), Some(LABEL), "{path}");
        }
        assert_eq!(label_of(&at("outside")), before);
        relabel(&at("data/a/b/file"), LABEL, Audience::Containers).unwrap();
        let shared = label_of(&at("data/a/b/file"));
        assert_eq!(shared.as_deref(), Some("system_u:object_r:container_file_t:s0"));
    }

    #[test]
    fn what_the_host_needs_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        symlink("/etc", &link).unwrap();
        for path in [
            Path::new("/"),
            Path::new("/usr/"),
            Path::new("/etc/../etc"),
            Path::new("/home"),
            &link,
        ] {
            let refused = relabel(path, LABEL, Audience::Own).unwrap_err().to_string();
            assert!(refused.contains("SELinux relabeling of"), "{refused}");
        }
    }

    #[test]
    fn labels_without_levels_stay_what_they_are() {
        assert_eq!(for_containers("u:r:t"), "u:r:t");
        assert_eq!(for_containers("u:r:t:s0:c1,c2"), "u:r:t:s0");
    }
}
