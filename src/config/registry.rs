//! Settings of the registry in the box.

use super::{ConfigFile, address};
use crate::tls::certificate_config;
use muster_registry_server::Passwords;
use muster_types::Problems;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Port of registries, as Docker's has it.
const REGISTRY_PORT: u16 = 5000;

/// How the registry in the box is served; not at all without an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Where.
    pub listen: Vec<SocketAddr>,
    /// Names and passwords; everybody is let in where `None`.
    pub htpasswd: Option<PathBuf>,
    /// Certificate and key; the node's own of its cluster where `None`.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// Reads them. A setting that would have no effect is a problem: somebody relies on it.
pub(super) fn read(raw: &ConfigFile, problems: &mut Problems) -> RegistryConfig {
    let listen = raw.registry_listen.iter();
    let listen: Vec<SocketAddr> = listen
        .filter_map(|text| address("registry-listen", text, REGISTRY_PORT, problems))
        .collect();
    if raw.registry_listen.is_empty() {
        for (field, given) in [
            ("registry-htpasswd", &raw.registry_htpasswd),
            ("registry-tlscert", &raw.registry_tlscert),
            ("registry-tlskey", &raw.registry_tlskey),
        ] {
            if given.is_some() {
                problems.add(field, "needs registry-listen: without it there is no registry");
            }
        }
    }
    let mut missing = false;
    for (field, given) in [
        ("registry-tlscert", &raw.registry_tlscert),
        ("registry-tlskey", &raw.registry_tlskey),
    ] {
        if let Some(path) = given.as_ref().filter(|path| !path.is_file()) {
            problems.add(field, format!("{} is not a file", path.display()));
            missing = true;
        }
    }
    let tls = match (&raw.registry_tlscert, &raw.registry_tlskey) {
        (Some(certificate), Some(key)) => {
            if !missing && let Err(error) = certificate_config(certificate, key) {
                problems.add("registry-tlscert", format!("{error:#}"));
            }
            Some((certificate.clone(), key.clone()))
        }
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            problems.add(
                "registry-tlscert",
                "certificate and key belong together: set both",
            );
            None
        }
    };
    if let Some(Err(error)) = raw.registry_htpasswd.as_deref().map(Passwords::open) {
        problems.add("registry-htpasswd", muster_runtime::describe(&error));
    }
    RegistryConfig {
        listen,
        htpasswd: raw.registry_htpasswd.clone(),
        tls,
    }
}
