//! What `muster lab` and `muster demo` say and do, and what they leave.

use crate::support::Lab;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// How the lab says that its nodes stand.
fn standings(lab: &Lab) -> Vec<String> {
    let status = lab.command(&["status"]);
    let rows = status.lines().skip(1).map(|row| {
        let words: Vec<&str> = row.split_whitespace().collect();
        // Between name and role, and socket, is the standing of one or two words, and a pid or none.
        words[..words.len() - 2].join(" ")
    });
    rows.collect()
}

#[test]
fn a_lab_tells_how_its_nodes_stand() {
    let lab = Lab::up("e2elabs", 2, 1);
    let (whole, worker) = ("node-1 controller running", "node-2 worker");
    assert_eq!(standings(&lab), [whole, "node-2 worker running"]);
    let environment = lab.command(&["env", "node-2"]);
    let socket = lab.node_directory("node-2").join("docker.sock");
    assert_eq!(
        environment,
        format!("export DOCKER_HOST=unix://{}\n", socket.display())
    );
    assert_eq!(
        lab.docker("node-2").run(&["info", "--format", "{{.Name}}"]),
        "node-2"
    );

    lab.command(&["stop", "node-2"]);
    assert_eq!(standings(&lab), [whole, &format!("{worker} off")]);
    lab.start("node-2");
    assert_eq!(standings(&lab), [whole, &format!("{worker} running")]);
    lab.kill_daemon("node-2");
    assert_eq!(standings(&lab), [whole, &format!("{worker} daemon stopped")]);
    lab.start("node-2");
    lab.kill("node-2");
    assert_eq!(standings(&lab), [whole, &format!("{worker} off")]);
    lab.start("node-2");
    lab.await_listed("node-1", "node-2", "Ready Active");

    for (wrong, words) in [
        (&["start", "node-2"][..], "runs already"),
        (&["kill", "node-9"], "has no node"),
        (&["partition", "node-1", "node-9"], "has no node"),
        (&["up"], "there is a lab"),
    ] {
        let refused = lab.try_command(wrong);
        assert!(refused.code != 0 && refused.stderr.contains(words), "{refused:?}");
    }
}

#[test]
fn a_node_of_a_lab_has_a_world_of_its_own() {
    let lab = Lab::up("e2elabw", 1, 1);
    let init = lab.init("node-1");
    for kind in ["pid", "net", "mnt", "uts", "ipc"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(of(&init.to_string()), of("self"), "{kind}");
    }
    let mounts = std::fs::read_to_string(format!("/proc/{init}/mountinfo")).unwrap();
    assert!(
        !mounts.contains(" shared:") && !mounts.contains(" master:"),
        "{mounts}"
    );
    let own_run = |line: &str| line.contains(" /run ") && line.contains(" - tmpfs ");
    assert!(mounts.lines().any(own_run), "{mounts}");
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", lab.daemon("node-1"))).unwrap();
    assert!(groups.contains("/muster-lab/e2elabw/node-1/node\n"), "{groups}");
}

/// Dropping a lab removes it, and complains of whatever is left.
#[test]
fn a_lab_whose_making_was_cut_short_is_removed_whole() {
    drop(Lab::cut_short("e2elabx"));
    let lab = Lab::up("e2elabx", 1, 1);
    assert_eq!(standings(&lab), ["node-1 controller running"]);
}

#[test]
fn labs_and_the_demo_say_that_they_need_root() {
    // A place where anybody may run the binary.
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let binary = directory.path().join("muster");
    std::fs::copy(env!("CARGO_BIN_EXE_muster"), &binary).unwrap();
    chown(&binary, Some(0), Some(0)).unwrap();
    for arguments in [&["demo"][..], &["lab", "up"]] {
        let output = Command::new(&binary)
            .args(arguments)
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{said}");
        assert!(
            said.contains("needs root") && said.contains("run it with sudo"),
            "{said}"
        );
    }
}
