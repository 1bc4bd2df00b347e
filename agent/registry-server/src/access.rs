//! Who is let in: names and passwords of a file as `htpasswd -B` writes it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::Rng;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::sync::Semaphore;

/// Largest file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Longest `Authorization` header that is looked at.
const HEADER_BYTES_MAX: usize = 4096;
/// Passwords that are checked at once: each takes a core for a tenth of a second.
const CHECKS_AT_ONCE: usize = 2;
/// Remembered logins that were right, so that a push with dozens of requests is checked once.
const REMEMBERED_MAX: usize = 256;

/// A file of passwords that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PasswordsError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line is none of `htpasswd -B`.
    #[error("{} line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
}

/// Names and passwords, read anew when the file changes.
pub struct Passwords {
    path: PathBuf,
    known: Mutex<Known>,
    checks: Semaphore,
    /// Keeps what is remembered from being of use to somebody who reads the memory.
    salt: [u8; 32],
}

struct Known {
    hashes: Arc<BTreeMap<String, String>>,
    as_of: Option<SystemTime>,
    /// Digests of right logins.
    remembered: HashSet<[u8; 32]>,
}

/// Reads lines `name:hash`. Blank lines and those that begin with `#` are passed over.
fn parse(text: &str) -> Result<BTreeMap<String, String>, (usize, &'static str)> {
    let mut hashes = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let (number, line) = (index + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, hash) = line.split_once(':').ok_or((number, "it is not name:hash"))?;
        let is_bcrypt = ["$2y$", "$2b$", "$2a$"].iter().any(|kind| hash.starts_with(kind));
        if name.is_empty() || !is_bcrypt {
            return Err((number, "only bcrypt is supported: make the line with htpasswd -B"));
        }
        if hashes.insert(name.to_owned(), hash.to_owned()).is_some() {
            return Err((number, "the name is there twice"));
        }
    }
    Ok(hashes)
}

/// Name and password of a header `Basic BASE64`.
fn credentials(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || header.len() > HEADER_BYTES_MAX {
        return None;
    }
    let decoded = STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

/// What a password is checked against. For an unknown name that is somebody else's hash, so that it takes as long as for
/// a known one and nobody can find out names; how long is up to whoever made the file.
fn checked_against<'a>(hashes: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    let hash = hashes.get(name).or_else(|| hashes.values().next());
    hash.map(String::as_str)
}

fn modified(path: &Path) -> std::io::Result<SystemTime> {
    std::fs::metadata(path)?.modified()
}

fn read(path: &Path) -> Result<(BTreeMap<String, String>, Option<SystemTime>), PasswordsError> {
    let failed = |source| PasswordsError::Read {
        path: path.to_owned(),
        source,
    };
    let as_of = modified(path).map_err(failed)?;
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let hashes = parse(&text).map_err(|(line, problem)| PasswordsError::Line {
        path: path.to_owned(),
        line,
        problem,
    })?;
    Ok((hashes, Some(as_of)))
}

impl Passwords {
    /// Reads the file.
    pub fn open(path: &Path) -> Result<Passwords, PasswordsError> {
        let (hashes, as_of) = read(path)?;
        let mut salt = [0; 32];
        rand::rng().fill_bytes(&mut salt);
        Ok(Passwords {
            path: path.to_owned(),
            known: Mutex::new(Known {
                hashes: Arc::new(hashes),
                as_of,
                remembered: HashSet::new(),
            }),
            checks: Semaphore::new(CHECKS_AT_ONCE),
            salt,
        })
    }

    /// Whether the header names somebody with the right password.
    pub(crate) async fn admit(self: &Arc<Self>, header: Option<&str>) -> bool {
        let Some((name, password)) = header.and_then(credentials) else {
            return false;
        };
        let hashes = self.current();
        let Some(hash) = checked_against(&hashes, &name).map(str::to_owned) else {
            return false;
        };
        let login = self.digest(&name, &password, &hash);
        if self.lock().remembered.contains(&login) {
            return true;
        }
        let Ok(_check) = self.checks.acquire().await else {
            return false;
        };
        let is_known = hashes.contains_key(&name);
        let checked = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false));
        let admitted = checked.await.unwrap_or(false) && is_known;
        if admitted {
            let mut known = self.lock();
            if known.remembered.len() >= REMEMBERED_MAX {
                known.remembered.clear();
            }
            known.remembered.insert(login);
        }
        admitted
    }

    /// What the file says now; what it said last while it cannot be read.
    fn current(&self) -> Arc<BTreeMap<String, String>> {
        let as_of = modified(&self.path).ok();
        let mut known = self.lock();
        if as_of.is_some() && as_of != known.as_of {
            known.as_of = as_of;
            match read(&self.path) {
                Ok((hashes, _)) => {
                    known.hashes = Arc::new(hashes);
                    known.remembered.clear();
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the registry's passwords stay as they were"
                    );
                }
            }
        }
        known.hashes.clone()
    }

    /// Stands for a login with the hash that it was checked against.
    fn digest(&self, name: &str, password: &str, hash: &str) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(self.salt);
        for part in [name, hash, password] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        // All fields are valid after every statement that changes them.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, password: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
    }

    #[test]
    fn lines_are_those_of_htpasswd_with_bcrypt() {
        let hashes = parse("# people\n\nalice:$2y$05$x\nbob:$2b$05$y\n").unwrap();
        assert_eq!(hashes.len(), 2);
        for (text, line) in [
            ("alice", 1),
            ("\n:$2y$05$x", 2),
            ("alice:$apr1$x$y", 1),
            ("a:$2y$05$x\na:$2y$05$y", 2),
        ] {
            assert_eq!(parse(text).unwrap_err().0, line, "{text}");
        }
    }

    #[test]
    fn unknown_names_take_as_long_as_known_ones() {
        let cost = |hash: &str| hash.parse::<bcrypt::HashParts>().unwrap().get_cost();
        for made_with in [4, 6] {
            let hashes = BTreeMap::from([("alice".to_owned(), bcrypt::hash("right", made_with).unwrap())]);
            for name in ["alice", "bob"] {
                assert_eq!(cost(checked_against(&hashes, name).unwrap()), made_with, "{name}");
            }
        }
        assert_eq!(checked_against(&BTreeMap::new(), "alice"), None);
    }

    #[tokio::test]
    async fn only_right_passwords_are_let_in_and_the_file_is_followed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("htpasswd");
        let line = |password: &str| format!("alice:{}\n", bcrypt::hash(password, 4).unwrap());
        std::fs::write(&path, line("right")).unwrap();
        let passwords = Arc::new(Passwords::open(&path).unwrap());
        for _ in 0..2 {
            assert!(passwords.admit(Some(&header("alice", "right"))).await);
        }
        for wrong in [
            Some(header("alice", "wrong")),
            // Checked against the hash of alice, and yet not let in.
            Some(header("bob", "right")),
            Some(header("alice", "")),
            Some("Bearer x".to_owned()),
            Some("Basic !".to_owned()),
            None,
        ] {
            assert!(!passwords.admit(wrong.as_deref()).await, "{wrong:?}");
        }
        std::fs::write(&path, line("new")).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert!(passwords.admit(Some(&header("alice", "new"))).await);
        assert!(!passwords.admit(Some(&header("alice", "right"))).await);
        // What cannot be used changes nothing.
        std::fs::write(&path, "nonsense").unwrap();
        assert!(passwords.admit(Some(&header("alice", "new"))).await);
        assert!(Passwords::open(&path).is_err());
    }
}
