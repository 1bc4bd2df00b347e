//! Users and groups of an image, read inside of its root file system.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

use crate::error::{Result, RuntimeError};

/// The longest passwd or group file that is read: images are hostile until checked.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The highest user or group number; the one above means "none" to the kernel.
const ID_MAX: u32 = u32::MAX - 1;

/// A user as the kernel wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Further groups that the user is in, unless a group was given.
    pub additional_gids: Vec<u32>,
    /// The home directory; `/` where the image does not say.
    pub home: String,
}

/// One line of /etc/passwd.
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// One line of /etc/group.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: Vec<&'a str>,
}

/// Resolves `user`, `user:group`, with names or numbers, as Docker does: names must be in the image's /etc/passwd and
/// /etc/group, numbers need not. Empty text is root.
///
/// `root` is the root file system; symbolic links in it are followed inside of it only.
pub fn resolve_user(root: BorrowedFd<'_>, text: &str) -> Result<ResolvedUser> {
    let passwd = read_file(root, "etc/passwd")?;
    let group = read_file(root, "etc/group")?;
    resolve(&passwd, &group, text)
}

fn resolve(passwd: &str, group: &str, text: &str) -> Result<ResolvedUser> {
    let (user_text, group_text) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let user_text = if user_text.is_empty() { "0" } else { user_text };
    let groups: Vec<Group<'_>> = group.lines().filter_map(parse_group).collect();
    // A name that looks like a number is a name first.
    let found = passwd
        .lines()
        .filter_map(parse_user)
        .find(|user| user.name == user_text)
        .or_else(|| {
            let number = parse_id(user_text)?;
            passwd
                .lines()
                .filter_map(parse_user)
                .find(|user| user.uid == number)
        });
    let uid = match (&found, parse_id(user_text)) {
        (Some(user), _) => user.uid,
        (None, Some(number)) => number,
        (None, None) => {
            return Err(RuntimeError::spec(format!(
                "unable to find user {user_text}: no matching entries in passwd file"
            )));
        }
    };
    let home = found
        .as_ref()
        .map(|user| user.home)
        .filter(|home| home.starts_with('/'))
        .unwrap_or("/")
        .to_owned();
    if let Some(text) = group_text {
        let gid = resolve_group(&groups, text)?;
        return Ok(ResolvedUser {
            uid,
            gid,
            additional_gids: Vec::new(),
            home,
        });
    }
    let gid = found.as_ref().map_or(0, |user| user.gid);
    let is_member = |group: &&Group<'_>| {
        found
            .as_ref()
            .is_some_and(|user| group.members.contains(&user.name))
    };
    let additional_gids = groups.iter().filter(is_member).map(|group| group.gid).collect();
    Ok(ResolvedUser {
        uid,
        gid,
        additional_gids,
        home,
    })
}

/// The number of one group, for `--group-add`.
pub fn resolve_group_name(root: BorrowedFd<'_>, text: &str) -> Result<u32> {
    let group = read_file(root, "etc/group")?;
    let groups: Vec<Group<'_>> = group.lines().filter_map(parse_group).collect();
    resolve_group(&groups, text)
}

fn resolve_group(groups: &[Group<'_>], text: &str) -> Result<u32> {
    let named = groups
        .iter()
        .find(|group| group.name == text)
        .map(|group| group.gid);
    named.or_else(|| parse_id(text)).ok_or_else(|| {
        RuntimeError::spec(format!(
            "unable to find group {text}: no matching entries in group file"
        ))
    })
}

fn parse_id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= ID_MAX)
}

fn parse_user(line: &str) -> Option<User<'_>> {
    let mut fields = line.trim_end().split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = parse_id(fields.nth(1)?)?;
    let gid = parse_id(fields.next()?)?;
    Some(User {
        name,
        uid,
        gid,
        home: fields.nth(1).unwrap_or(""),
    })
}

fn parse_group(line: &str) -> Option<Group<'_>> {
    let mut fields = line.trim_end().split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let gid = parse_id(fields.nth(1)?)?;
    let members = fields
        .next()
        .unwrap_or("")
        .split(',')
        .filter(|member| !member.is_empty())
        .collect();
    Some(Group { name, gid, members })
}

/// Reads a file of the image; a missing one is empty.
fn read_file(root: BorrowedFd<'_>, path: &str) -> Result<String> {
    // Without blocking, so that a fifo in its place does not hold us up.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let describe = || format!("read /{path} of the image");
    let file = match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(RuntimeError::io(describe(), error)),
    };
    let metadata = file
        .metadata()
        .map_err(|error| RuntimeError::io(describe(), error))?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(RuntimeError::spec(format!(
            "/{path} of the image is no regular file of at most 4 MiB"
        )));
    }
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut content)
        .map_err(|error| RuntimeError::io(describe(), error))?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbad line\nweb:x:33:44::/var/www:/bin/false\n77:x:5:6::/n:\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:web,other\nweb:x:44:\nextra:x:60:other,web\n";

    fn user(text: &str) -> (u32, u32, Vec<u32>, String) {
        let user = resolve(PASSWD, GROUP, text).expect("it resolves");
        (user.uid, user.gid, user.additional_gids, user.home)
    }

    #[test]
    fn users_resolve_as_docker_does() {
        assert_eq!(user(""), (0, 0, vec![], "/root".to_owned()));
        assert_eq!(user("web"), (33, 44, vec![50, 60], "/var/www".to_owned()));
        assert_eq!(user("33"), (33, 44, vec![50, 60], "/var/www".to_owned()));
        assert_eq!(user("web:staff"), (33, 50, vec![], "/var/www".to_owned()));
        assert_eq!(user("web:7"), (33, 7, vec![], "/var/www".to_owned()));
        assert_eq!(user("1234"), (1234, 0, vec![], "/".to_owned()));
        assert_eq!(user("1234:web"), (1234, 44, vec![], "/".to_owned()));
        assert_eq!(
            user("77"),
            (5, 6, vec![], "/n".to_owned()),
            "a name of digits is a name first"
        );
    }

    #[test]
    fn unknown_names_and_impossible_numbers_are_refused() {
        for text in ["nobody", "web:nobody", "4294967295", "-1", "web:4294967295"] {
            assert!(resolve(PASSWD, GROUP, text).is_err(), "{text}");
        }
    }

    #[test]
    fn files_are_never_read_outside_of_the_root() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = directory.path().join("root");
        std::fs::create_dir_all(root.join("etc")).expect("it is writable");
        std::fs::write(directory.path().join("passwd"), "outside:x:1:1::/:\n").expect("it is writable");
        std::os::unix::fs::symlink("../../passwd", root.join("etc/passwd")).expect("it is writable");
        let opened = File::open(&root).expect("it exists");
        assert!(resolve_user(opened.as_fd(), "outside").is_err());
        std::fs::write(root.join("passwd"), "inside:x:2:3::/:\n").expect("it is writable");
        assert_eq!(
            resolve_user(opened.as_fd(), "inside")
                .expect("the link ends in the root")
                .uid,
            2
        );
    }
}
