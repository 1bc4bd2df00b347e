//! Namespaces of a container.

use super::SpecInput;
use muster_types::container::NetworkMode;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

/// The namespaces that it has of its own or joins; a kind that is missing is the host's.
pub fn of(input: &SpecInput<'_>) -> Vec<LinuxNamespace> {
    let host = &input.config.host;
    let mut namespaces = vec![own(LinuxNamespaceType::Mount)];
    let optional = [
        (LinuxNamespaceType::Pid, host.pid_host),
        (LinuxNamespaceType::Ipc, host.ipc_host),
        (LinuxNamespaceType::Uts, host.uts_host),
        // A privileged container may manage the host's control groups, as with Docker.
        (LinuxNamespaceType::Cgroup, host.privileged),
    ];
    let kinds = optional.into_iter().filter(|(_, shared)| !shared);
    namespaces.extend(kinds.map(|(kind, _)| own(kind)));
    match &host.network {
        NetworkMode::Host => {}
        NetworkMode::Bridge | NetworkMode::None | NetworkMode::Named(_) | NetworkMode::Container(_) => {
            let mut network = own(LinuxNamespaceType::Network);
            network.set_path(input.network_of.clone());
            namespaces.push(network);
        }
    }
    namespaces
}

fn own(kind: LinuxNamespaceType) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind);
    namespace
}
