//! Clients of Docker other than its CLI, unmodified, with tests of their own where they have some.

use crate::support::{LONG, Lab, eventually, rootfs};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// What docker-py's tests take for granted.
const DOCKER_PY_IMAGES: [(&str, &[&str]); 4] = [
    ("alpine:3.10", &["/bin/sh"]),
    ("alpine:latest", &["/bin/sh"]),
    ("busybox:latest", &["sh"]),
    ("hello-world:latest", &["/bin/echo", "Hello from Docker!"]),
];

/// Where the clients lie, to be run and to be kept once fetched.
const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// Runs a script of `tests/clients`, which must succeed, and returns what it printed.
#[track_caller]
fn client(script: &str, lab: &Lab, arguments: &[&str]) -> String {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
    let docker = lab.docker("node-1");
    let output = Command::new(Path::new(CLIENTS).join(script))
        .arg(&cache)
        .arg(docker.socket())
        .args(arguments)
        .env("NODE_NETNS", lab.netns("node-1"))
        .current_dir(lab.directory())
        .output()
        .expect("tests/clients holds the script");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {complaint}");
    eprintln!("{complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn load(lab: &Lab, name: &str, command: &[&str]) {
    let archive = rootfs(lab.directory(), name, command);
    let loaded = lab
        .docker("node-1")
        .run(&["load", "-i", &archive.to_string_lossy()]);
    assert_eq!(loaded, format!("Loaded image: {name}"));
}

/// Takes the stack of tests/clients/shop through its life, and looks for what that left.
#[track_caller]
fn compose(lab: &Lab, version: &str) {
    let docker = lab.docker("node-1");
    let networks = ["network", "ls", "-q"];
    // The node makes it once the cluster told it of its networks.
    eventually("the bridge of networks of the cluster", LONG, || {
        match docker.lines(&["network", "ls", "-q", "--filter", "name=docker_gwbridge"]) {
            found if found.len() == 1 => Ok(()),
            found => Err(found),
        }
    });
    let before = docker.lines(&networks);
    client("images", lab, &["postgres", "redis", "python"]);
    client("compose", lab, &[version]);
    assert_eq!(docker.run(&["ps", "-aq"]), "");
    assert_eq!(docker.run(&["volume", "ls", "-q"]), "");
    assert_eq!(docker.lines(&networks), before);
}

#[test]
fn compose_2_takes_a_stack_through_its_life() {
    compose(&Lab::up("e2ecmp2", 1, 1), "2");
}

/// `tests/run` leaves it out where Debian has no such docker-compose.
#[test]
fn compose_1_takes_a_stack_through_its_life() {
    compose(&Lab::up("e2ecmp1", 1, 1), "1");
}

#[test]
fn testcontainers_for_python_has_what_it_asks_for() {
    let lab = Lab::up("e2etc", 1, 1);
    client("images", &lab, &["postgres", "redis", "python", "ryuk"]);
    client("testcontainers", &lab, &[]);
    assert_eq!(lab.docker("node-1").run(&["ps", "-aq"]), "");
    assert_eq!(lab.docker("node-1").run(&["volume", "ls", "-q"]), "");
}

#[test]
fn docker_py_passes_its_own_tests_but_for_those_that_are_listed() {
    let lab = Lab::up("e2epy", 1, 1);
    for (name, command) in DOCKER_PY_IMAGES {
        load(&lab, name, command);
    }
    let outcomes = client("docker-py", &lab, &[]);
    let listed =
        std::fs::read_to_string(Path::new(CLIENTS).join("docker-py.expected")).expect("the list is there");
    let listed: BTreeMap<&str, &str> = listed
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split_once(' ').expect("every test has its reason"))
        .collect();
    let failed: BTreeSet<&str> = outcomes
        .lines()
        .filter_map(|line| line.strip_prefix("failed "))
        .collect();
    let new: Vec<_> = failed.iter().filter(|test| !listed.contains_key(*test)).collect();
    let mended: Vec<_> = listed.keys().filter(|test| !failed.contains(*test)).collect();
    assert!(
        new.is_empty() && mended.is_empty(),
        "not listed in tests/clients/docker-py.expected: {new:#?}\nlisted, but not failing: {mended:#?}"
    );
    let passed = outcomes
        .lines()
        .filter(|line| line.starts_with("passed "))
        .count();
    assert!(passed > 150, "only {passed} tests passed:\n{outcomes}");
}
