//! TLS from the files that the settings name: of the Engine API over TCP, where only clients with a certificate of the given
//! authority are let in, and of the registry in the box.

use crate::config::TlsFiles;
use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::Path;
use std::sync::Arc;

/// What is wrong with the files of the Engine API: the setting of each, and why it cannot be used.
pub fn problems(files: &TlsFiles) -> Vec<(&'static str, anyhow::Error)> {
    let alone = [
        ("tlscacert", roots(&files.authority).err()),
        ("tlscert", certificates(&files.certificate).err()),
        ("tlskey", key(&files.key).err()),
    ];
    let found = alone
        .into_iter()
        .filter_map(|(field, error)| Some((field, error?)));
    let found: Vec<_> = found.collect();
    match found.is_empty() {
        true => server_config(files)
            .err()
            .map(|error| ("tlsverify", error))
            .into_iter()
            .collect(),
        false => found,
    }
}

/// Reads the files. TLS 1.2 is accepted too: clients of the Engine API are not ours to choose.
pub fn server_config(files: &TlsFiles) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(roots(&files.authority)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .with_context(|| format!("cannot verify clients with {}", files.authority.display()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.certificate)?, key(&files.key)?)
        .context("cannot use the server's certificate and key")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// TLS for clients that show no certificate: those of the registry in the box.
pub fn certificate_config(certificate: &Path, secret: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates(certificate)?, key(secret)?)
        .context("cannot use the server's certificate and key")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots(authority: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authority)? {
        roots
            .add(certificate)
            .with_context(|| format!("cannot trust {}", authority.display()))?;
    }
    Ok(roots)
}

fn key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).with_context(|| format!("cannot read a key from {}", path.display()))
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let unreadable = || format!("cannot read certificates from {}", path.display());
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .with_context(unreadable)?
        .collect::<Result<_, _>>()
        .with_context(unreadable)?;
    anyhow::ensure!(!found.is_empty(), "{} holds no certificate", path.display());
    Ok(found)
}
