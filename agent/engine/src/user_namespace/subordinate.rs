//! Which users `userns-remap` means: a user's subordinate ids, as subuid(5) and subgid(5) give them out.

use muster_types::id_map::{IdMap, IdMapError, IdMaps, IdRange};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What stands for a user that the engine chooses; Docker's.
const DEFAULT: &str = "default";
/// That user's name; Docker's.
const DEFAULT_USER: &str = "dockremap";
/// How many ids it gets: enough for `nobody`. shadow's SUB_UID_COUNT.
const DEFAULT_COUNT: u32 = 65_536;
/// The first id that is given out; shadow's SUB_UID_MIN.
const DEFAULT_FIRST: u32 = 100_000;

/// Why `userns-remap` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RemapError {
    /// It is no user and group.
    #[error("{0:?} is neither default nor USER[:GROUP], with names or numbers")]
    Form(String),
    /// It names root, which nothing would be gained by.
    #[error(
        "root cannot stand for itself: name a user with entries in /etc/subuid and /etc/subgid, or default"
    )]
    Root,
    /// The user does not exist.
    #[error("user {0:?} has no entry in /etc/passwd: make it with useradd")]
    NoUser(String),
    /// The group does not exist.
    #[error(
        "group {0:?} has no entry in /etc/group: make it with groupadd, or name one that exists: USER:GROUP"
    )]
    NoGroup(String),
    /// Nothing is given out to the user.
    #[error("no range of {file} belongs to {user}: add a line such as {user}:100000:65536")]
    NoRange {
        /// The file.
        file: &'static str,
        /// The user.
        user: String,
    },
    /// A line is no range.
    #[error("{file}: {line:?} is not NAME:FIRST:COUNT")]
    Line {
        /// The file.
        file: &'static str,
        /// The line.
        line: String,
    },
    /// A range has ids of the host's own users.
    #[error("{file}: range {}:{} has ids of the host's own users: begin at 100000 or above", .range.first, .range.count)]
    HostIds {
        /// The file.
        file: &'static str,
        /// The range.
        range: IdRange,
    },
    /// The ranges cannot be a map.
    #[error("the ranges of {file} cannot be used")]
    Ranges {
        /// The file.
        file: &'static str,
        /// Why.
        source: IdMapError,
    },
    /// No ids are left to give out.
    #[error("no {DEFAULT_COUNT} ids are left to give out in /etc/subuid and /etc/subgid")]
    Exhausted,
    /// Ids are being given out.
    #[error("{0} exists: another program changes the file. Try again, or remove it if none does")]
    Locked(PathBuf),
    /// A file could not be read or written.
    #[error("cannot {operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The user databases of the host, as text.
#[derive(Debug, Default)]
struct Databases {
    passwd: String,
    group: String,
    subuid: String,
    subgid: String,
}

/// Who is meant.
#[derive(Debug, PartialEq, Eq)]
struct Subject {
    user: String,
    /// The user's number, where it is in /etc/passwd.
    uid: Option<u32>,
    group: String,
}

/// The users and groups that `userns-remap` stands for, or every problem with it. `default` gets its ids given out, once,
/// by a line in subuid and subgid below `etc`.
pub fn resolve(text: &str, etc: &Path) -> Result<IdMaps, Vec<RemapError>> {
    let mut databases = Databases::read(etc).map_err(|error| vec![error])?;
    let subject = databases.subject(text)?;
    if text == DEFAULT && !databases.has_ranges(&subject) {
        databases = reserve(etc).map_err(|error| vec![error])?;
    }
    databases.maps(&subject)
}

impl Databases {
    fn read(etc: &Path) -> Result<Self, RemapError> {
        let read = |name: &str| {
            let path = etc.join(name);
            match fs::read_to_string(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
                read => read.map_err(|source| RemapError::File {
                    operation: "read",
                    path,
                    source,
                }),
            }
        };
        Ok(Self {
            passwd: read("passwd")?,
            group: read("group")?,
            subuid: read("subuid")?,
            subgid: read("subgid")?,
        })
    }

