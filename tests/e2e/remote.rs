//! A docker CLI on another machine: it runs `docker system dial-stdio` there through ssh, which this binary answers.

use crate::support::{Docker, IMAGE, Lab};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// As ssh does it: everything before the host is for ssh, everything behind it one command line of the other machine,
/// where the caller's environment is not.
const SSH: &str = r#"#!/bin/sh
echo "$@" >> "$(dirname "$0")/../asked"
while [ "$1" != node-1 ]; do shift; done
shift
[ "$1" = -- ] && shift
exec env -i PATH="$(dirname "$0")/../there" sh -c "$*"
"#;

/// A directory with `here/ssh`, and `there/docker` under which this binary is called.
fn machines(place: &Path) {
    for side in ["here", "there"] {
        std::fs::create_dir(place.join(side)).expect("the test's directory can be written");
    }
    let ssh = place.join("here/ssh");
    std::fs::write(&ssh, SSH).expect("the test's directory can be written");
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).expect("the script is ours");
    symlink(env!("CARGO_BIN_EXE_muster"), place.join("there/docker")).expect("a link can be made");
    symlink("/bin/sh", place.join("there/sh")).expect("a link can be made");
}

#[test]
fn a_docker_cli_comes_through_ssh() {
    let lab = Lab::with_image("e2essh", 1, 1);
    machines(lab.directory());
    let near = lab.docker("node-1");
    let far = format!("ssh://root@node-1{}", near.socket().display());
    let far = Docker::at(&far, &lab.directory().join("docker")).found_in(&lab.directory().join("here"));

    assert!(far.run(&["version"]).contains("Server: Muster"));
    assert_eq!(
        far.run(&["run", "--name", "web", IMAGE, "echo", "hello"]),
        "hello"
    );
    assert_eq!(near.run(&["ps", "-a", "--format", "{{.Names}}"]), "web");
    assert_eq!(far.run(&["logs", "web"]), "hello");
    // Much output, and an end of input that the process sees.
    let many = far.run(&["run", "--rm", IMAGE, "seq", "100000"]);
    assert!(many.ends_with("\n100000") && many.lines().count() == 100_000);
    let piped = far.piped(
        "0123456789\n".repeat(10_000).as_bytes(),
        &["run", "-i", "--rm", IMAGE, "cat"],
    );
    assert_eq!((piped.code, piped.stdout.len()), (0, 110_000), "{}", piped.stderr);
    let asked = std::fs::read_to_string(lab.directory().join("asked")).expect("ssh was called");
    assert!(asked.contains("system dial-stdio"), "{asked}");

    let gone = format!("ssh://root@node-1{}/nothing.sock", lab.directory().display());
    let gone = Docker::at(&gone, &lab.directory().join("docker")).found_in(&lab.directory().join("here"));
    let complaint = gone.refuse(&["ps"]);
    assert!(complaint.contains("is it running?"), "{complaint}");
}

#[test]
fn a_process_that_cannot_start_in_a_container_says_so() {
    let lab = Lab::with_image("e2eexec", 1, 1);
    let docker = lab.docker("node-1");
    docker.run(&["run", "-d", "--name", "web", IMAGE]);
    let missing = docker.try_run(&["exec", "web", "nosuch"]);
    assert_eq!(missing.code, 127, "{missing:?}");
    assert!(
        missing.stdout.contains("executable file not found in $PATH"),
        "{missing:?}"
    );
    let directory = docker.try_run(&["exec", "web", "/bin"]);
    assert_eq!(directory.code, 126, "{directory:?}");
    // Only what was asked for is attached.
    assert_eq!(
        docker.run(&[
            "exec",
            "-e",
            "A=b",
            "-w",
            "/bin",
            "web",
            "sh",
            "-c",
            "echo $A $PWD"
        ]),
        "b /bin"
    );
    docker.run(&["kill", "web"]);
    // Whoever killed it asks for its exit code next.
    assert_eq!(
        docker.run(&["inspect", "-f", "{{.State.ExitCode}}", "web"]),
        "137"
    );
}
