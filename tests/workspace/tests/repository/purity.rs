//! Core crates decide: they read no clock, draw no randomness and touch nothing outside their arguments.

use muster_workspace_tests::{Repository, SourceFile};

/// Sources of the core crates.
const CORE: [&str; 5] = [
    "proto/types/src/",
    "controller/state/src/",
    "controller/orchestration/src/",
    "controller/scheduler/src/",
    "agent/node-plan/src/",
];

/// What would make two controllers that applied the same entries differ.
const EFFECTS: [(&str, &str); 12] = [
    ("SystemTime", "time comes in as an argument"),
    ("Instant", "time comes in as an argument"),
    ("std::thread", "a core function runs where its caller runs"),
    ("std::fs", "files are a shell's"),
    ("std::net::Tcp", "sockets are a shell's"),
    ("std::net::Udp", "sockets are a shell's"),
    ("std::env", "settings come in as arguments"),
    ("std::process", "processes are a shell's"),
    ("RandomState", "its order differs from run to run"),
    (
        "HashMap",
        "its order differs from run to run; use BTreeMap or imbl::OrdMap",
    ),
    ("HashSet", "its order differs from run to run; use BTreeSet"),
    ("async fn", "a core function never waits"),
];

fn effects(file: &SourceFile) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in file.program_lines() {
        for (effect, reason) in EFFECTS.iter().filter(|(effect, _)| line.contains(effect)) {
            found.push(format!("{}:{number}: {effect}: {reason}", file.path));
        }
    }
    found
}

#[test]
fn core_crates_have_no_effects() {
    let files = Repository::open().rust_files();
    let core = files
        .iter()
        .filter(|file| CORE.iter().any(|place| file.path.starts_with(place)) && !file.is_test());
    let found: Vec<String> = core.flat_map(effects).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_clock_in_the_program_is_seen_and_one_in_its_tests_is_not() {
    let text =
        "fn a() { Instant::now(); }\n// Instant\n#[cfg(test)]\nmod tests { fn b() { Instant::now(); } }\n";
    let file = SourceFile {
        path: "controller/state/src/a.rs".to_owned(),
        text: text.to_owned(),
    };
    assert_eq!(
        effects(&file),
        ["controller/state/src/a.rs:1: Instant: time comes in as an argument"]
    );
}
