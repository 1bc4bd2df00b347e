//! Mandatory access control labels: AppArmor profiles and SELinux labels for a container's processes.
//!
//! The daemon asks [`HostLabels::detect`] once and loads the default profile; for each process an [`ExecLabel`] is
//! prepared, which its child writes just before exec. Must never: write a label to anything but procfs, since a
//! container's root file system may hold other things at that place.

pub mod apparmor;
pub mod selinux;

use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, PROC_SUPER_MAGIC, fstatfs};

/// The file system type of selinuxfs.
const SELINUX_MAGIC: u64 = 0xf97c_ff8c;

/// The longest label that is taken: the kernel takes a page with the words around the label.
const LABEL_BYTES_MAX: usize = 4000;

/// A label cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// The label has bytes that no label has.
    #[error("{kind} {label:?} cannot be used: {reason}")]
    Invalid {
        /// "AppArmor profile" or "SELinux label".
        kind: &'static str,
        /// The label as given.
        label: String,
        /// Why it was refused.
        reason: &'static str,
    },
    /// The host does not have the security module.
    #[error(
        "{kind} {label:?} was asked for, but this node's kernel runs without {module}: leave the option out"
    )]
    NotEnabled {
        /// "AppArmor profile" or "SELinux label".
        kind: &'static str,
        /// The label as given.
        label: String,
        /// "AppArmor" or "SELinux".
        module: &'static str,
    },
    /// The named profile is not in the kernel.
    #[error(
        "AppArmor profile {profile:?} is not loaded on this node: load it with apparmor_parser and try again"
    )]
    NotLoaded {
        /// The profile.
        profile: String,
    },
    /// The profile loader failed.
    #[error("apparmor_parser did not load profile {profile:?}: {output}")]
    LoaderFailed {
        /// The profile.
        profile: String,
        /// What the loader printed.
        output: String,
    },
    /// A file of a security module or the loader could not be used.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// The result of working with labels.
pub type Result<T> = std::result::Result<T, LabelError>;

/// Which security modules a host runs. Plain data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostLabels {
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// SELinux is enabled.
    pub selinux: bool,
}

impl HostLabels {
    /// Looks at the running kernel.
    pub fn detect() -> HostLabels {
        let mounted =
            rustix::fs::statfs("/sys/fs/selinux").is_ok_and(|found| found.f_type as u64 == SELINUX_MAGIC);
        HostLabels {
            apparmor: apparmor::is_enabled(Path::new("/sys")),
            selinux: mounted,
        }
    }

    /// The label files to write before exec for a process that asks for these labels. Empty text asks for nothing.
    pub fn exec_labels(
        &self,
        apparmor_profile: Option<&str>,
        selinux_label: Option<&str>,
    ) -> Result<Vec<ExecLabel>> {
        let mut labels = Vec::new();
        if let Some(profile) = apparmor_profile.filter(|profile| !profile.is_empty()) {
            labels.extend(self.apparmor_label(profile)?);
        }
        if let Some(label) = selinux_label.filter(|label| !label.is_empty()) {
            check("SELinux label", label)?;
            if !self.selinux {
                return Err(not_enabled("SELinux label", label, "SELinux"));
            }
            labels.push(ExecLabel {
                module: Module::SeLinux,
                content: label.as_bytes().to_vec(),
                // No policy lets an engine change the label of a program that runs.
                at_once: None,
            });
        }
        Ok(labels)
    }

    fn apparmor_label(&self, profile: &str) -> Result<Option<ExecLabel>> {
        check("AppArmor profile", profile)?;
        match (self.apparmor, profile) {
            // Without AppArmor everything is unconfined.
            (false, apparmor::UNCONFINED) => Ok(None),
            (false, _) => Err(not_enabled("AppArmor profile", profile, "AppArmor")),
            (true, _) => Ok(Some(ExecLabel {
                module: Module::AppArmor,
                content: format!("exec {profile}").into_bytes(),
                at_once: Some(format!("changeprofile {profile}").into_bytes()),
            })),
        }
    }
}

fn not_enabled(kind: &'static str, label: &str, module: &'static str) -> LabelError {
    LabelError::NotEnabled {
        kind,
        label: label.to_owned(),
        module,
    }
}

