//! Finds a user and its groups in the container's own user database.

use crate::error::{Error, Result};
use crate::spec::ProcessUser;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

/// Most bytes read of a user database: images are not trusted with memory.
const DATABASE_BYTES_MAX: u64 = 4 << 20;

/// The user that `user` (`name`, `uid`, `name:group`, …; root when empty) means below `root`, with the additional groups.
pub fn resolve(root: BorrowedFd<'_>, user: &str, additional: &[String]) -> Result<ProcessUser> {
    let passwd = read_below(root, "etc/passwd");
    let group = read_below(root, "etc/group");
    resolve_in(&passwd, &group, user, additional)
}

/// Reads a file of the container. Links are followed inside of its root only; what is missing or strange is empty.
fn read_below(root: BorrowedFd<'_>, path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let Ok(file) = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) else {
        return String::new();
    };
    let file = File::from(file);
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return String::new();
    }
    let mut content = Vec::new();
    if file.take(DATABASE_BYTES_MAX).read_to_end(&mut content).is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&content).into_owned()
}

fn resolve_in(passwd: &str, group: &str, text: &str, additional: &[String]) -> Result<ProcessUser> {
    let (name, group_name) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number = name.parse::<u32>().ok();
    let entry = rows(passwd).find(|fields| {
        fields.first() == Some(&name)
            || number.is_some() && fields.get(2).and_then(|id| id.parse().ok()) == number
    });
    let field = |index: usize| entry.as_ref().and_then(|fields| fields.get(index).copied());
    let uid = field(2).and_then(|id| id.parse().ok()).or(number);
    let uid = uid.ok_or_else(|| {
        Error::invalid(format!(
            "unable to find user {name}: no matching entries in passwd file"
        ))
    })?;
    let gid = match group_name {
        Some(group_name) => group_id(group, group_name)?,
        None => field(3).and_then(|id| id.parse().ok()).unwrap_or(0),
    };
    let mut groups: Vec<u32> = Vec::new();
    // With a group given, the user's other groups do not count, as with Docker.
    if let Some(user_name) = field(0).filter(|_| group_name.is_none()) {
        let member_of = rows(group).filter(|fields| {
            fields
                .get(3)
                .is_some_and(|members| members.split(',').any(|member| member == user_name))
        });
        groups.extend(member_of.filter_map(|fields| fields.get(2)?.parse::<u32>().ok()));
    }
    // Programs that drop their groups one by one must be able to trust that the own group is in the list
    // (CVE-2022-36109).
    groups.push(gid);
    for name in additional {
        groups.push(group_id(group, name)?);
    }
    groups.sort_unstable();
    groups.dedup();
    let home = field(5).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    Ok(ProcessUser {
        uid,
        gid,
        groups,
        home,
    })
}

fn group_id(database: &str, name: &str) -> Result<u32> {
    let entry = rows(database).find(|fields| fields.first() == Some(&name));
    let listed = entry.and_then(|fields| fields.get(2)?.parse().ok());
    listed.or_else(|| name.parse().ok()).ok_or_else(|| {
        Error::invalid(format!(
            "unable to find group {name}: no matching entries in group file"
        ))
    })
}

fn rows(database: &str) -> impl Iterator<Item = Vec<&str>> {
    database
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .map(|line| line.split(':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:w:/srv:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlog:x:103:other,web\n";

    fn find(text: &str, additional: &[&str]) -> Result<(u32, u32, Vec<u32>, String)> {
        let additional: Vec<_> = additional.iter().map(|name| (*name).to_owned()).collect();
        resolve_in(PASSWD, GROUP, text, &additional).map(|user| (user.uid, user.gid, user.groups, user.home))
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let web = |groups| (101, 102, groups, "/srv".to_owned());
        assert_eq!(find("", &[]).unwrap(), (0, 0, vec![0], "/root".to_owned()));
        assert_eq!(find("web", &[]).unwrap(), web(vec![102, 103]));
        assert_eq!(find("101", &[]).unwrap(), web(vec![102, 103]));
        assert_eq!(find("web:web", &[]).unwrap(), web(vec![102]));
        assert_eq!(find("web:log", &[]).unwrap().1, 103);
        assert_eq!(
            find("4711:4712", &["log", "5"]).unwrap(),
            (4711, 4712, vec![5, 103, 4712], "/".to_owned())
        );
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(
            find("nobody", &[])
                .unwrap_err()
                .to_string()
                .contains("unable to find user nobody")
        );
        assert!(find("web:none", &[]).is_err());
        assert!(find("web", &["none"]).is_err());
    }

    #[test]
    fn databases_are_read_inside_of_the_root_only() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/secret", directory.path().join("etc/passwd")).unwrap();
        let root = File::open(directory.path()).unwrap();
        let root = std::os::fd::AsFd::as_fd(&root);
        assert_eq!(read_below(root, "etc/passwd"), "");
        std::fs::write(directory.path().join("etc/secret"), "a:x:7:8::/h:").unwrap();
        assert_eq!(resolve(root, "a", &[]).unwrap().uid, 7);
    }
}
