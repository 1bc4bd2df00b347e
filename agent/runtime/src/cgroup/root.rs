//! Where control groups live on this node, and below which group the engine's own are made.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{CgroupError, Result};
use super::mounts::{self, CgroupMount};
use super::{delegation, features};
pub use features::Features;

/// The parent group when none is configured.
pub const PARENT_DEFAULT: &str = "muster";

/// A kernel controller, or the named hierarchy that systemd keeps on v1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Controller {
    /// CPU time shares, quota and real-time budget.
    Cpu,
    /// CPU time accounting (part of `cpu` on v2).
    Cpuacct,
    /// Which CPUs and memory nodes may be used.
    Cpuset,
    /// Memory and swap.
    Memory,
    /// Number of processes.
    Pids,
    /// Block device bandwidth: `blkio` on v1, `io` on v2.
    Blkio,
    /// Device access (a program instead of a controller on v2).
    Devices,
    /// Suspending processes (always there on v2).
    Freezer,
    /// Huge pages.
    Hugetlb,
    /// RDMA resources.
    Rdma,
    /// Network class identifiers, v1 only.
    NetCls,
    /// Network priorities, v1 only.
    NetPrio,
    /// systemd's named hierarchy, v1 only.
    Systemd,
}

impl Controller {
    const NAMES: [(&'static str, Controller); 14] = [
        ("cpu", Controller::Cpu),
        ("cpuacct", Controller::Cpuacct),
        ("cpuset", Controller::Cpuset),
        ("memory", Controller::Memory),
        ("pids", Controller::Pids),
        ("blkio", Controller::Blkio),
        ("io", Controller::Blkio),
        ("devices", Controller::Devices),
        ("freezer", Controller::Freezer),
        ("hugetlb", Controller::Hugetlb),
        ("rdma", Controller::Rdma),
        ("net_cls", Controller::NetCls),
        ("net_prio", Controller::NetPrio),
        ("name=systemd", Controller::Systemd),
    ];

    /// The controller of a kernel name, v1 or v2.
    pub(super) fn from_kernel_name(name: &str) -> Option<Controller> {
        Self::NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, controller)| *controller)
    }
}

impl std::fmt::Display for Controller {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = Self::NAMES
            .iter()
            .find(|(_, controller)| controller == self)
            .map_or("?", |(name, _)| name);
        formatter.write_str(name)
    }
}

/// Which control group interface a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupVersion {
    /// One hierarchy per controller; also where a v2 tree without the resource controllers is mounted beside (hybrid).
    V1,
    /// The unified hierarchy.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hierarchy {
    /// The group that every path is relative to.
    pub directory: PathBuf,
    /// The controllers bound to it.
    pub controllers: Vec<Controller>,
}

/// Where control groups live on this node. Plain data: it can be sent to another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupRoot {
    pub(super) version: CgroupVersion,
    pub(super) hierarchies: Vec<Hierarchy>,
    pub(super) delegated: bool,
    parent: String,
}

impl CgroupRoot {
    /// Finds the control groups of this process's mount namespace.
    ///
    /// v1 wins where any resource controller is bound to a v1 hierarchy (hybrid hosts). On v2 the groups go below the
    /// nearest group that was delegated to this process, else below the mount's root.
    pub fn detect() -> Result<CgroupRoot> {
        Self::from_mounts(&mounts::read()?, delegation::find_base)
    }

    /// As [`detect`](Self::detect), with a parent group that somebody named: it counts from the mount's root, whatever
    /// group this process is in, so that the daemon's own unit never holds its containers.
    pub fn at_parent(parent: &str) -> Result<CgroupRoot> {
        Self::from_mounts(&mounts::read()?, |mount_point| Ok(delegation::whole(mount_point)))?
            .with_parent(parent)
    }

    /// Uses the cgroup2 file system mounted at `directory`, whatever else is mounted.
    pub fn unified_at(directory: &Path) -> Result<CgroupRoot> {
        let controllers = mounts::unified_controllers(directory)?;
        Ok(CgroupRoot {
            version: CgroupVersion::V2,
            hierarchies: vec![Hierarchy {
                directory: directory.to_owned(),
                controllers,
            }],
            delegated: false,
            parent: PARENT_DEFAULT.to_owned(),
        })
    }

