//! The default AppArmor profile: its text, and getting it into the kernel.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{LabelError, Result};

/// The profile of containers that name none.
pub const DEFAULT_PROFILE: &str = "muster-default";

/// The name of having no profile.
pub const UNCONFINED: &str = "unconfined";

/// Where distributions put the parser; it is not always in the daemon's PATH.
const PARSERS: [&str; 3] = [
    "/sbin/apparmor_parser",
    "/usr/sbin/apparmor_parser",
    "/usr/bin/apparmor_parser",
];

/// The rules, those of Docker's default profile (moby/profiles, Apache-2.0). NAME and PEER are filled in.
const RULES: &str = r#"  # Everything is allowed that is not denied below or by other means; raw crypto sockets are not needed by any
  # container and have been a way into the kernel.
  network,
  deny network alg,
  capability,
  file,
  umount,

  # Signals from the host, from the daemon and among the container's processes.
  signal (receive) peer=unconfined,
  signal (receive) peer="PEER",
  signal (send,receive) peer="NAME",

  # Writing in /proc only below process directories and to /proc/sys/kernel/shm*.
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9/],[^1-9/][^0-9/],[^1-9s/][^0-9y/][^0-9s/],[^1-9/][^0-9/][^0-9/][^0-9/]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,

  deny mount,

  # Writing in /sys only below /sys/fs/cgroup.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,

  # Debuggers inside of a container.
  ptrace (trace,tracedby,read,readby) peer="NAME",
"#;

/// What came of asking for the default profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultProfile {
    /// It is in the kernel: give [`DEFAULT_PROFILE`] to containers that name none.
    Loaded,
    /// Containers that name no profile run unconfined. The text says why and what to do; log it once.
    Unavailable(String),
}

/// Whether the kernel under this `/sys` enforces AppArmor profiles.
pub(super) fn is_enabled(sys: &Path) -> bool {
    let parameter = std::fs::read_to_string(sys.join("module/apparmor/parameters/enabled"));
    parameter.is_ok_and(|text| text.starts_with('Y'))
}

/// Whether the kernel under this `/sys` has a profile.
pub fn is_loaded(sys: &Path, profile: &str) -> Result<bool> {
    let path = sys.join("kernel/security/apparmor/profiles");
    let list = std::fs::read_to_string(&path).map_err(|source| LabelError::Io {
        operation: "read",
        path: path.clone(),
        source,
    })?;
    // Lines such as `docker-default (enforce)`.
    Ok(list
        .lines()
        .any(|line| line.rsplit_once(" (").is_some_and(|(name, _)| name == profile)))
}

/// Gets the default profile into the kernel. Call when the daemon starts, on hosts with AppArmor.
pub fn load_default() -> Result<DefaultProfile> {
    load_default_below(Path::new("/sys"))
}

fn load_default_below(sys: &Path) -> Result<DefaultProfile> {
    let unavailable = |reason: &str| Ok(DefaultProfile::Unavailable(reason.to_owned()));
    if !is_enabled(sys) {
        return unavailable("the kernel runs without AppArmor");
    }
    if !sys.join("kernel/security/apparmor").is_dir() {
        return unavailable(
            "securityfs is not mounted at /sys/kernel/security: mount it to confine containers",
        );
    }
    let parser = PARSERS.iter().map(PathBuf::from).find(|path| path.exists());
    match parser {
        // Loaded anew each time: an older version's text may be in the kernel.
        Some(parser) => {
            load(
                &parser,
                &default_text(Path::new("/etc/apparmor.d"), &own_profile()),
            )?;
            Ok(DefaultProfile::Loaded)
        }
        None if is_loaded(sys, DEFAULT_PROFILE)? => Ok(DefaultProfile::Loaded),
        None => Ok(DefaultProfile::Unavailable(format!(
            "AppArmor profile {DEFAULT_PROFILE} is not loaded and apparmor_parser is not installed: \
             install apparmor to confine containers"
        ))),
    }
}

/// The profile that this process runs under.
fn own_profile() -> String {
    let current = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"]
        .iter()
        .find_map(|file| std::fs::read_to_string(file).ok())
        .unwrap_or_default();
    let name = current.split(" (").next().unwrap_or_default().trim();
    // A name that would end the quotes around it is not put into the text.
    if name.is_empty() || name.contains(['"', '\\', '\n']) {
        UNCONFINED.to_owned()
    } else {
        name.to_owned()
    }
}

