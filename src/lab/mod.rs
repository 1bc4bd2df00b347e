//! Several nodes on one machine: each a real daemon in namespaces, a cgroup and directories of its own, joined into a
//! cluster. For trying things out and for end-to-end tests.

mod cgroups;
mod cluster;
mod command;
mod node;
mod process;
mod record;

pub use command::{LabCommand, run};
pub use node::{run_daemon, run_node};
pub use record::Lab;

use std::path::PathBuf;

/// Directory of all labs' nodes; it lies on a real file system, because images need overlayfs below it.
pub const LABS_DIRECTORY: &str = "/var/lib/muster-lab";
/// Directory of all labs' networks.
const TOPOLOGIES_DIRECTORY: &str = "/run/muster-lab";

/// Where labs live; tests and users with a small /var choose another place with `MUSTER_LAB_DIR`.
pub fn labs_directory() -> PathBuf {
    std::env::var_os("MUSTER_LAB_DIR").map_or_else(|| PathBuf::from(LABS_DIRECTORY), PathBuf::from)
}
