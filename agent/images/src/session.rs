//! Whether what an earlier process wrote is on the disk: the kernel keeps it whatever happens to the process, until the
//! machine itself stops without warning.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::NamedTempFile;

use crate::error::{Error, Result};
use crate::layout::sync_directory;

/// Name of the file that says which start of the machine used the store last, and whether it was closed.
const MARK: &str = "session";
/// Changes with every start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The use of the store by this process.
#[derive(Debug)]
pub(crate) struct Session {
    mark: PathBuf,
    boot: String,
    /// What the power may have taken is not all looked at.
    is_in_doubt: AtomicBool,
}

/// What is known of the process before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Earlier {
    /// It ran since the machine started, so that its mounts may still stand.
    pub(crate) is_of_this_boot: bool,
    /// The machine stopped while the store was open, and not all of it was looked at since.
    pub(crate) lost_power: bool,
}

impl Session {
    /// Marks the store as open, durably.
    pub(crate) fn begin(root: &Path) -> Result<(Session, Earlier)> {
        let boot_id = Path::new(BOOT_ID);
        let boot = fs::read_to_string(boot_id).map_err(|error| Error::io("read", boot_id, error))?;
        let session = Session {
            mark: root.join(MARK),
            boot: boot.trim().to_string(),
            is_in_doubt: AtomicBool::new(false),
        };
        let earlier = match fs::read_to_string(&session.mark) {
            Ok(mark) => read(&mark, &session.boot),
            // A new store, or one of a version that left no mark.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Earlier {
                is_of_this_boot: false,
                lost_power: false,
            },
            // What is no text is no mark of ours.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => read("", &session.boot),
            Err(error) => return Err(Error::io("read", &session.mark, error)),
        };
        session.is_in_doubt.store(earlier.lost_power, Ordering::Relaxed);
        session.write(if earlier.lost_power { "in-doubt" } else { "open" })?;
        Ok((session, earlier))
    }

    /// Marks the store as closed: all that it holds is as durable as its records say.
    pub(crate) fn close(&self) {
        // The next process looks at the rest.
        if self.is_in_doubt.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.write("closed") {
            tracing::warn!(error = %error.full_message(), "the image store cannot be marked as closed");
        }
    }

    /// All that was in doubt was looked at.
    pub(crate) fn note_checked(&self) {
        self.is_in_doubt.store(false, Ordering::Relaxed);
        if let Err(error) = self.write("open") {
            tracing::warn!(error = %error.full_message(), "the image store cannot be marked as checked");
        }
    }

    fn write(&self, how: &str) -> Result<()> {
        let failed = |error: io::Error| Error::io("write", &self.mark, error);
        let root = self.mark.parent().unwrap_or(Path::new("/"));
        let mut file = NamedTempFile::new_in(root.join("tmp")).map_err(failed)?;
        file.write_all(format!("{} {how}\n", self.boot).as_bytes())
            .and_then(|()| file.as_file().sync_all())
            .map_err(failed)?;
        file.persist(&self.mark).map_err(|error| failed(error.error))?;
        sync_directory(root)
    }
}

/// A mark that cannot be read was itself cut short.
fn read(mark: &str, boot: &str) -> Earlier {
    match mark.trim().split_once(' ') {
        Some((of, "open" | "closed")) if of == boot => Earlier {
            is_of_this_boot: true,
            lost_power: false,
        },
        Some((_, "closed")) => Earlier {
            is_of_this_boot: false,
            lost_power: false,
        },
        // Also after a look at it that did not come to its end.
        found => Earlier {
            is_of_this_boot: found.is_some_and(|(of, _)| of == boot),
            lost_power: true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_was_lost_when_another_boot_left_the_store_open() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("tmp")).unwrap();
        let mark = place.path().join(MARK);
        let begin = || Session::begin(place.path()).unwrap();
        let (_, fresh) = begin();
        assert!(!fresh.lost_power && !fresh.is_of_this_boot);
        // The process was killed: the kernel has what it wrote.
        assert_eq!(
            begin().1,
            Earlier {
                is_of_this_boot: true,
                lost_power: false
            }
        );
        for left in ["another-boot open\n", "", "\0\0\0\0"] {
            fs::write(&mark, left).unwrap();
            let lost = Earlier {
                is_of_this_boot: false,
                lost_power: true,
            };
            let (session, earlier) = begin();
            assert_eq!(earlier, lost, "{left:?}");
            // Whoever is killed before all was looked at leaves that to the next.
            session.close();
            let (session, earlier) = begin();
            assert!(earlier.lost_power && earlier.is_of_this_boot);
            session.note_checked();
            assert!(!begin().1.lost_power);
        }
        fs::write(&mark, "another-boot closed\n").unwrap();
        assert!(!begin().1.lost_power);
        fs::write(&mark, [0xff, 0xfe]).unwrap();
        let (session, earlier) = begin();
        assert!(earlier.lost_power);
        session.note_checked();
        session.close();
        assert!(fs::read_to_string(&mark).unwrap().ends_with(" closed\n"));
        assert!(begin().1.is_of_this_boot);
    }
}
