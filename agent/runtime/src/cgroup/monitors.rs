//! The group of the launcher and the monitors: beside the containers, outside of the daemon's own unit, so that neither
//! a restart of the unit nor its limits reach them.

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;

use super::directory::Directory;
use super::error::{CgroupError, Result};
use super::root::{CgroupRoot, CgroupVersion};
use super::{handover, v1};

/// Its name below the parent of the containers' groups; an id of a container has another form.
const NAME: &str = "monitors";

impl CgroupRoot {
    /// The files to which a single-threaded process writes `0` to join the group, which is made where it is missing.
    pub(crate) fn monitor_files(&self) -> Result<Vec<OwnedFd>> {
        let path = self.path_of(NAME);
        match self.version() {
            CgroupVersion::V1 => {
                let open = |hierarchy: &super::root::Hierarchy| {
                    v1::open_tasks(
                        &Directory::open(&hierarchy.directory)?,
                        &path,
                        &hierarchy.controllers,
                    )
                };
                self.hierarchies.iter().map(open).collect()
            }
            CgroupVersion::V2 => {
                handover::make_parent(self, self.parent())?;
                let top = Directory::open(&self.hierarchies[0].directory)?;
                top.make(&path)?;
                let group = top.open_below(&path)?;
                let file = group
                    .file("cgroup.procs", OFlags::WRONLY)
                    .map_err(|error| CgroupError::io("open", group.path().join("cgroup.procs"), error))?;
                Ok(vec![file])
            }
        }
    }
}
