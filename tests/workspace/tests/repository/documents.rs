//! What the documents say is what the code does.

use muster_workspace_tests::{Packages, Repository, links, table};
use std::collections::BTreeSet;
use std::path::Path;

/// Metric names in a text: string literals that begin with the program's name.
fn metric_names(text: &str) -> BTreeSet<String> {
    let literals = text.split('"').skip(1).step_by(2);
    let is_name = |text: &&str| {
        text.starts_with("muster_")
            && text
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    literals.filter(is_name).map(str::to_owned).collect()
}

#[test]
fn the_table_of_metrics_is_complete() {
    let repository = Repository::open();
    let files = repository.rust_files();
    let registering = files.iter().filter(|file| {
        !file.is_test() && !file.path.starts_with("tests/") && file.text.contains("prometheus::")
    });
    let in_code: BTreeSet<String> = registering.flat_map(|file| metric_names(&file.text)).collect();
    assert!(in_code.len() > 5, "the search finds too little: {in_code:?}");
    let rows = table(&repository.read("docs/metrics.md"), "Metrics");
    let documented: BTreeSet<String> = rows.iter().map(|row| row[0].clone()).collect();
    assert_eq!(documented, in_code, "left: docs/metrics.md, right: the code");
}

#[test]
fn every_setting_of_the_daemon_is_documented() {
    let repository = Repository::open();
    let config = repository.read("src/config.rs");
    let fields = config
        .split_once("struct ConfigFile {")
        .and_then(|(_, rest)| rest.split_once('}'));
    let fields = fields.expect("src/config.rs has the settings file").0;
    let names: Vec<String> = fields
        .lines()
        .filter_map(|line| line.trim().split_once(':'))
        .map(|(name, _)| name.trim_start_matches("pub ").replace('_', "-"))
        .collect();
    assert!(names.len() > 10, "the search finds too little: {names:?}");
    let rows = table(&repository.read("docs/daemon.md"), "Settings");
    let documented: Vec<String> = rows.iter().map(|row| row[0].clone()).collect();
    let in_code: BTreeSet<&String> = names.iter().collect();
    assert_eq!(
        documented.iter().collect::<BTreeSet<_>>(),
        in_code,
        "left: docs/daemon.md, right: src/config.rs"
    );
}

#[test]
fn every_crate_is_in_the_code_map_and_says_what_it_is_for() {
    let repository = Repository::open();
    let architecture = repository.read("ARCHITECTURE.md");
    for package in Packages::read(repository.root()).members() {
        assert!(
            architecture.contains(&format!("`{}`", package.name)),
            "{} is not in ARCHITECTURE.md",
            package.name
        );
        let entry = ["src/lib.rs", "src/main.rs"].map(|file| Path::new(&package.directory).join(file));
        let entry = entry
            .iter()
            .find(|path| repository.root().join(path).exists())
            .expect("it has one of them");
        let text = repository.read(&entry.to_string_lossy());
        assert!(
            text.starts_with("//! "),
            "{}: the file says what the crate is for",
            entry.display()
        );
    }
}

#[test]
fn every_named_invariant_is_in_the_architecture() {
    let repository = Repository::open();
    let architecture = repository.read("ARCHITECTURE.md");
    let files = repository.rust_files().into_iter();
    let checkers = files.filter(|file| file.path.starts_with("controller/state/src/invariants/"));
    let source: String = checkers.map(|file| file.text).collect();
    let literals = source.split('"').skip(1).step_by(2);
    let is_name = |text: &&str| text.contains(' ') && !text.contains(['{', ':']) && !text.starts_with("the ");
    let names: BTreeSet<&str> = literals.filter(is_name).collect();
    assert!(names.len() >= 8, "the search finds too little: {names:?}");
    let missing: Vec<&&str> = names
        .iter()
        .filter(|name| !architecture.contains(**name))
        .collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md does not name {missing:?}");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let repository = Repository::open();
    let mut broken = Vec::new();
    for document in repository.documents() {
        let directory = Path::new(&document.path)
            .parent()
            .expect("a file has a directory");
        for link in links(&document.text) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            if !repository.root().join(directory).join(target).exists() {
                broken.push(format!("{}: {link}", document.path));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn comments_promise_nothing() {
    let marks = ["TODO", "FIXME", "XXX"];
    let mut found = Vec::new();
    for file in Repository::open().rust_files() {
        if file.path.starts_with("tests/workspace/") {
            continue;
        }
        for (number, line) in file.text.lines().enumerate() {
            let comment = line.split_once("//").map_or("", |(_, comment)| comment);
            if marks.iter().any(|mark| {
                comment
                    .split(|c: char| !c.is_alphanumeric())
                    .any(|word| word == *mark)
            }) {
                found.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "write an issue instead:\n{}", found.join("\n"));
}

/// A compiler sees them in code, nobody in a document.
#[test]
fn no_document_has_the_marks_of_a_merge() {
    let mut found = Vec::new();
    for document in Repository::open().documents() {
        for (number, line) in document.text.lines().enumerate() {
            if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") {
                found.push(format!("{}:{}: {line}", document.path, number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
