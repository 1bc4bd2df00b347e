//! Unsafe code stays where system calls are made.

use muster_workspace_tests::{Repository, SourceFile};

/// Places with unsafe code, and why safe code will not do.
const PLACES: [(&str, &str); 9] = [
    (
        "agent/runtime/src/",
        "clone3, fork and what runs between them and exec",
    ),
    (
        "agent/engine-api/src/server/client.rs",
        "a socket is asked how much of what was sent its client has read; no safe binding asks that",
    ),
    (
        "agent/runtime/tests/cgroup/",
        "a test joins a group between fork and exec",
    ),
    (
        "agent/runtime/tests/oci/agent.rs",
        "a test answers calls that a filter asks about; no safe binding does that",
    ),
    (
        "agent/runtime/tests/seccomp/",
        "a test installs a filter between fork and exec",
    ),
    ("agent/runtime/tests/uml/", "a test clones into a group"),
    (
        "agent/network/src/netlink/",
        "socket options that no safe library has",
    ),
    (
        "src/lab/",
        "a node's first process forks, single-threaded, to enter its namespaces",
    ),
    (
        "src/demo/whoami.rs",
        "a signal handler that only ends the process",
    ),
];

fn uses_unsafe(file: &SourceFile) -> bool {
    let is_unsafe = |line: &str| {
        line.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .any(|word| word == "unsafe")
    };
    file.text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .any(is_unsafe)
}

#[test]
fn unsafe_code_is_only_where_it_has_a_reason() {
    let files = Repository::open().rust_files();
    let found: Vec<&SourceFile> = files
        .iter()
        .filter(|file| !file.path.starts_with("tests/workspace/") && uses_unsafe(file))
        .collect();
    let known = |file: &SourceFile| PLACES.iter().any(|(place, _)| file.path.starts_with(place));
    let new: Vec<&str> = found
        .iter()
        .filter(|file| !known(file))
        .map(|file| file.path.as_str())
        .collect();
    assert!(new.is_empty(), "unsafe code in a new place: {new:?}");
    for (place, _) in PLACES {
        assert!(
            found.iter().any(|file| file.path.starts_with(place)),
            "{place} has none any more: remove its entry"
        );
    }
}
