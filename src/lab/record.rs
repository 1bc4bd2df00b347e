//! What is known of a lab between two commands: its nodes, their processes and addresses. Kept in a file, so that
//! `lab down` finds everything again, also after a crash.

use super::process;
use super::{TOPOLOGIES_DIRECTORY, labs_directory};
use anyhow::{Context, bail};
use muster_network::Topology;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// A lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lab {
    /// Its name.
    pub name: String,
    /// Its nodes.
    pub nodes: Vec<LabNode>,
}

/// A node of a lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabNode {
    /// `node-1`, `node-2`, …
    pub name: String,
    /// It was joined as a controller.
    pub controller: bool,
    /// First process of its pid namespace, with its start time in clock ticks since boot; `None` when it is off.
    pub init: Option<(i32, u64)>,
    /// Its address in the lab's network.
    pub address: Option<Ipv4Addr>,
}

/// How a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeStanding {
    /// Its daemon runs.
    Running,
    /// It is on, but its daemon does not run.
    DaemonStopped,
    /// It is off.
    Off,
}

impl Lab {
    /// A new lab without nodes; an error when there is one of that name.
    pub fn create(name: &str) -> anyhow::Result<Self> {
        check_name(name)?;
        let lab = Self {
            name: name.to_owned(),
            nodes: Vec::new(),
        };
        if lab.directory().exists() {
            bail!("there is a lab {name:?} already: remove it with `muster lab down`");
        }
        std::fs::create_dir_all(lab.directory())
            .with_context(|| format!("cannot make {}", lab.directory().display()))?;
        lab.save()?;
        Ok(lab)
    }

    /// The lab of this name.
    pub fn load(name: &str) -> anyhow::Result<Self> {
        Self::find(name)?.with_context(|| format!("there is no lab {name:?}: make one with `muster lab up`"))
    }

    /// The lab of this name, if there is one.
    pub fn find(name: &str) -> anyhow::Result<Option<Self>> {
        check_name(name)?;
        let path = directory(name).join("lab.json");
        match std::fs::read(&path) {
            Ok(bytes) => {
                let lab = serde_json::from_slice(&bytes);
                lab.map(Some).with_context(|| {
                    format!(
                        "{} is damaged: remove the lab with `muster lab down`",
                        path.display()
                    )
                })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes the file.
    pub fn save(&self) -> anyhow::Result<()> {
        let (path, beside) = (
            self.directory().join("lab.json"),
            self.directory().join("lab.json.new"),
        );
        std::fs::write(&beside, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(&beside, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Directory of the lab.
    pub fn directory(&self) -> PathBuf {
        directory(&self.name)
    }

    /// Directory of a node.
    pub fn node_directory(&self, node: &str) -> PathBuf {
        self.directory().join(node)
    }

    /// The Engine API socket of a node, as the host sees it.
    pub fn socket(&self, node: &str) -> PathBuf {
        self.node_directory(node).join("docker.sock")
    }

    /// Parent of a node's cgroups.
    pub fn cgroup(&self, node: &str) -> String {
        format!("muster-lab/{}/{node}", self.name)
    }

    /// The lab's network.
    pub fn topology(&self) -> anyhow::Result<Topology> {
        let found = Topology::find(Path::new(TOPOLOGIES_DIRECTORY), &self.name)?;
        found.with_context(|| {
            format!(
                "the network of lab {:?} is gone: remove the lab with `muster lab down`",
                self.name
            )
        })
    }

    /// A node.
    pub fn node(&self, name: &str) -> anyhow::Result<&LabNode> {
        let names = || {
            self.nodes
                .iter()
                .map(|node| node.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .with_context(|| format!("lab {:?} has no node {name:?} (it has {})", self.name, names()))
    }

    /// Changes a node and saves.
    pub fn update(&mut self, name: &str, change: impl FnOnce(&mut LabNode)) -> anyhow::Result<()> {
        self.node(name)?;
        if let Some(node) = self.nodes.iter_mut().find(|node| node.name == name) {
            change(node);
        }
        self.save()
    }

    /// How a node stands.
    pub fn standing(&self, node: &LabNode) -> NodeStanding {
        match node.init.filter(|init| process::is_alive(*init)) {
            None => NodeStanding::Off,
            Some((pid, _)) => match process::daemon_of(pid) {
                Some(_) => NodeStanding::Running,
                None => NodeStanding::DaemonStopped,
            },
        }
    }
}

pub(super) fn directory(name: &str) -> PathBuf {
    labs_directory().join(name)
}

/// Names become directories, cgroups and interface names.
pub(super) fn check_name(name: &str) -> anyhow::Result<()> {
    let valid = !name.is_empty()
        && name.len() <= 8
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !valid {
        bail!("{name:?} cannot be a lab's name: use 1 to 8 characters of a-z and 0-9");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_elsewhere_is_refused_by_every_command() {
        for name in ["", "../etc", "a/b", ".", "UPPER", "toolongname"] {
            assert!(check_name(name).is_err(), "{name:?}");
            assert!(Lab::find(name).is_err(), "{name:?}");
            assert!(Lab::down(name).is_err(), "{name:?}");
        }
        assert!(check_name("lab2").is_ok());
    }
}
