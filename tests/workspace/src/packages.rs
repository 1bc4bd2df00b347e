//! What `cargo metadata` says of the workspace.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// What a dependency is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DependencyKind {
    /// Part of the program, or of its build.
    Program,
    /// Of the crate's own tests only.
    Tests,
}

/// One crate of the workspace.
#[derive(Debug, Clone)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its directory, from the root; empty for the root package.
    pub directory: String,
    /// Licence in its manifest.
    pub license: String,
    /// Names of the workspace's crates and others that it names, with what they are for.
    pub dependencies: Vec<(String, DependencyKind)>,
}

/// All crates, those of the registry included.
#[derive(Debug)]
pub struct Packages {
    members: Vec<Package>,
    names: BTreeMap<String, String>,
    /// By package id: the ids of what goes into the program with it.
    arrows: BTreeMap<String, Vec<String>>,
}

impl Packages {
    /// Asks cargo. Needs no network: whoever runs this has just built the workspace.
    pub fn read(root: &Path) -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let output = Command::new(cargo)
            .current_dir(root)
            .args([
                "metadata",
                "--format-version=1",
                "--locked",
                "--offline",
                "--all-features",
            ])
            .args(["--filter-platform", &triple])
            .output()
            .expect("cargo can be run");
        assert!(
            output.status.success(),
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
        let root = text(&metadata["workspace_root"]);
        let inside: BTreeSet<&str> = list(&metadata["workspace_members"]).iter().map(text).collect();
        let all = list(&metadata["packages"]);
        let members = all.iter().filter(|package| inside.contains(text(&package["id"])));
        Self {
            members: members.map(|package| member(package, root)).collect(),
            names: all
                .iter()
                .map(|p| (text(&p["id"]).to_owned(), text(&p["name"]).to_owned()))
                .collect(),
            arrows: list(&metadata["resolve"]["nodes"])
                .iter()
                .map(program_arrows)
                .collect(),
        }
    }

    /// The crates of the workspace.
    pub fn members(&self) -> &[Package] {
        &self.members
    }

    /// Names of the workspace's crates that this one depends on, for this purpose.
    pub fn arrows_of(&self, package: &Package, kind: DependencyKind) -> BTreeSet<String> {
        let named = package
            .dependencies
            .iter()
            .filter(|(_, of)| *of == kind)
            .map(|(name, _)| name);
        named
            .filter(|name| self.members.iter().any(|member| member.name == **name))
            .cloned()
            .collect()
    }

    /// Names of every crate that goes into the program with this one, with the crate that brings it.
    pub fn everything_below(&self, name: &str) -> BTreeMap<String, String> {
        let begin = self
            .names
            .iter()
            .find(|(_, found)| *found == name)
            .expect("the crate exists")
            .0;
        let mut found = BTreeMap::new();
        let mut open = vec![begin];
        let mut seen = BTreeSet::from([begin]);
        while let Some(id) = open.pop() {
            for below in self.arrows.get(id).into_iter().flatten() {
                if seen.insert(below) {
                    found.insert(self.names[below].clone(), self.names[id].clone());
                    open.push(below);
                }
            }
        }
        found
    }
}

fn member(package: &Value, root: &str) -> Package {
    let manifest = Path::new(text(&package["manifest_path"]));
    let directory = manifest
        .parent()
        .and_then(|path| path.strip_prefix(root).ok())
        .unwrap_or(Path::new(""));
    let dependencies = list(&package["dependencies"]).iter().map(|dependency| {
        let kind = if dependency["kind"] == "dev" {
            DependencyKind::Tests
        } else {
            DependencyKind::Program
        };
        (text(&dependency["name"]).to_owned(), kind)
    });
    Package {
        name: text(&package["name"]).to_owned(),
        directory: directory.to_string_lossy().into_owned(),
        license: text(&package["license"]).to_owned(),
        dependencies: dependencies.collect(),
    }
}

fn program_arrows(node: &Value) -> (String, Vec<String>) {
    let of_program = |dependency: &&Value| {
        list(&dependency["dep_kinds"])
            .iter()
            .any(|kind| kind["kind"].is_null())
    };
    let below = list(&node["deps"])
        .iter()
        .filter(of_program)
        .map(|dependency| text(&dependency["pkg"]).to_owned());
    (text(&node["id"]).to_owned(), below.collect())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