    fn subject(&self, text: &str) -> Result<Subject, Vec<RemapError>> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if user.is_empty() || group.is_some_and(|group| group.is_empty() || group.contains(':')) {
            return Err(vec![RemapError::Form(text.to_owned())]);
        }
        if text == DEFAULT {
            return Ok(Subject {
                user: DEFAULT_USER.to_owned(),
                uid: entry(&self.passwd, DEFAULT_USER).and_then(|(_, uid)| uid),
                group: DEFAULT_USER.to_owned(),
            });
        }
        let user = if user == DEFAULT { DEFAULT_USER } else { user };
        let found = entry(&self.passwd, user);
        // Without a group, the one with the user's name or number is meant.
        let group = group.unwrap_or(user);
        let found_group = entry(&self.group, group);
        let mut problems = Vec::new();
        match &found {
            None => problems.push(RemapError::NoUser(user.to_owned())),
            Some((name, uid)) if name == "root" || *uid == Some(0) => problems.push(RemapError::Root),
            Some(_) => {}
        }
        if found_group.is_none() {
            problems.push(RemapError::NoGroup(group.to_owned()));
        }
        match (found, found_group) {
            (Some((user, uid)), Some((group, _))) if problems.is_empty() => Ok(Subject { user, uid, group }),
            _ => Err(problems),
        }
    }

    fn has_ranges(&self, subject: &Subject) -> bool {
        let owners = [subject.user.as_str()];
        lines_of(&self.subuid, &owners).next().is_some() && lines_of(&self.subgid, &owners).next().is_some()
    }

    fn maps(&self, subject: &Subject) -> Result<IdMaps, Vec<RemapError>> {
        let number = subject.uid.map(|uid| uid.to_string()).unwrap_or_default();
        let mut owners = vec![subject.user.as_str(), &number];
        let users = map_of("/etc/subuid", &self.subuid, &owners, &subject.user);
        // By the user's name, as shadow's tools write it; by the group's, as Docker once had it.
        if lines_of(&self.subgid, &owners).next().is_none() {
            owners = vec![&subject.group];
        }
        let groups = map_of("/etc/subgid", &self.subgid, &owners, &subject.user);
        match (users, groups) {
            (Ok(users), Ok(groups)) => Ok(IdMaps { users, groups }),
            (users, groups) => Err([users.err(), groups.err()]
                .into_iter()
                .flatten()
                .flatten()
                .collect()),
        }
    }

    /// The first id above all that are given out or in use.
    fn next_free(&self) -> Result<u32, RemapError> {
        let given = [("/etc/subuid", &self.subuid), ("/etc/subgid", &self.subgid)];
        let mut first = u64::from(DEFAULT_FIRST);
        for (file, text) in given {
            for line in lines(text) {
                let range = range(file, line)?;
                first = first.max(u64::from(range.first) + u64::from(range.count));
            }
        }
        let used = [&self.passwd, &self.group]
            .into_iter()
            .flat_map(|text| lines(text));
        let used = used.filter_map(|line| line.split(':').nth(2)?.parse::<u32>().ok());
        // The last ids are nobody's: programs mean "none" by them.
        for id in used.filter(|id| *id < u32::MAX - DEFAULT_COUNT) {
            first = first.max(u64::from(id) + 1);
        }
        match u32::try_from(first) {
            Ok(first) if first < u32::MAX - DEFAULT_COUNT => Ok(first),
            _ => Err(RemapError::Exhausted),
        }
    }
}

