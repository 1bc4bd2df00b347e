//! What is at a path of a container, as `docker cp` asks before it copies.

use crate::rootfs_view::RootView;
use muster_images::is_kernel_file_system;
use muster_types::Timestamp;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use std::collections::VecDeque;

/// Most links that are followed to find where one leads; Docker's.
const LINKS_MAX: usize = 255;
/// Go's bits of a file mode, which Docker's clients read.
const GO_KINDS: [(FileType, u32); 6] = [
    (FileType::Directory, 1 << 31),
    (FileType::Symlink, 1 << 27),
    (FileType::BlockDevice, 1 << 26),
    (FileType::CharacterDevice, 1 << 26 | 1 << 21),
    (FileType::Fifo, 1 << 25),
    (FileType::Socket, 1 << 24),
];
const GO_SPECIAL: [(u32, u32); 3] = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
const GO_DIRECTORY: u32 = 1 << 31;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// Last name of the path.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Kind and permissions as the bits of Go's `os.FileMode`.
    pub go_mode: u32,
    /// When it was modified.
    pub modified: Timestamp,
    /// Where a symbolic link leads to in the end; empty for everything else.
    pub link_target: String,
}

impl PathStat {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.go_mode & GO_DIRECTORY != 0
    }
}

/// The path without `.` and `..`, absolute. What its end says is kept: a slash asks for a directory, `/.` for its content.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if last_name(path) == "." {
        if !clean.ends_with('/') {
            clean.push('/');
        }
        clean.push('.');
    }
    if path.ends_with('/') && !clean.ends_with('/') {
        clean.push('/');
    }
    clean
}

/// The last name of a path; `/` for the root.
pub(crate) fn last_name(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        path => path.rsplit_once('/').map_or(path, |(_, name)| name),
    }
}

/// Looks at a path; the last link is not followed unless a slash or `/.` stands behind it.
pub(crate) fn stat(view: &RootView, path: &str) -> rustix::io::Result<PathStat> {
    let path = clean(path);
    let file = view.open(path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW)?;
    if is_kernel_file_system(&file)? {
        // Of what the kernel mounts into a running container nothing is the container's.
        return Err(Errno::NOENT);
    }
    let stat = rustix::fs::fstat(&file)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let link_target = match kind {
        FileType::Symlink => follow(view, &path)?,
        _ => String::new(),
    };
    let nanos = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
    Ok(PathStat {
        name: last_name(&path).to_owned(),
        size: stat.st_size,
        go_mode: go_mode(stat.st_mode),
        modified: Timestamp(i64::try_from(nanos).unwrap_or_default()),
        link_target,
    })
}

fn go_mode(mode: u32) -> u32 {
    let kind = FileType::from_raw_mode(mode);
    let kinds = GO_KINDS
        .iter()
        .filter(|(of, _)| *of == kind)
        .map(|(_, bits)| bits);
    let special = GO_SPECIAL
        .iter()
        .filter(|(bit, _)| mode & bit != 0)
        .map(|(_, bits)| bits);
    kinds.chain(special).fold(mode & 0o777, |all, bits| all | bits)
}

/// Where the links of a path lead in the end; from where nothing is found on, the rest is kept as it is written.
fn follow(view: &RootView, path: &str) -> rustix::io::Result<String> {
    let mut waiting: VecDeque<String> = path.split('/').map(str::to_owned).collect();
    let mut reached: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(name) = waiting.pop_front() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                reached.pop();
                continue;
            }
            _ => reached.push(name),
        }
        let here = format!("/{}", reached.join("/"));
        let Some(target) = link_at(view, &here) else {
            continue;
        };
        links += 1;
        if links > LINKS_MAX {
            return Err(Errno::LOOP);
        }
        reached.pop();
        if target.starts_with('/') {
            reached.clear();
        }
        for part in target.split('/').rev() {
            waiting.push_front(part.to_owned());
        }
    }
    Ok(format!("/{}", reached.join("/")))
}

fn link_at(view: &RootView, path: &str) -> Option<String> {
    let file = view.open(path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW).ok()?;
    let target = rustix::fs::readlinkat(file, "", Vec::new()).ok()?;
    Some(target.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_keep_what_their_end_says() {
        for (path, expected) in [
            ("etc/passwd", "/etc/passwd"),
            ("/a/../b", "/b"),
            ("/../../x", "/x"),
            ("/", "/"),
            (".", "/."),
            ("/a/", "/a/"),
            ("/a/.", "/a/."),
            ("a/./", "/a/./"),
            ("/a//b", "/a/b"),
            ("", "/"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
        for (path, name) in [("/", "/"), ("/a/", "a"), ("/a/.", "."), ("/a/b", "b")] {
            assert_eq!(last_name(path), name, "{path}");
        }
    }

    #[test]
    fn modes_are_written_as_go_writes_them() {
        for (mode, go) in [
            (0o100_644, 0o644),
            (0o040_755, 1 << 31 | 0o755),
            (0o120_777, 1 << 27 | 0o777),
            (0o104_755, 1 << 23 | 0o755),
            (0o041_777, 1 << 31 | 1 << 20 | 0o777),
            (0o020_666, 1 << 26 | 1 << 21 | 0o666),
            (0o060_660, 1 << 26 | 0o660),
            (0o010_600, 1 << 25 | 0o600),
        ] {
            assert_eq!(go_mode(mode), go, "{mode:o}");
        }
    }
}
