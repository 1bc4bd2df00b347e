//! TLS as a registry needs it: the host's authorities, and what lies for it in `certs.d/HOST:PORT`.

use crate::endpoint::Trust;
use crate::error::{Error, Result};
use muster_outbound::{AnyCertificate, host_authorities};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most files that are read of one directory.
const FILES_MAX: usize = 64;

/// The configuration for a host (`host[:port]`). Reads files: for a blocking thread.
pub(crate) fn client_config(authority: &str, trust: Trust, directories: &[PathBuf]) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(Path::new("TLS"), &error))?;
    let files = Files::of(authority, directories)?;
    let builder = match trust {
        Trust::Insecure => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))),
        Trust::Verified => builder.with_root_certificates(roots(&files)?),
    };
    match files.pairs.first() {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = read_certificates(certificate)?;
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
            builder
                .with_client_auth_cert(chain, secret)
                .map_err(|error| unusable(certificate, &error))
        }
    }
}

fn unusable(path: &Path, problem: &dyn std::fmt::Display) -> Error {
    Error::Certificate {
        path: path.display().to_string(),
        problem: problem.to_string(),
    }
}

/// What lies for a host.
#[derive(Default)]
struct Files {
    authorities: Vec<PathBuf>,
    /// Certificate and key of the client.
    pairs: Vec<(PathBuf, PathBuf)>,
}

impl Files {
    fn of(authority: &str, directories: &[PathBuf]) -> Result<Self> {
        let mut files = Self::default();
        for directory in directories {
            let directory = directory.join(authority);
            let Ok(entries) = std::fs::read_dir(&directory) else {
                continue;
            };
            let mut paths: Vec<PathBuf> = entries
                .flatten()
                .map(|entry| entry.path())
                .take(FILES_MAX)
                .collect();
            paths.sort();
            for path in paths {
                match path.extension().and_then(|extension| extension.to_str()) {
                    Some("crt") => files.authorities.push(path),
                    Some("cert") => {
                        let key = path.with_extension("key");
                        if !key.is_file() {
                            return Err(unusable(&path, &"its key, with the ending .key, is missing"));
                        }
                        files.pairs.push((path, key));
                    }
                    _ => {}
                }
            }
        }
        Ok(files)
    }
}

/// The host's own authorities, and those for this registry.
fn roots(files: &Files) -> Result<RootCertStore> {
    let mut roots = host_authorities();
    for path in &files.authorities {
        for certificate in read_certificates(path)? {
            roots.add(certificate).map_err(|error| unusable(path, &error))?;
        }
    }
    Ok(roots)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).map_err(|error| unusable(path, &error))?;
    let all: Vec<_> = all
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(path, &error))?;
    match all.is_empty() {
        true => Err(unusable(path, &"no certificate in it")),
        false => Ok(all),
    }
}