fn map_of(file: &'static str, text: &str, owners: &[&str], user: &str) -> Result<IdMap, Vec<RemapError>> {
    let (mut ranges, mut problems) = (Vec::new(), Vec::new());
    for line in lines_of(text, owners) {
        match range(file, line) {
            Ok(range) if range.first == 0 => problems.push(RemapError::HostIds { file, range }),
            Ok(range) => ranges.push(range),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    if ranges.is_empty() {
        let user = user.to_owned();
        return Err(vec![RemapError::NoRange { file, user }]);
    }
    IdMap::new(ranges).map_err(|source| vec![RemapError::Ranges { file, source }])
}

fn range(file: &'static str, line: &str) -> Result<IdRange, RemapError> {
    let mut fields = line.split(':').skip(1).map(|field| field.trim().parse().ok());
    match (fields.next().flatten(), fields.next().flatten(), fields.next()) {
        (Some(first), Some(count), None) => Ok(IdRange { first, count }),
        _ => Err(RemapError::Line {
            file,
            line: line.to_owned(),
        }),
    }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn lines_of<'a>(text: &'a str, owners: &[&str]) -> impl Iterator<Item = &'a str> {
    lines(text).filter(move |line| {
        let owner = line.split(':').next().unwrap_or_default();
        !owner.is_empty() && owners.contains(&owner)
    })
}

/// The name and number of an entry of passwd(5) or group(5), by either.
fn entry(text: &str, wanted: &str) -> Option<(String, Option<u32>)> {
    let number = wanted.parse::<u32>().ok();
    lines(text).find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id = fields.nth(1)?.parse::<u32>().ok();
        // As with Docker, a number is never a name.
        let is_it = match number {
            Some(_) => id == number,
            None => name == wanted,
        };
        is_it.then(|| (name.to_owned(), id))
    })
}

/// Gives ids out to the default user where it has none; returns what the files say then.
fn reserve(etc: &Path) -> Result<Databases, RemapError> {
    let _lock = Lock::take(etc)?;
    // Others may have given out some meanwhile.
    let databases = Databases::read(etc)?;
    let first = databases.next_free()?;
    for (name, text) in [("subuid", &databases.subuid), ("subgid", &databases.subgid)] {
        if lines_of(text, &[DEFAULT_USER]).next().is_none() {
            append(
                &etc.join(name),
                text,
                &format!("{DEFAULT_USER}:{first}:{DEFAULT_COUNT}\n"),
            )?;
        }
    }
    Databases::read(etc)
}

/// Writes a file anew with one line more, so that nobody ever reads half of it.
fn append(path: &Path, text: &str, line: &str) -> Result<(), RemapError> {
    let mut content = text.to_owned();
    if !content.is_empty() && !content.ends_with('\n') {
        content.push('\n');
    }
    content.push_str(line);
    let beside = path.with_extension("muster");
    let written = fs::write(&beside, content)
        .and_then(|()| fs::File::open(&beside)?.sync_all())
        .and_then(|()| match fs::metadata(path) {
            Ok(before) => fs::set_permissions(&beside, before.permissions()),
            Err(_) => Ok(()),
        })
        .and_then(|()| fs::rename(&beside, path));
    written.map_err(|source| RemapError::File {
        operation: "write",
        path: path.to_path_buf(),
        source,
    })
}

/// The lock that shadow's programs take, too, before they change subuid(5) and subgid(5).
struct Lock(Vec<PathBuf>);