fn check(kind: &'static str, label: &str) -> Result<()> {
    let reason = if label.len() > LABEL_BYTES_MAX {
        "it is longer than 4000 bytes"
    } else if label
        .bytes()
        .any(|byte| byte.is_ascii_control() || byte == b' ' || byte == b'"')
    {
        "it has spaces, quotes or control characters"
    } else {
        return Ok(());
    };
    Err(LabelError::Invalid {
        kind,
        label: label.to_owned(),
        reason,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Module {
    AppArmor,
    SeLinux,
}

impl Module {
    /// Where the label for the next exec goes, the newer place first, relative to procfs.
    fn exec_files(self) -> &'static [&'static CStr] {
        match self {
            Module::AppArmor => &[c"thread-self/attr/apparmor/exec", c"thread-self/attr/exec"],
            Module::SeLinux => &[c"thread-self/attr/exec"],
        }
    }

    /// Where a label goes that takes effect at once.
    fn current_files(self) -> &'static [&'static CStr] {
        match self {
            Module::AppArmor => &[c"thread-self/attr/apparmor/current", c"thread-self/attr/current"],
            Module::SeLinux => &[c"thread-self/attr/current"],
        }
    }
}

/// A label for the program that the process which writes it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecLabel {
    module: Module,
    content: Vec<u8>,
    /// What asks for the label without an exec, where the module can do that.
    at_once: Option<Vec<u8>>,
}

impl ExecLabel {
    /// Writes the label for the calling process; it takes effect at its next exec. `proc` is a procfs directory, of any
    /// pid namespace that has this process in it; the file that is found there is checked to be procfs too.
    ///
    /// Allocates nothing and takes no lock: can be called between fork and exec. The label is the calling thread's.
    pub fn write(&self, proc: BorrowedFd<'_>) -> io::Result<()> {
        write_attribute(proc, self.module.exec_files(), &self.content)
    }

    /// As [`write`](Self::write), for a process that runs on without an exec: the label takes effect now, where the
    /// security module can do that.
    pub fn take_effect(&self, proc: BorrowedFd<'_>) -> io::Result<()> {
        match &self.at_once {
            Some(content) => write_attribute(proc, self.module.current_files(), content),
            None => Ok(()),
        }
    }
}

/// Writes to the first of these files that exists.
fn write_attribute(proc: BorrowedFd<'_>, files: &[&CStr], content: &[u8]) -> io::Result<()> {
    let file = open_first(proc, files)?;
    if fstatfs(&file)?.f_type != PROC_SUPER_MAGIC {
        return Err(io::Error::from_raw_os_error(libc::EXDEV));
    }
    // The kernel takes a label in one write only.
    match rustix::io::write(&file, content)? {
        length if length == content.len() => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EIO)),
    }
}

fn open_first(proc: BorrowedFd<'_>, files: &[&CStr]) -> io::Result<OwnedFd> {
    let mut outcome = Err(rustix::io::Errno::NOENT);
    for file in files {
        outcome = rustix::fs::openat(proc, *file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        if !matches!(outcome, Err(rustix::io::Errno::NOENT)) {
            break;
        }
    }
    Ok(outcome?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    const NONE: HostLabels = HostLabels {
        apparmor: false,
        selinux: false,
    };
    const BOTH: HostLabels = HostLabels {
        apparmor: true,
        selinux: true,
    };

    #[test]
    fn labels_follow_the_host() {
        assert!(NONE.exec_labels(None, Some("")).unwrap().is_empty());
        assert!(NONE.exec_labels(Some("unconfined"), None).unwrap().is_empty());
        assert!(
            NONE.exec_labels(Some("muster-default"), None)
                .unwrap_err()
                .to_string()
                .contains("without AppArmor")
        );
        assert!(
            NONE.exec_labels(None, Some("u:r:t:s0"))
                .unwrap_err()
                .to_string()
                .contains("without SELinux")
        );
        let labels = BOTH
            .exec_labels(
                Some("muster-default"),
                Some("system_u:system_r:container_t:s0:c1,c2"),
            )
            .unwrap();
        assert_eq!(labels[0].content, b"exec muster-default");
        assert_eq!(labels[1].content, b"system_u:system_r:container_t:s0:c1,c2");
        for bad in ["a b", "a\nexec unconfined", "a\0", "\"", &"x".repeat(5000)] {
            assert!(BOTH.exec_labels(Some(bad), None).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn nothing_but_procfs_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let attributes = directory.path().join("thread-self/attr/apparmor");
        std::fs::create_dir_all(&attributes).unwrap();
        std::fs::write(attributes.join("exec"), "").unwrap();
        let place = std::fs::File::open(directory.path()).unwrap();
        let labels = BOTH.exec_labels(Some("muster-default"), None).unwrap();
        let error = labels[0].write(place.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EXDEV));
        assert_eq!(std::fs::read(attributes.join("exec")).unwrap(), b"");
    }

    #[test]
    fn the_kernel_is_asked_through_procfs() {
        let host = HostLabels::detect();
        let proc = std::fs::File::open("/proc").unwrap();
        let labels = BOTH.exec_labels(Some("no-such-profile"), None).unwrap();
        // With AppArmor there is no such profile, without it there is nobody to take the label.
        let error = labels[0].write(proc.as_fd()).unwrap_err();
        assert!(
            matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)),
            "{error} on {host:?}"
        );
    }
}
