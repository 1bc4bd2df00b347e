//! Arrows between crates, and what core crates must never depend on.

use muster_workspace_tests::{DependencyKind, Packages, Repository, table};
use std::collections::BTreeSet;
use std::path::Path;

/// Crates that decide and perform nothing.
pub const CORE: [&str; 6] = [
    "muster-types",
    "muster-state",
    "muster-orchestration",
    "muster-scheduler",
    "muster-node-plan",
    "muster-build",
];

/// Clocks, sources of randomness, sockets, and whatever brings them.
const EFFECTS: [&str; 17] = [
    "tokio",
    "tonic",
    "prost",
    "hyper",
    "axum",
    "mio",
    "nix",
    "rustix",
    "socket2",
    "rand",
    "getrandom",
    "fastrand",
    "time",
    "chrono",
    "ring",
    "tracing",
    "redb",
];

fn arrows(cell: &str) -> BTreeSet<String> {
    cell.split(',')
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty() && name != "-")
        .collect()
}

#[test]
fn arrows_between_crates_are_those_of_the_table() {
    let repository = Repository::open();
    let packages = Packages::read(repository.root());
    let rows = table(&repository.read("ARCHITECTURE.md"), "Dependencies between crates");
    let listed: BTreeSet<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    let members: BTreeSet<&str> = packages
        .members()
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    assert_eq!(listed, members, "the table has one row for each crate");

    let mut wrong = Vec::new();
    for row in &rows {
        let package = packages.members().iter().find(|package| package.name == row[0]);
        let package = package.expect("the names were compared above");
        for (column, kind) in [(1, DependencyKind::Program), (2, DependencyKind::Tests)] {
            let (found, allowed) = (packages.arrows_of(package, kind), arrows(&row[column]));
            for name in found.difference(&allowed) {
                wrong.push(format!(
                    "{} depends on {name} ({kind:?}), which the table does not have",
                    row[0]
                ));
            }
            for name in allowed.difference(&found) {
                wrong.push(format!(
                    "the table says that {} depends on {name} ({kind:?}); it does not",
                    row[0]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn core_crates_depend_on_no_effect() {
    let packages = Packages::read(Repository::open().root());
    let mut wrong = Vec::new();
    for core in CORE {
        let below = packages.everything_below(core);
        for (name, through) in below.iter().filter(|(name, _)| EFFECTS.contains(&name.as_str())) {
            wrong.push(format!("{core} depends on {name}, through {through}"));
        }
        let shells = below
            .keys()
            .filter(|name| name.starts_with("muster") && !CORE.contains(&name.as_str()));
        wrong.extend(shells.map(|shell| format!("{core} depends on the shell {shell}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_search_for_effects_sees_through_other_crates() {
    let packages = Packages::read(Repository::open().root());
    let below = packages.everything_below("muster");
    assert!(EFFECTS.iter().filter(|name| below.contains_key(**name)).count() > 10);
    assert!(
        packages
            .everything_below("muster-orchestration")
            .contains_key("muster-types")
    );
    assert!(
        packages
            .everything_below("muster-orchestration")
            .contains_key("imbl"),
        "through muster-state"
    );
}

#[test]
fn every_crate_takes_licence_and_lints_from_the_workspace() {
    let repository = Repository::open();
    for package in Packages::read(repository.root()).members() {
        assert_eq!(package.license, "Apache-2.0", "{}", package.name);
        let manifest = Path::new(&package.directory).join("Cargo.toml");
        let manifest = repository.read(&manifest.to_string_lossy());
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{} has lints of its own",
            package.name
        );
    }
}