/// The default profile's text, with what the installed AppArmor offers below `configuration`.
fn default_text(configuration: &Path, daemon_profile: &str) -> String {
    let mut text = String::from("# Made by Muster when it starts; changes here are lost.\n");
    // Later versions of the language take unix sockets out of `network`.
    if configuration.join("abi/3.0").exists() {
        text.push_str("abi <abi/3.0>,\n");
    }
    if configuration.join("tunables/global").exists() {
        text.push_str("#include <tunables/global>\n");
    } else {
        text.push_str("@{PROC}=/proc/\n");
    }
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "\nprofile \"{DEFAULT_PROFILE}\" flags=(attach_disconnected,mediate_deleted) {{"
    );
    if configuration.join("abstractions/base").exists() {
        text.push_str("  #include <abstractions/base>\n\n");
    }
    text.push_str(
        &RULES
            .replace("NAME", DEFAULT_PROFILE)
            .replace("PEER", daemon_profile),
    );
    text.push_str("}\n");
    text
}

/// Hands a profile to the parser, which compiles it and replaces it in the kernel.
fn load(parser: &Path, text: &str) -> Result<()> {
    let io_error = |operation| {
        move |source| LabelError::Io {
            operation,
            path: parser.to_owned(),
            source,
        }
    };
    let mut child = Command::new(parser)
        .arg("-Kr")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io_error("run"))?;
    let written = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(text.as_bytes()),
        None => Ok(()),
    };
    let output = child.wait_with_output().map_err(io_error("wait for"))?;
    if !output.status.success() {
        let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(LabelError::LoaderFailed {
            profile: DEFAULT_PROFILE.to_owned(),
            output,
        });
    }
    written.map_err(io_error("write to"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sys(enabled: &str, profiles: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (file, content) in [
            ("module/apparmor/parameters/enabled", enabled),
            ("kernel/security/apparmor/profiles", profiles),
        ] {
            let path = directory.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        directory
    }

    #[test]
    fn found_only_where_it_is_enabled() {
        let enabled = sys("Y\n", "");
        assert!(is_enabled(enabled.path()));
        // Enabled, and out of reach: that must not pass for a kernel without AppArmor.
        std::fs::remove_dir_all(enabled.path().join("kernel/security")).unwrap();
        match load_default_below(enabled.path()).unwrap() {
            DefaultProfile::Unavailable(reason) => assert!(reason.contains("securityfs"), "{reason}"),
            DefaultProfile::Loaded => panic!("there is nothing to load it into"),
        }
        assert!(is_enabled(enabled.path()));
        assert!(!is_enabled(sys("N\n", "").path()));
        assert!(!is_enabled(tempfile::tempdir().unwrap().path()));
    }

    #[test]
    fn profiles_are_found_by_their_whole_name() {
        let sys = sys(
            "Y\n",
            "/usr/bin/man (enforce)\nmuster-default (enforce)\nother (complain)\n",
        );
        for (name, expected) in [
            ("muster-default", true),
            ("muster", false),
            ("/usr/bin/man", true),
            ("other", true),
        ] {
            assert_eq!(is_loaded(sys.path(), name).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn text_follows_what_is_installed() {
        let configuration = tempfile::tempdir().unwrap();
        let bare = default_text(configuration.path(), "unconfined");
        assert!(
            bare.contains("@{PROC}=/proc/") && !bare.contains("#include"),
            "{bare}"
        );
        assert!(bare.contains("ptrace (trace,tracedby,read,readby) peer=\"muster-default\""));
        for file in ["abi/3.0", "tunables/global", "abstractions/base"] {
            let path = configuration.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let full = default_text(configuration.path(), "/usr/bin/muster");
        assert!(full.contains("abi <abi/3.0>,") && full.contains("#include <abstractions/base>"));
        assert!(
            full.contains("signal (receive) peer=\"/usr/bin/muster\"") && !full.contains("@{PROC}=/proc/")
        );
    }

    #[test]
    fn a_failing_parser_is_reported_with_its_words() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let parser = directory.path().join("parser");
        std::fs::write(
            &parser,
            "#!/bin/sh\ncat > /dev/null\necho 'syntax error at line 3' >&2\nexit 1\n",
        )
        .unwrap();
        std::fs::set_permissions(&parser, std::fs::Permissions::from_mode(0o755)).unwrap();
        let message = load(&parser, "profile").unwrap_err().to_string();
        assert!(message.contains("syntax error at line 3"), "{message}");
        std::fs::write(&parser, "#!/bin/sh\ngrep -q profile\n").unwrap();
        load(&parser, "profile").unwrap();
    }
}
