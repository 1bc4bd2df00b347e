//! Where the server listens, and how sockets are made.

use super::other;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

/// Where the server listens.
#[derive(Clone)]
pub enum Listen {
    /// A Unix socket, mode 0660, with the configured group where the host has it.
    Unix(PathBuf),
    /// As [`Listen::Unix`], but left out while another engine listens there.
    UnixIfFree(PathBuf),
    /// TCP with TLS. The configuration must demand client certificates.
    Tls(SocketAddr, Arc<rustls::ServerConfig>),
    /// TCP without protection, on a loopback address only; foreign `Host` and `Origin` headers are refused.
    InsecureLoopback(SocketAddr),
}

/// Settings of the server.
#[derive(Clone)]
pub struct ServerConfig {
    /// Where it listens.
    pub listeners: Vec<Listen>,
    /// Group of Unix sockets, where the host has it.
    pub group: String,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            group: "docker".to_owned(),
        }
    }
}

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process answers on the socket.
    #[error("cannot listen on {path}: another daemon answers there; stop it or choose another path with -H")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket stands in the way.
    #[error("cannot listen on {path}: a file that is not a socket is in the way")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Making the Unix socket failed.
    #[error("cannot listen on {path}")]
    Unix {
        /// The path.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Making the TCP socket failed.
    #[error("cannot listen on {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// An unprotected socket may be on loopback only.
    #[error("cannot listen on {address} without TLS: only loopback addresses are allowed; use --tlsverify")]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
}

/// A socket that listens.
pub(super) enum Socket {
    /// Unix.
    Unix {
        /// It listens.
        listener: UnixListener,
        /// Goes with it.
        _file: SocketFile,
    },
    /// TCP with TLS.
    Tls(TcpListener, TlsAcceptor),
    /// TCP on loopback.
    Insecure(TcpListener),
}

/// Removes the socket's file when it is dropped.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove the socket");
        }
    }
}

/// The socket; `None` where another engine has its place and the listener may be left out.
pub(super) async fn bind(listen: &Listen, group: &str) -> Result<Option<Socket>, ListenError> {
    match listen {
        Listen::Unix(path) => bind_unix(path, group).map(Some),
        Listen::UnixIfFree(path) => match other::engine_at(path).await {
            Some(engine) => {
                tracing::warn!(path = %path.display(), engine, "another engine listens here; it keeps its socket");
                Ok(None)
            }
            None => bind_unix(path, group).map(Some),
        },
        Listen::Tls(address, config) => {
            let acceptor = TlsAcceptor::from(config.clone());
            Ok(Some(Socket::Tls(bind_tcp(*address).await?, acceptor)))
        }
        Listen::InsecureLoopback(address) if address.ip().is_loopback() => {
            Ok(Some(Socket::Insecure(bind_tcp(*address).await?)))
        }
        Listen::InsecureLoopback(address) => Err(ListenError::NotLoopback { address: *address }),
    }
}

async fn bind_tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError::Tcp { address, source })
}

fn bind_unix(path: &Path, group: &str) -> Result<Socket, ListenError> {
    clear_stale(path)?;
    let failed = |source| ListenError::Unix {
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let file = SocketFile(path.to_owned());
    // The group comes first: widening the mode before would let the wrong group in for a moment.
    if let Some(gid) = group_id(group) {
        std::os::unix::fs::chown(path, None, Some(gid)).map_err(failed)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(Socket::Unix {
        listener,
        _file: file,
    })
}

/// Removes the socket of a daemon that is gone.
fn clear_stale(path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::Unix {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(ListenError::InUse {
            path: path.to_owned(),
        }),
        Err(_) => std::fs::remove_file(path).map_err(failed),
    }
}

/// The id of a group in `/etc/group`. Read by hand: a static binary has no name service.
fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name)
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}
