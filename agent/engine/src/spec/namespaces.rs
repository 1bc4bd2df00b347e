//! Namespaces of a container.

use super::SpecInput;
use muster_types::container::NetworkMode;
use muster_types::namespace::{IpcMode, NamespaceMode};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
use std::path::PathBuf;

/// What a container joins of others, as paths that the runtime can open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JoinedNamespaces {
    /// The network of another container.
    pub network: Option<PathBuf>,
    /// The process ids of another container.
    pub pid: Option<PathBuf>,
    /// The message queues of another container.
    pub ipc: Option<PathBuf>,
    /// The user namespace, made for the container or that of those it joins; the host's without one.
    pub users: Option<PathBuf>,
    /// A directory of the host with shared memory: another container's, or the own one that others may join.
    pub shm: Option<PathBuf>,
    /// What comes with the network of another container: the directory of its generated files, and its host name.
    pub host: Option<(PathBuf, String)>,
}

/// The namespaces that it has of its own or joins; a kind that is missing is the host's.
pub fn of(input: &SpecInput<'_>) -> Vec<LinuxNamespace> {
    let host = &input.config.host;
    let mut namespaces = vec![own(LinuxNamespaceType::Mount)];
    if let Some(users) = &input.joined.users {
        namespaces.push(at(LinuxNamespaceType::User, Some(users.clone())));
    }
    match host.pid {
        NamespaceMode::Host => {}
        NamespaceMode::Own | NamespaceMode::Container(_) => {
            namespaces.push(at(LinuxNamespaceType::Pid, input.joined.pid.clone()));
        }
    }
    match host.ipc {
        IpcMode::Host => {}
        IpcMode::Private | IpcMode::Shareable | IpcMode::None | IpcMode::Container(_) => {
            namespaces.push(at(LinuxNamespaceType::Ipc, input.joined.ipc.clone()));
        }
    }
    if !host.uts_host {
        namespaces.push(own(LinuxNamespaceType::Uts));
    }
    if !host.cgroup_namespace.is_host(host.privileged) {
        namespaces.push(own(LinuxNamespaceType::Cgroup));
    }
    match &host.network {
        NetworkMode::Host => {}
        NetworkMode::Bridge | NetworkMode::None | NetworkMode::Named(_) | NetworkMode::Container(_) => {
            namespaces.push(at(LinuxNamespaceType::Network, input.joined.network.clone()));
        }
    }
    namespaces
}

fn own(kind: LinuxNamespaceType) -> LinuxNamespace {
    at(kind, None)
}

fn at(kind: LinuxNamespaceType, path: Option<PathBuf>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind);
    namespace.set_path(path);
    namespace
}