    fn from_mounts(
        mounts: &[CgroupMount],
        find_base: impl FnOnce(&Path) -> Result<delegation::Base>,
    ) -> Result<CgroupRoot> {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for mount in mounts {
            let CgroupMount::V1 {
                directory,
                controllers,
            } = mount
            else {
                continue;
            };
            let wanted = controllers
                .iter()
                .any(|controller| *controller != Controller::Systemd);
            let known = hierarchies
                .iter()
                .any(|hierarchy| hierarchy.controllers == *controllers);
            if !known && (wanted || controllers.contains(&Controller::Systemd)) {
                hierarchies.push(Hierarchy {
                    directory: directory.clone(),
                    controllers: controllers.clone(),
                });
            }
        }
        let has_resources = hierarchies
            .iter()
            .any(|hierarchy| hierarchy.controllers.iter().any(|c| *c != Controller::Systemd));
        if has_resources {
            return Ok(CgroupRoot {
                version: CgroupVersion::V1,
                hierarchies,
                delegated: false,
                parent: PARENT_DEFAULT.to_owned(),
            });
        }
        let unified = mounts.iter().find_map(|mount| match mount {
            CgroupMount::V2 { directory } => Some(directory),
            CgroupMount::V1 { .. } => None,
        });
        let mount_point = unified.ok_or(CgroupError::NotMounted)?;
        let base = find_base(mount_point)?;
        let mut root = Self::unified_at(&base.directory)?;
        root.delegated = base.delegated;
        Ok(root)
    }

    /// The same place with another parent group for the engine's own, such as `machines/muster`.
    pub fn with_parent(mut self, parent: &str) -> Result<CgroupRoot> {
        self.parent = checked_path(parent)?.to_owned();
        Ok(self)
    }

    /// The interface that is used.
    pub fn version(&self) -> CgroupVersion {
        self.version
    }

    /// The parent group of the engine's own, relative to the root.
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// The path to give to [`Cgroup::create`](super::Cgroup::create) for a group of this name.
    pub fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.parent)
    }

    /// Whether this process may only use a subtree that somebody else delegated to it.
    pub fn is_delegated(&self) -> bool {
        self.delegated
    }

    /// Prepares the place for containers: on v2, processes that sit in the delegated group itself move to its leaf
    /// `daemon` (a group with processes cannot hand controllers to its children) and the parent group is made.
    ///
    /// Call once when the daemon starts. Idempotent.
    pub fn prepare(&self) -> Result<()> {
        match self.version {
            CgroupVersion::V1 => Ok(()),
            CgroupVersion::V2 => {
                if self.delegated {
                    delegation::vacate(&self.hierarchies[0].directory)?;
                }
                super::handover::make_parent(self, &self.parent)
            }
        }
    }

    /// What this node can limit, for `docker info` and for checking a request before anything is made.
    pub fn features(&self) -> Features {
        features::probe(self)
    }

    /// Whether a controller can be used.
    pub fn has(&self, controller: Controller) -> bool {
        self.hierarchies
            .iter()
            .any(|hierarchy| hierarchy.controllers.contains(&controller))
    }
}

/// A group path that stays below the root: no `..`, no empty component, nothing a control file could be called.
pub(super) fn checked_path(path: &str) -> Result<&str> {
    let refuse = |reason| {
        Err(CgroupError::InvalidPath {
            path: path.to_owned(),
            reason,
        })
    };
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    if trimmed.is_empty() {
        return refuse("it is empty");
    }
    for component in trimmed.split('/') {
        match component {
            "" => return refuse("it has an empty component"),
            "." | ".." => return refuse("it must not contain . or .."),
            name if name.len() > 255 => return refuse("a component is longer than 255 bytes"),
            name if name.starts_with("cgroup.") => {
                return refuse("names starting with cgroup. belong to the kernel");
            }
            name if name.bytes().any(|byte| byte.is_ascii_control()) => {
                return refuse("it has a control character");
            }
            _ => {}
        }
    }
    Ok(trimmed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(directory: &str, controllers: &[Controller]) -> CgroupMount {
        CgroupMount::V1 {
            directory: directory.into(),
            controllers: controllers.to_vec(),
        }
    }

    #[test]
    fn hybrid_host_counts_as_v1() {
        let mounts = [
            CgroupMount::V2 {
                directory: "/sys/fs/cgroup/unified".into(),
            },
            v1("/sys/fs/cgroup/systemd", &[Controller::Systemd]),
            v1(
                "/sys/fs/cgroup/cpu,cpuacct",
                &[Controller::Cpu, Controller::Cpuacct],
            ),
            v1("/elsewhere/cpu,cpuacct", &[Controller::Cpu, Controller::Cpuacct]),
        ];
        let root = CgroupRoot::from_mounts(&mounts, delegation::find_base).unwrap();
        assert_eq!(root.version(), CgroupVersion::V1);
        assert_eq!(root.hierarchies.len(), 2);
        assert!(root.has(Controller::Cpuacct));
        assert!(!root.has(Controller::Memory));
    }

    #[test]
    fn no_control_groups_is_an_error() {
        assert!(matches!(
            CgroupRoot::from_mounts(&[], delegation::find_base),
            Err(CgroupError::NotMounted)
        ));
    }

    #[test]
    fn paths_cannot_leave_the_root() {
        for bad in [
            "",
            "/",
            "..",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "cgroup.procs",
            "a/cgroup.kill",
            "a\nb",
        ] {
            assert!(checked_path(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(checked_path("/muster/abc").unwrap(), "muster/abc");
        assert!(checked_path(&"a".repeat(256)).is_err());
    }
}
