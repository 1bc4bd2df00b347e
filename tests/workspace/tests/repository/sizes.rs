//! Files and functions that are too long to be about one thing.

use muster_workspace_tests::{Repository, SourceFile};

/// More lines than this need a reason.
const LINES_MAX: usize = 500;
/// The same for a file of tests, whose cases stand beside each other and are read one at a time.
const TEST_LINES_MAX: usize = 600;

/// Longer files: at most so many lines, and why. A number here may go down, and an entry may go; nothing may be added
/// without a reason that a reader accepts.
const LONGER: [(&str, usize, &str); 6] = [
    (
        "agent/engine-api/tests/api/engine.rs",
        700,
        "a whole engine in memory behind one trait with many operations",
    ),
    (
        "controller/src/core/mod.rs",
        700,
        "one state machine: taking an input in, flushing and applying read each other's fields",
    ),
    (
        "controller/state/src/apply/tests.rs",
        620,
        "the transition table as one table of cases",
    ),
    (
        "src/daemon/engine.rs",
        620,
        "one trait implementation of conversions, which cannot be split over files",
    ),
    (
        "tests/simulation/src/agents.rs",
        900,
        "follows the agent's shell line by line, which is several files there",
    ),
    (
        "tests/simulation/src/world.rs",
        700,
        "the simulated world is one value; its parts share its queue and its random source",
    ),
];

/// A function with more lines than this is a long one.
const FUNCTION_LINES: usize = 70;
/// Of a hundred functions, so many may be long: tests that tell a story, tables, constructors of large records.
const LONG_PER_CENT_MAX: usize = 1;
/// No function is longer than this.
const FUNCTION_LINES_MAX: usize = 130;

#[test]
fn few_functions_are_long() {
    let mut all = 0;
    let mut long = Vec::new();
    for file in Repository::open().rust_files() {
        for (name, line, lines) in file.functions() {
            all += 1;
            if lines > FUNCTION_LINES {
                long.push((lines, format!("{}:{line}: {name} has {lines} lines", file.path)));
            }
        }
    }
    assert!(all > 1000, "the search finds too little: {all}");
    long.sort();
    let list = || {
        long.iter()
            .map(|(_, text)| text.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert!(
        long.iter().all(|(lines, _)| *lines <= FUNCTION_LINES_MAX),
        "split the longest:\n{}",
        list()
    );
    assert!(
        long.len() * 100 <= all * LONG_PER_CENT_MAX,
        "{} of {all} functions are long:\n{}",
        long.len(),
        list()
    );
}

fn ordinary(file: &SourceFile) -> usize {
    if file.is_test() { TEST_LINES_MAX } else { LINES_MAX }
}

#[test]
fn long_files_have_a_reason() {
    let mut wrong = Vec::new();
    for file in Repository::open().rust_files() {
        let lines = file.text.lines().count();
        let allowed = LONGER
            .iter()
            .find(|(path, ..)| *path == file.path)
            .map_or(ordinary(&file), |(_, lines, _)| *lines);
        if lines > allowed {
            wrong.push(format!("{} has {lines} lines, {allowed} are allowed", file.path));
        }
    }
    for (path, lines, reason) in LONGER {
        assert!(
            lines > LINES_MAX && reason.len() > 20,
            "{path}: the entry says nothing"
        );
        let found = Repository::open().read(path).lines().count();
        if found <= LINES_MAX {
            wrong.push(format!("{path} has {found} lines: remove its entry"));
        }
    }
    assert!(
        wrong.is_empty(),
        "split by topic, or give a reason in LONGER:\n{}",
        wrong.join("\n")
    );
}
