//! The registry in the box: its settings become a server over this node's image store.

use crate::config::RegistryConfig;
use crate::node::NodeHost;
use crate::tls::certificate_config;
use anyhow::Context;
use muster_proto::transport::SAN_NODE;
use muster_registry::{KnownNodes, NodeAuthority};
use muster_registry_server::{Passwords, Patience, ServeTls, Server, ServerConfig, Traffic};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Makes the sockets; `None` when no address is set.
pub async fn bind(
    config: &RegistryConfig,
    host: &Arc<NodeHost>,
    traffic: Arc<Traffic>,
) -> anyhow::Result<Option<Server>> {
    if config.listen.is_empty() {
        return Ok(None);
    }
    let passwords = config.htpasswd.as_deref().map(Passwords::open).transpose();
    let passwords = passwords.context("the registry's passwords cannot be used")?;
    let tls: ServeTls = match &config.tls {
        Some((certificate, key)) => Arc::new(Files::open(certificate, key)?.follow()),
        None => {
            let host = host.clone();
            Arc::new(move || {
                let config = host.member()?.client_facing_tls();
                config
                    .inspect_err(|error| {
                        tracing::error!(
                            error = error as &dyn std::error::Error,
                            "the registry cannot use the node's certificate"
                        );
                    })
                    .ok()
            })
        }
    };
    let server = Server::bind(ServerConfig {
        listen: config.listen.clone(),
        passwords: passwords.map(Arc::new),
        tls,
        patience: Patience::default(),
        traffic,
    });
    let server = server.await?;
    tracing::info!(addresses = ?server.addresses(), "the registry listens");
    Ok(Some(server))
}

/// Has this node accept the registries of its cluster's nodes: by the certificates that the cluster gave them.
pub fn accept_nodes(known: &KnownNodes, host: &Arc<NodeHost>) {
    let host = Arc::downgrade(host);
    known.tell(move |name| {
        let address: IpAddr = name.parse().ok()?;
        let root_pem = host.upgrade()?.member()?.root_of_node_at(address)?;
        Some(NodeAuthority {
            root_pem,
            name: SAN_NODE,
        })
    });
}

/// Certificate and key, read anew when one of the files changes: certificates are renewed under a daemon that runs, one
/// file after the other.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    read: Mutex<Read>,
}

struct Read {
    /// When the files were written.
    as_of: [Option<SystemTime>; 2],
    config: Arc<rustls::ServerConfig>,
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()
}

impl Files {
    fn open(certificate: &Path, key: &Path) -> anyhow::Result<Self> {
        let read = Read {
            as_of: [modified(certificate), modified(key)],
            config: certificate_config(certificate, key)?,
        };
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            read: Mutex::new(read),
        })
    }

    fn follow(self) -> impl Fn() -> Option<Arc<rustls::ServerConfig>> {
        move || {
            let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            let as_of = [modified(&self.certificate), modified(&self.key)];
            if as_of.iter().all(Option::is_some) && as_of != read.as_of {
                read.as_of = as_of;
                match certificate_config(&self.certificate, &self.key) {
                    Ok(config) => read.config = config,
                    Err(error) => {
                        tracing::error!(
                            error = format!("{error:#}"),
                            "the registry's certificate stays as it was"
                        );
                    }
                }
            }
            Some(read.config.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a file as of a time of its own.
    fn write(path: &Path, text: &str, time: u64) {
        std::fs::write(path, text).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(time);
        file.set_modified(time).unwrap();
    }

    #[test]
    fn a_renewed_certificate_is_taken_whichever_file_is_written_first() {
        let place = tempfile::tempdir().unwrap();
        let (certificate, key) = (place.path().join("crt"), place.path().join("key"));
        let made = || {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec!["registry.example".to_owned()]).unwrap();
            (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let pairs = [made(), made(), made()];
        write(&certificate, &pairs[0].0, 1);
        write(&key, &pairs[0].1, 1);
        let current = Files::open(&certificate, &key).unwrap().follow();
        let first = current().unwrap();
        write(&certificate, &pairs[1].0, 2);
        // A client comes in between.
        assert!(Arc::ptr_eq(&current().unwrap(), &first));
        write(&key, &pairs[1].1, 2);
        let second = current().unwrap();
        assert!(!Arc::ptr_eq(&second, &first));
        write(&key, &pairs[2].1, 3);
        assert!(Arc::ptr_eq(&current().unwrap(), &second));
        write(&certificate, &pairs[2].0, 3);
        assert!(!Arc::ptr_eq(&current().unwrap(), &second));
    }
}
