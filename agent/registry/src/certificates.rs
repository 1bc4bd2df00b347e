//! TLS as a registry needs it: the host's authorities, and what lies for it in `certs.d/HOST:PORT`.

use crate::endpoint::Trust;
use crate::error::{Error, Result};
use crate::settings::{NodeAuthority, RegistrySettings};
use muster_outbound::{AnyCertificate, host_authorities};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most files that are read of one directory.
const FILES_MAX: usize = 64;

/// The configuration for a host (`host[:port]`). Reads files: for a blocking thread.
pub(crate) fn client_config(
    authority: &str,
    trust: Trust,
    settings: &RegistrySettings,
) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(Path::new("TLS"), &error))?;
    let files = Files::of(authority, &settings.certificates)?;
    let builder = match trust {
        Trust::Insecure => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))),
        Trust::Verified => match settings.nodes.authority_of(host_of(authority)) {
            None => builder.with_root_certificates(roots(&files)?),
            Some(node) => builder
                .dangerous()
                .with_custom_certificate_verifier(NodeOrUsual::new(&node, roots(&files)?, provider)?),
        },
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

/// The host of `host[:port]`.
fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    }
}

/// Accepts what the usual authorities vouch for, and the certificate that a cluster gave to a node of it.
#[derive(Debug)]
struct NodeOrUsual {
    usual: Option<Arc<WebPkiServerVerifier>>,
    nodes: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl NodeOrUsual {
    fn new(node: &NodeAuthority, usual: RootCertStore, provider: Arc<CryptoProvider>) -> Result<Arc<Self>> {
        let of_nodes =
            |problem: &dyn std::fmt::Display| unusable(Path::new("the cluster's root certificate"), problem);
        let root =
            CertificateDer::from_pem_slice(node.root_pem.as_bytes()).map_err(|error| of_nodes(&error))?;
        let mut roots = RootCertStore::empty();
        roots.add(root).map_err(|error| of_nodes(&error))?;
        let verifier =
            |roots| WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        Ok(Arc::new(Self {
            // A host without any authority is no reason to refuse a node.
            usual: verifier(usual).ok(),
            nodes: verifier(roots).map_err(|error| of_nodes(&error))?,
            name: ServerName::try_from(node.name).map_err(|error| of_nodes(&error))?,
        }))
    }
}

impl ServerCertVerifier for NodeOrUsual {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        status: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let as_node = self
            .nodes
            .verify_server_cert(certificate, between, &self.name, status, now);
        match (as_node, &self.usual) {
            (Ok(verified), _) => Ok(verified),
            (Err(_), Some(usual)) => usual.verify_server_cert(certificate, between, name, status, now),
            (Err(error), None) => Err(error),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.nodes.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.nodes.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.nodes.supported_verify_schemes()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_from_ports() {
        for (authority, host) in [
            ("10.0.0.1:5443", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.1"),
            ("[fd00::1]:5443", "fd00::1"),
            ("[fd00::1]", "fd00::1"),
            ("reg.example:5000", "reg.example"),
        ] {
            assert_eq!(host_of(authority), host);
        }
    }
}
