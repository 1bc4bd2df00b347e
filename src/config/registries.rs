//! Settings about registries.

use muster_registry::{Insecure, Mirror, RegistrySettings};
use muster_types::Problems;
use std::path::{Path, PathBuf};

/// Where Docker keeps certificates of registries.
const DOCKER_CERTIFICATES: &str = "/etc/docker/certs.d";

/// Reads mirrors and insecure registries. Certificates lie in the data directory, or where Docker has them.
pub(super) fn read(
    mirrors: &[String],
    insecure: &[String],
    data_dir: &Path,
    problems: &mut Problems,
) -> RegistrySettings {
    let mut settings = RegistrySettings {
        certificates: vec![data_dir.join("certs.d"), PathBuf::from(DOCKER_CERTIFICATES)],
        ..RegistrySettings::default()
    };
    for text in mirrors {
        match Mirror::parse(text) {
            Ok(mirror) => settings.mirrors.push(mirror),
            Err(error) => problems.add("registry-mirror", error.to_string()),
        }
    }
    for text in insecure {
        match Insecure::parse(text) {
            Ok(rule) => settings.insecure.push(rule),
            Err(error) => problems.add("insecure-registry", error.to_string()),
        }
    }
    settings
}