impl Lock {
    fn take(etc: &Path) -> Result<Self, RemapError> {
        let mut lock = Self(Vec::new());
        for name in ["subuid.lock", "subgid.lock"] {
            let path = etc.join(name);
            match fs::File::create_new(&path) {
                Ok(_) => lock.0.push(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(RemapError::Locked(path));
                }
                Err(source) => {
                    return Err(RemapError::File {
                        operation: "make",
                        path,
                        source,
                    });
                }
            }
        }
        Ok(lock)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etc(subuid: &str, subgid: &str) -> tempfile::TempDir {
        let etc = tempfile::tempdir().unwrap();
        let files = [
            (
                "passwd",
                "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:\nbob:x:1001:7::/:\n",
            ),
            ("group", "root:x:0:\nann:x:1000:\nstaff:x:50:\n"),
            ("subuid", subuid),
            ("subgid", subgid),
        ];
        for (name, text) in files {
            fs::write(etc.path().join(name), text).unwrap();
        }
        etc
    }

    fn problems(text: &str, subuid: &str, subgid: &str) -> Vec<String> {
        let etc = etc(subuid, subgid);
        let problems = resolve(text, etc.path()).unwrap_err();
        problems
            .iter()
            .map(|problem| muster_runtime::describe(problem))
            .collect()
    }

    #[test]
    fn users_are_named_as_for_docker() {
        let subuid = "# given out\nann:100000:65536\nbob:300000:10\n1001:400000:10\nann:200000:5\n";
        let etc = etc(subuid, "ann:100000:65536\nstaff:500000:65536\n");
        for text in ["ann", "1000", "ann:ann", "1000:1000", "ann:50"] {
            let maps = resolve(text, etc.path()).unwrap();
            assert_eq!(maps.root(), (100_000, 100_000), "{text}");
            assert_eq!(maps.users.outside(65_536), Some(200_000));
        }
        let maps = resolve("bob:staff", etc.path()).unwrap();
        assert_eq!(maps.root(), (300_000, 500_000));
        assert_eq!(maps.users.outside(10), Some(400_000), "by number, too");
    }

    #[test]
    fn every_problem_is_told() {
        let both = problems("eve:none", "", "");
        assert!(
            both[0].contains("user \"eve\" has no entry in /etc/passwd"),
            "{both:?}"
        );
        assert!(
            both[1].contains("group \"none\" has no entry in /etc/group"),
            "{both:?}"
        );
        assert!(problems("77", "", "")[0].contains("user \"77\" has no entry"));
        assert!(problems("bob", "", "")[0].contains("group \"bob\" has no entry"));
        let missing = problems("ann", "", "");
        assert!(
            missing[0].contains("no range of /etc/subuid belongs to ann"),
            "{missing:?}"
        );
        assert!(
            missing[1].contains("no range of /etc/subgid belongs to ann"),
            "{missing:?}"
        );
        for bad in ["", ":ann", "ann:", "a:b:c"] {
            assert!(
                problems(bad, "", "")[0].contains("is neither default nor"),
                "{bad}"
            );
        }
        assert!(problems("root", "root:5:5\n", "root:5:5\n")[0].contains("root cannot stand for itself"));
        let ranges = problems("ann", "ann:0:65536\nann:x:1\n", "ann:9:5\nann:5:5\n");
        assert!(ranges[0].contains("ids of the host's own users"), "{ranges:?}");
        assert!(
            ranges[1].contains("\"ann:x:1\" is not NAME:FIRST:COUNT"),
            "{ranges:?}"
        );
        assert!(
            ranges[2].contains("/etc/subgid cannot be used: ranges 5:5 and 9:5 overlap"),
            "{ranges:?}"
        );
    }

    #[test]
    fn the_default_user_gets_ids_of_its_own_once() {
        let etc = etc("ann:100000:65536", "ann:100000:65536\nbob:200000:65536\n");
        let maps = resolve("default", etc.path()).unwrap();
        assert_eq!(maps.root(), (265_536, 265_536));
        assert_eq!(resolve("default", etc.path()).unwrap(), maps);
        let subuid = fs::read_to_string(etc.path().join("subuid")).unwrap();
        assert_eq!(subuid, "ann:100000:65536\ndockremap:265536:65536\n");
        let mut names: Vec<_> = fs::read_dir(etc.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["group", "passwd", "subgid", "subuid"]);
        // Another program is at it.
        let busy = self::etc("", "");
        fs::write(busy.path().join("subgid.lock"), "").unwrap();
        let told = resolve("default", busy.path()).unwrap_err();
        assert!(matches!(told[..], [RemapError::Locked(_)]), "{told:?}");
        assert!(!busy.path().join("subuid.lock").exists());
    }
}
